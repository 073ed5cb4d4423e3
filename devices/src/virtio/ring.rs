//! The split virtqueue's three parts in guest memory (virtio 1.2, 2.7), and the device's place in them.
//!
//! ```text
//!   descriptor area: size x { addr u64 | len u32 | flags u16 | next u16 }
//!   driver area:     flags u16 | idx u16 | ring size x u16             | used_event u16
//!   device area:     flags u16 | idx u16 | ring size x { id, len u32 } | avail_event u16
//! ```

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    VRING_USED_F_NO_NOTIFY,
};
use virtio_queue::{Error as RingError, Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::chain::{Buffer, Chain, OneBuffer};
use super::last_region::LastRegion;
use super::queue_error::QueueError;

const DESCRIPTOR_SIZE: u32 = 16;
const USED_ELEMENT_SIZE: usize = 8;
/// Both rings begin with `flags` and `idx`, words of two bytes, before their entries.
const FLAGS: usize = 0;
const IDX: usize = 1;
const ENTRIES: usize = 2;
const HEADER: usize = 4;

/// Where a queue lies in guest memory, and with how many entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Entries, a power of two.
    pub size: u16,
    /// Guest address of the descriptor area.
    pub descriptors: u64,
    /// Guest address of the driver area.
    pub driver: u64,
    /// Guest address of the device area.
    pub device: u64,
}

/// The three areas, located in guest memory once per batch so that an access is a bounds check and a load.
pub(super) struct Areas<'m> {
    /// Two words each.
    descriptors: &'m [[AtomicU64; 2]],
    /// `flags`, `idx`, the ring, `used_event`.
    driver: &'m [AtomicU16],
    /// `flags`, `idx`.
    device: &'m [AtomicU16],
    /// `id`, `len`.
    used: &'m [[AtomicU32; 2]],
    avail_event: &'m [AtomicU16],
}

impl<'m> Areas<'m> {
    /// Finds the areas; each must lie in one region of guest memory, aligned (2.7).
    pub(super) fn locate(memory: &'m GuestMemoryMmap, ring: &Ring) -> Result<Self, QueueError> {
        let size = usize::from(ring.size);
        let whole = HEADER + USED_ELEMENT_SIZE * size;
        GuestMemoryBackend::get_slice(memory, ring.device, whole + 2)
            .map_err(|e| QueueError::Ring(RingError::GuestMemory(e)))?;
        Ok(Self {
            descriptors: words(memory, ring.descriptors, 0, size)?,
            driver: words(memory, ring.driver, 0, ENTRIES + size + 1)?,
            device: words(memory, ring.device, 0, ENTRIES)?,
            used: words(memory, ring.device, HEADER, size)?,
            avail_event: words(memory, ring.device, whole, 1)?,
        })
    }

    /// The index of the first descriptor of the chain in this slot of the driver's ring.
    #[inline]
    fn head(&self, slot: usize) -> u16 {
        u16::from_le(self.driver[ENTRIES + slot].load(Ordering::Relaxed))
    }

    /// A descriptor, read once; none behind the table.
    #[inline]
    fn descriptor(&self, index: u16) -> Option<[u64; 2]> {
        let words = self.descriptors.get(usize::from(index))?;
        Some(words.each_ref().map(|word| u64::from_le(word.load(Ordering::Relaxed))))
    }
}

/// Atomic words, of one or more: any bits are such.
trait Words {}

impl Words for AtomicU16 {}
impl Words for [AtomicU32; 2] {}
impl Words for [AtomicU64; 2] {}

/// The `count` words at byte `offset` of an area. The guest may change them at any time, so that they are atomics here.
fn words<T: Words>(
    memory: &GuestMemoryMmap,
    area: GuestAddress,
    offset: usize,
    count: usize,
) -> Result<&[T], QueueError> {
    let bad = |e| QueueError::Ring(RingError::GuestMemory(e));
    let area = area.checked_add(offset as u64).ok_or(QueueError::Ring(RingError::AddressOverflow))?;
    let slice = GuestMemoryBackend::get_slice(memory, area, count * size_of::<T>()).map_err(bad)?;
    let first = slice.ptr_guard_mut().as_ptr().cast::<T>();
    if !first.is_aligned() {
        return Err(QueueError::Buffer { addr: area.0, len: slice.len() as u64 });
    }
    // SAFETY: the range lies in `memory`, which stays mapped for as long as it is borrowed; it is aligned, any bits are a
    // valid atomic, and this process touches rings in no other way while a device serves them.
    Ok(unsafe { std::slice::from_raw_parts(first, count) })
}

