//! Guest buffers as the kernel's `iovec`s, so that a file is read straight into guest memory and written
//! straight from it.

use std::sync::Arc;

use vm_memory::{Bytes, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use crate::virtio::queue::{Buffer, QueueError};

/// What the kernel takes in one call (IOV_MAX).
const MAX_IOVECS: usize = 1024;
/// What zeros are written from, in files that cannot be told to be zero.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// The buffers of one request, used up from the front. Made once and filled again and again, so that a request
/// allocates nothing.
#[derive(Default)]
pub struct Iovecs {
    entries: Vec<libc::iovec>,
    /// Entries before this one are used up.
    first: usize,
    /// Bytes that are left.
    len: u64,
    /// The entry that [`window`](Self::window) made shorter, and by how many bytes.
    cut: Option<(usize, usize)>,
    /// What the entries point into; mapped for as long as they do.
    memory: Option<Arc<GuestMemoryMmap>>,
}

// SAFETY: the pointers are into `memory`, which is kept with them and may be used by any thread, or into ZEROS.
unsafe impl Send for Iovecs {}

impl Iovecs {
    /// Takes `buffers` for the host to write to them (`Permissions::Write`) or to read from them.
    ///
    /// # Errors
    /// When a buffer is not guest memory.
    pub fn gather(
        &mut self,
        memory: &Arc<GuestMemoryMmap>,
        buffers: impl Iterator<Item = Buffer>,
        access: Permissions,
    ) -> Result<(), QueueError> {
        self.clear();
        if !self.memory.as_ref().is_some_and(|mine| Arc::ptr_eq(mine, memory)) {
            self.memory = Some(Arc::clone(memory));
        }
        for Buffer { addr, len: size } in buffers {
            let bad = || QueueError::Buffer { addr: addr.0, len: u64::from(size) };
            // A buffer may lie in several regions that follow each other.
            let slices =
                GuestMemory::get_slices(memory.as_ref(), addr, size as usize, access).map_err(|_| bad())?;
            for slice in slices {
                let slice = slice.map_err(|_| bad())?;
                let guard = slice.ptr_guard_mut();
                self.entries.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() });
            }
            self.len += u64::from(size);
        }
        Ok(())
    }

    /// Takes zeros to be written, at least one byte and at most `len`.
    pub fn zeros(&mut self, len: u64) {
        self.clear();
        for _ in 0..16 {
            let size = usize::try_from(len - self.len).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            if size > 0 {
                // The kernel only reads them: these entries are never given to a read.
                self.entries.push(libc::iovec { iov_base: ZEROS.as_ptr().cast_mut().cast(), iov_len: size });
                self.len += size as u64;
            }
        }
    }

    /// Forgets the buffers and lets go of guest memory.
    pub fn release(&mut self) {
        self.clear();
        self.memory = None;
    }

    fn clear(&mut self) {
        self.entries.clear();
        (self.first, self.len, self.cut) = (0, 0, None);
    }

    /// Bytes that are left.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no bytes are left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next `count` bytes, or as many of them as the kernel takes in one call. Valid until the buffers are used in any
    /// other way.
    pub fn window(&mut self, count: u64) -> &[libc::iovec] {
        self.uncut();
        let (mut end, mut bytes) = (self.first, 0);
        while bytes < count && end < self.entries.len() && end - self.first < MAX_IOVECS {
            bytes += self.entries[end].iov_len as u64;
            end += 1;
        }
        // Cut the last one short, where the request ends within it.
        if let Ok(excess) = usize::try_from(bytes.saturating_sub(count))
            && excess > 0
        {
            self.entries[end - 1].iov_len -= excess;
            self.cut = Some((end - 1, excess));
        }
        &self.entries[self.first..end]
    }

    fn uncut(&mut self) {
        if let Some((entry, excess)) = self.cut.take() {
            self.entries[entry].iov_len += excess;
        }
    }

    /// Uses up `count` bytes, at most those that are left.
    pub fn advance(&mut self, count: u64) {
        self.uncut();
        let mut left = usize::try_from(count.min(self.len)).unwrap_or(usize::MAX);
        self.len -= left as u64;
        while let Some(entry) = self.entries.get_mut(self.first) {
            if left < entry.iov_len {
                // SAFETY: `left` is less than the entry's length, so the result is within the same range.
                entry.iov_base = unsafe { entry.iov_base.cast::<u8>().add(left) }.cast();
                entry.iov_len -= left;
                return;
            }
            left -= entry.iov_len;
            self.first += 1;
        }
    }

    /// Fills the next `count` bytes, at most those that are left, with zeros.
    pub fn zero(&mut self, count: u64) {
        self.fill(count, |slice, _| slice.write(&ZEROS[..slice.len().min(ZEROS.len())], 0));
    }

    /// Fills the next bytes with `bytes`, as far as there is room.
    pub fn copy_from(&mut self, bytes: &[u8]) {
        self.fill(bytes.len() as u64, |slice, done| slice.write(&bytes[done..], 0));
    }

    fn fill(
        &mut self,
        count: u64,
        mut write: impl FnMut(&VolatileSlice<'_>, usize) -> vm_memory::volatile_memory::Result<usize>,
    ) {
        let mut left = count.min(self.len);
        let mut done = 0;
        while left > 0 {
            let Some(entry) = self.window(left).first() else { return };
            // SAFETY: `gather` took the range from guest memory that `self.memory` keeps mapped (`zeros` is for
            // writes to files only); a volatile slice allows for the guest writing to it meanwhile.
            let slice = unsafe { VolatileSlice::new(entry.iov_base.cast(), entry.iov_len) };
            let Ok(written @ 1..) = write(&slice, done) else { return };
            done += written;
            left -= written as u64;
            self.advance(written as u64);
        }
    }
}

#[cfg(test)]
mod tests;
