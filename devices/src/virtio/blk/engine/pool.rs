//! Threads that wait for files, for kernels without io_uring. They are started with the first operation: a disk whose
//! data are all at hand has none.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Completion, Operation};
use crate::virtio::blk::disk::DiskFile;

/// More do not make one device faster, and a disk that hangs costs no more than these.
const THREADS: usize = 4;

/// The threads of one disk.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    files: Vec<RawFd>,
    jobs: Mutex<Jobs>,
    /// There is a job, or the end.
    due: Condvar,
    /// A job has ended.
    ended: Condvar,
    event: EventFd,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<(u32, Operation)>,
    ended: Vec<Completion>,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        // Nothing that holds the lock can panic half-way.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut jobs = self.lock();
        loop {
            if let Some((slot, operation)) = jobs.waiting.pop_front() {
                drop(jobs);
                let fd = self.files.get(operation.file).copied().unwrap_or(-1);
                // SAFETY: the contract of `Engine::submit`.
                let result = unsafe { operation.run(fd, false) };
                jobs = self.lock();
                jobs.ended.push((slot, result));
                self.ended.notify_one();
                // Fails only when the counter is full: then the event is there.
                let _ = self.event.write(1);
            } else if jobs.closing {
                return;
            } else {
                jobs = self.due.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            }
        }
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
            jobs: Mutex::default(),
            due: Condvar::new(),
            ended: Condvar::new(),
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
                    self.shared.lock().ended.push((slot, -i64::from(error)));
                    let _ = self.shared.event.write(1);
                    return;
                }
                Err(_) => {}
            }
        }
        self.shared.lock().waiting.push_back((slot, operation));
        self.shared.due.notify_one();
    }

    pub(super) fn reap(&mut self, ended: &mut Vec<Completion>) {
        ended.append(&mut self.shared.lock().ended);
    }

    pub(super) fn wait(&mut self) {
        let mut jobs = self.shared.lock();
        while jobs.ended.is_empty() {
            jobs = self.shared.ended.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.due.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
