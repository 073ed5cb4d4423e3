//! Identity page tables with 2 MiB pages. Not 1 GiB ones: some hosts do not offer them to guests.

use vm_memory::GuestMemoryMmap;

use super::layout::{IDENTITY_GIB, PAGE_TABLE_ADDR};
use crate::{LoadError, put};

const PAGE: u64 = 0x1000;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
const PDPT_ADDR: u64 = PAGE_TABLE_ADDR + PAGE;
const PD_ADDR: u64 = PDPT_ADDR + PAGE;

/// Maps the first [`IDENTITY_GIB`] GiB one to one, writable and executable for ring 0.
pub fn write_identity_map(mem: &GuestMemoryMmap) -> Result<(), LoadError> {
    put(mem, PAGE_TABLE_ADDR, &(PDPT_ADDR | PRESENT | WRITABLE).to_le_bytes())?;
    let pdpt = (0..IDENTITY_GIB).flat_map(|i| ((PD_ADDR + i * PAGE) | PRESENT | WRITABLE).to_le_bytes());
    put(mem, PDPT_ADDR, &pdpt.collect::<Vec<u8>>())?;
    let entries = IDENTITY_GIB * (GIB / LARGE_PAGE);
    let pd = (0..entries).flat_map(|i| ((i * LARGE_PAGE) | PRESENT | WRITABLE | LARGE).to_le_bytes());
    put(mem, PD_ADDR, &pd.collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    /// Walks the tables as a CPU does.
    fn translate(mem: &GuestMemoryMmap, virt: u64) -> Option<u64> {
        let entry = |table: u64, shift: u32| {
            let at = (table & 0x000f_ffff_ffff_f000) + ((virt >> shift) & 0x1ff) * 8;
            mem.read_obj::<u64>(GuestAddress(at)).ok().filter(|e| e & PRESENT != 0)
        };
        let pml4e = entry(PAGE_TABLE_ADDR, 39)?;
        let pdpte = entry(pml4e, 30)?;
        assert_eq!(pdpte & LARGE, 0, "1 GiB pages are not used");
        let pde = entry(pdpte, 21)?;
        assert_eq!(pde & LARGE, LARGE);
        assert_eq!(pml4e & pdpte & pde & WRITABLE, WRITABLE);
        Some((pde & 0x000f_ffff_ffe0_0000) | (virt & (LARGE_PAGE - 1)))
    }

    fn tables() -> GuestMemoryMmap {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_identity_map(&mem).unwrap();
        mem
    }

    #[test]
    fn nothing_is_mapped_above() {
        let mem = tables();
        assert_eq!(translate(&mem, IDENTITY_GIB * GIB - 1), Some(IDENTITY_GIB * GIB - 1));
        assert_eq!(translate(&mem, IDENTITY_GIB * GIB), None);
        assert_eq!(translate(&mem, 1 << 39), None);
    }

    proptest! {
        #[test]
        fn every_address_below_maps_to_itself(virt in 0..IDENTITY_GIB * GIB) {
            prop_assert_eq!(translate(&tables(), virt), Some(virt));
        }
    }
}
