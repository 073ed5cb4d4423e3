use std::io::Cursor as IoCursor;

use ::zip::ZipWriter;
use ::zip::write::SimpleFileOptions;

use super::*;

/// Writes an archive with the zip crate: (name, content, deflated).
fn archive(entries: &[(&str, &[u8], bool)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(IoCursor::new(Vec::new()));
    for (name, content, deflated) in entries {
        let method = if *deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn entries_and_their_data() {
    let long = vec![b'x'; 100_000];
    let bytes = Arc::new(archive(&[("assets/a.txt", b"hello", false), ("lib/x86_64/libx.so", &long, true)]));
    let apk = Apk::open(Arc::clone(&bytes)).unwrap();
    let entry = apk.entry("assets/a.txt").unwrap();
    assert_eq!((entry.size, entry.compression), (5, Compression::Stored));
    let start = usize::try_from(apk.data_start(entry).unwrap()).unwrap();
    assert_eq!(&bytes[start..start + 5], b"hello");
    let packed = apk.entry("lib/x86_64/libx.so").unwrap();
    assert_eq!((packed.size, packed.compression), (100_000, Compression::Deflated));
    assert!(packed.packed_size < 1000);
    assert_eq!(apk.read("lib/x86_64/libx.so", 100_000).unwrap(), long);
    assert!(matches!(
        apk.read("lib/x86_64/libx.so", 99_999),
        Err(ApkError::TooLarge { size: 100_000, limit: 99_999, .. })
    ));
    assert!(matches!(apk.read("none", 1), Err(ApkError::NotFound(_))));
}

#[test]
fn names_that_no_tree_can_hold_are_refused() {
    for name in ["/etc/passwd", "a/../b", "..", "a//b", "./a", "a/.", "nul\0"] {
        let patched = rename(archive(&[(&"x".repeat(name.len()), b"", false)]), name);
        assert!(matches!(Apk::open(patched.clone()), Err(ApkError::Name(_))), "{name:?}");
    }
    let latin1 = rename_raw(archive(&[("x", b"", false)]), &[0xe4]);
    assert!(matches!(Apk::open(latin1), Err(ApkError::Name(_))));
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let bytes = archive(&[("a", b"1", false), ("b", b"2", false)]);
    let patched: Vec<u8> = bytes.iter().map(|byte| if *byte == b'b' { b'a' } else { *byte }).collect();
    assert!(matches!(Apk::open(patched), Err(ApkError::EntryCount { told: 2, .. })));
    let twins = rename(archive(&[("x", b"", false), ("yy", b"", false)]), "x/");
    assert!(matches!(Apk::open(twins), Err(ApkError::EntryCount { found: 1, told: 2 })));
}

#[test]
fn damaged_data_is_found() {
    let bytes = archive(&[("a", b"hello", false)]);
    let at = bytes.windows(5).position(|w| w == b"hello").unwrap();
    let mut damaged = bytes.clone();
    damaged[at] ^= 1;
    let apk = Apk::open(damaged).unwrap();
    assert!(matches!(apk.read("a", 10), Err(ApkError::Entry { .. })));
}

/// An entry of 2^32 - 1 bytes, packed or not, costs neither memory nor a panic.
#[test]
fn hostile_sizes_are_refused() {
    let bytes = archive(&[("a", b"hello", true)]);
    let directory = usize::try_from(ZipSections::read(&bytes).unwrap().central_directory).unwrap();
    for field in [20, 24, 42] {
        let mut hostile = bytes.clone();
        hostile[directory + field..directory + field + 4].copy_from_slice(&[0xfe, 0xff, 0xff, 0xff]);
        let refused = Apk::open(hostile).and_then(|apk| apk.read("a", u64::MAX));
        assert!(refused.is_err(), "field at {field}");
    }
}

/// Every length and offset of the directory and of the local header, at its extremes.
#[test]
fn hostile_fields_are_survived() {
    let bytes = archive(&[("a", b"hello", true), ("b", b"hello", false)]);
    let sections = ZipSections::read(&bytes).unwrap();
    let [directory, end] =
        [sections.central_directory, sections.end_record].map(|at| usize::try_from(at).unwrap());
    let local = [4, 6, 8, 14, 18, 22, 26, 28];
    let listed = [4, 6, 8, 10, 16, 20, 24, 28, 30, 32, 34, 38, 42].map(|field| directory + field);
    let record = [4, 6, 8, 10, 12, 16, 20].map(|field| end + field);
    for at in local.into_iter().chain(listed).chain(record) {
        for value in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, u32::MAX] {
            let mut hostile = bytes.clone();
            let room = 4.min(hostile.len() - at);
            hostile[at..at + room].copy_from_slice(&value.to_le_bytes()[..room]);
            let Ok(apk) = Apk::open(hostile) else { continue };
            for entry in apk.entries() {
                if let Ok(data) = apk.read(&entry.name, 1 << 20) {
                    assert_eq!(data.len() as u64, entry.size, "field at {at}, {value:#x}");
                }
            }
        }
    }
}

/// The bomb of overlapping entries: many names for one piece of data.
#[test]
fn entries_that_share_bytes_are_refused() {
    let bytes = archive(&[("a", b"hello", false), ("b", b"world", false)]);
    let directory = usize::try_from(ZipSections::read(&bytes).unwrap().central_directory).unwrap();
    let second = directory + 46 + 1;
    for start in [0u32, 1, 30, 35] {
        let mut shared = bytes.clone();
        shared[second + 42..][..4].copy_from_slice(&start.to_le_bytes());
        let refused = Apk::open(shared).map(drop);
        assert!(matches!(refused, Err(ApkError::Overlap { .. })), "{start}: {refused:?}");
    }
    let mut outside = bytes;
    let len = u32::try_from(directory).unwrap();
    outside[second + 42..][..4].copy_from_slice(&(len - 30).to_le_bytes());
    assert!(matches!(Apk::open(outside).map(drop), Err(ApkError::Outside(name)) if name == "b"));
}

/// The bomb of good compression: reading ends at the size that was told, or at the caller's limit.
#[test]
fn unpacking_is_bounded() {
    let bytes = archive(&[("zeros", &vec![0; 8 << 20], true)]);
    assert!(bytes.len() < 64 << 10);
    let apk = Apk::open(bytes.clone()).unwrap();
    assert!(matches!(apk.read("zeros", 1 << 20), Err(ApkError::TooLarge { .. })));
    let directory = usize::try_from(ZipSections::read(&bytes).unwrap().central_directory).unwrap();
    let mut lying = bytes;
    lying[directory + 24..][..4].copy_from_slice(&1000u32.to_le_bytes());
    let apk = Apk::open(lying).unwrap();
    let mut out = Vec::new();
    let entry = apk.entry("zeros").unwrap();
    assert!(matches!(apk.copy(entry, &mut out), Err(ApkError::Entry { .. })));
    assert!(out.len() <= 1001, "{} bytes", out.len());
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = archive(&[("a", b"hello", true), ("b/c", b"hello", false)]);
    for len in 0..bytes.len() {
        assert!(Apk::open(bytes[..len].to_vec()).is_err(), "{len} bytes");
    }
}

/// Every single damaged byte gives an archive or an error, and what is read has the size that is told.
#[test]
fn every_damaged_byte_is_survived() {
    let bytes = archive(&[("a", b"hello", true), ("b/c", b"hello", false)]);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let Ok(apk) = Apk::open(damaged) else { continue };
            for entry in apk.entries() {
                if let Ok(data) = apk.read(&entry.name, 1 << 20) {
                    assert_eq!(data.len() as u64, entry.size);
                }
            }
        }
    }
}

fn rename(archive: Vec<u8>, to: &str) -> Vec<u8> {
    rename_raw(archive, to.as_bytes())
}

/// Replaces names of the same length, made of x or y, in both headers.
fn rename_raw(mut archive: Vec<u8>, to: &[u8]) -> Vec<u8> {
    for at in 0..archive.len() - to.len() {
        let name = &archive[at..at + to.len()];
        if name.iter().all(|byte| *byte == b'x') || name.iter().all(|byte| *byte == b'y') {
            archive[at..at + to.len()].copy_from_slice(to);
        }
    }
    archive
}
