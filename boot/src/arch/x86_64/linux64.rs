//! `boot_params`, the page by which a loader tells Linux what it gave it (Documentation/arch/x86/boot.rst,
//! "64-bit Boot Protocol", and zero-page.rst). The setup header is a bzImage's own; a `vmlinux` has none to copy: the
//! fields that describe an image stay zero. Those that a loader writes are written.

use super::e820::Entry;
use super::layout;
use crate::bzimage::{SETUP_HEADER, SetupHeader};

/// Size of `boot_params`.
const SIZE: usize = 0x1000;
/// Entries that `e820_table` has room for.
const E820_MAX: usize = 128;

mod offset {
    pub const ACPI_RSDP_ADDR: usize = 0x070;
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const HEADER: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const SETUP_DATA: usize = 0x250;
    pub const E820_TABLE: usize = 0x2d0;
}

const BOOT_FLAG: u16 = 0xaa55;
const HEADER: &[u8; 4] = b"HdrS";
/// Protocol 2.15, the newest there is.
const VERSION: u16 = 0x020f;
/// A loader without an assigned id.
const LOADER_UNDEFINED: u8 = 0xff;
/// The kernel lies at or above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// SETUP_RNG_SEED: random bytes for the kernel's generator.
const SETUP_RNG_SEED: u32 = 9;

/// A `setup_data` entry, the only one, with random bytes for the kernel: next, type, length, content.
pub fn random_seed(seed: &[u8; 32]) -> zeroize::Zeroizing<[u8; 48]> {
    let mut entry = zeroize::Zeroizing::new([0; 48]);
    entry[8..12].copy_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    entry[12..16].copy_from_slice(&32_u32.to_le_bytes());
    entry[16..].copy_from_slice(seed);
    entry
}

/// What a loader tells the kernel. Addresses are below 4 GiB.
#[derive(Debug)]
pub struct BootParams<'a> {
    /// Address of the command line.
    pub cmdline: u32,
    /// Its longest length without the final zero.
    pub cmdline_max: u32,
    /// Address of the ramdisk; 0 without one.
    pub ramdisk: u32,
    /// Its size in bytes; 0 without one.
    pub ramdisk_size: u32,
    /// Whether there is a `setup_data` entry at its place.
    pub has_setup_data: bool,
    /// The header of a bzImage.
    pub setup: Option<&'a SetupHeader>,
    /// The memory map; entries past the 128th are left out.
    pub e820: &'a [Entry],
}

