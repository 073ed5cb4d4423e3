//! From a checked configuration to a [`VmSpec`]: opens every file the VM will use, judges the structure of what
//! the user gave, and plans the disk. Content is the guest's to judge (formats: section 8).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use guest_api::ports::GUEST_CIDS;
use payload::apk::config::{PayloadConfig, TaskType};
use payload::apk::{self, Apk};
use payload::disk::{Part, PayloadDisk};
use payload::idsig::{self, Idsig};
use payload::metadata::{self, Payload};

use crate::arch;
use crate::config::app::{AppConfig, DebugLevel, PayloadChoice};
use crate::config::raw::{ConsoleInputDevice, Discovery, RawConfig};
use crate::config::vsock::{Backend, VsockKeys};
use crate::disks::{FileSet, OpenDisk, OpenDiskError};
use crate::library::{self, ABI, LibraryError};
use crate::os::{self, DEFAULT_OS, GuestOs, OsError};
use crate::spec::{Image, OpenFile, VmSpec, VsockBackend, VsockSpec};

/// Largest payload library that is read to check its structure, in bytes.
const MAX_LIBRARY: u64 = 512 << 20;

/// Time that a payload has to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The same where processors are emulated.
const START_TIMEOUT_SOFTWARE: Duration = Duration::from_secs(300);

