//! A chain of buffers, checked, and the arithmetic on its parts.

use std::marker::PhantomData;
use std::ptr::NonNull;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::queue_error::QueueError;

/// Buffers that a chain holds without an allocation. A block request is three descriptors and an entropy
/// request one; only requests of more than 24 KiB in single pages are longer.
const INLINE: usize = 8;

/// A buffer of a chain: where, and how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub addr: GuestAddress,
    /// Length in bytes, not zero.
    pub len: u32,
}

/// Why a buffer cannot follow those of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// All together are 4 GiB or more.
    Long,
    /// The device shall read it, but write the one before it.
    Order,
}

impl Misfit {
    pub(super) fn of(self, head: u16) -> QueueError {
        match self {
            Self::Long => QueueError::BrokenChain { head },
            Self::Order => QueueError::Order { head },
        }
    }
}

/// One request of the driver, checked: every buffer lies in guest memory, and together they are at most
/// 4 GiB less one byte (virtio 1.2, 2.7.5.2).
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    /// Buffers `[..readable]` are the device's to read, the rest are the device's to write.
    readable: usize,
    readable_len: u32,
    /// Bytes of all of them.
    len: u32,
    count: usize,
    inline: [Buffer; INLINE],
    /// All buffers, once there are more than `INLINE`.
    spill: Vec<Buffer>,
}

impl Chain {
    /// Makes it an empty chain that begins at `head`; what was allocated stays.
    pub(super) fn restart(&mut self, head: u16) {
        self.head = head;
        (self.count, self.readable, self.readable_len, self.len) = (0, 0, 0, 0);
        self.spill.clear();
    }

    /// Appends a buffer that is known to lie in guest memory.
    #[inline(always)]
    pub(super) fn push(&mut self, buffer: Buffer, writable: bool) -> Result<(), Misfit> {
        let before = self.len;
        self.len = before.checked_add(buffer.len).ok_or(Misfit::Long)?;
        if let Some(place) = self.inline.get_mut(self.count) {
            *place = buffer;
        } else {
            self.spill(buffer);
        }
        self.count += 1;
        if !writable {
            if self.readable_len != before {
                return Err(Misfit::Order);
            }
            (self.readable, self.readable_len) = (self.count, self.len);
        }
        Ok(())
    }

    #[cold]
    fn spill(&mut self, buffer: Buffer) {
        if self.spill.is_empty() {
            self.spill.reserve(4 * INLINE);
            self.spill.extend_from_slice(&self.inline);
        }
        self.spill.push(buffer);
    }

    /// Index of the first descriptor.
    pub fn head(&self) -> u16 {
        self.head
    }

    #[inline]
    fn buffers(&self) -> &[Buffer] {
        self.inline.get(..self.count).unwrap_or(&self.spill)
    }

    /// The buffers the device reads, in order.
    pub fn readable(&self) -> &[Buffer] {
        &self.buffers()[..self.readable]
    }

    /// The buffers the device writes, in order.
    pub fn writable(&self) -> &[Buffer] {
        &self.buffers()[self.readable..]
    }

    /// Bytes the device may read.
    pub fn readable_len(&self) -> u64 {
        u64::from(self.readable_len)
    }

    /// Bytes the device may write.
    pub fn writable_len(&self) -> u64 {
        u64::from(self.len - self.readable_len)
    }

    /// How many buffers the chain has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Copies device-readable bytes from `offset` into `data`; gives the number copied, short at the end.
    ///
    /// # Errors
    /// When guest memory is gone.
    pub fn read_at(&self, mem: &GuestMemoryMmap, offset: u64, data: &mut [u8]) -> Result<usize, QueueError> {
        let mut done = 0;
        for piece in slices(self.readable(), offset, data.len()) {
            let end = done + piece.len as usize;
            mem.read_slice(&mut data[done..end], piece.addr)
                .map_err(|_| QueueError::Buffer { addr: piece.addr.0, len: u64::from(piece.len) })?;
            done = end;
        }
        Ok(done)
    }

    /// Copies `data` to the device-writable bytes from `offset`; gives the number copied, short at the end.
    ///
    /// # Errors
    /// When guest memory is gone.
    pub fn write_at(&self, mem: &GuestMemoryMmap, offset: u64, data: &[u8]) -> Result<usize, QueueError> {
        let mut done = 0;
        for piece in slices(self.writable(), offset, data.len()) {
            let end = done + piece.len as usize;
            mem.write_slice(&data[done..end], piece.addr)
                .map_err(|_| QueueError::Buffer { addr: piece.addr.0, len: u64::from(piece.len) })?;
            done = end;
        }
        Ok(done)
    }
}

/// A chain of one buffer, which the device writes and which lies in one region of guest memory: nothing is left to look up.
#[derive(Clone, Copy, Debug)]
pub struct OneBuffer<'m> {
    head: u16,
    len: u32,
    host: NonNull<u8>,
    memory: PhantomData<&'m GuestMemoryMmap>,
}

impl<'m> OneBuffer<'m> {
    /// A buffer of `len` bytes that the host has at `host`.
    ///
    /// # Safety
    /// So many bytes there are mapped and guest memory for as long as `'m` lasts.
    pub(super) unsafe fn new(head: u16, host: NonNull<u8>, len: u32) -> Self {
        Self { head, len, host, memory: PhantomData }
    }

