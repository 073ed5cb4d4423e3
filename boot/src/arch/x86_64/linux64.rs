//! `boot_params`, the page by which a loader tells Linux what it gave it (Documentation/arch/x86/boot.rst,
//! "64-bit Boot Protocol", and zero-page.rst). A `vmlinux` has no setup header to copy: the fields that describe
//! an image stay zero, those that a loader writes are written.

use super::e820::Entry;

/// Size of `boot_params`.
const SIZE: usize = 0x1000;
/// Entries that `e820_table` has room for.
const E820_MAX: usize = 128;

mod offset {
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
    /// The memory map; entries past the 128th are left out.
    pub e820: &'a [Entry],
}

impl BootParams<'_> {
    /// The page as the kernel reads it.
    pub fn bytes(&self) -> Box<[u8; SIZE]> {
        let mut page = Box::new([0; SIZE]);
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset::BOOT_FLAG, &BOOT_FLAG.to_le_bytes());
        put(offset::HEADER, HEADER);
        put(offset::VERSION, &VERSION.to_le_bytes());
        put(offset::TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
        put(offset::LOADFLAGS, &[LOADED_HIGH]);
        put(offset::RAMDISK_IMAGE, &self.ramdisk.to_le_bytes());
        put(offset::RAMDISK_SIZE, &self.ramdisk_size.to_le_bytes());
        put(offset::CMD_LINE_PTR, &self.cmdline.to_le_bytes());
        put(offset::CMDLINE_SIZE, &self.cmdline_max.to_le_bytes());
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
        // Nothing but those fields is set: a kernel reads meaning into every other.
        let set: usize = bytes.iter().filter(|b| **b != 0).count();
        let mut again = boot_params { e820_entries: 2, ..Default::default() };
        again.hdr = hdr;
        again.e820_table[..2].copy_from_slice(&parsed.e820_table[..2]);
        assert_eq!(again.as_slice().iter().filter(|b| **b != 0).count(), set);
    }

    #[test]
    fn no_more_entries_than_the_table_holds() {
        let map = vec![Entry { start: 1, size: 2, kind: e820::RAM }; 200];
        let params = BootParams { cmdline: 0, cmdline_max: 0, ramdisk: 0, ramdisk_size: 0, e820: &map };
        let bytes = params.bytes();
        assert_eq!(bytes[offset::E820_ENTRIES], 128);
        assert!(bytes[offset::E820_TABLE + 128 * 20..].iter().all(|b| *b == 0));
    }
}
