//! The two kernels, built from Debian's sources: the guest's, and the software host's.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{Key, Stamp};
use crate::packages;
use crate::place::Place;
use crate::run::Log;
use crate::steps::Step;

mod config;

/// Raise when the way a kernel is built changes.
const RECIPE: u32 = 1;
const PATCHES: [&str; 2] = ["host-qemu-injection.patch", "host-private-access.patch"];
/// Nothing that is built reads these, and they are a third of what would be unpacked.
const NOT_UNPACKED: [&str; 3] = ["*/drivers/gpu/drm/amd/include", "*/tools/testing", "*/arch/*/boot/dts"];

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The kernel inside every VM.
    Guest,
    /// The kernel that QEMU boots where KVM is missing.
    Host,
}

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
        }
    }

    /// Where it is built to.
    pub fn output(self, place: &Place) -> PathBuf {
        match self {
            Self::Guest => place.guest_kernel(),
            Self::Host => place.host_kernel(),
        }
    }

    /// The environment variable that names a ready one.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Guest => "KERNEL",
            Self::Host => "HOST_KERNEL",
        }
    }

    /// The ready one that the environment names.
    ///
    /// # Errors
    /// When it is not there, or not in the form in which this kernel is loaded.
    pub fn ready(self) -> Result<Option<PathBuf>> {
        let Some(path) = std::env::var_os(self.variable()).filter(|path| !path.is_empty()).map(PathBuf::from)
        else {
            return Ok(None);
        };
        let name = format!("{}={}", self.variable(), path.display());
        let image = fs::read(&path).with_context(|| format!("Read the kernel named by {name}"))?;
        let (fits, form) = match self {
            Self::Guest => (image.starts_with(b"\x7fELF"), "an ELF file (vmlinux)"),
            Self::Host => (image.get(0x202..0x206) == Some(b"HdrS"), "a bzImage"),
        };
        ensure!(fits, "The kernel named by {name} is not {form}");
        Ok(Some(path))
    }

    fn fragment(self, place: &Place) -> PathBuf {
        place.root.join("resources/kernel").join(format!("{}.config", self.name()))
    }

    fn key(self, place: &Place) -> Result<Key> {
        let key = Key::new(self.name(), RECIPE).file("config", &self.fragment(place))?;
        match self {
            Self::Guest => Ok(key),
            Self::Host => with_patches(key, place),
        }
    }

    /// Whether the one that was built before can be used. It need not be built again because the package of the sources was
    /// removed, but when that has another version.
    ///
    /// # Errors
    /// When the fragment or a patch cannot be read.
    pub fn is_current(self, place: &Place) -> Result<bool> {
        let output = self.output(place);
        let version = packages::version(packages::KERNEL_SOURCE);
        let same_source = version.is_none() || version == built_version(&output);
        Ok(Stamp::new(&output, self.key(place)?).is_current() && same_source)
    }

    /// Builds it from the unpacked source.
    ///
    /// # Errors
    /// When a program fails or a line of the fragment has no effect.
    pub fn build(self, place: &Place, step: &Step) -> Result<()> {
        let output = self.output(place);
        let stamp = Stamp::new(&output, self.key(place)?);
        stamp.begin()?;
        let objects = place.images.join(format!("kernel-{}", self.name()));
        fs::create_dir_all(&objects).with_context(|| format!("Create {}", objects.display()))?;
        let mut log = Log::create(&place.log(&format!("{}-kernel", self.name())))?;
        let mut make = |goal: &[&str]| log.run(make_command(place, &objects, goal), &|line| step.doing(line));
        make(&["tinyconfig"])?;
        let fragment_path = self.fragment(place);
        let fragment = fs::read_to_string(&fragment_path)
            .with_context(|| format!("Read {}", fragment_path.display()))?;
        let config = objects.join(".config");
        let mut file = File::options()
            .append(true)
            .open(&config)
            .with_context(|| format!("Open {}", config.display()))?;
        // Of two lines about one option, the later one counts.
        file.write_all(fragment.as_bytes()).with_context(|| format!("Write {}", config.display()))?;
        drop(file);
        make(&["olddefconfig"])?;
        let result = fs::read_to_string(&config).with_context(|| format!("Read {}", config.display()))?;
        let lost = config::lost(&fragment, &result);
        if !lost.is_empty() {
            let shown = place.short(&fragment_path);
            bail!(
                "These lines of {shown} have no effect with this kernel (a dependency is missing):\n    {}",
                lost.join("\n    ")
            );
        }
        let jobs = format!("-j{}", std::thread::available_parallelism().map_or(1, usize::from));
        match self {
            Self::Guest => {
                make(&[&jobs, "vmlinux"])?;
                let mut strip = Command::new("strip");
                strip.arg("--strip-all").arg("-o").arg(&output).arg(objects.join("vmlinux"));
                log.run(strip, &|_| ())?;
            }
            Self::Host => {
                make(&[&jobs, "bzImage"])?;
                let image = objects.join("arch/x86/boot/bzImage");
                fs::copy(&image, &output).with_context(|| format!("Copy {}", image.display()))?;
            }
        }
        let version = source_version()?;
        fs::write(version_path(&output), format!("{version}\n")).context("Write the kernel's version")?;
        stamp.finish()?;
        fs::remove_dir_all(&objects).with_context(|| format!("Remove {}", objects.display()))
    }
}