/// A descriptor's address, length, flags and next.
fn fields([addr, rest]: [u64; 2]) -> (GuestAddress, u32, u32, u16) {
    let [a, b, c, d, f, g, m, n] = rest.to_le_bytes();
    let (len, flags) = (u32::from_le_bytes([a, b, c, d]), u32::from(u16::from_le_bytes([f, g])));
    (GuestAddress(addr), len, flags, u16::from_le_bytes([m, n]))
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
    /// Whether the driver may use indirect tables.
    indirect: bool,
    region: LastRegion,
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
            indirect: true,
            region: LastRegion::default(),
            next_avail: queue.next_avail(),
            known_avail: queue.next_avail(),
            next_used: queue.next_used(),
            added: 0,
        }
    }

    /// From here on a chain with an indirect table is a broken one.
    pub(super) fn refuse_indirect(&mut self) {
        self.indirect = false;
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
        self.known_avail = u16::from_le(areas.driver[IDX].load(Ordering::Acquire));
        let out = self.next_avail.wrapping_sub(self.next_used);
        let pending = self.known_avail.wrapping_sub(self.next_avail);
        if out.checked_add(pending).is_none_or(|all| all > self.size) {
            return Err(QueueError::Ring(RingError::InvalidAvailRingIndex));
        }
        Ok(pending > 0)
    }

    /// Takes the next chain, into `chain`; false when there is none. `memory` is the same with every call.
    pub(super) fn pop(
        &mut self,
        areas: &Areas<'_>,
        memory: &GuestMemoryMmap,
        chain: &mut Chain,
    ) -> Result<bool, QueueError> {
        if self.known_avail == self.next_avail && !self.look(areas)? {
            return Ok(false);
        }
        let head = areas.head(self.slot(self.next_avail));
        chain.restart(head);
        self.walk(areas, memory, chain)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(true)
    }

    /// The same, but only for a chain of one buffer that the device writes, in one region; any other stays there.
    #[inline]
    pub(super) fn pop_one_buffer<'m>(
        &mut self,
        areas: &Areas<'m>,
        memory: &'m GuestMemoryMmap,
    ) -> Result<Option<OneBuffer<'m>>, QueueError> {
        if self.known_avail == self.next_avail && !self.look(areas)? {
            return Ok(None);
        }
        let head = areas.head(self.slot(self.next_avail));
        let Some(descriptor) = areas.descriptor(head) else { return Ok(None) };
        let (addr, len, flags, _) = fields(descriptor);
        let kind = flags & (VRING_DESC_F_WRITE | VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT);
        if kind != VRING_DESC_F_WRITE || len == 0 {
            return Ok(None);
        }
        let Some(host) = self.region.find(memory, addr, len) else { return Ok(None) };
        self.next_avail = self.next_avail.wrapping_add(1);
        // SAFETY: `len` bytes of a region of `memory`, which stays mapped for as long as it is borrowed.
        Ok(Some(unsafe { OneBuffer::new(head, host, len) }))
    }

    pub(super) fn unpop(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    /// Follows a chain through the table and at most one indirect table (2.7.5.3).
    fn walk(
        &mut self,
        areas: &Areas<'_>,
        memory: &GuestMemoryMmap,
        chain: &mut Chain,
    ) -> Result<(), QueueError> {
        let head = chain.head();
        let descriptor = |index| areas.descriptor(index);
        let Some((addr, len)) = self.follow(memory, chain, head, descriptor)? else { return Ok(()) };
        if !self.indirect || len == 0 || !len.is_multiple_of(DESCRIPTOR_SIZE) {
            return Err(QueueError::Indirect { head });
        }
        let table = GuestMemoryBackend::get_slice(memory, addr, len as usize)
            .map_err(|_| QueueError::Buffer { addr: addr.0, len: u64::from(len) })?;
        match self.follow(memory, chain, 0, |index| indirect_descriptor(&table, index))? {
            None => Ok(()),
            Some(_) => Err(QueueError::Indirect { head }),
        }
    }

    /// Follows a chain through one table, from `index` on, to its end or to an indirect table, whose place and length it
    /// gives. Each descriptor is read once; what it says is checked before it is believed.
    #[inline(always)]
    fn follow(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &mut Chain,
        mut index: u16,
        descriptor: impl Fn(u16) -> Option<[u64; 2]>,
    ) -> Result<Option<(GuestAddress, u32)>, QueueError> {
        let head = chain.head();
        loop {
            // No buffer more than the longest chain has; one more descriptor may be that of an indirect table.
            let (addr, len, flags, next) = fields(descriptor(index).ok_or(QueueError::BrokenChain { head })?);
            if flags & VRING_DESC_F_INDIRECT != 0 {
                let last = flags & VRING_DESC_F_NEXT == 0;
                return if last { Ok(Some((addr, len))) } else { Err(QueueError::Indirect { head }) };
            }
            if chain.count() >= usize::from(self.longest) {
                return Err(QueueError::BrokenChain { head });
            }
            if len == 0 || !self.is_memory(memory, addr, len) {
                return Err(QueueError::Buffer { addr: addr.0, len: u64::from(len) });
            }
            chain
                .push(Buffer { addr, len }, flags & VRING_DESC_F_WRITE != 0)
                .map_err(|misfit| misfit.of(head))?;
            if flags & VRING_DESC_F_NEXT == 0 {
                return Ok(None);
            }
            index = next;
        }
    }

    /// Whether a buffer lies in guest memory: nearly always in one region, which is quickly seen.
    #[inline(always)]
    fn is_memory(&mut self, memory: &GuestMemoryMmap, addr: GuestAddress, len: u32) -> bool {
        self.region.find(memory, addr, len).is_some()
            || GuestMemoryBackend::check_range(memory, addr, len as usize)
    }

    /// Writes a used element, then shows it (2.7.14).
    pub(super) fn complete(&mut self, areas: &Areas<'_>, head: u16, written: u32) {
        let [id, len] = &areas.used[self.slot(self.next_used)];
        id.store(u32::from(head).to_le(), Ordering::Relaxed);
        len.store(written.to_le(), Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
        self.added = self.added.saturating_add(1);
        areas.device[IDX].store(self.next_used.to_le(), Ordering::Release);
    }

    /// Whether the driver wants an interrupt for what was given back since this was last asked (2.7.7).
    pub(super) fn wants_interrupt(&mut self, areas: &Areas<'_>) -> bool {
        let added = std::mem::take(&mut self.added);
        if added == 0 {
            return false;
        }
        // The used index must be visible before the driver's wish is read: the driver does the opposite.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let used_event = ENTRIES + usize::from(self.size);
            let event = u16::from_le(areas.driver[used_event].load(Ordering::Relaxed));
            self.next_used.wrapping_sub(event).wrapping_sub(1) < added
        } else {
            let flags = u16::from_le(areas.driver[FLAGS].load(Ordering::Relaxed));
            u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// With EVENT_IDX there is nothing to do: the driver kicks once for the index that was last asked for.
    pub(super) fn disable_kicks(&mut self, areas: &Areas<'_>) {
        if !self.event_idx {
            areas.device[FLAGS].store(flag(VRING_USED_F_NO_NOTIFY).to_le(), Ordering::Relaxed);
        }
    }

    /// Asks for kicks (2.7.10), then looks once more, because a chain may have come without one.
    pub(super) fn enable_kicks(&mut self, areas: &Areas<'_>) -> Result<bool, QueueError> {
        if self.event_idx {
            areas.avail_event[0].store(self.next_avail.to_le(), Ordering::Relaxed);
        } else {
            areas.device[FLAGS].store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.look(areas)
    }
}

/// A descriptor of an indirect table, which may lie at any address.
fn indirect_descriptor(table: &VolatileSlice<'_>, index: u16) -> Option<[u64; 2]> {
    let bytes: [u8; DESCRIPTOR_SIZE as usize] =
        table.read_obj(usize::from(index) * DESCRIPTOR_SIZE as usize).ok()?;
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    Some([u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest)])
}

fn flag(bits: u32) -> u16 {
    u16::try_from(bits).expect("a ring flag is a bit of a u16")
}
