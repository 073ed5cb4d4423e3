//! A request on its way: which bytes of the disk are still to be moved, one file operation at a time.
//!
//! ```text
//!   ranges of the disk ── split at extents' borders ──> Operation: done on the spot, or handed to the engine
//!                                                       then, if need be, fdatasync of each file
//! ```
//!
//! What is at hand (the page cache, a file in memory) is moved on the spot: `preadv2` that must not wait says so by failing.
//! Only the rest costs the engine's detour.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
use vm_memory::{GuestMemoryMmap, Permissions};

use super::composite::CompositeDisk;
use super::disk::{DiskError, DiskFile, Piece};
use super::engine::{Kind, Operation};
use super::iovec::Iovecs;
use super::request::{self, Answer, Range, Request};
use crate::virtio::queue::QueueError;

/// Bytes that one call writes on the spot. Linux looks at every source page that is left before it writes each page of a
/// file (`generic_perform_write`), so that a large call takes time by the square of its length: a MiB in one call takes five
/// times as long as in pieces of this size.
pub const WRITE_AT_ONCE: u64 = 64 << 10;

/// Who may wait for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The caller.
    Wait,
    /// The engine, for what is not at hand.
    Try,
    /// The engine, for everything: to test it.
    #[cfg(any(test, feature = "testing"))]
    Defer,
}

impl Mode {
    /// Whether the caller may wait for this file.
    pub fn waits_for(self, file: &DiskFile) -> bool {
        self == Self::Wait || self == Self::Try && file.is_in_memory()
    }

    /// Whether a read (or a write) of this file is worth a try that must not wait.
    pub fn tries(self, file: &DiskFile, write: bool) -> bool {
        self == Self::Try && file.takes_no_wait(write)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Work {
    Read,
    Write,
    Discard,
    Zeroes(Zeroing),
    #[default]
    Nothing,
}

/// How a range becomes zeros: the first way that its file knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zeroing {
    Range,
    Punch,
    Write,
}

/// A request on its way. Made once and used again and again.
#[derive(Default)]
pub struct Task {
    /// The queue it came from.
    pub queue: usize,
    /// How to answer it.
    pub answer: Answer,
    /// Its place in the order of all requests.
    pub number: u64,
    /// Bytes of data that the guest finds filled when it is done.
    pub filled: u64,
    work: Work,
    /// What is left, the next last.
    ranges: Vec<Range>,
    iovecs: Iovecs,
    /// The next file to make durable when the ranges are done.
    sync: Option<usize>,
    operation: Option<Operation>,
}

impl Task {
    /// Takes a request; durable before it is answered if `sync`.
    ///
    /// # Errors
    /// When its buffers are not guest memory.
    pub fn begin(
        &mut self,
        request: &Request<'_>,
        memory: &Arc<GuestMemoryMmap>,
        sync: bool,
    ) -> Result<(), QueueError> {
        self.answer = request.answer;
        self.filled = 0;
        self.ranges.clear();
        self.operation = None;
        self.sync = sync.then_some(0);
        match &request.operation {
            request::Operation::Read(offset) => {
                (self.work, self.filled, self.sync) = (Work::Read, request.data_len, None);
                self.ranges.push(Range { offset: *offset, len: request.data_len, unmap: false });
                self.iovecs.gather(memory, request.data_in(), Permissions::Write)?;
            }
            request::Operation::Write(offset) => {
                self.work = Work::Write;
                self.ranges.push(Range { offset: *offset, len: request.data_len, unmap: false });
                self.iovecs.gather(memory, request.data_out(), Permissions::Read)?;
            }
            request::Operation::Discard(ranges) => {
                self.work = Work::Discard;
                self.ranges.extend(ranges.iter().rev());
            }
            request::Operation::WriteZeroes(ranges) => {
                self.work = Work::Zeroes(Zeroing::Range);
                self.ranges.extend(ranges.iter().rev());
            }
            request::Operation::Flush => (self.work, self.sync) = (Work::Nothing, Some(0)),
            _ => self.work = Work::Nothing,
        }
        Ok(())
    }

    /// Whether it changes the disk, so that a later flush waits for it.
    pub fn changes_disk(&self) -> bool {
        !matches!(self.work, Work::Read | Work::Nothing)
    }

    /// Whether it is a flush, which waits for what came before.
    pub fn is_flush(&self) -> bool {
        self.work == Work::Nothing && self.sync.is_some()
    }

    /// Lets go of guest memory.
    pub fn release(&mut self) {
        self.iovecs.release();
    }

    /// Goes on until it is done (none) or somebody has to wait for this operation.
    ///
    /// # Errors
    /// The request failed.
    pub fn go_on(&mut self, disk: &CompositeDisk, mode: Mode) -> Result<Option<Operation>, DiskError> {
        while let Some(&Range { offset, len, .. }) = self.ranges.last() {
            if len == 0 {
                self.ranges.pop();
                continue;
            }
            match disk.piece(offset, len, self.changes_disk())? {
                Piece::Bytes(bytes) => {
                    self.iovecs.copy_from(bytes);
                    self.pass(bytes.len() as u64);
                }
                Piece::Zeros(len) => {
                    self.iovecs.zero(len);
                    self.pass(len);
                }
                Piece::File { file, offset, len } => {
                    let operation = self.operation(disk, file, offset, len, mode);
                    if let Some(wait) = self.attempt(disk, operation, mode)? {
                        return Ok(Some(wait));
                    }
                }
            }
        }
        while let Some(file) = self.sync.filter(|&file| file < disk.files().len()) {
            if !disk.files()[file].is_writable() {
                self.sync = Some(file + 1);
                continue;
            }
            let operation =
                Operation { file, kind: Kind::Sync, offset: 0, len: 0, iovecs: std::ptr::null(), count: 0 };
            if let Some(wait) = self.attempt(disk, operation, mode)? {
                return Ok(Some(wait));
            }
        }
        Ok(None)
    }

