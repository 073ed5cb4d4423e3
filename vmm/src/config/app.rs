//! The app configuration, `vmm --app-config app.json`: an APK and what its VM needs
//! (formats: section 9, AppConfig).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::raw::DEFAULT_MEMORY_MIB;
use super::vsock::{VSOCK_KEYS, VsockKeys};
use super::{ConfigError, CpuTopology, Keys, check_memory, read, resolve};

/// A VM in terms of its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppConfig {
    /// Name of the VM, for messages only.
    pub name: Option<String>,
    /// The signed app bundle.
    pub apk: PathBuf,
    /// Its hash tree (APK Signature Scheme v4); made in memory when absent.
    pub idsig: Option<PathBuf>,
    /// The payload's configuration, a path inside the APK; or else `payload_binary_name`.
    pub config_path: Option<String>,
    /// The payload's library, a file name in `lib/<abi>` of the APK.
    pub payload_binary_name: Option<String>,
    /// The guest operating system, `<os_name>.json` in the OS directory.
    pub os_name: Option<String>,
    /// How much may be seen from outside: `none` or `full`.
    pub debug_level: DebugLevel,
    /// The socket device, which every payload VM has.
    pub vsock: VsockKeys,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Number of vCPUs.
    pub cpu_topology: CpuTopology,
}

/// How much of the VM may be seen from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DebugLevel {
    /// The payload's output only.
    #[default]
    None,
    /// The kernel's console too.
    Full,
}

const LATER: &str = "not in this version";

pub(crate) static APP_KEYS: Keys = Keys {
    known: &[
        "name",
        "apk",
        "idsig",
        "config_path",
        "payload_binary_name",
        "os_name",
        "debug_level",
        "vsock",
        "memory_mib",
        "cpu_topology",
    ],
    refused: &[
        ("extra_apks", LATER),
        ("extra_idsigs", LATER),
        ("instance_image", LATER),
        ("instance_id", LATER),
        ("encrypted_storage", LATER),
        ("apex_dir", LATER),
        ("protected_vm", LATER),
        ("gdb_port", LATER),
    ],
    nested: &[("vsock", &VSOCK_KEYS)],
};

/// What in the APK is the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayloadChoice {
    /// A configuration file in the APK.
    ConfigPath(String),
    /// A library in `lib/<abi>` of the APK.
    BinaryName(String),
}

impl AppConfig {
    /// Reads and checks a configuration; relative paths are relative to it.
    ///
    /// # Errors
    /// Naming the file, the key and what was expected.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = read(path, &APP_KEYS)?;
        config.check(path)?;
        config.apk = resolve(path, &config.apk);
        config.idsig.iter_mut().chain(&mut config.vsock.socket).for_each(|file| *file = resolve(path, file));
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let value = |key, message: String| Err(ConfigError::Value { path: path.to_path_buf(), key, message });
        if self.apk.as_os_str().is_empty() {
            return value("apk", "missing, expected the path of a signed APK".to_string());
        }
        match (&self.config_path, &self.payload_binary_name) {
            (Some(_), Some(_)) | (None, None) => {
                return value(
                    "config_path",
                    "expected either config_path or payload_binary_name".to_string(),
                );
            }
            (None, Some(name)) if name.is_empty() || name.contains('/') || name.contains('\0') => {
                return value(
                    "payload_binary_name",
                    format!("\"{name}\", expected the file name of a library, without \"/\""),
                );
            }
            _ => {}
        }
        if let Some(name) = &self.os_name
            && !payload::apk::config::is_os_name(name)
        {
            return value("os_name", format!("\"{name}\", expected letters a-z, digits, _ and - only"));
        }
        self.cpu_topology.check(path)?;
        self.vsock.check(path)?;
        check_memory(path, self.memory_mib())
    }

    #[cfg(test)]
    pub(crate) fn check_for_test(&self) -> Result<(), ConfigError> {
        self.check(Path::new("app.json"))
    }

    /// What in the APK is the payload.
    pub fn payload(&self) -> PayloadChoice {
        match (&self.config_path, &self.payload_binary_name) {
            (Some(path), _) => PayloadChoice::ConfigPath(path.clone()),
            (None, name) => PayloadChoice::BinaryName(name.clone().unwrap_or_default()),
        }
    }

    /// Memory in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB)
    }
}
