//! Guest operating systems: `<name>.json` in the OS directory names kernel, initrd and C library version.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::{ConfigError, Keys, read, resolve};

/// The operating system of an APK that names none.
pub const DEFAULT_OS: &str = "microdroid";
/// The variable that names the OS directory.
pub const OS_DIR_VARIABLE: &str = "KAPSEL_OS_DIR";

static OS_KEYS: Keys = Keys { known: &["kernel", "initrd", "glibc", "version"], refused: &[], nested: &[] };

/// What boots in a payload VM.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct GuestOs {
    /// The kernel.
    pub kernel: PathBuf,
    /// The guest image, unpacked by the kernel as its root.
    pub initrd: PathBuf,
    /// Version of the image's C library, "2.36".
    pub glibc: String,
    /// Version of the kernel, for people.
    #[serde(default)]
    pub version: String,
}

/// Why there is no such guest OS.
#[derive(Debug, thiserror::Error)]
pub enum OsError {
    /// No directory was given or found.
    #[error(
        "no OS directory: give --os-dir DIR or set {OS_DIR_VARIABLE} (cargo demo builds one in target/images/os)"
    )]
    NoDirectory,
    /// The directory has no such OS.
    #[error("guest OS \"{name}\": {} does not exist", path.display())]
    Missing {
        /// The OS.
        name: String,
        /// Its description.
        path: PathBuf,
    },
    /// Its description is broken.
    #[error("guest OS \"{name}\"")]
    Description {
        /// The OS.
        name: String,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
}

impl GuestOs {
    /// Where the OS `name` is described in `dir`.
    pub fn description(dir: &Path, name: &str) -> PathBuf {
        dir.join(format!("{name}.json"))
    }

    /// Finds the OS `name`, a checked name, in `dir`.
    ///
    /// # Errors
    /// When it is not there or its description is broken.
    pub fn find(dir: &Path, name: &str) -> Result<Self, OsError> {
        let path = Self::description(dir, name);
        if !path.exists() {
            return Err(OsError::Missing { name: name.to_string(), path });
        }
        let mut os: Self = read(&path, &OS_KEYS)
            .map_err(|source| OsError::Description { name: name.to_string(), source })?;
        os.kernel = resolve(&path, &os.kernel);
        os.initrd = resolve(&path, &os.initrd);
        Ok(os)
    }
}

/// The OS directory: `given`, else the variable's, else `os` beside the executable.
///
/// # Errors
/// When there is none.
pub fn directory(given: Option<&Path>) -> Result<PathBuf, OsError> {
    if let Some(dir) = given {
        return Ok(dir.to_path_buf());
    }
    if let Some(dir) = std::env::var_os(OS_DIR_VARIABLE).filter(|d| !d.is_empty()) {
        return Ok(dir.into());
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("os")));
    beside.filter(|dir| dir.is_dir()).ok_or(OsError::NoDirectory)
}