/// Makes `output` the ready kernel at `path`, unless it is already.
///
/// # Errors
/// When a file cannot be read or written.
pub fn use_ready(path: &Path, output: &Path) -> Result<()> {
    if fs::canonicalize(path).is_ok_and(|path| fs::canonicalize(output).is_ok_and(|output| path == output)) {
        return Ok(());
    }
    let stamp = Stamp::new(output, Key::new("ready kernel", 1).file("kernel", path)?);
    if stamp.is_current() {
        return Ok(());
    }
    stamp.begin()?;
    fs::copy(path, output).with_context(|| format!("Copy {} to {}", path.display(), output.display()))?;
    let image = fs::read(output).with_context(|| format!("Read {}", output.display()))?;
    fs::write(version_path(output), release(&image).unwrap_or("unknown"))
        .context("Write the kernel's version")?;
    stamp.finish()
}

/// Where a kernel's version stands: that of the package it was built from, or its own release.
fn version_path(output: &Path) -> PathBuf {
    output.with_extension("version")
}

/// The version a kernel was built from.
pub fn built_version(output: &Path) -> Option<String> {
    fs::read_to_string(version_path(output)).ok().map(|text| text.trim().to_owned())
}

/// The release a kernel image says it is.
fn release(image: &[u8]) -> Option<&str> {
    const BEFORE: &[u8] = b"Linux version ";
    let mut places = image.windows(BEFORE.len()).enumerate().filter(|(_, bytes)| *bytes == BEFORE);
    places.find_map(|(at, _)| {
        let rest = image.get(at + BEFORE.len()..)?.split(|byte| *byte == b' ').next()?;
        let text = std::str::from_utf8(rest.get(..rest.len().min(64))?).ok()?;
        text.starts_with(|c: char| c.is_ascii_digit()).then_some(text)
    })
}

fn with_patches(key: Key, place: &Place) -> Result<Key> {
    PATCHES.iter().try_fold(key, |key, name| key.file(name, &place.root.join("resources/kernel").join(name)))
}

fn archive() -> PathBuf {
    Path::new("/usr/src").join(format!("{}.tar.xz", packages::KERNEL_SOURCE))
}

fn source_version() -> Result<String> {
    if let Some(version) = packages::version(packages::KERNEL_SOURCE) {
        return Ok(version);
    }
    let path = archive();
    let size = fs::metadata(&path)
        .with_context(|| format!("Find the kernel's sources at {}", path.display()))?
        .len();
    Ok(format!("unknown, {size} bytes of sources"))
}

fn source_dir(place: &Place) -> PathBuf {
    place.images.join("linux-source")
}

fn source_stamp(place: &Place) -> Result<Stamp> {
    let key = Key::new("source", RECIPE).part("version", source_version()?.as_bytes());
    Ok(Stamp::new(&source_dir(place), with_patches(key, place)?))
}

/// Whether the sources that were unpacked before can be used.
pub fn source_is_current(place: &Place) -> bool {
    source_stamp(place).is_ok_and(|stamp| stamp.is_current())
}

/// Unpacks and patches the sources. The patches change KVM alone, so that one tree serves both kernels.
///
/// # Errors
/// When tar or patch fails.
pub fn unpack(place: &Place, step: &Step) -> Result<()> {
    let (dir, stamp) = (source_dir(place), source_stamp(place)?);
    stamp.begin()?;
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("Remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("Create {}", dir.display()))?;
    let mut log = Log::create(&place.log("linux-source"))?;
    let mut tar = Command::new("tar");
    tar.arg("--extract")
        .arg("--strip-components=1")
        .arg("--directory")
        .arg(&dir)
        .arg("--file")
        .arg(archive());
    tar.args(NOT_UNPACKED.map(|pattern| format!("--exclude={pattern}")));
    step.doing("unpacking");
    log.run(tar, &|line| step.doing(line))?;
    for name in PATCHES {
        let mut patch = Command::new("patch");
        let file = place.root.join("resources/kernel").join(name);
        patch.args(["--strip=1", "--forward", "--batch", "--directory"]).arg(&dir).arg("--input").arg(file);
        log.run(patch, &|line| step.doing(line))?;
    }
    stamp.finish()
}

fn make_command(place: &Place, objects: &Path, goal: &[&str]) -> Command {
    let mut make = Command::new("make");
    make.arg("-C").arg(source_dir(place)).arg(format!("O={}", objects.display())).args(goal);
    // Cargo's own job server must not reach it, and the same sources give the same kernel.
    make.env_remove("MAKEFLAGS").env("LC_ALL", "C");
    make.env("KBUILD_BUILD_USER", "kapsel").env("KBUILD_BUILD_HOST", "kapsel");
    make.env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 2026").env("KBUILD_BUILD_VERSION", "1");
    make
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_found_in_an_image() {
        let image = b"\x7fELF..Linux version %s (%s).\0Linux version 6.12.117 (kapsel@kapsel) #1\0";
        assert_eq!(release(image), Some("6.12.117"));
        assert_eq!(release(b"Linux version "), None);
        assert_eq!(release(b"nothing"), None);
    }

    #[test]
    fn a_ready_kernel_is_taken_over_with_its_release() {
        let dir = tempfile::tempdir().unwrap();
        let (ready, output) = (dir.path().join("ready"), dir.path().join("os/vmlinux"));
        fs::write(&ready, b"\x7fELF Linux version 6.1.2-x (a@b)").unwrap();
        use_ready(&ready, &output).unwrap();
        assert_eq!(fs::read(&output).unwrap(), fs::read(&ready).unwrap());
        assert_eq!(built_version(&output).as_deref(), Some("6.1.2-x"));
        use_ready(&output, &output).unwrap();
        assert_eq!(fs::read(&output).unwrap(), fs::read(&ready).unwrap(), "itself is left alone");
    }
}
