//! The one queue walker: pops chains, checks them whole, completes them, and keeps notifications few.
//!
//! A [`Chain`] is what the driver offered, read once: its descriptors lie in guest RAM, device-readable ones
//! come before device-writable ones, and it ends as the spec demands (virtio 1.2, 2.7.4 and 2.7.13). A
//! driver that breaks a rule gets [`QueueError`]; the device then calls [`Interrupt::needs_reset`].

use std::sync::Arc;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use crate::irq::Interrupt;

/// How the driver broke the rules of a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The ring itself: indices, addresses.
    #[error("ring")]
    Ring(#[source] virtio_queue::Error),
    /// A chain that loops, leaves the table, or is longer than the queue.
    #[error("chain {head} is broken or longer than its queue")]
    BrokenChain {
        /// Index of the first descriptor.
        head: u16,
    },
    /// A readable descriptor after a writable one (2.7.4.2).
    #[error("chain {head} has a readable descriptor after a writable one")]
    Order {
        /// Index of the first descriptor.
        head: u16,
    },
    /// A buffer that is not guest memory.
    #[error("buffer {addr:#x}+{len:#x} is not guest memory")]
    Buffer {
        /// Guest address.
        addr: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// A buffer of a chain: where, and how many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub addr: GuestAddress,
    /// Length in bytes, not zero.
    pub len: u32,
}

/// One request of the driver, checked: every buffer lies in guest memory.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

impl Chain {
    /// Index of the first descriptor.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The buffers the device reads, in order.
    pub fn readable(&self) -> &[Buffer] {
        &self.readable
    }

    /// The buffers the device writes, in order.
    pub fn writable(&self) -> &[Buffer] {
        &self.writable
    }

    /// Bytes the device may read.
    pub fn readable_len(&self) -> u64 {
        self.readable.iter().map(|b| u64::from(b.len)).sum()
    }

    /// Bytes the device may write.
    pub fn writable_len(&self) -> u64 {
        self.writable.iter().map(|b| u64::from(b.len)).sum()
    }

    /// Copies device-readable bytes from `offset` into `data`; gives the number copied, short at the end.
    ///
    /// # Errors
    /// When guest memory is gone.
    pub fn read_at(&self, mem: &GuestMemoryMmap, offset: u64, data: &mut [u8]) -> Result<usize, QueueError> {
        let mut done = 0;
        for piece in slices(&self.readable, offset, data.len()) {
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
        for piece in slices(&self.writable, offset, data.len()) {
            let end = done + piece.len as usize;
            mem.write_slice(&data[done..end], piece.addr)
                .map_err(|_| QueueError::Buffer { addr: piece.addr.0, len: u64::from(piece.len) })?;
            done = end;
        }
        Ok(done)
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

/// A split virtqueue in use by its device.
pub struct Virtqueue {
    queue: Queue,
    memory: GuestMemoryMmap,
    interrupt: Arc<Interrupt>,
}

impl Virtqueue {
    /// Wraps a queue whose registers the transport has validated (`Queue::is_valid`).
    pub fn new(queue: Queue, memory: GuestMemoryMmap, interrupt: Arc<Interrupt>) -> Self {
        Self { queue, memory, interrupt }
    }

    /// The guest memory that the queue's addresses mean.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The next chain that the driver made available, or none.
    ///
    /// # Errors
    /// When the driver broke a rule; the queue cannot go on.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        let raw = self.queue.iter(&self.memory).map_err(QueueError::Ring)?.next();
        let Some(raw) = raw else { return Ok(None) };
        let mut chain = Chain { head: raw.head_index(), ..Chain::default() };
        let mut ended = false;
        for descriptor in raw {
            ended = !descriptor.has_next();
            if descriptor.is_write_only() {
                push(&self.memory, &mut chain.writable, &descriptor)?;
            } else if chain.writable.is_empty() {
                push(&self.memory, &mut chain.readable, &descriptor)?;
            } else {
                return Err(QueueError::Order { head: chain.head });
            }
        }
        // The iterator ends silently on a loop, a bad index or an over-long chain: the last descriptor it
        // gave then still points on.
        if ended { Ok(Some(chain)) } else { Err(QueueError::BrokenChain { head: chain.head }) }
    }

    /// Takes the last popped chain back: the next [`pop`](Self::pop) gives it again.
    pub fn unpop(&mut self, _chain: Chain) {
        let next = self.queue.next_avail();
        self.queue.set_next_avail(next.wrapping_sub(1));
    }

    /// Gives a chain back to the driver, `written` bytes of its writable part filled.
    ///
    /// # Errors
    /// When the used ring is no longer guest memory.
    pub fn complete(&mut self, chain: &Chain, written: u32) -> Result<(), QueueError> {
        self.queue.add_used(&self.memory, chain.head, written).map_err(QueueError::Ring)
    }

    /// Interrupts the guest if it asked to be told of what was completed (2.7.10). Once per batch.
    ///
    /// # Errors
    /// When the ring is no longer guest memory.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        if self.queue.needs_notification(&self.memory).map_err(QueueError::Ring)? {
            self.interrupt.used_buffer();
        }
        Ok(())
    }

    /// Asks the driver for no kicks while the queue is being drained.
    ///
    /// # Errors
    /// When the ring is no longer guest memory.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        self.queue.disable_notification(&self.memory).map_err(QueueError::Ring)
    }

    /// Asks for kicks again; true when chains arrived in between, so that the caller drains once more.
    ///
    /// # Errors
    /// When the ring is no longer guest memory.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueError> {
        self.queue.enable_notification(&self.memory).map_err(QueueError::Ring)
    }
}

fn push(mem: &GuestMemoryMmap, list: &mut Vec<Buffer>, descriptor: &Descriptor) -> Result<(), QueueError> {
    let (addr, len) = (descriptor.addr(), descriptor.len());
    let permissions = if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
    if len == 0 || !GuestMemory::check_range(mem, addr, len as usize, permissions) {
        return Err(QueueError::Buffer { addr: addr.0, len: u64::from(len) });
    }
    list.push(Buffer { addr, len });
    Ok(())
}
