//! The split virtqueue's three parts in guest memory (virtio 1.2, 2.7), and the device's place in them.
//!
//! ```text
//!   descriptor area: size x { addr u64 | len u32 | flags u16 | next u16 }
//!   driver area:     flags u16 | idx u16 | ring size x u16             | used_event u16
//!   device area:     flags u16 | idx u16 | ring size x { id, len u32 } | avail_event u16
//! ```

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Error as RingError, Queue, QueueT};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileSlice,
};

use super::chain::{Buffer, Chain};
use super::queue::{Layout, QueueError};

const DESCRIPTOR_SIZE: u32 = 16;
const USED_ELEMENT_SIZE: usize = 8;
/// Both rings begin with `flags` and `idx`.
const IDX: usize = 2;
const HEADER: usize = 4;

/// The three areas, located in guest memory once per batch so that an access is a bounds check and a load.
pub(super) struct Areas<'m> {
    descriptors: VolatileSlice<'m>,
    driver: VolatileSlice<'m>,
    device: VolatileSlice<'m>,
}

impl<'m> Areas<'m> {
    /// Finds the areas; each must lie in one region of guest memory.
    pub(super) fn locate(memory: &'m GuestMemoryMmap, ring: &Ring) -> Result<Self, QueueError> {
        let size = usize::from(ring.size);
        let find = |addr: GuestAddress, len: usize| {
            GuestMemoryBackend::get_slice(memory, addr, len)
                .map_err(|e| QueueError::Ring(RingError::GuestMemory(e)))
        };
        Ok(Self {
            descriptors: find(ring.descriptors, size * DESCRIPTOR_SIZE as usize)?,
            driver: find(ring.driver, HEADER + 2 * size + 2)?,
            device: find(ring.device, HEADER + USED_ELEMENT_SIZE * size + 2)?,
        })
    }
}

fn load(area: &VolatileSlice<'_>, offset: usize, order: Ordering) -> Result<u16, QueueError> {
    area.load(offset, order).map(u16::from_le).map_err(volatile)
}

fn store(area: &VolatileSlice<'_>, offset: usize, value: u16, order: Ordering) -> Result<(), QueueError> {
    area.store(value.to_le(), offset, order).map_err(volatile)
}

fn volatile(e: vm_memory::VolatileMemoryError) -> QueueError {
    QueueError::Ring(RingError::VolatileMemoryError(e))
}

/// What the driver set up, and how far the device has come.
#[derive(Debug)]
pub(super) struct Ring {
    /// Entries, a power of two.
    size: u16,
    /// The longest chain: the largest size the device offers, because an indirect table may be longer than
    /// a queue that the driver made smaller.
    longest: u16,
    descriptors: GuestAddress,
    driver: GuestAddress,
    device: GuestAddress,
    event_idx: bool,
    /// Index of the next chain to take.
    next_avail: u16,
    /// The driver's index as last read: everything before it may be taken without another look.
    known_avail: u16,
    next_used: u16,
    /// Chains given back since the driver was last considered for an interrupt.
    added: u16,
}

impl Ring {
    pub(super) fn new(queue: &Queue) -> Self {
        Self {
            size: queue.size(),
            longest: queue.max_size(),
            descriptors: GuestAddress(queue.desc_table()),
            driver: GuestAddress(queue.avail_ring()),
            device: GuestAddress(queue.used_ring()),
            event_idx: queue.event_idx_enabled(),
            next_avail: queue.next_avail(),
            known_avail: queue.next_avail(),
            next_used: queue.next_used(),
            added: 0,
        }
    }

