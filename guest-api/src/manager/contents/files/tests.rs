use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

const MIB: u64 = 1 << 20;

fn archive(entries: &[(&str, CompressionMethod, Vec<u8>)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, method, data) in entries {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(*method)).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn files(bytes: Vec<u8>, budget: u64) -> Files<Arc<Vec<u8>>> {
    let source = Arc::new(bytes);
    Files::new(Apk::open(Arc::clone(&source)).unwrap(), source, budget)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251).to_le_bytes()[0] ^ seed).collect()
}

#[test]
fn any_range_of_stored_and_deflated_files_is_what_was_packed() {
    let (stored, deflated) = (pattern(10_000, 1), pattern(20_000, 2));
    let mut files = files(
        archive(&[
            ("s", CompressionMethod::Stored, stored.clone()),
            ("d", CompressionMethod::Deflated, deflated.clone()),
            ("empty", CompressionMethod::Stored, Vec::new()),
        ]),
        MIB,
    );
    let mut out = Vec::new();
    for (index, data) in [(0, &stored), (1, &deflated)] {
        for (offset, len) in
            [(0, 4096), (1, 1), (4095, 8192), (9_999, 4096), (0, 1 << 20), (data.len() - 1, 9)]
        {
            files.read(index, offset as u64, len, &mut out).unwrap();
            assert_eq!(out, data[offset..data.len().min(offset + len)], "{index}, {offset}, {len}");
        }
        for offset in [data.len() as u64, u64::MAX] {
            files.read(index, offset, 4096, &mut out).unwrap();
            assert!(out.is_empty());
        }
    }
    files.read(2, 0, 4096, &mut out).unwrap();
    assert!(out.is_empty());
    assert_eq!(files.read(3, 0, 1, &mut out).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn unpacked_files_stay_within_their_budget() {
    let entries: Vec<_> = (0..8_u8)
        .map(|i| {
            (
                ["0", "1", "2", "3", "4", "5", "6", "7"][usize::from(i)],
                CompressionMethod::Deflated,
                pattern(100_000, i),
            )
        })
        .collect();
    let mut files = files(archive(&entries), 250_000);
    let mut out = Vec::new();
    for round in 0..3 {
        for (index, (_, _, data)) in entries.iter().enumerate() {
            files.read(index, 0, data.len(), &mut out).unwrap();
            assert_eq!(&out, data, "{round}, {index}");
            let kept: usize = files.unpacked.files.values().map(|(_, bytes)| <[u8]>::len(bytes)).sum();
            assert_eq!(files.unpacked.used, kept as u64);
            assert!(files.unpacked.used <= 250_000);
        }
    }
    files.read(0, 0, 1, &mut out).unwrap();
    files.read(7, 0, 1, &mut out).unwrap();
    files.read(0, 0, 1, &mut out).unwrap();
    files.read(1, 0, 1, &mut out).unwrap();
    assert!(
        files.unpacked.files.contains_key(&0) && !files.unpacked.files.contains_key(&7),
        "the longest unused goes"
    );
}

#[test]
fn a_deflated_file_over_the_budget_is_refused_and_a_stored_one_is_not() {
    let data = pattern(100_001, 0);
    let entries =
        [("d", CompressionMethod::Deflated, data.clone()), ("s", CompressionMethod::Stored, data.clone())];
    let mut files = files(archive(&entries), 100_000);
    let mut out = Vec::new();
    assert_eq!(files.read(0, 0, 1, &mut out).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    files.read(1, 100_000, 9, &mut out).unwrap();
    assert_eq!(out, data[100_000..]);
}

#[test]
fn damaged_packed_data_is_an_error_and_is_not_kept() {
    let entries = [("d", CompressionMethod::Deflated, pattern(50_000, 3))];
    let mut bytes = archive(&entries);
    bytes[60] ^= 0x55;
    let mut files = files(bytes, MIB);
    let mut out = Vec::new();
    for _ in 0..2 {
        assert_eq!(files.read(0, 0, 1, &mut out).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(files.unpacked.used, 0);
    }
}
