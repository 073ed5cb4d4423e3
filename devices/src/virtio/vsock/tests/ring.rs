//! A split ring in guest memory, driven by hand: nothing of the queue walker is used.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub const RING_SIZE: u16 = 256;

/// A split ring, driven by hand.
pub struct Ring {
    pub base: u64,
    avail: u16,
    seen: u16,
    pub free: Vec<u16>,
    chains: Vec<Vec<u16>>,
}

impl Ring {
    pub fn new(base: u64) -> Self {
        let chains = vec![Vec::new(); RING_SIZE.into()];
        Self { base, avail: 0, seen: 0, free: (0..RING_SIZE).rev().collect(), chains }
    }

    fn avail_ring(&self) -> u64 {
        self.base + 0x2000
    }

    fn used_ring(&self) -> u64 {
        self.base + 0x4000
    }

    pub fn queue(&self, event_idx: bool) -> Queue {
        let mut queue = Queue::new(RING_SIZE).unwrap();
        let low = |addr| Some(u32::try_from(addr).unwrap());
        queue.set_size(RING_SIZE);
        queue.set_desc_table_address(low(self.base), None);
        queue.set_avail_ring_address(low(self.avail_ring()), None);
        queue.set_used_ring_address(low(self.used_ring()), None);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue
    }

    /// Makes a chain of `parts` (address, length) available; false when descriptors lack.
    pub fn offer(&mut self, mem: &GuestMemoryMmap, parts: &[(u64, u32)], writable: bool) -> Option<u16> {
        if self.free.len() < parts.len() {
            return None;
        }
        let taken: Vec<u16> = parts.iter().map(|_| self.free.pop().unwrap()).collect();
        for (index, (addr, len)) in parts.iter().enumerate() {
            let next = taken.get(index + 1);
            let flags = u16::from(next.is_some()) | u16::from(writable) << 1;
            self.describe(mem, taken[index], (*addr, *len), flags, next.copied().unwrap_or(0));
        }
        let head = taken[0];
        self.chains[usize::from(head)] = taken;
        self.make_available(mem, head);
        Some(head)
    }

    pub fn describe(&self, mem: &GuestMemoryMmap, index: u16, part: (u64, u32), flags: u16, next: u16) {
        let at = self.base + 16 * u64::from(index);
        mem.write_obj(part.0, GuestAddress(at)).unwrap();
        mem.write_obj(part.1, GuestAddress(at + 8)).unwrap();
        mem.write_obj(flags, GuestAddress(at + 12)).unwrap();
        mem.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    pub fn make_available(&mut self, mem: &GuestMemoryMmap, head: u16) {
        let slot = self.avail_ring() + 4 + 2 * u64::from(self.avail % RING_SIZE);
        mem.write_obj(head, GuestAddress(slot)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        mem.write_obj(self.avail, GuestAddress(self.avail_ring() + 2)).unwrap();
    }

    /// The next chain that came back: head and bytes written.
    pub fn used(&mut self, mem: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let used: u16 = mem.read_obj(GuestAddress(self.used_ring() + 2)).unwrap();
        if used == self.seen {
            return None;
        }
        let slot = self.used_ring() + 4 + 8 * u64::from(self.seen % RING_SIZE);
        self.seen = self.seen.wrapping_add(1);
        // With EVENT_IDX: interrupt on the next one.
        mem.write_obj(self.seen, GuestAddress(self.avail_ring() + 4 + 2 * u64::from(RING_SIZE))).unwrap();
        let head: u32 = mem.read_obj(GuestAddress(slot)).unwrap();
        let written = mem.read_obj(GuestAddress(slot + 4)).unwrap();
        let head = u16::try_from(head).unwrap();
        let parts = std::mem::take(&mut self.chains[usize::from(head)]);
        assert!(!parts.is_empty(), "chain {head} was given back twice");
        self.free.extend(parts);
        Some((head, written))
    }
}
