//! Hostile and ordinary images.

use super::*;
use crate::kernel::Kernel;
use proptest::prelude::*;

/// A program header as it is written to an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub kind: u32,
    pub offset: u64,
    pub address: u64,
    pub file_size: u64,
    pub memory_size: u64,
}

impl Program {
    pub(crate) fn load(offset: u64, address: u64, file_size: u64, memory_size: u64) -> Self {
        Self { kind: PT_LOAD, offset, address, file_size, memory_size }
    }
}

/// An image of `len` bytes whose byte n is n % 251 behind the headers.
pub(crate) fn image(entry: u64, programs: &[Program], len: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(20, &1_u32.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &u16::try_from(programs.len()).unwrap().to_le_bytes());
    for (i, p) in programs.iter().enumerate() {
        let at = 64 + i * 56;
        put(at, &p.kind.to_le_bytes());
        put(at + 4, &7_u32.to_le_bytes());
        put(at + 8, &p.offset.to_le_bytes());
        // p_vaddr is not used: a kernel's is not where it is loaded.
        put(at + 16, &0xffff_ffff_8000_0000_u64.to_le_bytes());
        put(at + 24, &p.address.to_le_bytes());
        put(at + 32, &p.file_size.to_le_bytes());
        put(at + 40, &p.memory_size.to_le_bytes());
    }
    image
}

fn two_segments() -> Vec<u8> {
    let programs = [
        Program { kind: 7, offset: u64::MAX, address: 0, file_size: u64::MAX, memory_size: 0 },
        Program::load(0x300, 0x30_0000, 0x80, 0x1000),
        Program::load(0x200, 0x10_0000, 0x100, 0x100),
        Program::load(0, 0x10_0000, 0, 0),
    ];
    image(0x10_0010, &programs, 0x400)
}

