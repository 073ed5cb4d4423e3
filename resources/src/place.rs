//! Where the checkout is, and where what is built goes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// The directories everything else is named from.
#[derive(Clone, Debug)]
pub struct Place {
    /// The workspace: what was checked out.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// What this program builds, inside the target directory.
    pub images: PathBuf,
}

impl Place {
    /// The checkout this program was built from, and the target directory it lies in.
    ///
    /// # Errors
    /// When the checkout has gone since.
    pub fn find() -> Result<Self> {
        let member = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = member.parent().unwrap_or(member).to_path_buf();
        ensure!(
            root.join("Cargo.toml").is_file(),
            "This program was built from {}, which is gone: build it again where the sources are now, by \
             `cargo build -p resources`",
            root.display()
        );
        let target = std::env::current_exe().ok().and_then(|exe| target_of(&exe));
        Ok(Self::at(root.clone(), target.unwrap_or_else(|| root.join("target"))))
    }

    fn at(root: PathBuf, target: PathBuf) -> Self {
        let images = target.join("images");
        Self { root, target, images }
    }

    /// The directory of the OS description, its kernel and its image.
    pub fn os_dir(&self) -> PathBuf {
        self.images.join("os")
    }

    /// The OS description itself.
    pub fn os_description(&self) -> PathBuf {
        self.os_dir().join("microdroid.json")
    }

    /// The kernel every VM boots.
    pub fn guest_kernel(&self) -> PathBuf {
        self.os_dir().join("vmlinux")
    }

    /// The software host's kernel.
    pub fn host_kernel(&self) -> PathBuf {
        self.images.join("host/bzImage")
    }

    /// The sample's APK, configuration and library.
    pub fn sample_dir(&self) -> PathBuf {
        self.images.join("sample")
    }

    /// The monitor, as it is measured and shipped. It finds the operating systems in `os` beside itself.
    pub fn vmm(&self) -> PathBuf {
        self.images.join("vmm")
    }

    /// A distribution's kernel and its modules, for the tests.
    pub fn stock_dir(&self) -> PathBuf {
        self.images.join("stock")
    }

    /// The log of one step.
    pub fn log(&self, step: &str) -> PathBuf {
        self.images.join("logs").join(format!("{step}.log"))
    }

    /// `path` as a user in the checkout would write it.
    pub fn short(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    /// Keeps a second run of this program from building into the same files; released when the file is dropped.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.images).with_context(|| format!("Create {}", self.images.display()))?;
        let path = self.images.join("lock");
        let file = File::create(&path).with_context(|| format!("Create {}", path.display()))?;
        // Most runs hold it for a moment only.
        let soon = Instant::now() + Duration::from_secs(3);
        while file.try_lock().is_err() {
            if Instant::now() < soon {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            eprintln!(
                "Waiting for another run of this command, which is building in {}",
                self.images.display()
            );
            file.lock().with_context(|| format!("Lock {}", path.display()))?;
            break;
        }
        Ok(file)
    }
}

/// Cargo marks its target directory with a CACHEDIR.TAG.
fn target_of(exe: &Path) -> Option<PathBuf> {
    exe.ancestors().skip(1).take(4).find(|dir| dir.join("CACHEDIR.TAG").is_file()).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_directory_is_the_tagged_one() {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("t/debug/deps/images-1");
        fs::create_dir_all(exe.parent().unwrap()).unwrap();
        assert_eq!(target_of(&exe), None);
        fs::write(dir.path().join("t/CACHEDIR.TAG"), "").unwrap();
        assert_eq!(target_of(&exe), Some(dir.path().join("t")));
    }

    #[test]
    fn paths_in_the_checkout_are_shown_relative_to_it() {
        let place = Place::at("/a/b".into(), "/a/b/target".into());
        assert_eq!(place.short(&place.log("x")), "target/images/logs/x.log");
        assert_eq!(place.short(Path::new("/c/d")), "/c/d");
    }
}