    /// Takes the result of the operation that was waited for; then it can go on.
    ///
    /// # Errors
    /// The request failed.
    pub fn end_wait(&mut self, disk: &CompositeDisk, result: i64) -> Result<(), DiskError> {
        match self.operation.take() {
            Some(operation) => self.apply(disk, operation, result),
            None => Ok(()),
        }
    }

    fn pass(&mut self, count: u64) {
        if let Some(range) = self.ranges.last_mut() {
            range.offset += count;
            range.len -= count;
        }
    }

    fn operation(
        &mut self,
        disk: &CompositeDisk,
        file: usize,
        offset: u64,
        len: u64,
        mode: Mode,
    ) -> Operation {
        let at_once = mode.waits_for(&disk.files()[file]) || mode.tries(&disk.files()[file], true);
        let allocate = |mode| Operation {
            file,
            kind: Kind::Allocate(mode),
            offset,
            len,
            iovecs: std::ptr::null(),
            count: 0,
        };
        let mut buffers = |kind, len| {
            let window = self.iovecs.window(len);
            let count = u32::try_from(window.len()).unwrap_or(u32::MAX);
            Operation { file, kind, offset, len, iovecs: window.as_ptr(), count }
        };
        match self.work {
            Work::Read | Work::Nothing => buffers(Kind::Read, len),
            Work::Write => buffers(Kind::Write, if at_once { len.min(WRITE_AT_ONCE) } else { len }),
            Work::Discard | Work::Zeroes(Zeroing::Punch) => {
                allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
            }
            Work::Zeroes(Zeroing::Range) => allocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE),
            Work::Zeroes(Zeroing::Write) => {
                self.iovecs.zeros(len);
                let window = self.iovecs.window(len);
                let count = u32::try_from(window.len()).unwrap_or(u32::MAX);
                Operation { file, kind: Kind::Write, offset, len, iovecs: window.as_ptr(), count }
            }
        }
    }

    /// Does the operation if that takes no wait, or if the caller may wait; else gives it back.
    fn attempt(
        &mut self,
        disk: &CompositeDisk,
        operation: Operation,
        mode: Mode,
    ) -> Result<Option<Operation>, DiskError> {
        let file = &disk.files()[operation.file];
        let wait = mode.waits_for(file);
        let write = operation.kind == Kind::Write;
        let moves = write || operation.kind == Kind::Read;
        if wait || moves && mode.tries(file, write) {
            // SAFETY: the buffers were made by `operation` just now, of guest memory that `self.iovecs` keeps mapped: what
            // a read fills was gathered for writing.
            let result = unsafe { operation.run(file.fd(), !wait) };
            if wait || result != -i64::from(libc::EAGAIN) && result != -i64::from(libc::EOPNOTSUPP) {
                return self.apply(disk, operation, result).map(|()| None);
            }
            if result == -i64::from(libc::EOPNOTSUPP) {
                file.refuses_no_wait(write);
            }
        }
        self.operation = Some(operation);
        Ok(Some(operation))
    }

    fn apply(&mut self, disk: &CompositeDisk, operation: Operation, result: i64) -> Result<(), DiskError> {
        let error = |source| {
            Err(DiskError::Host { file: disk.files()[operation.file].fd(), offset: operation.offset, source })
        };
        match (u64::try_from(result), operation.kind) {
            (Ok(_), Kind::Sync) => self.sync = Some(operation.file + 1),
            (Ok(_), Kind::Allocate(_)) => self.pass(operation.len),
            (Ok(0), Kind::Read) => {
                return error(Error::new(ErrorKind::UnexpectedEof, "the file ends before the disk does"));
            }
            (Ok(0), Kind::Write) => return error(ErrorKind::WriteZero.into()),
            (Ok(done), Kind::Read | Kind::Write) => {
                self.iovecs.advance(done);
                self.pass(done);
            }
            (Err(_), kind) => {
                let number = i32::try_from(-result).unwrap_or(libc::EIO);
                if number != libc::EINTR && !self.find_another_way(kind, number) {
                    return error(Error::from_raw_os_error(number));
                }
            }
        }
        Ok(())
    }

    /// What a file system does not know is done in another way; tells whether there is one.
    fn find_another_way(&mut self, kind: Kind, number: i32) -> bool {
        let unknown = [libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL, libc::ENODEV].contains(&number);
        if !unknown || !matches!(kind, Kind::Allocate(_)) {
            return false;
        }
        match self.work {
            // A discard is a hint (5.2.6.2).
            Work::Discard => self.ranges.clear(),
            Work::Zeroes(Zeroing::Range) if self.ranges.last().is_some_and(|range| range.unmap) => {
                self.work = Work::Zeroes(Zeroing::Punch);
            }
            Work::Zeroes(_) => self.work = Work::Zeroes(Zeroing::Write),
            _ => return false,
        }
        true
    }
}
