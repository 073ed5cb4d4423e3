use proptest::prelude::*;

use super::*;

/// An archive of `body` bytes, no entries and `comment`.
fn archive(body: usize, comment: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xaa; body];
    bytes.extend_from_slice(&end_record(0, u32::try_from(body).unwrap(), comment));
    bytes
}

fn end_record(directory_len: u32, directory_offset: u32, comment: &[u8]) -> Vec<u8> {
    let mut record = b"PK\x05\x06\0\0\0\0\0\0\0\0".to_vec();
    record.extend_from_slice(&directory_len.to_le_bytes());
    record.extend_from_slice(&directory_offset.to_le_bytes());
    record.extend_from_slice(&u16::try_from(comment.len()).unwrap().to_le_bytes());
    record.extend_from_slice(comment);
    record
}

fn pad(mut archive: Vec<u8>, filler: Filler) -> Vec<u8> {
    let len = archive.len();
    archive.resize(usize::try_from(padded_len(len as u64, filler).unwrap()).unwrap(), 0);
    if filler == Filler::Size {
        let end = archive.len();
        archive[end - 4..].copy_from_slice(&i32::try_from(len).unwrap().to_be_bytes());
    }
    archive
}

fn len_in(partition: &[u8]) -> Result<u64, ZipError> {
    archive_len(&partition.to_vec(), partition.len() as u64)
}

#[test]
fn sections_of_a_plain_archive() {
    let found = ZipSections::read(&archive(100, b"hello")).unwrap();
    let expected = ZipSections { central_directory: 100, end_record: 100, len: 127, entries: 0 };
    assert_eq!(found, expected);
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let read = |bytes: Vec<u8>| ZipSections::read(&bytes);
    assert!(matches!(read(vec![0; 21]), Err(ZipError::TooSmall(21))));
    assert!(matches!(read(vec![0; 100]), Err(ZipError::NoEndRecord)));
    let mut trailing = archive(10, b"");
    trailing.push(0);
    assert!(matches!(read(trailing), Err(ZipError::NoEndRecord)));
    let mut prefixed = vec![0; 7];
    prefixed.extend(archive(10, b""));
    assert!(matches!(read(prefixed), Err(ZipError::Layout { offset: 10, len: 0, end: 17 })));
    for field in [4, 6, 8] {
        let mut split = archive(10, b"");
        split[10 + field] = 1;
        assert!(matches!(read(split), Err(ZipError::Unsupported)), "field at {field}");
    }
    for field in [8..12, 12..16, 16..20] {
        let mut zip64 = archive(10, b"");
        zip64[10 + field.start..10 + field.end].fill(0xff);
        assert!(matches!(read(zip64), Err(ZipError::Unsupported)), "fields at {field:?}");
    }
    let mut located = archive(30, b"");
    located[10..14].copy_from_slice(&ZIP64_LOCATOR_SIGNATURE);
    assert!(matches!(read(located), Err(ZipError::Unsupported)));
}

/// A second end record in the comment, which a reader that searches the other way would take.
#[test]
fn two_ends_are_refused() {
    let inner = end_record(0, 32, b"");
    let bytes = archive(10, &inner);
    assert!(matches!(ZipSections::read(&bytes), Err(ZipError::Ambiguous { first: 32, second: 10 })));
    let harmless = archive(10, &end_record(0, 31, b""));
    assert_eq!(ZipSections::read(&harmless).unwrap().end_record, 10);
}

#[test]
fn filler_rules_reject_what_is_not_zero() {
    for filler in [Filler::Zero, Filler::Size] {
        let clean = pad(archive(5000, b"c"), filler);
        assert_eq!(len_in(&clean).unwrap(), 5023);
        for at in 5023..clean.len() {
            let mut dirty = clean.clone();
            dirty[at] ^= 0x40;
            assert!(len_in(&dirty).is_err(), "{filler:?}, byte {at}");
        }
    }
    let mut two_blocks = pad(archive(5000, b""), Filler::Zero);
    two_blocks.resize(two_blocks.len() + 4096, 0);
    assert!(len_in(&two_blocks).is_err(), "a zero filler is shorter than a block");
}

#[test]
fn hostile_size_fillers_do_not_pass_the_end() {
    for told in [i32::MIN, -1, 0, 1, 4092, 4093, i32::MAX] {
        let mut partition = vec![0; 4096];
        partition[4092..].copy_from_slice(&told.to_be_bytes());
        assert!(len_in(&partition).is_err());
    }
    for len in 0..4 {
        assert!(len_in(&vec![0xff; len]).is_err());
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = archive(40, b"comment");
    for len in 0..bytes.len() {
        assert!(ZipSections::read(&bytes[..len].to_vec()).is_err(), "{len} bytes");
    }
}

proptest! {
    /// Section 1: the length comes back from either filler, at every alignment and with any comment.
    #[test]
    fn padded_archives_tell_their_length(
        body in 0usize..9000,
        comment in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..40),
    ) {
        let archive = archive(body, &comment);
        for filler in [Filler::Zero, Filler::Size] {
            prop_assert_eq!(len_in(&pad(archive.clone(), filler)).unwrap(), archive.len() as u64);
        }
    }
}
