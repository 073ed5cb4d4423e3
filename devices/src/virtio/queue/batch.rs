//! A queue whose areas were located once, for many calls in a row.

use vm_memory::GuestMemoryMmap;

use super::{Chain, OneBuffer, QueueError, Virtqueue};
use crate::virtio::ring::{Areas, Ring};

/// What [`Virtqueue`] does, without looking for the queue in guest memory at each call. It raises no interrupt: a device
/// of several queues, which share one line, asks each and raises it once.
pub struct Batch<'q> {
    ring: &'q mut Ring,
    areas: Areas<'q>,
    memory: &'q GuestMemoryMmap,
}

impl<'q> Batch<'q> {
    /// The guest memory that the queue's addresses mean.
    pub fn memory(&self) -> &'q GuestMemoryMmap {
        self.memory
    }

    /// The next chain that the driver made available, into `chain`; false when there is none.
    ///
    /// # Errors
    /// When the driver broke a rule; the queue cannot go on.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<bool, QueueError> {
        self.ring.pop(&self.areas, self.memory, chain)
    }

    /// The next chain if it is one buffer that the device writes, in one region of guest memory, as nearly all are that a
    /// driver offers to be filled. None leaves it, if there is one, to [`pop`](Self::pop).
    ///
    /// # Errors
    /// When the driver broke a rule; the queue cannot go on.
    #[inline]
    pub fn pop_one_buffer(&mut self) -> Result<Option<OneBuffer<'q>>, QueueError> {
        self.ring.pop_one_buffer(&self.areas, self.memory)
    }

    /// Takes back the chain that was popped last and not taken back yet: the next [`pop`](Self::pop) gives it again.
    pub fn unpop(&mut self) {
        self.ring.unpop();
    }

    /// Gives a chain back to the driver by the index of its first descriptor, `written` bytes of its writable part filled.
    ///
    /// # Errors
    /// When the used ring is no longer guest memory.
    pub fn give_back(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.ring.complete(&self.areas, head, written);
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was given back since this was last asked (2.7.7).
    ///
    /// # Errors
    /// When the ring is no longer guest memory.
    pub fn wants_interrupt(&mut self) -> Result<bool, QueueError> {
        Ok(self.ring.wants_interrupt(&self.areas))
    }

    /// Asks the driver for no kicks while the queue is being drained.
    ///
    /// # Errors
    /// When the ring is no longer guest memory.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        self.ring.disable_kicks(&self.areas);
        Ok(())
    }

    /// Asks for kicks again; true when chains arrived in between, so that the caller drains once more.
    ///
    /// # Errors
    /// When the ring is no longer guest memory, or its index jumped.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueError> {
        self.ring.enable_kicks(&self.areas)
    }
}

impl Virtqueue {
    /// Locates the queue's areas, for many calls in a row.
    ///
    /// # Errors
    /// When the ring is no longer guest memory.
    pub fn batch(&mut self) -> Result<Batch<'_>, QueueError> {
        let Self { ring, memory, .. } = self;
        let areas = Areas::locate(memory, ring)?;
        Ok(Batch { ring, areas, memory })
    }
}
