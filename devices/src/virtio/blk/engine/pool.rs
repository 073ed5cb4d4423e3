//! Threads that wait for files, for kernels without io_uring. They are started with the first operation: a disk whose
//! data are all at hand has none.

mod jobs;
#[cfg(test)]
mod model;

/// The locks of `jobs`.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
}

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Completion, Operation};
use crate::virtio::blk::disk::DiskFile;
use jobs::Jobs;

/// More do not make one device faster, and a disk that hangs costs no more than these.
const THREADS: usize = 4;

/// The threads of one disk.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    files: Vec<RawFd>,
    jobs: Jobs<(u32, Operation), Completion>,
    event: EventFd,
}

impl Shared {
    fn work(&self) {
        while let Some((slot, operation)) = self.jobs.next() {
            let fd = self.files.get(operation.file).copied().unwrap_or(-1);
            // SAFETY: the contract of `Engine::submit`.
            let result = unsafe { operation.run(fd, false) };
            self.end((slot, result));
        }
    }

    fn end(&self, completion: Completion) {
        self.jobs.end(completion);
        // Fails only when the counter is full: then the event is there.
        let _ = self.event.write(1);
    }
}

impl Pool {
    /// A pool for `files`, without a thread yet.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(files: &[DiskFile]) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            files: files.iter().map(DiskFile::fd).collect(),
            jobs: Jobs::new(),
            event: EventFd::new(EFD_NONBLOCK)?,
        });
        Ok(Self { shared, threads: Vec::new() })
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.shared.event
    }

    pub(super) fn submit(&mut self, slot: u32, operation: Operation) {
        if self.threads.len() < THREADS {
            let shared = Arc::clone(&self.shared);
            let name = format!("disk{}", self.threads.len());
            // Without a single thread the operation fails; with one, all get their turn.
            match std::thread::Builder::new().name(name).spawn(move || shared.work()) {
                Ok(thread) => self.threads.push(thread),
                Err(e) if self.threads.is_empty() => {
                    let error = e.raw_os_error().unwrap_or(libc::EAGAIN);
                    return self.shared.end((slot, -i64::from(error)));
                }
                Err(_) => {}
            }
        }
        self.shared.jobs.submit((slot, operation));
    }

    pub(super) fn reap(&mut self, ended: &mut Vec<Completion>) {
        self.shared.jobs.reap(ended);
    }

    pub(super) fn wait(&mut self) {
        self.shared.jobs.wait();
    }

    /// Keeps the threads from taking another operation.
    #[cfg(test)]
    pub(super) fn hold(&self) -> Hold {
        self.shared.jobs.hold(true);
        Hold(Arc::clone(&self.shared))
    }
}

/// The threads begin nothing until it is opened or dropped.
#[cfg(test)]
pub struct Hold(Arc<Shared>);

#[cfg(test)]
impl Hold {
    pub fn open(&self) {
        self.0.jobs.hold(false);
    }
}

#[cfg(test)]
impl Drop for Hold {
    fn drop(&mut self) {
        self.open();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.jobs.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
