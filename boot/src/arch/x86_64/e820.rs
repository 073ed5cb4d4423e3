//! The memory map that Linux gets in `boot_params` (Documentation/arch/x86/zero-page.rst, `e820_table`).

use std::ops::Range;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::layout::{
    ACPI_ADDR, BASE_MEMORY_END, EBDA_START, HIGH_MEMORY_START, MMIO_GAP_END, MMIO_GAP_START,
};
use crate::LoadError;

/// Usable RAM.
pub const RAM: u32 = 1;
/// In use by the platform.
pub const RESERVED: u32 = 2;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// [`RAM`] or [`RESERVED`].
    pub kind: u32,
}

impl Entry {
    fn new(range: Range<u64>, kind: u32) -> Self {
        Self { start: range.start, size: range.end - range.start, kind }
    }

    /// As it stands in `boot_params`: 20 bytes, packed.
    pub fn bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..].copy_from_slice(&self.kind.to_le_bytes());
        bytes
    }
}

/// The guest's RAM, its layout checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ram {
    low_end: u64,
    high: Vec<Range<u64>>,
}

impl Ram {
    /// Checks the layout: one region from 0 that reaches past 1 MiB and ends before the gap, all others behind it.
    pub fn of(mem: &GuestMemoryMmap) -> Result<Self, LoadError> {
        let mut ram = Self { low_end: 0, high: Vec::new() };
        for region in mem.iter() {
            let start = region.start_addr().0;
            let end = region.last_addr().0.saturating_add(1);
            match start {
                0 if end > HIGH_MEMORY_START && end <= MMIO_GAP_START => ram.low_end = end,
                MMIO_GAP_END.. if ram.low_end > 0 => ram.high.push(start..end),
                _ => return Err(LoadError::MemoryLayout { start, end }),
            }
        }
        match ram.low_end {
            0 => Err(LoadError::MemoryLayout { start: 0, end: 0 }),
            _ => Ok(ram),
        }
    }

    /// Where a kernel and its ramdisk may lie.
    pub fn usable(&self) -> Range<u64> {
        HIGH_MEMORY_START..self.low_end
    }

    /// The map: base memory, the reserved end of it, the BIOS area with the ACPI tables, low RAM, high RAM.
    pub fn e820(&self) -> Vec<Entry> {
        let mut map = vec![
            Entry::new(0..EBDA_START, RAM),
            Entry::new(EBDA_START..BASE_MEMORY_END, RESERVED),
            Entry::new(ACPI_ADDR..HIGH_MEMORY_START, RESERVED),
            Entry::new(self.usable(), RAM),
        ];
        map.extend(self.high.iter().cloned().map(|range| Entry::new(range, RAM)));
        map
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::memory_regions;
    use super::*;
    use proptest::prelude::*;
    use vm_memory::GuestAddress;

    fn memory(ranges: &[(u64, u64)]) -> GuestMemoryMmap {
        let ranges: Vec<_> =
            ranges.iter().map(|(s, l)| (GuestAddress(*s), usize::try_from(*l).unwrap())).collect();
        GuestMemoryMmap::from_ranges(&ranges).unwrap()
    }

    #[test]
    fn the_map_of_a_large_vm_has_both_holes() {
        let ram = Ram::of(&memory(&memory_regions(4 << 30))).unwrap();
        let entry = |start: u64, end: u64, kind| Entry { start, size: end - start, kind };
        assert_eq!(
            ram.e820(),
            [
                entry(0, 0x9_e000, RAM),
                entry(0x9_e000, 0xa_0000, RESERVED),
                entry(0xe_0000, 0x10_0000, RESERVED),
                entry(0x10_0000, 0xc000_0000, RAM),
                entry(0x1_0000_0000, 0x1_4000_0000, RAM),
            ]
        );
    }

    #[test]
    fn other_layouts_are_refused() {
        for ranges in [
            &[(0, 0x10_0000)][..],
            &[(0x1000, 0x80_0000)],
            &[(0, 0x80_0000), (0x100_0000, 0x1000)],
            &[(0, 0xc000_1000)],
            &[(0x1_0000_0000, 0x1000)],
        ] {
            assert!(matches!(Ram::of(&memory(ranges)), Err(LoadError::MemoryLayout { .. })), "{ranges:x?}");
        }
        assert!(matches!(Ram::of(&GuestMemoryMmap::new()), Err(LoadError::MemoryLayout { .. })));
    }

    #[test]
    fn an_entry_is_packed() {
        let bytes = Entry { start: 0x1122, size: 0x3344, kind: RESERVED }.bytes();
        assert_eq!(bytes, [0x22, 0x11, 0, 0, 0, 0, 0, 0, 0x44, 0x33, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn every_ram_entry_is_memory_and_entries_rise(pages in 0x101_u64..0x200_0000) {
            let regions = memory_regions(pages << 12);
            let ram = Ram::of(&memory(&regions)).unwrap();
            let map = ram.e820();
            let mut at = 0;
            for entry in &map {
                prop_assert!(entry.start >= at && entry.size > 0);
                at = entry.start + entry.size;
                prop_assert!(regions.iter().any(|(s, l)| entry.start >= *s && at <= s + l));
                prop_assert!(at <= MMIO_GAP_START || entry.start >= MMIO_GAP_END);
            }
            let total: u64 = map.iter().filter(|e| e.kind == RAM).map(|e| e.size).sum();
            prop_assert_eq!(total, (pages << 12) - (HIGH_MEMORY_START - EBDA_START));
        }
    }
}
