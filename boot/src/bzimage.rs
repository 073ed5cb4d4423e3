//! bzImages, the kernels of distributions (Documentation/arch/x86/boot.rst): entered in 64-bit mode behind the
//! real-mode code, which is not run. The compressed kernel unpacks itself.
//!
//! ```text
//!   file    | boot sector, setup header, real-mode code: (setup_sects + 1) * 512 | syssize * 16 |
//!   memory                          pref_address -> | syssize * 16, entry at + 0x200 | .. init_size |
//! ```

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::image::Segment;

/// Where the setup header begins, in the file and in `boot_params`.
pub const SETUP_HEADER: usize = 0x1f1;
/// One past the longest setup header there can be: `boot_params` goes on with something else.
const SETUP_HEADER_MAX: usize = 0x290;
/// One past the last field that is needed, `init_size`.
const SETUP_HEADER_MIN: usize = 0x264;
const SECTOR: u64 = 512;
/// `setup_sects` of 0 stands for this.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// `syssize` counts these.
const PARAGRAPH: u64 = 16;
/// Protocol 2.12, the first with `xloadflags`.
const VERSION_MIN: u16 = 0x020c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry point's distance from the load address.
const ENTRY_64: u64 = 0x200;

mod offset {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const SYSSIZE: usize = 0x1f4;
    pub const BOOT_FLAG: usize = 0x1fe;
    /// The second byte of the jump that the header begins with: its length from 0x202.
    pub const JUMP: usize = 0x201;
    pub const HEADER: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const LOADFLAGS: usize = 0x211;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
}

/// Why a bzImage cannot be started.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BzImageError {
    /// The file ends too early.
    #[error("bzImage: {what} end at byte {end}, but the file has {len} bytes")]
    PastEnd {
        /// What does.
        what: &'static str,
        /// Where it ends.
        end: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// A field of the setup header.
    #[error("bzImage setup header: {field} is {found:#x}, expected {expected}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: &'static str,
    },
}

/// The setup header's bytes, from [`SETUP_HEADER`] on, and the limits that it sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupHeader {
    /// As they go into `boot_params`.
    pub bytes: Vec<u8>,
    /// The highest address that a ramdisk's last byte may have.
    pub initrd_addr_max: u32,
    /// Longest command line without its final zero.
    pub cmdline_size: u32,
}

/// A checked bzImage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BzImage {
    /// Guest physical address of the first instruction.
    pub entry: u64,
    /// The protected-mode part, with the memory that unpacking it takes.
    pub segment: Segment,
    /// What goes into `boot_params`.
    pub setup: SetupHeader,
}

/// Whether the file that begins with `head` is a bzImage, good or bad.
pub fn is_one(head: &[u8]) -> bool {
    head.get(offset::HEADER..offset::HEADER + 4) == Some(b"HdrS") && u16_at(head, offset::BOOT_FLAG) == 0xaa55
}

