//! `hvm_start_info`, by which a loader tells a PVH kernel what it gave it (Xen: xen/include/public/arch-x86/hvm/start_info.h,
//! version 1). All of it fits the page that `boot_params` would take.
//!
//! ```text
//!   + 0x000  hvm_start_info, 56 bytes     + 0x040  the one module, 32 bytes     + 0x080  memory map, 24 bytes each
//! ```

use super::e820::Entry;
use super::layout::{ACPI_ADDR, CMDLINE_ADDR, ZERO_PAGE_ADDR};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const MODULE_OFFSET: usize = 0x40;
const MAP_OFFSET: usize = 0x80;
const MAP_ENTRY: usize = 24;
const SIZE: usize = 0x1000;
const MAP_MAX: usize = (SIZE - MAP_OFFSET) / MAP_ENTRY;

/// The page as the kernel reads it: a ramdisk of `ramdisk_size` bytes at `ramdisk` if that is not 0, and the memory map,
/// whose types are those of e820.
pub fn page(ramdisk: u64, ramdisk_size: u64, map: &[Entry]) -> Box<[u8; SIZE]> {
    let mut page = Box::new([0; SIZE]);
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let module = if ramdisk_size > 0 { ZERO_PAGE_ADDR + MODULE_OFFSET as u64 } else { 0 };
    put(0, &MAGIC.to_le_bytes());
    put(4, &VERSION.to_le_bytes());
    put(12, &u32::from(module > 0).to_le_bytes());
    put(16, &module.to_le_bytes());
    put(24, &CMDLINE_ADDR.to_le_bytes());
    put(32, &ACPI_ADDR.to_le_bytes());
    put(40, &(ZERO_PAGE_ADDR + MAP_OFFSET as u64).to_le_bytes());
    if module > 0 {
        put(MODULE_OFFSET, &ramdisk.to_le_bytes());
        put(MODULE_OFFSET + 8, &ramdisk_size.to_le_bytes());
    }
    let mut entries = 0_u32;
    for (i, entry) in map.iter().take(MAP_MAX).enumerate() {
        // Address, size and type as in e820; four bytes are reserved.
        put(MAP_OFFSET + i * MAP_ENTRY, &entry.bytes());
        entries += 1;
    }
    put(48, &entries.to_le_bytes());
    page
}

#[cfg(test)]
mod tests {
    use super::super::e820;
    use super::*;
    use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
    use vm_memory::ByteValued;

    fn read<T: ByteValued>(page: &[u8], address: u64) -> T {
        let at = usize::try_from(address - ZERO_PAGE_ADDR).unwrap();
        *T::from_slice(&page[at..at + size_of::<T>()]).unwrap()
    }

    #[test]
    fn the_page_is_what_xens_own_structs_read() {
        let map = [
            Entry { start: 0, size: 0x9_e000, kind: e820::RAM },
            Entry { start: 0x9_e000, size: 0x2000, kind: e820::RESERVED },
        ];
        let page = page(0x1fd_0000, 0x1234, &map);
        let info: hvm_start_info = read(&page[..], ZERO_PAGE_ADDR);
        assert_eq!((info.magic, info.version, info.flags, info.nr_modules), (0x336e_c578, 1, 0, 1));
        assert_eq!((info.cmdline_paddr, info.rsdp_paddr, info.memmap_entries), (0x2_0000, 0xe_0000, 2));
        let module: hvm_modlist_entry = read(&page[..], info.modlist_paddr);
        assert_eq!((module.paddr, module.size, module.cmdline_paddr), (0x1fd_0000, 0x1234, 0));
        for (i, want) in (0..).zip(map) {
            let entry: hvm_memmap_table_entry = read(&page[..], info.memmap_paddr + i * 24);
            assert_eq!((entry.addr, entry.size, entry.type_), (want.start, want.size, want.kind));
        }
    }

    #[test]
    fn without_a_ramdisk_there_is_no_module() {
        let page = page(0, 0, &[Entry { start: 0, size: 1, kind: e820::RAM }; 300]);
        let info: hvm_start_info = read(&page[..], ZERO_PAGE_ADDR);
        assert_eq!((info.nr_modules, info.modlist_paddr), (0, 0));
        assert_eq!(usize::try_from(info.memmap_entries).unwrap(), MAP_MAX);
    }
}
