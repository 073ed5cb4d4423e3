//! The raw configuration, `vmm --raw-config vm.json`: kernel, initrd and disks, nothing of payloads
//! (formats: section 9, RawConfig).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use boot::{BootConfig, BootConfigError, BootValue};
use devices::virtio::blk::EngineChoice;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::vsock::{VSOCK_KEYS, VsockKeys};
use super::{ConfigError, CpuTopology, Keys, check_memory, read, resolve};

/// A VM in terms of its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Name of the VM, for messages only.
    pub name: Option<String>,
    /// The kernel: a bzImage (`vmlinuz`) or an x86-64 ELF (`vmlinux`, or any with a PVH entry).
    pub kernel: Option<PathBuf>,
    /// The initial RAM file system; several are given as a list, and concatenated.
    #[serde(deserialize_with = "one_or_many")]
    pub initrd: Vec<PathBuf>,
    /// The kernel's command line; the devices' part is added to it.
    pub params: Option<String>,
    /// What runs instead of a kernel: an ELF file, entered like one, or a ROM that ends at 4 GiB.
    pub bootloader: Option<PathBuf>,
    /// Keys of the kernel's boot configuration, which then follows the initrd: null, a boolean, a number, a text or
    /// a list of texts each.
    pub bootconfig: BTreeMap<String, BootConfigValue>,
    /// How the kernel learns of its virtio devices: by `acpi`, by its command line (`cmdline`), or by `both`.
    pub discovery: Discovery,
    /// Disks, in the order in which the guest sees them.
    pub disks: Vec<DiskConfig>,
    /// The socket device; none when absent.
    pub vsock: Option<VsockKeys>,
    /// Whether the host may not read the VM's memory.
    pub protected: bool,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Number of vCPUs.
    pub cpu_topology: CpuTopology,
    /// The platform's version, `~1.0`.
    pub platform_version: Option<String>,
    /// Where what is typed goes: to the serial port, `ttyS0`, or to the virtio console, `hvc0`.
    pub console_input_device: ConsoleInputDevice,
}

/// How a kernel learns of its virtio devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// By ACPI and by its command line: a kernel that reads both finds each device taken when it comes to it for
    /// the second time, says so in its log, and goes on.
    #[default]
    Both,
    /// By ACPI, as kernels of distributions do.
    Acpi,
    /// By parameters of its command line, as small kernels do.
    Cmdline,
}

/// The consoles of a guest, as Linux calls them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum ConsoleInputDevice {
    /// The first serial port, `ttyS0`.
    #[default]
    Serial,
    /// The virtio console, `hvc0`.
    Virtio,
}

impl From<ConsoleInputDevice> for &'static str {
    fn from(device: ConsoleInputDevice) -> Self {
        match device {
            ConsoleInputDevice::Serial => "ttyS0",
            ConsoleInputDevice::Virtio => "hvc0",
        }
    }
}

impl TryFrom<String> for ConsoleInputDevice {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "ttyS0" => Ok(Self::Serial),
            "hvc0" => Ok(Self::Virtio),
            _ => Err(format!("\"console_input_device\": {name:?}, expected \"ttyS0\" or \"hvc0\"")),
        }
    }
}

/// What a key of the boot configuration is set to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "value of a key of bootconfig, expected null, a boolean, an integer, a text or a list of texts"
)]
pub enum BootConfigValue {
    /// Nothing: the key itself says it.
    None,
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// Texts.
    List(Vec<String>),
}

impl From<&BootConfigValue> for BootValue {
    fn from(value: &BootConfigValue) -> Self {
        match value {
            BootConfigValue::None => Self::None,
            BootConfigValue::Flag(flag) => Self::Flag(*flag),
            BootConfigValue::Number(number) => Self::Number(*number),
            BootConfigValue::Text(text) => Self::Text(text.clone()),
            BootConfigValue::List(texts) => Self::List(texts.clone()),
        }
    }
}

/// A path, or a list of paths.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    struct Paths;

    impl<'de> Visitor<'de> for Paths {
        type Value = Vec<PathBuf>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path or a list of paths")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_str<E>(self, path: &str) -> Result<Self::Value, E> {
            Ok(vec![path.into()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut paths: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(path) = paths.next_element()? {
                all.push(path);
            }
            Ok(all)
        }
    }

    deserializer.deserialize_any(Paths)
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
    /// Who waits for the disk's files: `auto` (the best that the host has), `io_uring`, `threads`, or `sync` (nobody: one
    /// request at a time).
    pub engine: EngineChoice,
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
    known: &["image", "partitions", "writable", "engine"],
    refused: &[],
    nested: &[("partitions", &PARTITION_KEYS)],
};
pub(crate) static RAW_KEYS: Keys = Keys {
    known: &[
        "name",
        "kernel",
        "initrd",
        "params",
        "bootloader",
        "bootconfig",
        "discovery",
        "disks",
        "vsock",
        "protected",
        "memory_mib",
        "cpu_topology",
        "platform_version",
        "console_input_device",
    ],
    refused: &[
        ("devices", "no device of the host is given to a VM"),
        ("gpu", "there is no graphics device"),
        ("display_config", "there is no graphics device"),
        ("audio_config", "there is no sound device"),
        ("usb_config", "there is no USB controller"),
        ("network_supported", "there is no network device, use vsock"),
        ("hugepages", "memory is always ordinary memory"),
        ("gdb_port", "there is no debugger stub in this version"),
    ],
    nested: &[("disks", &DISK_KEYS), ("vsock", &VSOCK_KEYS)],
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
        config.kernel.iter_mut().chain(&mut config.initrd).chain(&mut config.bootloader).for_each(fix);
        config.vsock.iter_mut().filter_map(|vsock| vsock.socket.as_mut()).for_each(fix);
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
        match (&self.kernel, &self.bootloader) {
            (None, None) => {
                return value("kernel", "missing, expected the path of a kernel, or a \"bootloader\"");
            }
            (Some(_), Some(_)) => {
                return value("bootloader", "not together with \"kernel\": one of them runs first");
            }
            (None, Some(_)) if !self.initrd.is_empty() => {
                return value("bootloader", "not together with \"initrd\": it would not find one");
            }
            _ => {}
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
        self.vsock.as_ref().map_or(Ok(()), |vsock| vsock.check(path))?;
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

    /// The boot configuration.
    ///
    /// # Errors
    /// When a key or value cannot be handed over as it is.
    pub fn bootconfig(&self) -> Result<BootConfig, BootConfigError> {
        let mut config = BootConfig::new();
        for (key, value) in &self.bootconfig {
            config.insert(key, value.into())?;
        }
        config.trailer()?;
        Ok(config)
    }

    /// Memory in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB)
    }
}
