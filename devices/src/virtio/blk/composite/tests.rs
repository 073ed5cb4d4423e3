use super::*;
use proptest::prelude::*;
use std::io::Write;
use std::os::unix::fs::FileExt;

fn file_of(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

/// The lengths as extents in order.
fn in_order(parts: Vec<(u64, Content)>) -> Vec<Extent> {
    let mut start = 0;
    let mut place = |(len, content)| {
        let extent = Extent { start, len, content };
        start += len;
        extent
    };
    parts.into_iter().map(&mut place).collect()
}

/// The bytes at `offset`, piece by piece.
fn read(disk: &CompositeDisk, offset: u64, len: u64) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![];
    while (bytes.len() as u64) < len {
        let done = bytes.len() as u64;
        match disk.piece(offset + done, len - done, false)? {
            Piece::Bytes(part) => bytes.extend(part),
            Piece::Zeros(count) => bytes.resize(bytes.len() + usize::try_from(count).unwrap(), 0),
            Piece::File { file, offset, len } => {
                let mut part = vec![0; usize::try_from(len).unwrap()];
                assert!(disk.files()[file].fd() >= 0);
                disk.files()[file].file.read_exact_at(&mut part, offset).unwrap();
                bytes.extend(part);
            }
        }
    }
    Ok(bytes)
}

/// A part of a disk, and the bytes it stands for.
fn part() -> impl Strategy<Value = (Content, Vec<u8>)> {
    let bytes = prop::collection::vec(any::<u8>(), 1..400);
    prop_oneof![
        bytes.clone().prop_map(|b| (Content::Bytes(b.clone().into()), b)),
        (1usize..400).prop_map(|len| (Content::Zeros, vec![0; len])),
        (bytes, 0usize..50).prop_map(|(b, offset)| {
            let file = file_of(&[vec![0xee; offset], b.clone(), vec![0xee; 20]].concat());
            (Content::File { file, offset: offset as u64, writable: true }, b)
        }),
    ]
}

proptest! {
    #[test]
    fn pieces_are_the_bytes_of_the_extents(
        parts in prop::collection::vec(part(), 1..12), reads in prop::collection::vec((0u64..3000, 1u64..2000), 1..20),
    ) {
        let flat: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let extents = parts.into_iter().map(|(content, bytes)| (bytes.len() as u64, content)).collect();
        let disk = CompositeDisk::new(in_order(extents)).unwrap();
        prop_assert_eq!(disk.len(), flat.len() as u64);
        for (offset, len) in reads {
            let start = usize::try_from(offset).unwrap();
            match (read(&disk, offset, len), flat.get(start..start + usize::try_from(len).unwrap())) {
                (Ok(bytes), Some(expected)) => prop_assert_eq!(bytes, expected),
                (Err(DiskError::OutOfRange { .. }), None) => {}
                (result, expected) => prop_assert!(false, "{result:?} but {expected:?}"),
            }
        }
    }
}

#[test]
fn extents_follow_each_other_from_zero() {
    let zeros = |start, len| Extent { start, len, content: Content::Zeros };
    let new = |extents: Vec<Extent>| CompositeDisk::new(extents).map(drop);
    assert_eq!(new(vec![]), Err(CompositeError::Empty));
    assert_eq!(new(vec![zeros(0, 512), zeros(512, 1)]), Ok(()));
    let misplaced = |index, start, expected| Err(CompositeError::Misplaced { index, start, expected });
    assert_eq!(new(vec![zeros(1, 512)]), misplaced(0, 1, 0));
    assert_eq!(new(vec![zeros(0, 512), zeros(511, 1)]), misplaced(1, 511, 512));
    assert_eq!(new(vec![zeros(0, 512), zeros(513, 1)]), misplaced(1, 513, 512));
}

#[test]
fn lengths_are_possible() {
    let max = i64::MAX as u64;
    let file = |offset| Content::File { file: file_of(b""), offset, writable: false };
    let new = |len, content| CompositeDisk::new(vec![Extent { start: 0, len, content }]).map(|d| d.len());
    for (len, content) in [
        (0, Content::Zeros),
        (max + 1, Content::Zeros),
        (u64::MAX, Content::Zeros),
        (3, Content::Bytes([1, 2].into())),
        (1, Content::Bytes([1, 2].into())),
        (1, file(max)),
        (1, file(u64::MAX)),
    ] {
        assert_eq!(new(len, content), Err(CompositeError::Length { index: 0, len }));
    }
    assert_eq!(new(max, Content::Zeros), Ok(max));
    assert_eq!(new(1, file(max - 1)), Ok(1));
    let two = [(max, Content::Zeros), (1, Content::Zeros)].into();
    assert!(matches!(CompositeDisk::new(in_order(two)), Err(CompositeError::Length { index: 1, .. })));
}

#[test]
fn what_is_not_writable_says_where() {
    let file = file_of(&[1; 512]);
    let part = |writable| (256, Content::File { file: Arc::clone(&file), offset: 0, writable });
    let parts = vec![part(true), part(false), (16, Content::Zeros), (2, Content::Bytes([1, 2].into()))];
    let disk = CompositeDisk::new(in_order(parts)).unwrap();
    assert_eq!(disk.piece(200, 100, true).unwrap(), Piece::File { file: 0, offset: 200, len: 56 });
    for at in [256, 300, 512, 528, 529] {
        let error = disk.piece(at, 1, true).unwrap_err();
        assert!(matches!(error, DiskError::ReadOnly { offset } if offset == at), "{error:?}");
        disk.piece(at, 1, false).unwrap();
    }
    assert!(matches!(disk.piece(530, 1, true), Err(DiskError::OutOfRange { offset: 530 })));
}

#[test]
fn each_file_is_known_once_and_writable_if_any_part_is() {
    let file = file_of(&[1; 512]);
    let part = |offset, writable| (256, Content::File { file: Arc::clone(&file), offset, writable });
    let other = (4, Content::File { file: file_of(b"once"), offset: 0, writable: false });
    let disk =
        CompositeDisk::new(in_order(vec![part(0, false), part(256, true), part(0, false), other])).unwrap();
    let writable: Vec<bool> = disk.files().iter().map(DiskFile::is_writable).collect();
    assert_eq!(writable, [true, false]);
    disk.flush().unwrap();
}
