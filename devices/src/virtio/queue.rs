//! The one queue walker: pops chains, checks them whole, completes them, and keeps notifications few.
//!
//! A [`Chain`] is what the driver offered, read once: its descriptors lie in guest RAM, device-readable ones
//! come before device-writable ones, and it ends as the spec demands (virtio 1.2, 2.7.4 and 2.7.13). A
//! driver that breaks a rule gets [`QueueError`]; the device then calls [`Interrupt::needs_reset`].
//!
//! A device that answers every chain at once uses [`Virtqueue::drain`]; one that keeps chains for later, as
//! the receive side of a socket does, uses [`Virtqueue::pop`] and the calls beside it, many in a row by [`Batch`].

mod batch;

use std::sync::Arc;

use virtio_queue::{Error as RingError, Queue, QueueT};
use vm_memory::GuestMemoryMmap;

pub use self::batch::Batch;
pub use super::chain::{Buffer, Chain, OneBuffer, slices};
pub use super::queue_error::QueueError;
pub use super::ring::Layout;
use super::ring::{Areas, Ring};
use crate::irq::Interrupt;

/// What a device did with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It is done, and so many bytes of its writable part were filled.
    Answered(u32),
    /// It is under way.
    Kept,
    /// Nothing yet.
    Left,
}

/// A split virtqueue in use by its device.
pub struct Virtqueue {
    ring: Ring,
    memory: GuestMemoryMmap,
    interrupt: Arc<Interrupt>,
    /// The chain that [`drain`](Self::drain) fills again and again.
    chain: Chain,
}

impl Virtqueue {
    /// Takes over a queue that [`check`](Self::check) accepts.
    pub fn new(queue: Queue, memory: GuestMemoryMmap, interrupt: Arc<Interrupt>) -> Self {
        Self { ring: Ring::new(&queue), memory, interrupt, chain: Chain::default() }
    }

    /// The same for a driver that did not negotiate indirect tables, and must not use any (2.7.5.3.1).
    #[must_use]
    pub fn without_indirect(mut self) -> Self {
        self.ring.refuse_indirect();
        self
    }

    /// Whether a queue can be used: its parts lie in guest memory, each in one region of it. Size and
    /// alignment are what `Queue` guarantees.
    ///
    /// # Errors
    /// When a part is elsewhere, or the queue is not ready.
    pub fn check(queue: &Queue, memory: &GuestMemoryMmap) -> Result<(), QueueError> {
        if !queue.ready() {
            return Err(QueueError::Ring(RingError::QueueNotReady));
        }
        Areas::locate(memory, &Ring::new(queue)).map(drop)
    }

    /// Where the queue is, for a kernel that serves it in this process's place.
    pub fn layout(&self) -> Layout {
        self.ring.layout()
    }

    /// The guest memory that the queue's addresses mean.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Serves every chain there is, at most `limit` of them: gives each to `serve`, which returns how many
    /// bytes of its writable part it filled, and completes it with that. The driver is interrupted at most
    /// once each time the queue runs empty, and asked for no kicks while it is being served.
    ///
    /// Tells whether `limit` was reached: the caller then lets others run and comes back by itself, because
    /// no kick will come.
    ///
    /// # Errors
    /// What `serve` gave, or when the driver broke a rule; the queue cannot go on.
    pub fn drain<E: From<QueueError>>(
        &mut self,
        limit: u16,
        mut serve: impl FnMut(&GuestMemoryMmap, &Chain) -> Result<u32, E>,
    ) -> Result<bool, E> {
        self.drain_some(limit, |memory, chain| serve(memory, chain).map(Served::Answered))
    }

    /// The same for a device that cannot answer every chain at once: a chain that `serve` has [kept](Served::Kept) is
    /// given back later with [`give_back`](Self::give_back), one that it has [left](Served::Left) is there again the next
    /// time, as if `limit` had been reached before it.
    ///
    /// # Errors
    /// What `serve` gave, or when the driver broke a rule; the queue cannot go on.
    pub fn drain_some<E: From<QueueError>>(
        &mut self,
        limit: u16,
        mut serve: impl FnMut(&GuestMemoryMmap, &Chain) -> Result<Served, E>,
    ) -> Result<bool, E> {
        let Self { ring, memory, interrupt, chain } = self;
        let areas = Areas::locate(memory, ring)?;
        let mut left = limit;
        loop {
            ring.disable_kicks(&areas);
            while left > 0 && ring.pop(&areas, memory, chain)? {
                match serve(memory, chain)? {
                    Served::Answered(written) => ring.complete(&areas, chain.head(), written),
                    Served::Kept => {}
                    Served::Left => {
                        ring.unpop();
                        left = 0;
                        break;
                    }
                }
                left -= 1;
            }
            if ring.wants_interrupt(&areas) {
                interrupt.used_buffer();
            }
            if left == 0 {
                return Ok(true);
            }
            if !ring.enable_kicks(&areas)? {
                return Ok(false);
            }
        }
    }

    /// The next chain that the driver made available, or none.
    ///
    /// # Errors
    /// When the driver broke a rule; the queue cannot go on.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        let areas = Areas::locate(&self.memory, &self.ring)?;
        let mut chain = Chain::default();
        Ok(self.ring.pop(&areas, &self.memory, &mut chain)?.then_some(chain))
    }

    /// Gives a chain back to the driver, `written` bytes of its writable part filled.
    ///
    /// # Errors
    /// When the used ring is no longer guest memory.
    pub fn complete(&mut self, chain: &Chain, written: u32) -> Result<(), QueueError> {
        self.give_back(chain.head(), written)
    }

    /// The same by the index of the chain's first descriptor, for a device that keeps no more of it.
    ///
    /// # Errors
    /// When the used ring is no longer guest memory.
    pub fn give_back(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        let areas = Areas::locate(&self.memory, &self.ring)?;
        self.ring.complete(&areas, head, written);
        Ok(())
    }

    /// Interrupts the guest if it asked to be told of what was completed (2.7.7). Once per batch.
    ///
    /// # Errors
    /// When the ring is no longer guest memory.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        let areas = Areas::locate(&self.memory, &self.ring)?;
        if self.ring.wants_interrupt(&areas) {
            self.interrupt.used_buffer();
        }
        Ok(())
    }

    /// Asks the driver for no kicks while the queue is being drained.
    ///
    /// # Errors
    /// When the ring is no longer guest memory.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        let areas = Areas::locate(&self.memory, &self.ring)?;
        self.ring.disable_kicks(&areas);
        Ok(())
    }

    /// Asks for kicks again; true when chains arrived in between, so that the caller drains once more.
    ///
    /// # Errors
    /// When the ring is no longer guest memory, or its index jumped.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueError> {
        let areas = Areas::locate(&self.memory, &self.ring)?;
        self.ring.enable_kicks(&areas)
    }
}

#[cfg(test)]
mod tests;