    /// Index of its descriptor.
    #[inline]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes the device may write.
    #[inline]
    pub fn writable_len(&self) -> u32 {
        self.len
    }

    /// Where the host has the bytes from `offset` on, and how many these are, at most `len`.
    #[inline]
    pub fn part(&self, offset: u32, len: u32) -> (NonNull<u8>, u32) {
        let offset = offset.min(self.len);
        // SAFETY: not behind the end of the buffer.
        (unsafe { self.host.add(offset as usize) }, len.min(self.len - offset))
    }

    /// Copies `data` to the bytes from `offset`; gives the number copied, short at the end.
    #[inline(always)]
    pub fn write_at(&self, offset: u32, data: &[u8]) -> usize {
        let (to, room) = self.part(offset, u32::MAX);
        // Of what fits, the compiler mostly knows the length.
        let data = if data.len() <= room as usize { data } else { &data[..room as usize] };
        // SAFETY: no more bytes of guest memory than there is room for, and this process has no references to them: what
        // the guest does to them meanwhile harms nobody but itself.
        unsafe { to.as_ptr().copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        data.len()
    }
}

/// The part `[offset, offset + len)` of the concatenation of `buffers`, cut short at its end.
pub fn slices(buffers: &[Buffer], offset: u64, len: usize) -> impl Iterator<Item = Buffer> + '_ {
    let mut skip = offset;
    let mut left = len as u64;
    buffers.iter().filter_map(move |buffer| {
        let size = u64::from(buffer.len);
        let start = skip.min(size);
        skip -= start;
        let take = (size - start).min(left);
        left -= take;
        // `take` is at most a descriptor's length, which is a u32.
        (take > 0).then(|| Buffer {
            addr: GuestAddress(buffer.addr.0 + start),
            len: u32::try_from(take).unwrap_or(u32::MAX),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The slices of a part are the part: same bytes, same order, none empty.
        #[test]
        fn slices_are_the_part_they_name(
            lens in prop::collection::vec(1u32..40, 0..12), offset in 0u64..200, len in 0usize..200,
        ) {
            let mut addr = 0x1000u64;
            let buffers: Vec<Buffer> = lens.iter().map(|&len| {
                let buffer = Buffer { addr: GuestAddress(addr), len };
                addr += 0x100;
                buffer
            }).collect();
            let bytes = |b: &Buffer| (b.addr.0..b.addr.0 + u64::from(b.len)).collect::<Vec<_>>();
            let all: Vec<u64> = buffers.iter().flat_map(bytes).collect();
            let skipped = usize::try_from(offset).unwrap().min(all.len());
            let expected = &all[skipped..(skipped + len).min(all.len())];
            let pieces: Vec<Buffer> = slices(&buffers, offset, len).collect();
            prop_assert!(pieces.iter().all(|p| p.len > 0));
            let got: Vec<u64> = pieces.iter().flat_map(bytes).collect();
            prop_assert_eq!(got, expected);
        }

        /// Buffers keep their order whether they fit in the chain or spill.
        #[test]
        fn a_chain_keeps_its_buffers(readable in 0usize..20, writable in 0usize..20, before in 0usize..20) {
            let mut chain = Chain::default();
            for _ in 0..before {
                chain.push(Buffer { addr: GuestAddress(5), len: 5 }, before % 2 == 0).unwrap();
            }
            chain.restart(3);
            prop_assert_eq!(chain.head(), 3);
            let buffer = |i: usize| Buffer { addr: GuestAddress(i as u64 * 16), len: 1 };
            for i in 0..readable + writable {
                chain.push(buffer(i), i >= readable).unwrap();
            }
            prop_assert_eq!(chain.readable(), (0..readable).map(buffer).collect::<Vec<_>>());
            prop_assert_eq!(chain.writable(), (readable..readable + writable).map(buffer).collect::<Vec<_>>());
            prop_assert_eq!(chain.readable_len(), readable as u64);
            prop_assert_eq!(chain.writable_len(), writable as u64);
            prop_assert_eq!(chain.count(), readable + writable);
        }
    }

    proptest! {
        /// A buffer is written where it lies, and neither before nor behind.
        #[test]
        fn one_buffer_is_written_within_its_bounds(
            len in 1u32..60, offset in 0u32..80, data in prop::collection::vec(1u8.., 0..80),
        ) {
            let mut bytes = vec![0u8; 100];
            let host = NonNull::new(bytes.as_mut_ptr()).unwrap();
            // SAFETY: bytes 20 to 80 of a vector that is not touched otherwise as long as this is used.
            let one = unsafe { OneBuffer::new(3, host.add(20), len) };
            prop_assert_eq!((one.head(), one.writable_len()), (3, len));
            let fits = data.len().min(len.saturating_sub(offset) as usize);
            prop_assert_eq!(one.write_at(offset, &data), fits);
            let mut expected = vec![0u8; 100];
            if fits > 0 {
                expected[20 + offset as usize..][..fits].copy_from_slice(&data[..fits]);
            }
            prop_assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn a_chain_of_4_gib_is_refused() {
        let mut chain = Chain::default();
        let half = Buffer { addr: GuestAddress(0), len: 1 << 31 };
        chain.push(half, false).unwrap();
        assert_eq!(chain.push(half, true), Err(Misfit::Long));
    }
}
