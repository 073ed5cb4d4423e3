//! What may stand between a specification and its VM.

use std::io;
use std::path::PathBuf;

use devices::virtio::vsock::VsockError;

use crate::attach::{AttachError, MAX_DISKS};
use crate::memory::MemoryError;

/// Why a VM could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A KVM call failed.
    #[error("{0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// No guest memory.
    #[error("guest memory")]
    Memory(#[from] MemoryError),
    /// The kernel, or what takes its place, could not be loaded.
    #[error("load {what} \"{}\"", path.display())]
    Boot {
        /// What it is for: the key of the configuration.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: boot::LoadError,
    },
    /// The command line is not one.
    #[error("kernel parameters")]
    Cmdline(#[from] boot::CmdlineError),
    /// A device could not be made.
    #[error("make the {0}")]
    Device(&'static str, #[source] io::Error),
    /// The socket device could not be made.
    #[error("make the socket device")]
    Vsock(#[from] VsockError),
    /// A device could not be attached.
    #[error("attach the {0}")]
    Attach(&'static str, #[source] AttachError),
    /// A platform device could not be placed.
    #[error("place the {0}")]
    Bus(&'static str, #[source] devices::bus::BusError),
    /// More disks than there are slots.
    #[error("{0} disks, expected at most {MAX_DISKS}")]
    TooManyDisks(usize),
}
