//! The raw configuration, `vmm --raw-config vm.json`: kernel, initrd and disks, nothing of payloads
//! (formats: section 9, RawConfig).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigError, CpuTopology, Keys, check_memory, read, resolve};

/// A VM in terms of its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Name of the VM, for messages only.
    pub name: Option<String>,
    /// The kernel: an x86-64 ELF (`vmlinux`).
    pub kernel: Option<PathBuf>,
    /// The initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; the devices' part is added to it.
    pub params: Option<String>,
    /// Disks, in the order in which the guest sees them.
    pub disks: Vec<DiskConfig>,
    /// Whether the host may not read the VM's memory.
    pub protected: bool,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Number of vCPUs.
    pub cpu_topology: CpuTopology,
    /// The platform's version, `~1.0`.
    pub platform_version: Option<String>,
}

/// One disk: an image, or partition files composed under a partition table of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// A disk image, told by its content: the specification of a composite disk, or the disk as it is.
    pub image: Option<PathBuf>,
    /// Partitions of a composite disk, in their order.
    pub partitions: Vec<PartitionConfig>,
    /// Whether the guest may write to the disk.
    pub writable: bool,
}

/// One partition of a composite disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PartitionConfig {
    /// Its name in the partition table, at most 36 UTF-16 units.
    pub label: String,
    /// The file it holds.
    pub path: Option<PathBuf>,
    /// Files it holds one after the other.
    pub paths: Vec<PathBuf>,
    /// Whether the guest may write to it.
    pub writable: bool,
    /// What follows the content up to the partition's end.
    pub filler: FillerConfig,
}

/// What follows a partition's content up to its end (formats: section 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FillerConfig {
    /// Nothing of meaning; zeros.
    #[default]
    None,
    /// Zeros.
    Zero,
    /// Zeros, and the content's size in the last four bytes.
    Size,
}

static PARTITION_KEYS: Keys =
    Keys { known: &["label", "path", "paths", "writable", "filler"], refused: &[], nested: &[] };
static DISK_KEYS: Keys = Keys {
    known: &["image", "partitions", "writable"],
    refused: &[],
    nested: &[("partitions", &PARTITION_KEYS)],
};
pub(crate) static RAW_KEYS: Keys = Keys {
    known: &[
        "name",
        "kernel",
        "initrd",
        "params",
        "disks",
        "protected",
        "memory_mib",
        "cpu_topology",
        "platform_version",
    ],
    refused: &[
        ("bootloader", "boot with \"kernel\" and \"initrd\""),
        ("console_input_device", "the console takes no input in this version"),
        ("devices", "no device of the host is given to a VM"),
        ("gpu", "there is no graphics device"),
        ("display_config", "there is no graphics device"),
        ("audio_config", "there is no sound device"),
        ("usb_config", "there is no USB controller"),
        ("network_supported", "there is no network device, use vsock"),
        ("hugepages", "memory is always ordinary memory"),
        ("gdb_port", "there is no debugger stub in this version"),
    ],
    nested: &[("disks", &DISK_KEYS)],
};

/// Memory of a VM whose configuration does not say, in MiB.
pub const DEFAULT_MEMORY_MIB: u64 = 256;

impl RawConfig {
    /// Reads and checks a configuration; relative paths are relative to it.
    ///
    /// # Errors
    /// Naming the file, the key and what was expected.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = read(path, &RAW_KEYS)?;
        config.check(path)?;
        let fix = |file: &mut PathBuf| *file = resolve(path, file);
        config.kernel.iter_mut().chain(&mut config.initrd).for_each(fix);
        for disk in &mut config.disks {
            disk.image.iter_mut().for_each(fix);
            for partition in &mut disk.partitions {
                partition.path.iter_mut().chain(&mut partition.paths).for_each(fix);
            }
        }
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let value = |key, message: &str| {
            Err(ConfigError::Value { path: path.to_path_buf(), key, message: message.to_string() })
        };
        if self.kernel.is_none() {
            return value("kernel", "missing, expected the path of an ELF kernel");
        }
        if self.protected {
            return value("protected", "protected VMs are not supported by this version");
        }
        if let Some(version) = &self.platform_version
            && !["~1.0", "1.0", "~1.0.0"].contains(&version.as_str())
        {
            return value("platform_version", &format!("\"{version}\", expected \"~1.0\""));
        }
        self.cpu_topology.check(path)?;
        check_memory(path, self.memory_mib())?;
        for disk in &self.disks {
            if disk.image.is_some() != disk.partitions.is_empty() {
                return value("disks", "each disk has either \"image\" or \"partitions\"");
            }
            for partition in &disk.partitions {
                if partition.path.is_some() != partition.paths.is_empty() {
                    return value("disks", "each partition has either \"path\" or \"paths\"");
                }
                if partition.writable && !disk.writable {
                    return value("disks", "a writable partition needs \"writable\": true on its disk too");
                }
            }
        }
        Ok(())
    }

    /// Memory in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB)
    }
}