/// A VM that only needs to be built.
pub struct Prepared {
    /// Everything it is made of.
    pub spec: VmSpec,
    /// The host's files it was made from.
    pub files: Vec<PathBuf>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl VmSpec {
    /// Lets host programs reach the guest's vsock through the Unix socket `socket`.
    ///
    /// # Errors
    /// When the guest's sockets are the host kernel's.
    pub fn use_socket(&mut self, socket: Option<PathBuf>) -> Result<(), PrepareError> {
        if socket.is_none() {
            return Ok(());
        }
        match &mut self.vsock {
            Some(VsockSpec { backend: VsockBackend::Vhost, .. }) => Err(PrepareError::SocketOfVhost),
            Some(VsockSpec { backend: VsockBackend::User(path), .. }) => {
                *path = socket;
                Ok(())
            }
            none => {
                *none = Some(VsockSpec { guest_cid: choose_cid(), backend: VsockBackend::User(socket) });
                Ok(())
            }
        }
    }
}

impl From<&VsockKeys> for VsockSpec {
    fn from(keys: &VsockKeys) -> Self {
        let backend = match keys.backend {
            Backend::User => VsockBackend::User(keys.socket.clone()),
            Backend::Vhost => VsockBackend::Vhost,
        };
        Self { guest_cid: keys.cid.unwrap_or_else(choose_cid), backend }
    }
}

/// Why a configuration makes no VM.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A file cannot be opened or read.
    #[error("{what} \"{}\"", path.display())]
    File {
        /// What the file is for: the key of the configuration.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A Unix socket where the host's kernel has the guest's sockets.
    #[error("--vsock is for the vsock backend \"user\", and the configuration says \"vhost\"")]
    SocketOfVhost,
    /// A disk.
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    /// The guest OS.
    #[error(transparent)]
    Os(#[from] OsError),
    /// The APK is not one.
    #[error("apk \"{}\"", path.display())]
    Apk {
        /// The APK.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: apk::ApkError,
    },
    /// The payload's configuration in the APK.
    #[error("apk \"{}\": \"{name}\"", path.display())]
    PayloadConfig {
        /// The APK.
        path: PathBuf,
        /// The configuration's path inside it.
        name: String,
        /// What is wrong.
        #[source]
        source: apk::config::ConfigError,
    },
    /// Something in the APK that this version does not support.
    #[error("apk \"{}\": {message}", path.display())]
    Unsupported {
        /// The APK.
        path: PathBuf,
        /// What.
        message: String,
    },
    /// The payload's library.
    #[error("apk \"{}\": payload library \"{name}\": {source}", path.display())]
    Library {
        /// The APK.
        path: PathBuf,
        /// The library's path inside it.
        name: String,
        /// What is wrong.
        source: LibraryError,
    },
    /// The payload is not in the APK.
    #[error("apk \"{}\": has no \"{name}\", the payload", path.display())]
    NoPayload {
        /// The APK.
        path: PathBuf,
        /// What was looked for.
        name: String,
    },
    /// The APK's hash tree could not be made.
    #[error("apk \"{}\": make its idsig", path.display())]
    MakeIdsig {
        /// The APK.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: idsig::IdsigError,
    },
    /// The idsig is not one, or not of this APK.
    #[error("idsig \"{}\"", path.display())]
    Idsig {
        /// The idsig.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: idsig::IdsigError,
    },
    /// The boot loader is an ELF file that cannot be started.
    #[error("bootloader \"{}\"", path.display())]
    Bootloader {
        /// The boot loader.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: boot::ElfError,
    },
    /// The boot configuration.
    #[error("{}: \"bootconfig\"", path.display())]
    BootConfig {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: boot::BootConfigError,
    },
    /// The kernel is not one.
    #[error("kernel \"{}\"", path.display())]
    Kernel {
        /// The kernel.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: boot::KernelError,
    },
}

fn open(what: &'static str, path: &Path) -> Result<OpenFile, PrepareError> {
    OpenFile::open(path).map_err(|source| PrepareError::File { what, path: path.to_path_buf(), source })
}

/// The kernel, its headers checked.
fn open_kernel(path: &Path) -> Result<OpenFile, PrepareError> {
    let kernel = open("kernel", path)?;
    boot::Kernel::parse(&kernel.file)
        .map_err(|source| PrepareError::Kernel { path: path.to_path_buf(), source })?;
    Ok(kernel)
}

/// What a boot loader's file is: an ELF file is started like a kernel, all else is a ROM.
fn open_bootloader(path: &Path) -> Result<Image, PrepareError> {
    let file = open("bootloader", path)?;
    match boot::Kernel::parse(&file.file) {
        Ok(_) => Ok(Image::Kernel(file)),
        Err(boot::KernelError::Elf(source)) => {
            Err(PrepareError::Bootloader { path: path.to_path_buf(), source })
        }
        Err(_) => Ok(Image::Rom(file)),
    }
}

fn vm_files(spec: &VmSpec, files: &FileSet) -> Vec<PathBuf> {
    let boot = std::iter::once(spec.image.file()).chain(&spec.initrds).map(|f| f.path.clone());
    boot.chain(files.paths().cloned()).collect()
}

/// A VM of devices.
///
/// # Errors
/// Naming the file or key that is wrong.
pub fn raw(config_path: &Path, config: &RawConfig) -> Result<Prepared, PrepareError> {
    let mut files = FileSet::default();
    let disks = config
        .disks
        .iter()
        .enumerate()
        .map(|(n, disk)| files.from_config(disk, &format!("disk{n}")))
        .collect::<Result<Vec<OpenDisk>, _>>()?;
    let image = match &config.bootloader {
        Some(path) => open_bootloader(path)?,
        None => Image::Kernel(open_kernel(config.kernel.as_deref().unwrap_or(Path::new("")))?),
    };
    let initrds =
        config.initrd.iter().map(|path| open("initrd", path)).collect::<Result<Vec<_>, PrepareError>>()?;
    let spec = VmSpec {
        image,
        initrds,
        bootconfig: config
            .bootconfig()
            .map_err(|source| PrepareError::BootConfig { path: config_path.to_path_buf(), source })?,
        params: config.params.clone().unwrap_or_default(),
        discovery: config.discovery,
        console_input: config.console_input_device,
        memory: config.memory_mib() << 20,
        vcpus: config.cpu_topology.vcpus(),
        disks,
        vsock: config.vsock.as_ref().map(VsockSpec::from),
        payload_timeout: None,
    };
    let mut named = vm_files(&spec, &files);
    named.push(config_path.to_path_buf());
    Ok(Prepared { spec, files: named, warnings: Vec::new() })
}

/// A VM for a payload.
///
/// # Errors
/// Naming the file, and what in it is wrong.
pub fn app(config_path: &Path, config: &AppConfig, os_dir: Option<&Path>) -> Result<Prepared, PrepareError> {
    let mut files = FileSet::default();
    let app = App::open(&mut files, config)?;
    let (choice, os_name, mut warnings) = app.payload(config)?;

    let os_dir = os::directory(os_dir)?;
    let os_name = config.os_name.as_deref().unwrap_or(&os_name);
    let os = GuestOs::find(&os_dir, os_name)?;
    let library = app.check_payload(&choice, &os)?;
    log::debug!("payload {library}");

    let idsig = app.idsig(&mut files, config)?;
    let payload = match config.payload() {
        PayloadChoice::ConfigPath(path) => metadata::config_path(&path),
        PayloadChoice::BinaryName(name) => {
            Payload::Config(metadata::PayloadConfig { payload_binary_name: name, extra_apk_count: 0 })
        }
    };
    let apk = Part::File { path: config.apk.clone(), len: app.len };
    let partitions = PayloadDisk::new(apk, idsig, payload).partitions();
    let disk = files.compose(&partitions, "payload", true)?;

    warnings.push("no instance_image: this run has an identity of its own, as every run will".to_string());
    let software = arch::is_software_host();
    let spec = VmSpec {
        image: Image::Kernel(open_kernel(&os.kernel)?),
        initrds: vec![open("initrd", &os.initrd)?],
        bootconfig: boot::BootConfig::new(),
        params: kernel_params(config.debug_level),
        // The guest's kernel is ours, and has no ACPI.
        discovery: Discovery::Cmdline,
        console_input: ConsoleInputDevice::default(),
        memory: config.memory_mib() << 20,
        vcpus: config.cpu_topology.vcpus(),
        disks: vec![disk],
        vsock: Some(VsockSpec::from(&config.vsock)),
        payload_timeout: Some(if software { START_TIMEOUT_SOFTWARE } else { START_TIMEOUT }),
    };
    let mut named = vm_files(&spec, &files);
    named.extend([config_path.to_path_buf(), GuestOs::description(&os_dir, os_name)]);
    Ok(Prepared { spec, files: named, warnings })
}

/// The kernel's parameters. The kernel is silent unless debug is full: only a panic speaks (formats: section 9).
fn kernel_params(debug: DebugLevel) -> String {
    let level = match debug {
        DebugLevel::None => "quiet loglevel=1 kapsel.debug=none",
        DebugLevel::Full => "loglevel=7 kapsel.debug=full",
    };
    // Free memory is reported in the host's huge pages: in pieces of 4 MiB, Linux's own choice, it is not until 128 MiB are free.
    let reporting = "page_reporting.page_reporting_order=9";
    format!("console=ttyS0 reboot=k panic=-1 8250.nr_uarts=2 tsc=reliable {reporting} {level}")
}

/// A CID for a VM whose vsock is its own: it only has to be a legal one.
fn choose_cid() -> u32 {
    let count = GUEST_CIDS.end() - GUEST_CIDS.start() + 1;
    GUEST_CIDS.start() + std::process::id() % count
}

/// The APK of a payload VM.
struct App {
    path: PathBuf,
    file: Arc<File>,
    len: u64,
    apk: Apk<Arc<File>>,
}

impl App {
    fn open(files: &mut FileSet, config: &AppConfig) -> Result<Self, PrepareError> {
        let path = config.apk.clone();
        let len = files.open("apk", &path, false)?;
        let file = files.get(&path).map(Arc::clone).ok_or_else(|| PrepareError::File {
            what: "apk",
            path: path.clone(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        let apk =
            Apk::open(file.clone()).map_err(|source| PrepareError::Apk { path: path.clone(), source })?;
        Ok(Self { path, file, len, apk })
    }

    fn error(&self, source: apk::ApkError) -> PrepareError {
        PrepareError::Apk { path: self.path.clone(), source }
    }

    fn unsupported(&self, message: impl Into<String>) -> PrepareError {
        PrepareError::Unsupported { path: self.path.clone(), message: message.into() }
    }

    /// What is to run, on which OS, and what in the payload's configuration is worth a warning.
    fn payload(&self, config: &AppConfig) -> Result<(Choice, String, Vec<String>), PrepareError> {
        let name = match config.payload() {
            PayloadChoice::BinaryName(name) => {
                return Ok((
                    Choice::Library(format!("lib/{ABI}/{name}")),
                    DEFAULT_OS.to_string(),
                    Vec::new(),
                ));
            }
            PayloadChoice::ConfigPath(name) => name,
        };
        if self.apk.entry(&name).is_none() {
            return Err(self.missing(&name));
        }
        let json = self.apk.read(&name, apk::config::MAX_LEN).map_err(|e| self.error(e))?;
        let (parsed, notes) = PayloadConfig::parse(&json).map_err(|source| PrepareError::PayloadConfig {
            path: self.path.clone(),
            name: name.clone(),
            source,
        })?;
        let warnings =
            notes.iter().map(|note| format!("apk \"{}\": \"{name}\": {note}", self.path.display()));
        let warnings = warnings.collect();
        if !parsed.apexes.is_empty() || !parsed.extra_apks.is_empty() {
            return Err(self.unsupported(format!(
                "\"{name}\" asks for apexes or extra_apks, which this version does not mount"
            )));
        }
        let task = parsed.task.ok_or_else(|| self.unsupported(format!("\"{name}\" has no task to run")))?;
        let choice = match task.kind {
            TaskType::MicrodroidLauncher => Choice::Library(format!("lib/{ABI}/{}", task.command)),
            TaskType::Executable => Choice::Executable(task.command.trim_start_matches('/').to_string()),
        };
        let os = parsed.os.map_or_else(|| DEFAULT_OS.to_string(), |os| os.name);
        Ok((choice, os, warnings))
    }

    fn missing(&self, name: &str) -> PrepareError {
        PrepareError::NoPayload { path: self.path.clone(), name: name.to_string() }
    }

    /// The structure of what is to run; gives its name in the APK.
    fn check_payload(&self, choice: &Choice, os: &GuestOs) -> Result<String, PrepareError> {
        let (Choice::Library(name) | Choice::Executable(name)) = choice;
        if self.apk.entry(name).is_none() {
            return Err(self.missing(name));
        }
        if let Choice::Library(name) = choice {
            let content = self.apk.read(name, MAX_LIBRARY).map_err(|e| self.error(e))?;
            library::check(&content, &os.glibc).map_err(|source| PrepareError::Library {
                path: self.path.clone(),
                name: name.clone(),
                source,
            })?;
        }
        Ok(name.clone())
    }

    /// The idsig that was given, checked to be of this APK, or one made in memory.
    fn idsig(&self, files: &mut FileSet, config: &AppConfig) -> Result<Part, PrepareError> {
        let Some(path) = &config.idsig else {
            let error = |source| PrepareError::MakeIdsig { path: self.path.clone(), source };
            let (idsig, tree) = Idsig::create(&self.file, &[]).map_err(error)?;
            return Ok(Part::Bytes(idsig.to_bytes(&tree).into()));
        };
        let error = |source| PrepareError::Idsig { path: path.clone(), source };
        let len = files.open("idsig", path, false)?;
        let file = files.get(path).cloned();
        if let Some(file) = file {
            Idsig::read(&file).map_err(error)?.check_apk(&self.file).map_err(error)?;
        }
        Ok(Part::File { path: path.clone(), len })
    }
}

/// A file in the APK.
enum Choice {
    /// A library with the payload's entry point.
    Library(String),
    /// A program.
    Executable(String),
}
