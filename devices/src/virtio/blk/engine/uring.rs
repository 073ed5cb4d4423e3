//! io_uring: operations go to the kernel a batch at a time.
//!
//! The files are not registered with the ring: the kernel would let go of them, and of their locks, only some time after the
//! process has ended, and the next VM would find its disk in use.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, opcode, squeue, types};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Completion, Kind, Operation};
use crate::virtio::blk::disk::DiskFile;

/// A ring of one disk.
pub struct Uring {
    ring: IoUring,
    files: Vec<RawFd>,
    event: EventFd,
}

impl Uring {
    /// A ring for at most `depth` operations at a time.
    ///
    /// # Errors
    /// When the kernel has none, or lacks one of the operations.
    pub fn new(files: &[DiskFile], depth: u32) -> io::Result<Self> {
        let ring = IoUring::new(depth.next_power_of_two())?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed =
            [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
        if !needed.into_iter().all(|code| probe.is_supported(code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let files = files.iter().map(DiskFile::fd).collect();
        let event = EventFd::new(EFD_NONBLOCK)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Self { ring, files, event })
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    fn entry(&self, slot: u32, operation: Operation) -> squeue::Entry {
        let Operation { file, kind, offset, len, iovecs, count } = operation;
        let fd = types::Fd(self.files.get(file).copied().unwrap_or(-1));
        let entry = match kind {
            Kind::Read => opcode::Readv::new(fd, iovecs, count).offset(offset).build(),
            Kind::Write => opcode::Writev::new(fd, iovecs, count).offset(offset).build(),
            Kind::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Kind::Allocate(mode) => opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build(),
        };
        entry.user_data(u64::from(slot))
    }

    /// As [`Engine::submit`](super::Engine::submit).
    pub(super) unsafe fn submit(&mut self, slot: u32, operation: Operation) -> io::Result<()> {
        let entry = self.entry(slot, operation);
        // SAFETY: the caller keeps the buffers until the operation was reaped.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.start()?;
            // SAFETY: as above.
            unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::OutOfMemory)?;
        }
        Ok(())
    }

    pub(super) fn start(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(super) fn reap(&mut self, ended: &mut Vec<Completion>) {
        ended.extend(self.ring.completion().filter_map(|entry| {
            let slot = u32::try_from(entry.user_data()).ok()?;
            Some((slot, i64::from(entry.result())))
        }));
    }

    pub(super) fn wait(&mut self) {
        // An error is a signal, or a shortage that passes: the caller looks and comes again.
        if self.ring.submit_and_wait(1).is_err() {
            std::thread::yield_now();
        }
    }
}
