//! Guest buffers as the kernel's `iovec`s, so that a file is read straight into guest memory and written
//! straight from it. The only place of the block device that needs `unsafe`.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::marker::PhantomData;
use std::os::fd::AsRawFd;

use vm_memory::{Bytes, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use crate::virtio::queue::{Buffer, QueueError};

/// What the kernel takes in one call (IOV_MAX).
const MAX_IOVECS: usize = 1024;

/// Storage for the iovecs of one request at a time, kept so that a request allocates nothing.
#[derive(Default)]
pub struct IovecStorage {
    entries: Vec<libc::iovec>,
}

// SAFETY: the pointers are used only through a `GuestIovecs`, which was made from a live memory by `gather`
// and borrows both; between two calls of `gather` they are dead values.
unsafe impl Send for IovecStorage {}

impl IovecStorage {
    /// Translates `buffers`, for the host to write to them (`Permissions::Write`) or to read from them.
    ///
    /// # Errors
    /// When a buffer is not guest memory.
    pub fn gather<'a>(
        &'a mut self,
        memory: &'a GuestMemoryMmap,
        buffers: impl Iterator<Item = Buffer>,
        access: Permissions,
    ) -> std::result::Result<GuestIovecs<'a>, QueueError> {
        self.entries.clear();
        let mut len = 0;
        for Buffer { addr, len: size } in buffers {
            let bad = || QueueError::Buffer { addr: addr.0, len: u64::from(size) };
            // A buffer may lie in several regions that follow each other.
            let slices = GuestMemory::get_slices(memory, addr, size as usize, access).map_err(|_| bad())?;
            for slice in slices {
                let slice = slice.map_err(|_| bad())?;
                let guard = slice.ptr_guard_mut();
                self.entries.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() });
            }
            len += u64::from(size);
        }
        Ok(GuestIovecs { rest: &mut self.entries, len, memory: PhantomData })
    }
}

/// The guest's buffers of one request, used up from the front.
pub struct GuestIovecs<'a> {
    rest: &'a mut [libc::iovec],
    len: u64,
    memory: PhantomData<&'a GuestMemoryMmap>,
}

impl GuestIovecs<'_> {
    /// Bytes that are left.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no bytes are left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills the next `count` bytes from `file` at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file is shorter, or what the kernel says.
    pub fn read_from(&mut self, file: &File, offset: u64, count: u64) -> Result<()> {
        let fd = file.as_raw_fd();
        self.transfer(offset, count, ErrorKind::UnexpectedEof, |iovecs, offset| match iovecs {
            // SAFETY: `gather` took the range from guest memory that is borrowed for `self`'s life, and the
            // kernel writes to no other.
            [one] => unsafe { libc::pread(fd, one.iov_base, one.iov_len, offset) },
            // SAFETY: as above, for each of `many`, whose number fits: `transfer` takes at most MAX_IOVECS.
            many => unsafe { libc::preadv(fd, many.as_ptr(), count_of(many), offset) },
        })
    }

    /// Writes the next `count` bytes to `file` at `offset`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write_to(&mut self, file: &File, offset: u64, count: u64) -> Result<()> {
        let fd = file.as_raw_fd();
        self.transfer(offset, count, ErrorKind::WriteZero, |iovecs, offset| match iovecs {
            // SAFETY: `gather` took the range from guest memory that is borrowed for `self`'s life, and the
            // kernel only reads it.
            [one] => unsafe { libc::pwrite(fd, one.iov_base, one.iov_len, offset) },
            // SAFETY: as above, for each of `many`, whose number fits: `transfer` takes at most MAX_IOVECS.
            many => unsafe { libc::pwritev(fd, many.as_ptr(), count_of(many), offset) },
        })
    }

    /// Fills the next `count` bytes with zeros.
    ///
    /// # Errors
    /// When fewer bytes are left.
    pub fn zero(&mut self, count: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        self.fill(count, |slice, _| {
            let len = slice.len().min(ZEROS.len());
            slice.write(&ZEROS[..len], 0)
        })
    }

    /// Fills the next bytes with `bytes`.
    ///
    /// # Errors
    /// When fewer bytes are left.
    pub fn copy_from(&mut self, bytes: &[u8]) -> Result<()> {
        self.fill(bytes.len() as u64, |slice, done| slice.write(&bytes[done..], 0))
    }

    fn fill(
        &mut self,
        count: u64,
        mut write: impl FnMut(&VolatileSlice<'_>, usize) -> vm_memory::volatile_memory::Result<usize>,
    ) -> Result<()> {
        let mut done = 0;
        self.transfer(0, count, ErrorKind::WriteZero, |iovecs, _| {
            let Some(first) = iovecs.first() else { return 0 };
            // SAFETY: `gather` took the range from guest memory that is borrowed for `self`'s life; a
            // volatile slice allows for the guest writing to it meanwhile.
            let slice = unsafe { VolatileSlice::new(first.iov_base.cast(), first.iov_len) };
            let written = write(&slice, done).unwrap_or(0);
            done += written;
            libc::ssize_t::try_from(written).unwrap_or(0)
        })
    }

    /// Uses up `count` bytes by calls of `step`, each for as many whole or cut iovecs as the kernel takes;
    /// `step` gives the bytes it did, or -1 and `errno`. A step of nothing is the error `exhausted`.
    fn transfer(
        &mut self,
        offset: u64,
        count: u64,
        exhausted: ErrorKind,
        mut step: impl FnMut(&[libc::iovec], libc::off_t) -> libc::ssize_t,
    ) -> Result<()> {
        if count > self.len {
            return Err(ErrorKind::InvalidInput.into());
        }
        let (mut at, mut left) = (offset, count);
        while left > 0 {
            let (mut taken, mut bytes) = (0, 0);
            while bytes < left && taken < self.rest.len().min(MAX_IOVECS) {
                bytes += self.rest[taken].iov_len as u64;
                taken += 1;
            }
            // Cut the last one short for the call, where the request ends within it.
            let excess = usize::try_from(bytes.saturating_sub(left)).unwrap_or(0);
            let position = libc::off_t::try_from(at).map_err(|_| ErrorKind::InvalidInput)?;
            let Some(last) = taken.checked_sub(1) else { return Err(ErrorKind::InvalidInput.into()) };
            self.rest[last].iov_len -= excess;
            let done = step(&self.rest[..taken], position);
            let error = Error::last_os_error();
            self.rest[last].iov_len += excess;
            match usize::try_from(done) {
                Ok(0) => return Err(exhausted.into()),
                Ok(done) => {
                    self.advance(done);
                    at += done as u64;
                    left -= done as u64;
                }
                Err(_) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(error),
            }
        }
        Ok(())
    }

    fn advance(&mut self, count: usize) {
        self.len -= count as u64;
        let rest = std::mem::take(&mut self.rest);
        let (mut whole, mut left) = (0, count);
        while let Some(iovec) = rest.get(whole)
            && iovec.iov_len <= left
        {
            left -= iovec.iov_len;
            whole += 1;
        }
        self.rest = &mut rest[whole..];
        if left > 0 {
            let first = &mut self.rest[0];
            // SAFETY: `left` is less than the iovec's length, so the result is within the same range.
            first.iov_base = unsafe { first.iov_base.cast::<u8>().add(left) }.cast();
            first.iov_len -= left;
        }
    }
}

fn count_of(iovecs: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(iovecs.len()).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests;