    pub(super) fn layout(&self) -> Layout {
        Layout {
            size: self.size,
            descriptors: self.descriptors.0,
            driver: self.driver.0,
            device: self.device.0,
        }
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Whether the driver has made anything available (2.7.13.3). More chains out than the queue has entries, those
    /// included that were not given back yet, are a driver out of its mind, or hostile.
    fn look(&mut self, areas: &Areas<'_>) -> Result<bool, QueueError> {
        self.known_avail = load(&areas.driver, IDX, Ordering::Acquire)?;
        let out = self.next_avail.wrapping_sub(self.next_used);
        let pending = self.known_avail.wrapping_sub(self.next_avail);
        if out.checked_add(pending).is_none_or(|all| all > self.size) {
            return Err(QueueError::Ring(RingError::InvalidAvailRingIndex));
        }
        Ok(pending > 0)
    }

    /// Takes the next chain, into `chain`; false when there is none.
    pub(super) fn pop(
        &mut self,
        areas: &Areas<'_>,
        memory: &GuestMemoryMmap,
        chain: &mut Chain,
    ) -> Result<bool, QueueError> {
        if self.known_avail == self.next_avail && !self.look(areas)? {
            return Ok(false);
        }
        let head = load(&areas.driver, HEADER + 2 * self.slot(self.next_avail), Ordering::Relaxed)?;
        chain.restart(head);
        self.walk(areas, memory, chain)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(true)
    }

    pub(super) fn unpop(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    /// Follows a chain through the table and at most one indirect table (2.7.5.3). Each descriptor is read
    /// once; what it says is checked before it is believed.
    fn walk(&self, areas: &Areas<'_>, memory: &GuestMemoryMmap, chain: &mut Chain) -> Result<(), QueueError> {
        let head = chain.head();
        let broken = || QueueError::BrokenChain { head };
        let mut table = areas.descriptors;
        let mut entries = u32::from(self.size);
        let mut indirect = false;
        let mut index = head;
        // One more than the longest chain: the descriptor of an indirect table is not a buffer.
        for _ in 0..=self.longest {
            if u32::from(index) >= entries {
                return Err(broken());
            }
            let descriptor: Descriptor =
                table.read_obj(usize::from(index) * DESCRIPTOR_SIZE as usize).map_err(volatile)?;
            let (addr, len) = (descriptor.addr(), descriptor.len());
            if descriptor.refers_to_indirect_table() {
                if indirect || descriptor.has_next() || len == 0 || len % DESCRIPTOR_SIZE != 0 {
                    return Err(QueueError::Indirect { head });
                }
                table = GuestMemoryBackend::get_slice(memory, addr, len as usize)
                    .map_err(|_| QueueError::Buffer { addr: addr.0, len: u64::from(len) })?;
                (entries, indirect, index) = (len / DESCRIPTOR_SIZE, true, 0);
                continue;
            }
            if chain.count() >= usize::from(self.longest) {
                return Err(broken());
            }
            if len == 0 || !is_memory(memory, addr, len) {
                return Err(QueueError::Buffer { addr: addr.0, len: u64::from(len) });
            }
            chain.push(Buffer { addr, len }, descriptor.is_write_only())?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(broken())
    }

    /// Writes a used element, then shows it (2.7.14).
    pub(super) fn complete(&mut self, areas: &Areas<'_>, head: u16, written: u32) -> Result<(), QueueError> {
        let element = HEADER + USED_ELEMENT_SIZE * self.slot(self.next_used);
        areas.device.store(u32::from(head).to_le(), element, Ordering::Relaxed).map_err(volatile)?;
        areas.device.store(written.to_le(), element + 4, Ordering::Relaxed).map_err(volatile)?;
        self.next_used = self.next_used.wrapping_add(1);
        self.added = self.added.saturating_add(1);
        store(&areas.device, IDX, self.next_used, Ordering::Release)
    }

    /// Whether the driver wants an interrupt for what was given back since this was last asked (2.7.7).
    pub(super) fn wants_interrupt(&mut self, areas: &Areas<'_>) -> Result<bool, QueueError> {
        let added = std::mem::take(&mut self.added);
        if added == 0 {
            return Ok(false);
        }
        // The used index must be visible before the driver's wish is read: the driver does the opposite.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = load(&areas.driver, HEADER + 2 * usize::from(self.size), Ordering::Relaxed)?;
            Ok(self.next_used.wrapping_sub(event).wrapping_sub(1) < added)
        } else {
            let flags = load(&areas.driver, 0, Ordering::Relaxed)?;
            Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
        }
    }

    /// With EVENT_IDX there is nothing to do: the driver kicks once for the index that was last asked for.
    pub(super) fn disable_kicks(&mut self, areas: &Areas<'_>) -> Result<(), QueueError> {
        if self.event_idx {
            return Ok(());
        }
        store(&areas.device, 0, flag(VRING_USED_F_NO_NOTIFY), Ordering::Relaxed)
    }

    /// Asks for kicks (2.7.10), then looks once more, because a chain may have come without one.
    pub(super) fn enable_kicks(&mut self, areas: &Areas<'_>) -> Result<bool, QueueError> {
        if self.event_idx {
            let avail_event = HEADER + USED_ELEMENT_SIZE * usize::from(self.size);
            store(&areas.device, avail_event, self.next_avail, Ordering::Relaxed)?;
        } else {
            store(&areas.device, 0, 0, Ordering::Relaxed)?;
        }
        fence(Ordering::SeqCst);
        self.look(areas)
    }
}

/// Whether a buffer lies in guest memory: nearly always in one region, which is quickly seen.
fn is_memory(memory: &GuestMemoryMmap, addr: GuestAddress, len: u32) -> bool {
    memory.find_region(addr).is_some_and(|region| {
        let left = region.len() - addr.unchecked_offset_from(region.start_addr());
        left >= u64::from(len) || GuestMemoryBackend::check_range(memory, addr, len as usize)
    })
}

fn flag(bits: u32) -> u16 {
    u16::try_from(bits).expect("a ring flag is a bit of a u16")
}
