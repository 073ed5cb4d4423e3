//! The guest's image: PID 1, the launcher and what payloads link to, in one uncompressed archive.
//!
//! ```text
//!  cargo --profile guest ──> payload-manager (static) ──> /init
//!                        ──> payload-launcher ──────────> /bin
//!                        ──> libguest_api.a ──cc──> libvm_payload.so ──> /lib/..
//!  this machine's C and C++ libraries ──────────────────────────────────> /lib/.., /lib64
//! ```
//!
//! Uncompressed, since a VM boots faster when its kernel has nothing to unpack but names and copies.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cpio::{Archive, Content};
use crate::kernel::{self, Kernel};
use crate::place::Place;
use crate::run::Log;
use crate::steps::Step;
use crate::{cargo, elf};

/// What payloads may link to: the C and C++ libraries, and names that are part of libc by now but still wanted by objects that
/// were linked long ago.
const LIBRARIES: [&str; 7] = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
];
/// A program that is complete in itself, at fixed addresses: PID 1 starts before there is anything to load it with, and has
/// nothing to relocate.
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// What the monitor reads to find an operating system, `<name>.json`.
#[derive(Serialize)]
struct Description<'a> {
    kernel: &'a str,
    initrd: &'a str,
    /// The newest C library a payload may have been linked to.
    glibc: &'a str,
    /// The version of the kernel's sources.
    version: &'a str,
}

/// The programs for the guest, as cargo and cc leave them.
struct Programs {
    manager: PathBuf,
    launcher: PathBuf,
    library: PathBuf,
}

/// Builds the programs and packs the image.
///
/// # Errors
/// When cargo or cc fails, or a library of this machine is missing.
pub fn build(place: &Place, step: &Step) -> Result<()> {
    let programs = programs(place, step)?;
    step.doing("packing");
    let archive = archive(&programs)?;
    fs::create_dir_all(place.os_dir()).with_context(|| format!("Create {}", place.os_dir().display()))?;
    let image = image(place);
    // A VM that is being started must never see half an image.
    let partial = image.with_extension("partial");
    let file = File::create(&partial).with_context(|| format!("Create {}", partial.display()))?;
    archive.write(BufWriter::new(file))?;
    fs::rename(&partial, &image)
        .with_context(|| format!("Rename {} to {}", partial.display(), image.display()))
}

fn image(place: &Place) -> PathBuf {
    place.os_dir().join("initramfs.cpio")
}

fn programs(place: &Place, step: &Step) -> Result<Programs> {
    // A target directory of its own: the other one is locked while the tests are built.
    let target = place.images.join("cargo-guest");
    let mut log = Log::create(&place.log("guest"))?;
    let mut cargo = |verb: &str, features: &str, arguments: &[&str], flags: Option<&str>| {
        let mut cargo = cargo::command(place, &target);
        cargo
            .args([verb, "--profile", "guest", "--package", "guest-api", "--features", features])
            .args(arguments);
        cargo.envs(flags.map(|flags| ("RUSTFLAGS", flags)));
        log.run(cargo, &|line| step.doing(line))
    };
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // Naming the target keeps the flags away from build scripts and macros, which cannot be static.
    cargo("build", "guest", &["--bin", "payload-manager", "--target", &triple], Some(STATIC))?;
    // A tenth of the size that the compiler's own linker makes it.
    let linker = ["--bin", "payload-launcher", "--", "-C", "link-arg=-fuse-ld=bfd"];
    cargo("rustc", "payload-api", &linker, None)?;
    cargo("rustc", "payload-api", &["--lib", "--crate-type", "staticlib"], None)?;
    let (built, library) = (target.join("guest"), place.images.join("libvm_payload.so"));
    log.run(link(place, &built.join("libguest_api.a"), &library)?, &|line| step.doing(line))?;
    let manager = target.join(triple).join("guest/payload-manager");
    Ok(Programs { manager, launcher: built.join("payload-launcher"), library })
}

