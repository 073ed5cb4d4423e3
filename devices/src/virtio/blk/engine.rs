//! Who waits for the host's files: io_uring where the kernel has it, else a few threads.
//!
//! ```text
//!   Block ── submit(slot, operation) ──> io_uring | threads ── event ──> reap: (slot, bytes or -errno)
//! ```
//!
//! An operation points into guest memory. Whoever submits one keeps what it points to until it was reaped.

mod pool;
mod uring;

use std::io;
use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::disk::DiskFile;
#[cfg(test)]
pub(super) use pool::Hold;
use pool::Pool;
use uring::Uring;

/// How a disk's files are waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// The best that the host has.
    #[default]
    Auto,
    /// io_uring, or an error where the kernel has none.
    IoUring,
    /// Threads that wait.
    Threads,
    /// Nobody waits apart: a request is served before the next is looked at.
    Sync,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fill the buffers from it.
    Read,
    /// Write the buffers to it.
    Write,
    /// Make its data durable.
    Sync,
    /// `fallocate` with this mode over the range.
    Allocate(i32),
}

/// One call to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// The file's place in the disk's list.
    pub file: usize,
    /// What to do.
    pub kind: Kind,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes, where `iovecs` do not say it.
    pub len: u64,
    /// The buffers, `count` of them.
    pub iovecs: *const libc::iovec,
    /// How many buffers.
    pub count: u32,
}

// SAFETY: what `iovecs` points to is kept, and not touched, by whoever submitted the operation; see `Engine::submit`.
unsafe impl Send for Operation {}

impl Operation {
    /// Does it, and gives the bytes it moved or the negative error number. With `no_wait` it fails with EAGAIN rather
    /// than to wait for a device.
    ///
    /// # Safety
    /// `iovecs` are `count` buffers that the host may use: to write to for a read, to read from for a write.
    pub unsafe fn run(&self, fd: RawFd, no_wait: bool) -> i64 {
        let offset = libc::off_t::try_from(self.offset).unwrap_or(libc::off_t::MAX);
        let len = libc::off_t::try_from(self.len).unwrap_or(libc::off_t::MAX);
        let count = libc::c_int::try_from(self.count).unwrap_or(libc::c_int::MAX);
        let flags = if no_wait { libc::RWF_NOWAIT } else { 0 };
        // SAFETY: the buffers are good by this function's own contract; the other calls touch no memory.
        let done = unsafe {
            match self.kind {
                Kind::Read if self.count == 1 && !no_wait => {
                    libc::pread(fd, (*self.iovecs).iov_base, (*self.iovecs).iov_len, offset)
                }
                Kind::Write if self.count == 1 && !no_wait => {
                    libc::pwrite(fd, (*self.iovecs).iov_base, (*self.iovecs).iov_len, offset)
                }
                Kind::Read if no_wait => libc::preadv2(fd, self.iovecs, count, offset, flags),
                Kind::Write if no_wait => libc::pwritev2(fd, self.iovecs, count, offset, flags),
                Kind::Read => libc::preadv(fd, self.iovecs, count, offset),
                Kind::Write => libc::pwritev(fd, self.iovecs, count, offset),
                Kind::Sync => libc::fdatasync(fd) as isize,
                Kind::Allocate(mode) => libc::fallocate(fd, mode, offset, len) as isize,
            }
        };
        if done < 0 {
            -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
        } else {
            done as i64
        }
    }
}

/// How an operation ended: the slot it was submitted with, and the bytes it moved or the negative error number.
pub type Completion = (u32, i64);

/// The waiting side of one disk.
pub enum Engine {
    /// Nobody: every operation is run where it is asked for.
    Sync,
    /// An io_uring.
    Uring(Box<Uring>),
    /// Threads.
    Pool(Pool),
}

impl Engine {
    /// The engine of `choice` for `files`, with at most `depth` operations at a time. A disk whose files all lie in
    /// memory needs none.
    ///
    /// # Errors
    /// When the process has no descriptor left, or io_uring was asked for and the kernel has none.
    pub fn new(choice: EngineChoice, files: &[DiskFile], depth: u32) -> io::Result<Self> {
        match choice {
            EngineChoice::Sync => Ok(Self::Sync),
            EngineChoice::Auto if files.iter().all(DiskFile::is_in_memory) => Ok(Self::Sync),
            EngineChoice::IoUring => Uring::new(files, depth).map(|uring| Self::Uring(Box::new(uring))),
            EngineChoice::Threads => Pool::new(files).map(Self::Pool),
            EngineChoice::Auto => match Uring::new(files, depth) {
                Ok(uring) => Ok(Self::Uring(Box::new(uring))),
                Err(_) => Pool::new(files).map(Self::Pool),
            },
        }
    }

    /// Its name, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sync => "synchronous",
            Self::Uring(_) => "io_uring",
            Self::Pool(_) => "threads",
        }
    }

    /// Keeps the threads, if it has any, from beginning another operation.
    #[cfg(test)]
    pub(super) fn hold(&self) -> Option<Hold> {
        match self {
            Self::Pool(pool) => Some(pool.hold()),
            Self::Sync | Self::Uring(_) => None,
        }
    }

    /// Whether there is somebody to wait.
    pub fn waits(&self) -> bool {
        !matches!(self, Self::Sync)
    }

    /// Written when operations have ended.
    pub fn event(&self) -> Option<&EventFd> {
        match self {
            Self::Sync => None,
            Self::Uring(uring) => Some(uring.event()),
            Self::Pool(pool) => Some(pool.event()),
        }
    }

    /// Takes an operation, which may begin at once or with [`start`](Self::start).
    ///
    /// # Safety
    /// Until it was reaped, its buffers stay where they are and are the kernel's alone (guest memory excepted, which the
    /// guest shares).
    ///
    /// # Errors
    /// When the kernel does not take it: then it never began.
    pub unsafe fn submit(&mut self, slot: u32, operation: Operation) -> io::Result<()> {
        match self {
            Self::Sync => Err(io::ErrorKind::Unsupported.into()),
            // SAFETY: this function's contract is theirs.
            Self::Uring(uring) => unsafe { uring.submit(slot, operation) },
            Self::Pool(pool) => {
                pool.submit(slot, operation);
                Ok(())
            }
        }
    }

    /// Begins what was submitted.
    ///
    /// # Errors
    /// When the kernel refuses for now; it is tried again with the next call.
    pub fn start(&mut self) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.start(),
            Self::Sync | Self::Pool(_) => Ok(()),
        }
    }

    /// Moves what has ended to `ended`, without waiting.
    pub fn reap(&mut self, ended: &mut Vec<Completion>) {
        match self {
            Self::Sync => {}
            Self::Uring(uring) => uring.reap(ended),
            Self::Pool(pool) => pool.reap(ended),
        }
    }

    /// Waits until something has ended. To be called only while something is under way.
    pub fn wait(&mut self) {
        match self {
            Self::Sync => {}
            Self::Uring(uring) => uring.wait(),
            Self::Pool(pool) => pool.wait(),
        }
    }
}

#[cfg(test)]
mod tests;
