//! A distribution's kernel as it is, for the tests that boot one: Debian's package for virtual machines, downloaded and
//! unpacked, never installed.
//!
//! ```text
//!   apt-get download ─> linux-image-.._amd64.deb ─ dpkg -x ─> boot/vmlinuz-..           ─> stock/vmlinuz
//!                                                             lib/modules/../kernel/..  ─> stock/modules.cpio: /modules/NN-name.ko
//! ```

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache::{Key, Stamp};
use crate::cpio::{Archive, Content};
use crate::place::Place;
use crate::run::Log;
use crate::steps::Step;

/// Depends on the kernel that Debian has now.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// What its guests need, in the order in which it is loaded. A kernel that has one of them built in has no such file.
const MODULES: [&str; 16] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio-rng",
    "virtio_console",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "button",
    "evdev",
    "pvpanic",
    "pvpanic-mmio",
];

/// The kernel and its modules.
pub const FILES: [&str; 2] = ["vmlinuz", "modules.cpio"];

fn stamp(place: &Place) -> Stamp {
    Stamp::new(&place.stock_dir(), Key::new("stock kernel", 1).part("modules", MODULES.join("\n").as_bytes()))
}

/// Whether it is there with all its modules.
pub fn is_current(place: &Place) -> bool {
    stamp(place).is_current()
}

/// Downloads and unpacks it.
///
/// # Errors
/// When there is no apt, no network, or the package is not as it was.
pub fn fetch(place: &Place, step: &Step) -> Result<()> {
    let mut log = Log::create(&place.log("stock-kernel"))?;
    let stamp = stamp(place);
    stamp.begin()?;
    let mut query = Command::new("apt-cache");
    query.args(["depends", "--important", META_PACKAGE]).env("LC_ALL", "C.UTF-8");
    let listing = log.capture(query, &|_| ())?;
    let package = kernel_package(&String::from_utf8_lossy(&listing))
        .with_context(|| format!("apt-cache names no kernel for {META_PACKAGE}"))?
        .to_owned();
    let work = tempfile::Builder::new()
        .prefix("stock-")
        .tempdir_in(&place.images)
        .context("Make a directory for the package")?;
    let mut download = Command::new("apt-get");
    download.args(["-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root", "download", &package]);
    download.current_dir(work.path()).env("LC_ALL", "C.UTF-8");
    log.run(download, &|line| step.doing(line))?;
    let archive = only_file(work.path())?;
    let tree = work.path().join("tree");
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(&archive).arg(&tree);
    log.run(unpack, &|line| step.doing(line))?;
    install(&tree, &place.stock_dir())?;
    stamp.finish()
}

/// The kernel that the meta-package depends on, as apt-cache lists it.
fn kernel_package(listing: &str) -> Option<&str> {
    let names = listing.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::trim).find(|name| name.starts_with("linux-image-"))
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(dir)?.next().context("The package was not downloaded")??;
    Ok(entry.path())
}

/// Puts what guests need of the package's tree into `to`, at once.
fn install(tree: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| format!("Create {}", partial.display()))?;
    let kernels = fs::read_dir(tree.join("boot")).context("The package has no boot directory")?;
    let kernel = kernels.flatten().map(|entry| entry.path());
    let kernel = kernel
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-")));
    let kernel = kernel.last().context("The package has no kernel")?;
    fs::copy(&kernel, partial.join("vmlinuz")).with_context(|| format!("Copy {}", kernel.display()))?;
    let mut found = Vec::new();
    modules_below(&tree.join("lib/modules"), &mut found)?;
    let mut archive = Archive::default();
    for (number, name) in (1..).zip(MODULES) {
        if let Some((path, bytes)) = found.iter().find(|(path, _)| module_name(path) == Some(name)) {
            ensure!(bytes.starts_with(b"\x7fELF"), "{} is not an ELF file", path.display());
            archive.file(&format!("/modules/{number:02}-{name}.ko"), 0o644, Content::Bytes(bytes.clone()))?;
        }
    }
    let path = partial.join("modules.cpio");
    let file = File::create(&path).with_context(|| format!("Create {}", path.display()))?;
    archive.write(BufWriter::new(file))?;
    let _ = fs::remove_dir_all(to);
    fs::rename(&partial, to).with_context(|| format!("Rename {} to {}", partial.display(), to.display()))
}

/// The module's name, whether its file is compressed or not.
fn module_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz"))
}

/// The modules that are wanted, unpacked.
fn modules_below(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("Read {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            modules_below(&path, found)?;
        } else if module_name(&path).is_some_and(|name| MODULES.contains(&name)) {
            let bytes = match path.extension().is_some_and(|extension| extension == "xz") {
                false => fs::read(&path).with_context(|| format!("Read {}", path.display()))?,
                true => {
                    let output = Command::new("xz").arg("-dc").arg(&path).output().context("Run xz")?;
                    ensure!(output.status.success(), "xz cannot unpack {}", path.display());
                    output.stdout
                }
            };
            found.push((path, bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_one_that_the_meta_package_depends_on() {
        let listing = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Depends: linux-image-6.1.0-1\n";
        assert_eq!(kernel_package(listing), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(kernel_package("N: Unable to locate package\n"), None);
    }

    #[test]
    fn kernel_and_modules_are_taken_from_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, to) = (dir.path().join("tree"), dir.path().join("stock"));
        let modules = tree.join("lib/modules/6/kernel/drivers");
        fs::create_dir_all(modules.join("a")).unwrap();
        fs::create_dir_all(tree.join("boot")).unwrap();
        fs::write(tree.join("boot/config-6"), "c").unwrap();
        fs::write(tree.join("boot/vmlinuz-6"), "kernel").unwrap();
        fs::write(modules.join("a/virtio.ko"), b"\x7fELF module").unwrap();
        fs::write(modules.join("other.ko"), b"\x7fELF other").unwrap();
        install(&tree, &to).unwrap();
        install(&tree, &to).unwrap();
        assert_eq!(fs::read(to.join("vmlinuz")).unwrap(), b"kernel");
        let archive = fs::read(to.join("modules.cpio")).unwrap();
        let has = |text: &[u8]| archive.windows(text.len()).any(|bytes| bytes == text);
        assert!(has(b"modules/02-virtio.ko\0") && has(b"\x7fELF module") && !has(b"other"));
        fs::write(modules.join("button.ko"), "no ELF").unwrap();
        assert!(install(&tree, &to).is_err());
        assert!(to.join("vmlinuz").exists(), "what was there stays");
    }
}
