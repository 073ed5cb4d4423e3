//! What a block device needs of a disk: where its bytes are, and the files that hold them.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// Why a disk did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The part cannot be written.
    #[error("the disk is read-only at {offset:#x}")]
    ReadOnly {
        /// Where, in bytes.
        offset: u64,
    },
    /// The request reaches past the end of the disk.
    #[error("{offset:#x} is past the end of the disk")]
    OutOfRange {
        /// Where, in bytes.
        offset: u64,
    },
    /// The host could not: an I/O error, no space, a file cut short under the VM.
    #[error("{} at {offset:#x}", name_of(*file))]
    Host {
        /// The file's descriptor, which is open as long as the disk is.
        file: RawFd,
        /// Where in the file, in bytes.
        offset: u64,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// The path of an open file, as the kernel knows it now.
fn name_of(file: RawFd) -> String {
    std::fs::read_link(format!("/proc/self/fd/{file}"))
        .map_or_else(|_| format!("descriptor {file}"), |path| path.display().to_string())
}

/// The first part of a range of a disk, as far as it is in one place.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'d> {
    /// Bytes in memory.
    Bytes(&'d [u8]),
    /// So many zeros.
    Zeros(u64),
    /// A range of a file.
    File {
        /// The file's place in the disk's list.
        file: usize,
        /// Where in the file, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// A file of a disk, and what is known about waiting for it.
#[derive(Debug)]
pub struct DiskFile {
    pub(super) file: Arc<File>,
    writable: bool,
    in_memory: bool,
    /// Whether a read, a write that must not wait is understood (RWF_NOWAIT); until the file says no.
    tries: [Cell<bool>; 2],
}

/// File systems whose files are nowhere but in memory (linux/magic.h): tmpfs and memfds, ramfs.
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// When a disk was last read is of no use to anybody, and takes time to note.
fn leave_access_time(file: &File) {
    // SAFETY: the descriptor is open; these calls touch no memory. Only a file's owner may ask for it (EPERM).
    unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        if flags >= 0 {
            libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NOATIME);
        }
    }
}

impl DiskFile {
    pub(super) fn new(file: &Arc<File>, writable: bool) -> Self {
        // SAFETY: an all-zero statfs is valid, and the kernel fills it.
        let mut answer: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and `answer` is of the type that the call fills.
        let known = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut answer) } == 0;
        #[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between architectures")]
        let in_memory = known && MEMORY_FILE_SYSTEMS.contains(&(answer.f_type as i64));
        leave_access_time(file);
        // A block device's node lies in a tmpfs; the device does not.
        let is_file = file.metadata().is_ok_and(|m| m.is_file());
        Self {
            file: Arc::clone(file),
            writable,
            in_memory: in_memory && is_file,
            tries: [Cell::new(true), Cell::new(true)],
        }
    }

    pub(super) fn is(&self, file: &Arc<File>) -> bool {
        Arc::ptr_eq(&self.file, file)
    }

    pub(super) fn make_writable(&mut self) {
        self.writable = true;
    }

    /// Its descriptor.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Whether a guest may write to a part of it, so that a flush concerns it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether no access to it ever waits for a device.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Whether a read (or a write) that must not wait is worth a try.
    pub fn takes_no_wait(&self, write: bool) -> bool {
        self.tries[usize::from(write)].get()
    }

    /// Remembers that the file does not understand a read (or a write) that must not wait.
    pub fn refuses_no_wait(&self, write: bool) {
        self.tries[usize::from(write)].set(false);
    }

    /// Waits until what was written to it is durable.
    ///
    /// # Errors
    /// When it cannot be made so.
    pub fn sync(&self) -> Result<(), DiskError> {
        let error = |source| DiskError::Host { file: self.fd(), offset: 0, source };
        self.file.sync_data().map_err(error)
    }
}
