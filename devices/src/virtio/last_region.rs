//! Where the host has guest memory, for the buffers of one queue: most lie in the region that the one before lay in.

use std::ptr::{NonNull, without_provenance_mut};

use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// The region that the last buffer lay in. Its addresses are good for as long as the memory that they were found in.
#[derive(Debug)]
pub struct LastRegion {
    /// First guest address.
    start: u64,
    /// Length in bytes; at first zero, so that nothing lies in it.
    len: u64,
    /// Where the host has the first byte.
    host: *mut u8,
}

// SAFETY: the pointer is only computed with here; who follows it holds the memory, which any thread may use.
unsafe impl Send for LastRegion {}

impl Default for LastRegion {
    fn default() -> Self {
        Self { start: 0, len: 0, host: without_provenance_mut(0) }
    }
}

impl LastRegion {
    /// Where the host has the `len` bytes at `addr`, if they lie in one region of `memory`, which is the same with every
    /// call.
    #[inline]
    pub fn find(&mut self, memory: &GuestMemoryMmap, addr: GuestAddress, len: u32) -> Option<NonNull<u8>> {
        self.within(addr, len).or_else(|| self.look(memory, addr, len))
    }

    #[cold]
    fn look(&mut self, memory: &GuestMemoryMmap, addr: GuestAddress, len: u32) -> Option<NonNull<u8>> {
        let region = memory.find_region(addr)?;
        let host = region.get_host_address(vm_memory::MemoryRegionAddress(0)).ok()?;
        *self = Self { start: region.start_addr().raw_value(), len: region.len(), host };
        self.within(addr, len)
    }

    #[inline]
    fn within(&self, addr: GuestAddress, len: u32) -> Option<NonNull<u8>> {
        let offset = addr.raw_value().wrapping_sub(self.start);
        let fits = offset < self.len && self.len - offset >= u64::from(len);
        fits.then(|| NonNull::new(self.host.wrapping_add(usize::try_from(offset).ok()?))).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::Bytes;

    proptest! {
        /// What it finds is where the memory has it, and it finds all that lies in one region.
        #[test]
        fn it_agrees_with_the_memory(
            places in prop::collection::vec((0_u64..0x5000, prop_oneof![0_u32..64, Just(u32::MAX)]), 1..50),
        ) {
            // Two that follow each other, and one past a hole.
            let ranges = [(0x1000, 0x1000), (0x2000, 0x1000), (0x4000, 0x800)];
            let memory = GuestMemoryMmap::from_ranges(&ranges.map(|(at, len)| (GuestAddress(at), len))).unwrap();
            let mut last = LastRegion::default();
            for (n, (addr, len)) in (0_u8..).zip(places) {
                let one = ranges.iter().find(|&&(at, size)| {
                    at <= addr && addr < at + size as u64 && addr + u64::from(len) <= at + size as u64
                });
                let found = last.find(&memory, GuestAddress(addr), len);
                prop_assert_eq!(found.is_some(), one.is_some(), "{:#x}+{:#x}", addr, len);
                if let Some(found) = found {
                    memory.write_obj(n, GuestAddress(addr)).unwrap();
                    // SAFETY: the address lies in `memory`, which is mapped, and nobody else uses it.
                    prop_assert_eq!(unsafe { found.read_volatile() }, n);
                }
            }
        }
    }
}
