//! The GDT that boot protocols ask for: flat 4 GiB code and data, at the selectors of Linux's 64-bit protocol.

use super::segment::Segment;

/// Linux's `__BOOT_CS`.
pub const BOOT_CS: u16 = 0x10;
/// Linux's `__BOOT_DS`.
pub const BOOT_DS: u16 = 0x18;
/// A task state segment, two entries long in 64-bit mode.
pub const BOOT_TSS: u16 = 0x20;

/// Present, ring 0, code that may be read, accessed; 64-bit; limit in pages.
const CODE_64: u16 = 0xa09b;
/// The same; 32-bit.
const CODE_32: u16 = 0xc09b;
/// Present, ring 0, data that may be written, accessed; 32-bit stack; limit in pages.
const DATA: u16 = 0xc093;
/// Present, busy 64-bit TSS; limit in bytes.
const TSS_BUSY: u16 = 0x008b;
/// A 64-bit TSS without an I/O map has 0x68 bytes.
const TSS_LIMIT: u32 = 0x67;

const ENTRIES: usize = 6;
/// Limit of the table.
pub const LIMIT: u16 = 8 * 6 - 1;

/// A descriptor with base 0 (Intel SDM vol. 3, 3.4.5): limit 15:0, attributes 47:40 and 55:52, limit 51:48.
const fn descriptor(attributes: u16, limit: u32) -> u64 {
    let raw = if attributes & 0x8000 != 0 { limit >> 12 } else { limit };
    ((attributes as u64) << 40) | ((raw as u64 & 0xf_0000) << 32) | (raw as u64 & 0xffff)
}

/// The size of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 32-bit protected mode.
    Protected,
    /// 64-bit mode.
    Long,
}

impl Mode {
    const fn code(self) -> u16 {
        match self {
            Self::Protected => CODE_32,
            Self::Long => CODE_64,
        }
    }
}

/// The table's bytes: two unused entries, code, data, and the TSS with its upper half.
pub fn bytes(mode: Mode) -> [u8; ENTRIES * 8] {
    let table = [
        0,
        0,
        descriptor(mode.code(), u32::MAX),
        descriptor(DATA, u32::MAX),
        descriptor(TSS_BUSY, TSS_LIMIT),
        0,
    ];
    let mut bytes = [0; ENTRIES * 8];
    for (to, entry) in bytes.chunks_exact_mut(8).zip(table) {
        to.copy_from_slice(&entry.to_le_bytes());
    }
    bytes
}

/// What a CPU holds in a segment register after loading `selector` from the table.
pub fn segment(mode: Mode, selector: u16) -> Segment {
    let (attributes, limit) = match selector {
        BOOT_CS => (mode.code(), u32::MAX),
        BOOT_DS => (DATA, u32::MAX),
        _ => (TSS_BUSY, TSS_LIMIT),
    };
    Segment { selector, base: 0, limit, attributes }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes as a CPU does, independently of how the table was made.
    fn decode(entry: u64) -> (u64, u32, u16) {
        let base = ((entry >> 16) & 0xff_ffff) | ((entry >> 32) & 0xff00_0000);
        let raw = u32::try_from((entry & 0xffff) | ((entry >> 32) & 0xf_0000)).unwrap();
        let attributes = u16::try_from((entry >> 40) & 0xf0ff).unwrap();
        let limit = if attributes & 0x8000 != 0 { (raw << 12) | 0xfff } else { raw };
        (base, limit, attributes)
    }

    #[test]
    fn registers_hold_what_the_table_says() {
        for mode in [Mode::Protected, Mode::Long] {
            let table = bytes(mode);
            assert_eq!(usize::from(LIMIT), table.len() - 1);
            for selector in [BOOT_CS, BOOT_DS, BOOT_TSS] {
                let at = usize::from(selector);
                let entry = u64::from_le_bytes(table[at..at + 8].try_into().unwrap());
                let s = segment(mode, selector);
                assert_eq!(decode(entry), (s.base, s.limit, s.attributes), "selector {selector:#x}");
            }
        }
    }

    #[test]
    fn segments_are_as_the_protocol_demands() {
        // The well-known encodings of flat 64-bit code and flat data.
        assert_eq!(bytes(Mode::Protected)[0x10..0x18], 0x00cf_9b00_0000_ffff_u64.to_le_bytes());
        assert_eq!(bytes(Mode::Long)[0x10..0x18], 0x00af_9b00_0000_ffff_u64.to_le_bytes());
        assert_eq!(bytes(Mode::Long)[0x18..0x20], 0x00cf_9300_0000_ffff_u64.to_le_bytes());
        let code = segment(Mode::Long, BOOT_CS);
        assert_eq!((code.present(), code.s(), code.dpl(), code.kind()), (1, 1, 0, 0xb));
        assert_eq!((code.l(), code.db(), code.g(), code.avl(), code.limit), (1, 0, 1, 0, u32::MAX));
        let code = segment(Mode::Protected, BOOT_CS);
        assert_eq!((code.kind(), code.l(), code.db(), code.g()), (0xb, 0, 1, 1));
        let data = segment(Mode::Long, BOOT_DS);
        assert_eq!((data.present(), data.s(), data.dpl(), data.kind()), (1, 1, 0, 3));
        assert_eq!((data.l(), data.db(), data.g(), data.limit), (0, 1, 1, u32::MAX));
        let tss = segment(Mode::Long, BOOT_TSS);
        assert_eq!((tss.present(), tss.s(), tss.kind(), tss.g(), tss.limit), (1, 0, 0xb, 0, 0x67));
    }
}
