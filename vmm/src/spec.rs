//! What a VM is made of, as plain data with open files.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use boot::BootConfig;

use crate::config::raw::{ConsoleInputDevice, Discovery};
use crate::disks::OpenDisk;

/// Everything a VM is made of, all files open.
pub struct VmSpec {
    /// What runs first.
    pub image: Image,
    /// Initial RAM file systems, concatenated for the guest.
    pub initrds: Vec<OpenFile>,
    /// Boot configuration, handed over behind the RAM file systems.
    pub bootconfig: BootConfig,
    /// The kernel's command line, without the devices.
    pub params: String,
    /// How the kernel learns of its virtio devices.
    pub discovery: Discovery,
    /// Which of its consoles what is typed goes to.
    pub console_input: ConsoleInputDevice,
    /// Memory in bytes.
    pub memory: u64,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Disks, in the order in which the guest sees them.
    pub disks: Vec<OpenDisk>,
    /// The socket device.
    pub vsock: Option<VsockSpec>,
    /// How long the payload has to start; none for a VM without one. Needs `vsock`.
    pub payload_timeout: Option<Duration>,
}

impl VmSpec {
    /// Bytes of kernel and initrds.
    pub(crate) fn image_size(&self) -> u64 {
        let files = std::iter::once(self.image.file()).chain(&self.initrds);
        files.filter_map(|f| f.file.metadata().ok()).map(|m| m.len()).sum()
    }
}

/// A guest's socket device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VsockSpec {
    /// The guest's context id.
    pub guest_cid: u32,
    /// What serves it.
    pub backend: VsockBackend,
}

/// What serves a socket device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VsockBackend {
    /// This process, with Unix sockets at and beside this path, if there is one.
    User(Option<PathBuf>),
    /// The host's kernel.
    Vhost,
}

/// What runs first in a VM.
pub enum Image {
    /// A kernel, or a boot loader that is started like one.
    Kernel(OpenFile),
    /// A ROM that the processor starts in.
    Rom(OpenFile),
}

impl Image {
    /// Its file.
    pub fn file(&self) -> &OpenFile {
        match self {
            Self::Kernel(file) | Self::Rom(file) => file,
        }
    }
}

/// An open file and the path to name it by.
pub struct OpenFile {
    /// Where it was found.
    pub path: PathBuf,
    /// The file.
    pub file: File,
}

impl OpenFile {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When it cannot be opened or is something else than a file.
    pub fn open(path: &std::path::Path) -> io::Result<Self> {
        // Non-blocking, or opening a FIFO would wait for a writer; a regular file does not care.
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { path: path.to_path_buf(), file })
    }
}