impl BzImage {
    /// Checks the image of `len` bytes whose first 4096 are `head`, or all that it has.
    pub fn parse(head: &[u8], len: u64) -> Result<Self, BzImageError> {
        let broken = |field, found: u64, expected| BzImageError::Field { field, found, expected };
        let header_end = offset::HEADER + usize::from(head.get(offset::JUMP).copied().unwrap_or_default());
        if !(SETUP_HEADER_MIN..=SETUP_HEADER_MAX).contains(&header_end) {
            return Err(broken("end", header_end as u64, "0x264 to 0x290"));
        }
        let bytes = head.get(SETUP_HEADER..header_end).ok_or(BzImageError::PastEnd {
            what: "setup header",
            end: header_end as u64,
            len,
        })?;
        let version = u16_at(head, offset::VERSION);
        if version < VERSION_MIN {
            return Err(broken("version", version.into(), "at least 0x20c"));
        }
        let loadflags = head[offset::LOADFLAGS];
        if loadflags & LOADED_HIGH == 0 {
            return Err(broken("loadflags", loadflags.into(), "LOADED_HIGH (bit 0): a bzImage"));
        }
        let xloadflags = u16_at(head, offset::XLOADFLAGS);
        if xloadflags & XLF_KERNEL_64 == 0 {
            return Err(broken("xloadflags", xloadflags.into(), "a 64-bit entry point (bit 0)"));
        }
        let sectors = match head[offset::SETUP_SECTS] {
            0 => DEFAULT_SETUP_SECTORS,
            n => n,
        };
        let file_offset = (u64::from(sectors) + 1) * SECTOR;
        let size = u64::from(u32_at(head, offset::SYSSIZE)) * PARAGRAPH;
        if size <= ENTRY_64 {
            return Err(broken("syssize", size / PARAGRAPH, "more than the 512 bytes before the entry"));
        }
        let end = file_offset + size;
        if end > len {
            return Err(BzImageError::PastEnd { what: "bytes of the kernel", end, len });
        }
        let address = u64_at(head, offset::PREF_ADDRESS);
        let memory_size = u64::from(u32_at(head, offset::INIT_SIZE)).max(size);
        if address.checked_add(memory_size).is_none() {
            return Err(broken("pref_address", address, "an end within 64 bits"));
        }
        Ok(Self {
            entry: address + ENTRY_64,
            segment: Segment { index: 0, offset: file_offset, file_size: size, address, memory_size },
            setup: SetupHeader {
                bytes: bytes.to_vec(),
                initrd_addr_max: u32_at(head, offset::INITRD_ADDR_MAX),
                cmdline_size: u32_at(head, offset::CMDLINE_SIZE),
            },
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const PREF: u64 = 16 << 20;

    /// A bzImage of protocol 2.15 with two sectors of setup and `kernel` behind them.
    pub(crate) fn image(kernel: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(offset::SETUP_SECTS, &[2]);
        put(offset::SYSSIZE, &u32::try_from(kernel.len() / 16).unwrap().to_le_bytes());
        put(offset::BOOT_FLAG, &0xaa55_u16.to_le_bytes());
        put(0x200, &[0xeb, 0x6a]);
        put(offset::HEADER, b"HdrS");
        put(offset::VERSION, &0x20f_u16.to_le_bytes());
        put(offset::LOADFLAGS, &[LOADED_HIGH]);
        put(0x214, &0x10_0000_u32.to_le_bytes());
        put(offset::INITRD_ADDR_MAX, &0x7fff_ffff_u32.to_le_bytes());
        put(0x230, &0x20_0000_u32.to_le_bytes());
        put(0x234, &[1, 21]);
        put(offset::XLOADFLAGS, &0x7f_u16.to_le_bytes());
        put(offset::CMDLINE_SIZE, &2047_u32.to_le_bytes());
        put(offset::PREF_ADDRESS, &PREF.to_le_bytes());
        put(offset::INIT_SIZE, &0x10_0000_u32.to_le_bytes());
        image.extend(kernel);
        image
    }

    fn parse(image: &[u8]) -> Result<BzImage, BzImageError> {
        BzImage::parse(&image[..image.len().min(4096)], image.len() as u64)
    }

    #[test]
    fn the_kernel_lies_behind_its_setup_code() {
        let image = image(&[7; 0x1000]);
        assert!(is_one(&image));
        let parsed = parse(&image).unwrap();
        assert_eq!(parsed.entry, PREF + 0x200);
        assert_eq!(
            parsed.segment,
            Segment { index: 0, offset: 0x600, file_size: 0x1000, address: PREF, memory_size: 0x10_0000 }
        );
        assert_eq!(parsed.setup.bytes, image[0x1f1..0x26c]);
        assert_eq!((parsed.setup.cmdline_size, parsed.setup.initrd_addr_max), (2047, 0x7fff_ffff));
        // What a signature appends is not the kernel's.
        let mut signed = image;
        signed.extend([9; 1000]);
        assert_eq!(parse(&signed).unwrap(), parsed);
    }

    #[test]
    fn every_field_is_named_with_what_is_expected() {
        let cases: [(usize, &[u8], &str); 9] = [
            (0x201, &[0x20], "end is 0x222, expected 0x264 to 0x290"),
            (0x201, &[0xff], "end is 0x301, expected 0x264 to 0x290"),
            (0x206, &[0x0b, 2], "version is 0x20b, expected at least 0x20c"),
            (0x211, &[0], "loadflags is 0x0, expected LOADED_HIGH (bit 0): a bzImage"),
            (0x236, &[0x7e, 0], "xloadflags is 0x7e, expected a 64-bit entry point (bit 0)"),
            (0x1f4, &[32, 0, 0, 0], "syssize is 0x20, expected more than the 512 bytes before the entry"),
            (0x1f4, &[0xff; 4], "bytes of the kernel end at byte 68719478256, but the file has 5632 bytes"),
            (0x1f1, &[0], "bytes of the kernel end at byte 6656, but the file has 5632 bytes"),
            (0x258, &[0xff; 8], "pref_address is 0xffffffffffffffff, expected an end within 64 bits"),
        ];
        for (at, bytes, want) in cases {
            let mut image = image(&[7; 0x1000]);
            image[at..at + bytes.len()].copy_from_slice(bytes);
            let error = parse(&image).unwrap_err().to_string();
            assert!(error.ends_with(want), "{error}");
        }
        let whole = image(&[7; 0x1000]);
        assert!(matches!(parse(&whole[..0x250]), Err(BzImageError::PastEnd { what: "setup header", .. })));
    }

    proptest! {
        #[test]
        fn no_header_makes_sums_overflow(
            changes in prop::collection::vec((0x1f1_usize..0x290, any::<u8>()), 0..8),
            len in 0_usize..0x1600,
        ) {
            let mut image = image(&[7; 0x1000]);
            for (at, byte) in changes {
                image[at] = byte;
            }
            image.truncate(len);
            if is_one(&image) && let Ok(parsed) = parse(&image) {
                prop_assert!(parsed.segment.offset + parsed.segment.file_size <= len as u64);
                prop_assert!(parsed.segment.end() > parsed.entry);
                prop_assert!(parsed.setup.bytes.len() <= SETUP_HEADER_MAX - SETUP_HEADER);
            }
        }
    }
}