/// Links the functions that the map exports, and nothing that these do not need.
fn link(place: &Place, archive: &Path, library: &Path) -> Result<Command> {
    let map = place.root.join("guest-api/libvm_payload.map.txt");
    let text = fs::read_to_string(&map).with_context(|| format!("Read {}", map.display()))?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-s", "-nostartfiles", "-nodefaultlibs", "-Wl,-soname,libvm_payload.so"]);
    cc.arg("-Wl,--gc-sections,-O1,--as-needed,-z,now,-z,relro,-z,noexecstack");
    cc.arg(format!("-Wl,--version-script={}", map.display()));
    cc.args(exported(&text).map(|name| format!("-Wl,--undefined={name}")));
    cc.arg("-o").arg(library).arg(archive).arg("-lc");
    Ok(cc)
}

/// The names in a linker's version script; a pattern is none.
fn exported(map: &str) -> impl Iterator<Item = &str> {
    let names = map.lines().filter_map(|line| line.trim().strip_suffix(';'));
    names.filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

fn archive(programs: &Programs) -> Result<Archive> {
    let mut archive = Archive::default();
    for dir in ["/dev", "/mnt/apk", "/proc", "/run", "/sys", "/tmp"] {
        archive.directory(dir, 0o755)?;
    }
    archive.file("/init", 0o755, Content::File(programs.manager.clone()))?;
    archive.file("/bin/payload-launcher", 0o755, Content::File(programs.launcher.clone()))?;
    let dirs = elf::library_dirs();
    let multiarch = dirs.first().context("A library directory")?;
    archive.file(
        &format!("{}/libvm_payload.so", multiarch.display()),
        0o755,
        Content::File(programs.library.clone()),
    )?;
    for library in elf::runtime(&[programs.manager.clone(), programs.launcher.clone()], &LIBRARIES)? {
        archive.file(&library.to_string_lossy(), 0o755, Content::File(library.clone()))?;
    }
    Ok(archive)
}

/// Writes the description of the operating system: to be called when its kernel and its image are there.
///
/// # Errors
/// When the image's C library does not say which it is, or the file cannot be written.
pub fn describe(place: &Place) -> Result<()> {
    let dirs = elf::library_dirs();
    let libc = elf::find_library("libc.so.6", &dirs).context("Find libc.so.6")?;
    let bytes = fs::read(&libc).with_context(|| format!("Read {}", libc.display()))?;
    let glibc = glibc_version(&bytes)
        .with_context(|| format!("{} does not say which glibc it is", libc.display()))?;
    let version = kernel::built_version(&Kernel::Guest.output(place)).unwrap_or_default();
    let description =
        Description { kernel: "vmlinux", initrd: "initramfs.cpio", glibc: &glibc, version: &version };
    let path = place.os_description();
    let text = serde_json::to_string_pretty(&description)?;
    fs::write(&path, format!("{text}\n")).with_context(|| format!("Write {}", path.display()))
}

/// `GNU C Library (..) stable release version 2.36.`
fn glibc_version(libc: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"release version ";
    let at = libc.windows(BEFORE.len()).position(|bytes| bytes == BEFORE)? + BEFORE.len();
    let rest = libc.get(at..at.checked_add(16)?.min(libc.len()))?;
    let text: String =
        rest.iter().map(|byte| char::from(*byte)).take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let text = text.trim_end_matches('.');
    (text.split('.').count() >= 2).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_names_what_is_exported() {
        let map = "LIB {\n  global:\n    AVm_a;\n    AVm_b1;\n  local:\n    *;\n};\n";
        assert_eq!(exported(map).collect::<Vec<_>>(), ["AVm_a", "AVm_b1"]);
    }

    #[test]
    fn the_c_library_says_which_it_is() {
        let text = b"..GNU C Library (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36.\nCopyright";
        assert_eq!(glibc_version(text).as_deref(), Some("2.36"));
        assert_eq!(glibc_version(b"stable release version x"), None);
        assert_eq!(glibc_version(b"release version 2"), None);
        let own = elf::find_library("libc.so.6", &elf::library_dirs()).unwrap();
        assert!(glibc_version(&fs::read(own).unwrap()).is_some());
    }
}