fn parse(image: &[u8]) -> Result<Kernel, crate::KernelError> {
    Kernel::parse_with(image.len() as u64, |offset, data| {
        let from = usize::try_from(offset).unwrap();
        data.copy_from_slice(image.get(from..from + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    })
}

fn message(image: &[u8]) -> String {
    parse(image).unwrap_err().to_string()
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = two_segments();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

#[test]
fn segments_come_sorted_and_only_loadable_ones() {
    let kernel = parse(&two_segments()).unwrap();
    assert_eq!(kernel.entry(), 0x10_0010);
    assert_eq!(
        kernel.segments(),
        [
            Segment { index: 2, offset: 0x200, file_size: 0x100, address: 0x10_0000, memory_size: 0x100 },
            Segment { index: 1, offset: 0x300, file_size: 0x80, address: 0x30_0000, memory_size: 0x1000 },
        ]
    );
}

#[test]
fn program_headers_far_into_the_file_are_read() {
    let mut image = two_segments();
    let table = image[64..64 + 4 * 56].to_vec();
    image.resize(0x2000, 0);
    image.extend_from_slice(&table);
    image[32..40].copy_from_slice(&0x2000_u64.to_le_bytes());
    assert_eq!(parse(&image).unwrap(), parse(&two_segments()).unwrap());
}

#[test]
fn every_field_is_named_with_what_is_expected() {
    let cases: [(usize, &[u8], &str); 13] = [
        (4, &[1], "ELF header: EI_CLASS is 1, expected 2 (64-bit)"),
        (5, &[2], "ELF header: EI_DATA is 2, expected 1 (little-endian)"),
        (6, &[0], "ELF header: EI_VERSION is 0, expected 1"),
        (16, &[1, 0], "ELF header: e_type is 1, expected 2 (executable) or 3 (position-independent)"),
        (18, &[183, 0], "ELF for machine 183, expected x86-64 (62)"),
        (20, &[2, 0], "ELF header: e_version is 2, expected 1"),
        (54, &[55, 0], "ELF header: e_phentsize is 55, expected 56"),
        (56, &[0, 0], "ELF header: e_phnum is 0, expected 1 to 128"),
        (56, &[0xff, 0xff], "ELF header: e_phnum is 65535, expected 1 to 128"),
        (32, &[0xff; 8], "program headers end at byte 18446744073709551615, but the file has 1024 bytes"),
        (24, &[0, 1, 0x10, 0], "entry point 0x100100 is in no segment"),
        (24, &[0x80, 0, 0x30, 0], "entry point 0x300080 is in no segment"),
        (64 + 56 + 32, &[1, 0x10, 0, 0], "program header 1: p_filesz is 0x1001, expected at most p_memsz"),
    ];
    for (at, bytes, want) in cases {
        assert_eq!(message(&patched(at, bytes)), want);
    }
}

#[test]
fn sums_that_overflow_or_pass_the_end_are_refused() {
    let second = 64 + 2 * 56;
    let huge = [0xff; 8];
    assert_eq!(
        message(&patched(second + 8, &huge)),
        "bytes of segment 2 end at byte 18446744073709551615, but the file has 1024 bytes"
    );
    assert_eq!(
        message(&patched(second + 8, &0x301_u64.to_le_bytes())),
        "bytes of segment 2 end at byte 1025, but the file has 1024 bytes"
    );
    assert!(message(&patched(second + 24, &huge)).starts_with("program header 2: p_memsz is 0x100"));
    assert!(message(&patched(second + 40, &huge)).contains("an end within 64 bits"));
}

#[test]
fn overlapping_segments_are_refused() {
    let second = 64 + 2 * 56;
    assert_eq!(
        message(&patched(second + 24, &0x2f_ff01_u64.to_le_bytes())),
        "segments 2 and 1 overlap in memory"
    );
    assert_eq!(
        message(&patched(second + 24, &0x30_0fff_u64.to_le_bytes())),
        "segments 1 and 2 overlap in memory"
    );
    // Side by side is no overlap: then only the entry point is missing.
    assert!(message(&patched(second + 24, &0x2f_ff00_u64.to_le_bytes())).starts_with("entry point"));
}

#[test]
fn only_notes_is_nothing_to_load() {
    let note = Program { kind: 4, offset: 0, address: 0, file_size: 0, memory_size: 0 };
    assert_eq!(message(&image(0, &[note], 0x100)), "no segment to load");
    assert_eq!(message(&image(0, &[Program::load(0, 0, 0, 0)], 0x100)), "no segment to load");
}

#[test]
fn a_pvh_note_says_how_to_enter() {
    let mut image = two_segments();
    let note = [4_u32, 8, 18].iter().flat_map(|v| v.to_le_bytes());
    let note: Vec<u8> = note.chain(*b"Xen\0").chain(0x10_0020_u64.to_le_bytes()).collect();
    image.extend(&note);
    let mut put = |at: usize, value: u64| image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(64, 7 << 32 | 4);
    put(64 + 8, 0x400);
    put(64 + 32, 24);
    let kernel = parse(&image).unwrap();
    assert_eq!((kernel.protocol(), kernel.entry()), (Protocol::Pvh, 0x10_0020));
    assert_eq!(parse(&two_segments()).unwrap().protocol(), Protocol::Linux64);
    // An entry that is not loaded, notes that are not there, notes without end.
    image[0x410..0x418].copy_from_slice(&0x20_0000_u64.to_le_bytes());
    assert_eq!(message(&image), "entry point 0x200000 is in no segment");
    image.truncate(0x417);
    assert_eq!(message(&image), "notes of segment 0 end at byte 1048, but the file has 1047 bytes");
    image[64 + 34] = 1;
    assert!(message(&image).contains("at most 64 KiB of notes"));
}

#[test]
fn an_image_cut_anywhere_is_an_error_until_all_segments_are_there() {
    let image = two_segments();
    for len in 0..0x380 {
        assert!(parse(&image[..len]).is_err(), "{len} bytes");
    }
    assert!(parse(&image[..0x380]).is_ok());
    assert_eq!(message(&image[..63]), "ELF header end at byte 64, but the file has 63 bytes");
}

#[test]
fn what_is_not_a_regular_file_is_refused() {
    let error = Kernel::parse(&std::fs::File::open("/").unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "not a regular file");
    let error = Kernel::parse(&std::fs::File::open("/dev/null").unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "not a regular file");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_header_breaks_the_rules_of_a_parsed_kernel(
        changes in prop::collection::vec((0_usize..64 + 4 * 56, any::<u8>()), 0..6),
        cut in 0_usize..0x400,
    ) {
        let mut image = two_segments();
        for (at, byte) in changes {
            image[at] = byte;
        }
        for image in [&image[..], &image[..cut]] {
            let Ok(kernel) = parse(image) else { continue };
            let segments = kernel.segments();
            prop_assert!(!segments.is_empty());
            for s in segments {
                prop_assert!(s.offset.checked_add(s.file_size).unwrap() <= image.len() as u64);
                prop_assert!(s.file_size <= s.memory_size && s.memory_size > 0);
                prop_assert!(s.address.checked_add(s.memory_size).is_some());
            }
            for pair in segments.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].address);
            }
            let entry = kernel.entry();
            prop_assert!(segments.iter().any(|s| s.address <= entry && entry < s.address + s.file_size));
        }
    }
}
