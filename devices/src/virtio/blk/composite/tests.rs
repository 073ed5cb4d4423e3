use super::*;
use crate::virtio::blk::iovec::IovecStorage;
use crate::virtio::queue::Buffer;
use crate::virtio::testing::guest_memory;
use proptest::prelude::*;
use std::io::{ErrorKind, Read, Seek, Write};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, Permissions};

fn file_of(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

fn contents_of(mut file: &File) -> Vec<u8> {
    let mut bytes = vec![];
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
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

/// A request of two buffers over `len` bytes.
fn buffers(len: u32) -> impl Iterator<Item = Buffer> {
    let first = len / 3;
    let all = [(0x1000, first), (0x8000, len - first)];
    all.into_iter().filter(|p| p.1 > 0).map(|(addr, len)| Buffer { addr: GuestAddress(addr), len })
}

fn read(disk: &dyn Disk, memory: &GuestMemoryMmap, offset: u64, len: u32) -> Result<Vec<u8>, DiskError> {
    let mut storage = IovecStorage::default();
    let mut iovecs = storage.gather(memory, buffers(len), Permissions::Write).unwrap();
    disk.read_vectored_at(&mut iovecs, offset)?;
    let mut bytes = vec![];
    for buffer in buffers(len) {
        let mut part = vec![0; buffer.len as usize];
        memory.read_slice(&mut part, buffer.addr).unwrap();
        bytes.extend(part);
    }
    Ok(bytes)
}

fn write(disk: &dyn Disk, memory: &GuestMemoryMmap, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
    let mut at = 0;
    let len = u32::try_from(bytes.len()).unwrap();
    for buffer in buffers(len) {
        memory.write_slice(&bytes[at..at + buffer.len as usize], buffer.addr).unwrap();
        at += buffer.len as usize;
    }
    let mut storage = IovecStorage::default();
    let mut iovecs = storage.gather(memory, buffers(len), Permissions::Read).unwrap();
    disk.write_vectored_at(&mut iovecs, offset)
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
    fn a_read_anywhere_gives_the_bytes_of_the_extents(
        parts in prop::collection::vec(part(), 1..12), reads in prop::collection::vec((0u64..3000, 1u32..2000), 1..20),
    ) {
        let flat: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let extents = parts.into_iter().map(|(content, bytes)| (bytes.len() as u64, content)).collect();
        let disk = CompositeDisk::new(in_order(extents)).unwrap();
        prop_assert_eq!(disk.len(), flat.len() as u64);
        let memory = guest_memory();
        for (offset, len) in reads {
            let start = usize::try_from(offset).unwrap();
            match (read(&disk, &memory, offset, len), flat.get(start..start + len as usize)) {
                (Ok(bytes), Some(expected)) => prop_assert_eq!(bytes, expected),
                (Err(DiskError::OutOfRange { .. }), None) => {}
                (result, expected) => prop_assert!(false, "{result:?} but {expected:?}"),
            }
        }
    }

    #[test]
    fn a_write_changes_files_within_their_extents_only(
        parts in prop::collection::vec(part(), 1..8), writes in prop::collection::vec((0u64..2000, prop::collection::vec(any::<u8>(), 1..500)), 1..8),
    ) {
        // Each byte that a write may reach, by its place on the disk: the file and the place in it.
        let mut flat = vec![];
        let mut files = vec![];
        for (content, bytes) in &parts {
            if let Content::File { file, offset, .. } = content {
                let offset = usize::try_from(*offset).unwrap();
                flat.extend((0..bytes.len()).map(|i| Some((files.len(), offset + i))));
                files.push((Arc::clone(file), contents_of(file)));
            } else {
                flat.extend(bytes.iter().map(|_| None));
            }
        }
        let extents = parts.into_iter().map(|(content, bytes)| (bytes.len() as u64, content)).collect();
        let disk = CompositeDisk::new(in_order(extents)).unwrap();
        let memory = guest_memory();
        for (offset, bytes) in writes {
            let start = usize::try_from(offset).unwrap();
            let places: Vec<_> = (start..start + bytes.len()).map(|i| flat.get(i).copied().flatten()).collect();
            let result = write(&disk, &memory, offset, &bytes);
            prop_assert_eq!(result.is_ok(), places.iter().all(Option::is_some), "{:?}", result);
            // What lies before the first byte that cannot be written may have been.
            let first_bad = places.iter().position(Option::is_none).unwrap_or(places.len());
            for (place, byte) in places.iter().zip(&bytes).take(first_bad) {
                let (file, at) = place.unwrap();
                files[file].1[at] = *byte;
            }
        }
        disk.flush().unwrap();
        for (file, expected) in &files {
            prop_assert_eq!(&contents_of(file), expected);
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
fn a_file_cut_short_under_the_disk_is_a_host_error() {
    let file = file_of(&[1; 1024]);
    let disk = CompositeDisk::from_file(Arc::clone(&file), 1024, false).unwrap();
    let memory = guest_memory();
    assert_eq!(read(&disk, &memory, 512, 512).unwrap(), [1; 512]);
    file.set_len(700).unwrap();
    let error = read(&disk, &memory, 512, 512).unwrap_err();
    assert!(matches!(error, DiskError::Host(e) if e.kind() == ErrorKind::UnexpectedEof));
    assert_eq!(read(&disk, &memory, 0, 512).unwrap(), [1; 512]);
}

#[test]
fn a_part_that_is_not_writable_says_where() {
    let file = file_of(&[1; 512]);
    let part = |writable| Content::File { file: Arc::clone(&file), offset: 0, writable };
    let disk = CompositeDisk::new(in_order(vec![(256, part(true)), (256, part(false))])).unwrap();
    let memory = guest_memory();
    write(&disk, &memory, 0, &[2; 256]).unwrap();
    let error = write(&disk, &memory, 200, &[3; 100]).unwrap_err();
    assert!(matches!(error, DiskError::ReadOnly { offset: 256 }), "{error:?}");
    let error = write(&disk, &memory, 300, &[3; 100]).unwrap_err();
    assert!(matches!(error, DiskError::ReadOnly { offset: 300 }), "{error:?}");
}

#[test]
fn each_writable_file_is_flushed_once() {
    let file = file_of(&[1; 512]);
    let part = |offset, writable| (256, Content::File { file: Arc::clone(&file), offset, writable });
    let other = (4, Content::File { file: file_of(b"once"), offset: 0, writable: false });
    let disk =
        CompositeDisk::new(in_order(vec![part(0, true), part(256, true), part(0, false), other])).unwrap();
    assert_eq!(disk.writable_files.len(), 1);
    disk.flush().unwrap();
}
