use super::*;
use crate::virtio::testing::guest_memory;
use proptest::prelude::*;
use std::io::{Read, Write};
use vm_memory::GuestAddress;

/// Buffers of these lengths, 64 bytes apart.
fn layout(lens: &[u32]) -> Vec<Buffer> {
    let addrs = (0x1000u64..).step_by(64);
    lens.iter().zip(addrs).map(|(&len, addr)| Buffer { addr: GuestAddress(addr), len }).collect()
}

fn contents(memory: &GuestMemoryMmap, buffers: &[Buffer]) -> Vec<u8> {
    let read = |b: &Buffer| {
        let mut bytes = vec![0; b.len as usize];
        memory.read_slice(&mut bytes, b.addr).unwrap();
        bytes
    };
    buffers.iter().flat_map(read).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u64),
    Zero(u64),
    Copy(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..100, 0u64..60).prop_map(|(offset, count)| Step::Read(offset, count)),
        (0u64..60).prop_map(Step::Zero),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(Step::Copy),
    ]
}

proptest! {
    /// Any sequence of fills puts the bytes where a flat buffer would have them, and nothing elsewhere.
    #[test]
    fn fills_follow_each_other(
        lens in prop::collection::vec(1u32..64, 1..8), steps in prop::collection::vec(step(), 0..8),
    ) {
        let bytes: Vec<u8> = (0..200).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let memory = guest_memory();
        memory.write_slice(&[0xee; 0x1000], GuestAddress(0x1000)).unwrap();
        let buffers = layout(&lens);
        let mut storage = IovecStorage::default();
        let mut iovecs = storage.gather(&memory, buffers.iter().copied(), Permissions::Write).unwrap();
        let mut model = vec![0xee; lens.iter().map(|&l| l as usize).sum()];
        let mut at = 0;
        for step in steps {
            let (source, result) = match &step {
                Step::Read(offset, count) => {
                    let range = usize::try_from(*offset).unwrap()..usize::try_from(offset + count).unwrap();
                    (bytes[range].to_vec(), iovecs.read_from(&file, *offset, *count))
                }
                Step::Zero(count) => (vec![0; usize::try_from(*count).unwrap()], iovecs.zero(*count)),
                Step::Copy(bytes) => (bytes.clone(), iovecs.copy_from(bytes)),
            };
            if at + source.len() > model.len() {
                prop_assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
                break;
            }
            result.unwrap();
            model[at..at + source.len()].copy_from_slice(&source);
            at += source.len();
            prop_assert_eq!(iovecs.len(), (model.len() - at) as u64);
        }
        prop_assert_eq!(contents(&memory, &buffers), model);
        for buffer in &buffers {
            let gap = Buffer { addr: GuestAddress(buffer.addr.0 + u64::from(buffer.len)), len: 64 - buffer.len };
            prop_assert!(contents(&memory, &[gap]).iter().all(|&b| b == 0xee), "written outside of a buffer");
        }
    }

    #[test]
    fn writes_follow_each_other(
        lens in prop::collection::vec(1u32..64, 1..8), counts in prop::collection::vec(1u64..60, 0..8),
    ) {
        let memory = guest_memory();
        let buffers = layout(&lens);
        for (i, buffer) in (0u8..).zip(&buffers) {
            memory.write_slice(&vec![i; buffer.len as usize], buffer.addr).unwrap();
        }
        let flat = contents(&memory, &buffers);
        let mut file = tempfile::tempfile().unwrap();
        let mut storage = IovecStorage::default();
        let mut iovecs = storage.gather(&memory, buffers.iter().copied(), Permissions::Read).unwrap();
        let mut at = 0;
        for count in counts {
            let fits = count <= iovecs.len();
            prop_assert_eq!(iovecs.write_to(&file, at, count).is_ok(), fits);
            at += if fits { count } else { 0 };
        }
        let mut written = vec![];
        file.read_to_end(&mut written).unwrap();
        prop_assert_eq!(&written[..], &flat[..usize::try_from(at).unwrap()]);
    }
}

#[test]
fn more_iovecs_than_the_kernel_takes_are_several_calls() {
    let memory = guest_memory();
    let bytes: Vec<u8> = (0..2500u32).map(|i| i.to_le_bytes()[0]).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let buffers: Vec<Buffer> =
        (0..2500).map(|i| Buffer { addr: GuestAddress(0x1000 + 2 * i), len: 1 }).collect();
    let mut storage = IovecStorage::default();
    let mut iovecs = storage.gather(&memory, buffers.iter().copied(), Permissions::Write).unwrap();
    iovecs.read_from(&file, 0, 2500).unwrap();
    assert!(iovecs.is_empty());
    assert_eq!(contents(&memory, &buffers), bytes);
}

#[test]
fn a_file_that_ends_too_early_is_an_error() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[1; 100]).unwrap();
    let memory = guest_memory();
    let mut storage = IovecStorage::default();
    let buffers = layout(&[64, 64]);
    let mut iovecs = storage.gather(&memory, buffers.into_iter(), Permissions::Write).unwrap();
    assert_eq!(iovecs.read_from(&file, 0, 128).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn an_offset_that_no_file_has_is_an_error() {
    let file = tempfile::tempfile().unwrap();
    let memory = guest_memory();
    let mut storage = IovecStorage::default();
    let mut iovecs = storage.gather(&memory, layout(&[8]).into_iter(), Permissions::Read).unwrap();
    assert_eq!(iovecs.write_to(&file, u64::MAX, 8).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn buffers_may_span_regions_but_not_holes() {
    let page = 4096;
    let memory = GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0), page),
        (GuestAddress(4096), page),
        (GuestAddress(0x10000), page),
    ])
    .unwrap();
    let mut storage = IovecStorage::default();
    let across = Buffer { addr: GuestAddress(4000), len: 200 };
    let mut iovecs = storage.gather(&memory, [across].into_iter(), Permissions::Write).unwrap();
    iovecs.copy_from(&[7; 200]).unwrap();
    assert_eq!(contents(&memory, &[across]), [7; 200]);
    let out = Buffer { addr: GuestAddress(8000), len: 200 };
    assert!(storage.gather(&memory, [out].into_iter(), Permissions::Write).is_err());
}