impl BootParams<'_> {
    /// The page as the kernel reads it.
    pub fn bytes(&self) -> Box<[u8; SIZE]> {
        let mut page = Box::new([0; SIZE]);
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        match self.setup {
            Some(setup) => put(SETUP_HEADER, &setup.bytes),
            None => {
                put(offset::BOOT_FLAG, &BOOT_FLAG.to_le_bytes());
                put(offset::HEADER, HEADER);
                put(offset::VERSION, &VERSION.to_le_bytes());
                put(offset::LOADFLAGS, &[LOADED_HIGH]);
                put(offset::CMDLINE_SIZE, &self.cmdline_max.to_le_bytes());
            }
        }
        put(offset::ACPI_RSDP_ADDR, &layout::ACPI_ADDR.to_le_bytes());
        put(offset::TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
        let setup_data = if self.has_setup_data { layout::SETUP_DATA_ADDR } else { 0 };
        put(offset::SETUP_DATA, &setup_data.to_le_bytes());
        put(offset::RAMDISK_IMAGE, &self.ramdisk.to_le_bytes());
        put(offset::RAMDISK_SIZE, &self.ramdisk_size.to_le_bytes());
        put(offset::CMD_LINE_PTR, &self.cmdline.to_le_bytes());
        let mut entries = 0_u8;
        for (i, entry) in self.e820.iter().take(E820_MAX).enumerate() {
            put(offset::E820_TABLE + i * 20, &entry.bytes());
            entries += 1;
        }
        put(offset::E820_ENTRIES, &[entries]);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::super::e820;
    use super::*;
    use linux_loader::loader::bootparam::boot_params;
    use vm_memory::ByteValued;

    #[test]
    fn the_page_is_what_the_kernels_own_struct_reads() {
        let map = [
            Entry { start: 0, size: 0x9_e000, kind: e820::RAM },
            Entry { start: 0x9_e000, size: 0x2000, kind: e820::RESERVED },
        ];
        let params = BootParams {
            cmdline: 0x2_0000,
            cmdline_max: 2047,
            ramdisk: 0x1fd_0000,
            ramdisk_size: 0x2_1234,
            has_setup_data: true,
            setup: None,
            e820: &map,
        };
        let bytes = params.bytes();
        let mut parsed = boot_params::default();
        parsed.as_mut_slice().copy_from_slice(&bytes[..]);
        let hdr = parsed.hdr;
        let field = |v: u32| v;
        assert_eq!((hdr.boot_flag, hdr.version, hdr.type_of_loader, hdr.loadflags), (0xaa55, 0x20f, 0xff, 1));
        assert_eq!(field(hdr.header).to_le_bytes(), *b"HdrS");
        assert_eq!((field(hdr.ramdisk_image), field(hdr.ramdisk_size)), (0x1fd_0000, 0x2_1234));
        assert_eq!((field(hdr.cmd_line_ptr), field(hdr.cmdline_size)), (0x2_0000, 2047));
        assert_eq!((parsed.e820_entries, parsed.sentinel), (2, 0));
        for (i, entry) in map.iter().enumerate() {
            let read = parsed.e820_table[i];
            let (start, size, kind) = (read.addr, read.size, read.r#type);
            assert_eq!((start, size, kind), (entry.start, entry.size, entry.kind));
        }
        assert_eq!((hdr.setup_data, parsed.acpi_rsdp_addr), (0x6000, 0xe_0000));
        // Nothing but those fields is set: a kernel reads meaning into every other.
        let set: usize = bytes.iter().filter(|b| **b != 0).count();
        let mut again = boot_params { e820_entries: 2, acpi_rsdp_addr: 0xe_0000, ..Default::default() };
        again.hdr = hdr;
        again.e820_table[..2].copy_from_slice(&parsed.e820_table[..2]);
        assert_eq!(again.as_slice().iter().filter(|b| **b != 0).count(), set);
    }

    #[test]
    fn a_bzimages_header_is_copied_and_completed() {
        let bytes: Vec<u8> = (0..0x90).collect();
        let setup = SetupHeader { bytes: bytes.clone(), initrd_addr_max: 0, cmdline_size: 0 };
        let params = BootParams {
            cmdline: 0x2_0000,
            cmdline_max: 2047,
            ramdisk: 0x1000_0000,
            ramdisk_size: 5,
            has_setup_data: false,
            setup: Some(&setup),
            e820: &[],
        };
        let page = params.bytes();
        let written = [0x210..0x211, 0x218..0x220, 0x228..0x22c, 0x250..0x258];
        for (at, byte) in (0x1f1..).zip(bytes) {
            assert!(page[at] == byte || written.iter().any(|range| range.contains(&at)), "{at:#x}");
        }
        assert_eq!(page[0x228..0x22c], 0x2_0000_u32.to_le_bytes());
        assert_eq!(page[0x250..0x258], [0; 8], "a setup_data of the file's own leads nowhere");
    }

    #[test]
    fn a_seed_is_a_list_of_one_entry() {
        let entry = random_seed(&[7; 32]);
        assert_eq!(entry[..16], [0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(entry[16..], [7; 32]);
    }

    #[test]
    fn no_more_entries_than_the_table_holds() {
        let map = vec![Entry { start: 1, size: 2, kind: e820::RAM }; 200];
        let params = BootParams {
            cmdline: 0,
            cmdline_max: 0,
            ramdisk: 0,
            ramdisk_size: 0,
            has_setup_data: false,
            setup: None,
            e820: &map,
        };
        let bytes = params.bytes();
        assert_eq!(bytes[offset::E820_ENTRIES], 128);
        assert!(bytes[offset::E820_TABLE + 128 * 20..].iter().all(|b| *b == 0));
    }
}
