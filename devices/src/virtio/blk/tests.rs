//! The device through its registers and queue, as a driver has it.

use super::*;
use crate::bus::BusDevice;
use crate::virtio::queue::Buffer;
use crate::virtio::testing::{Driver, EVENT_IDX, NEXT, RawDescriptor, WRITE, guest_memory};
use proptest::prelude::*;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_SCSI_CMD,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};

// The values of 5.2.6.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What the status byte is before the device writes it.
const NONE: u8 = 0xaa;
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

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

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256 * 13).to_le_bytes()[0]).collect()
}

fn start(disk: impl Disk + 'static, read_only: bool, features: u64) -> Driver<Block> {
    let mut driver = Driver::new(&guest_memory(), Block::new(disk, "a-disk", read_only).unwrap());
    driver.start(features);
    driver
}

/// A driver of a writable disk that is one file of 8 sectors.
fn writable() -> (Driver<Block>, Arc<File>) {
    let file = file_of(&pattern(4096));
    (start(CompositeDisk::from_file(Arc::clone(&file), 4096, true).unwrap(), false, FLUSH), file)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0x55; 4], &sector.to_le_bytes()].concat()
}

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: u8,
    used: u32,
}

/// Sends one request in buffers of its own, and gives what became of it and of its data.
fn request(
    driver: &mut Driver<Block>,
    kind: u32,
    sector: u64,
    out: &[u8],
    room: usize,
) -> (Outcome, Vec<u8>) {
    let queue = driver.queue(0);
    let mut readable = vec![queue.allocate(&header(kind, sector))];
    let mut writable = vec![];
    if !out.is_empty() {
        readable.push(queue.allocate(out));
    }
    if room > 0 {
        writable.push(queue.allocate(&vec![0; room]));
    }
    writable.push(queue.allocate(&[NONE]));
    let head = queue.add(&readable, &writable);
    driver.kick(0);
    let (id, used) = driver.queue(0).take_used().expect("the request was not answered");
    assert_eq!(id, u32::from(head));
    let status = driver.queue(0).content(*writable.last().unwrap())[0];
    (Outcome { status, used }, driver.queue(0).content(writable[0]))
}

fn read(driver: &mut Driver<Block>, sector: u64, len: usize) -> (Outcome, Vec<u8>) {
    request(driver, VIRTIO_BLK_T_IN, sector, &[], len)
}

fn write(driver: &mut Driver<Block>, sector: u64, data: &[u8]) -> Outcome {
    request(driver, VIRTIO_BLK_T_OUT, sector, data, 0).0
}

fn config(driver: &Driver<Block>, offset: u64, len: usize) -> u64 {
    let mut data = [0; 8];
    driver.transport().read(0x100 + offset, &mut data[..len]);
    u64::from_le_bytes(data)
}

/// A disk of every kind of extent, and its bytes: 40 sectors and a half.
fn composite() -> (CompositeDisk, Vec<u8>) {
    let file = file_of(&pattern(12_000));
    let flat = [
        pattern(1024),
        pattern(12_000)[3000..8120].to_vec(),
        vec![0; 4096],
        pattern(1000),
        pattern(12_000)[..9600].to_vec(),
    ];
    let contents = [
        Content::Bytes(flat[0].clone().into()),
        Content::File { file: Arc::clone(&file), offset: 3000, writable: false },
        Content::Zeros,
        Content::Bytes(flat[3].clone().into()),
        Content::File { file, offset: 0, writable: false },
    ];
    let mut start = 0;
    let mut extents = vec![];
    for (bytes, content) in flat.iter().zip(contents) {
        extents.push(Extent { start, len: bytes.len() as u64, content });
        start += bytes.len() as u64;
    }
    (CompositeDisk::new(extents).unwrap(), flat.concat())
}

#[test]
fn v1_2_5_2_4_the_configuration_is_the_disks() {
    let (disk, flat) = composite();
    let driver = start(disk, true, 0);
    assert_eq!(flat.len(), 40 * 512 + 360);
    assert_eq!(config(&driver, 0, 8), 40, "whole sectors");
    assert_eq!(config(&driver, 12, 4), 254, "a chain of 256 without header and status");
    assert_eq!(config(&driver, 20, 4), 512);
    assert_eq!(config(&driver, 24, 8), 0);
    assert_eq!(config(&driver, u64::from(u32::MAX), 8), 0);
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_FEATURES) & 0x3ff, 1 << 2 | 1 << 5 | 1 << 6, "read-only");
    let (driver, _) = writable();
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_FEATURES) & 0x3ff, 1 << 2 | 1 << 6 | 1 << 9, "with flush");
}

#[test]
fn v1_2_5_2_6_a_composite_read_through_the_queue_is_its_bytes() {
    for sectors in [1, 3, 8, 40] {
        let (disk, flat) = composite();
        let mut driver = start(disk, true, EVENT_IDX);
        let mut got = vec![];
        for sector in (0..40).step_by(sectors) {
            let len = 512 * sectors.min(40 - sector);
            let (outcome, data) = read(&mut driver, sector as u64, len);
            assert_eq!(outcome, Outcome { status: OK, used: u32::try_from(len).unwrap() + 1 });
            got.extend(data);
        }
        assert_eq!(got, flat[..40 * 512]);
    }
}

proptest! {
    /// However a driver cuts its buffers (2.7.4), header, data and status are the same bytes.
    #[test]
    fn v1_2_2_7_4_framing_does_not_matter(
        cuts in prop::collection::vec(1u32..700, 0..12), sector in 0u64..35, sectors in 1usize..6, indirect: bool,
    ) {
        let (disk, flat) = composite();
        let mut driver = start(disk, true, 0);
        let len = 512 * sectors;
        let queue = driver.queue(0);
        let head = queue.allocate(&header(VIRTIO_BLK_T_IN, sector));
        let tail = queue.allocate(&vec![NONE; len + 1]);
        let cut = |mut buffer: Buffer| {
            let mut pieces = vec![];
            for &cut in &cuts {
                if cut < buffer.len {
                    pieces.push(Buffer { addr: buffer.addr, len: cut });
                    buffer = Buffer { addr: vm_memory::GuestAddress(buffer.addr.0 + u64::from(cut)), len: buffer.len - cut };
                }
            }
            pieces.push(buffer);
            pieces
        };
        if indirect {
            queue.add_indirect(&cut(head), &cut(tail));
        } else {
            queue.add(&cut(head), &cut(tail));
        }
        driver.kick(0);
        let used = driver.queue(0).take_used();
        prop_assert_eq!(used, Some((0, u32::try_from(len).unwrap() + 1)));
        let start = usize::try_from(sector).unwrap() * 512;
        let data = driver.queue(0).content(tail);
        prop_assert_eq!(&data[..len], &flat[start..start + len]);
        prop_assert_eq!(data[len], OK);
    }

    /// Any chain of any bytes: answered once with a status, or the device needs a reset; never a panic, and
    /// the disk is as long as it was.
    #[test]
    fn hostile_chains_are_answered_or_end_the_device(
        descriptors in prop::collection::vec((0u64..0x2_0000, 0u32..2000, any::<bool>()), 1..6),
        kind in prop_oneof![0u32..16, any::<u32>()], sector in prop_oneof![0u64..10, any::<u64>()],
    ) {
        let (mut driver, file) = writable();
        let queue = driver.queue(0);
        let head = queue.allocate(&header(kind, sector));
        queue.set_descriptor(0, RawDescriptor { addr: head.addr.0, len: head.len, flags: NEXT, next: 1 });
        for (index, &(addr, len, is_writable)) in (1u16..).zip(&descriptors) {
            let more = if usize::from(index) < descriptors.len() { NEXT } else { 0 };
            let flags = more | if is_writable { WRITE } else { 0 };
            // Buffers of the arena's free part, so that the rings stay what they are.
            let addr = queue.descriptor_area() + 0x80000 + addr;
            queue.set_descriptor(index, RawDescriptor { addr, len, flags, next: index + 1 });
        }
        queue.publish(0);
        driver.kick(0);
        let needs_reset = driver.read(VIRTIO_MMIO_STATUS) & 64 != 0;
        prop_assert_eq!(driver.queue(0).take_used().is_some(), !needs_reset);
        prop_assert_eq!(driver.queue(0).take_used(), None);
        prop_assert_eq!(file.metadata().unwrap().len(), 4096);
    }
}

#[test]
fn v1_2_5_2_6_what_is_written_is_on_the_disk() {
    let (mut driver, file) = writable();
    let mut expected = pattern(4096);
    expected[1024..2048].fill(0x77);
    assert_eq!(write(&mut driver, 2, &[0x77; 1024]), Outcome { status: OK, used: 1 });
    assert_eq!(contents_of(&file), expected);
    let (outcome, data) = read(&mut driver, 0, 4096);
    assert_eq!((outcome.status, data), (OK, expected));
    let (outcome, _) = request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[], 0);
    assert_eq!(outcome, Outcome { status: OK, used: 1 });
}

#[test]
fn requests_that_no_disk_of_this_length_has_are_io_errors() {
    let (mut driver, file) = writable();
    let past = [(8, 512), (7, 1024), (9, 512), (u64::MAX, 512), (1 << 55, 512), (u64::MAX / 512, 512)];
    for (sector, len) in past {
        let (outcome, data) = read(&mut driver, sector, len);
        assert_eq!(outcome, Outcome { status: IOERR, used: 0 }, "{sector}");
        assert_eq!(data, vec![0; len]);
        assert_eq!(write(&mut driver, sector, &vec![1; len]), Outcome { status: IOERR, used: 1 });
    }
    for len in [1, 511, 513] {
        assert_eq!(read(&mut driver, 0, len).0.status, IOERR, "{len} bytes are not whole sectors (5.2.6.1)");
        assert_eq!(write(&mut driver, 0, &vec![1; len]).status, IOERR);
    }
    assert_eq!(read(&mut driver, 8, 0).0, Outcome { status: OK, used: 1 }, "nothing, at the end");
    assert_eq!(contents_of(&file), pattern(4096));
}

#[test]
fn v1_2_5_2_6_2_a_read_only_disk_is_not_written() {
    let file = file_of(&pattern(4096));
    let disk = CompositeDisk::from_file(Arc::clone(&file), 4096, true).unwrap();
    let mut driver = start(disk, true, 0);
    assert_eq!(write(&mut driver, 0, &[1; 512]), Outcome { status: IOERR, used: 1 });
    assert_eq!(contents_of(&file), pattern(4096));

    let (disk, flat) = composite();
    let mut driver = start(disk, false, FLUSH);
    for sector in 0..40 {
        assert_eq!(write(&mut driver, sector, &[1; 512]).status, IOERR, "no extent is writable");
    }
    assert_eq!(read(&mut driver, 0, 40 * 512).1, flat[..40 * 512]);
}

#[test]
fn v1_2_5_2_6_other_types_are_unsupported() {
    let (mut driver, _) = writable();
    for kind in [VIRTIO_BLK_T_SCSI_CMD, VIRTIO_BLK_T_DISCARD, 3, 9, u32::MAX] {
        let (outcome, data) = request(&mut driver, kind, 0, &[1; 512], 512);
        assert_eq!(outcome, Outcome { status: UNSUPP, used: 0 }, "{kind}");
        assert_eq!(data, [0; 512]);
        assert_eq!(request(&mut driver, kind, 0, &[], 0).0, Outcome { status: UNSUPP, used: 1 });
    }
}

#[test]
fn v1_2_5_2_6_the_id_is_as_much_as_fits() {
    let (mut driver, _) = writable();
    let id = b"a-disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let (outcome, data) = request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], 20);
    assert_eq!((outcome, &data[..]), (Outcome { status: OK, used: 21 }, &id[..]));
    let (outcome, data) = request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], 4);
    assert_eq!((outcome, &data[..]), (Outcome { status: OK, used: 5 }, &id[..4]));
    for room in [21, 30] {
        let (outcome, data) = request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], room);
        assert_eq!((outcome, &data[..20]), (Outcome { status: OK, used: 20 }, &id[..]));
    }

    let disk = CompositeDisk::from_file(file_of(&[0; 512]), 512, true).unwrap();
    let block = Block::new(disk, "a name of more than twenty bytes", false).unwrap();
    let mut driver = Driver::new(&guest_memory(), block);
    driver.start(0);
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], 20).1, b"a name of more than ");
}

#[test]
fn a_file_cut_short_under_the_vm_is_an_io_error_and_the_device_lives() {
    let (mut driver, file) = writable();
    file.set_len(1000).unwrap();
    for _ in 0..3 {
        assert_eq!(read(&mut driver, 1, 1024).0, Outcome { status: IOERR, used: 0 });
    }
    assert_eq!(read(&mut driver, 0, 512).0.status, OK);
    assert!(driver.device().lock().unwrap().backend.reported);
}

#[test]
fn a_request_without_room_for_a_status_or_a_header_needs_a_reset() {
    type Offer<'a> = &'a dyn Fn(&mut Driver<Block>);
    let chains: [Offer<'_>; 3] = [
        &|driver| {
            let head = driver.queue(0).allocate(&header(VIRTIO_BLK_T_FLUSH, 0));
            driver.queue(0).add(&[head], &[]);
        },
        &|driver| {
            let status = driver.queue(0).allocate(&[NONE]);
            driver.queue(0).add(&[], &[status]);
        },
        &|driver| {
            let short = driver.queue(0).allocate(&header(VIRTIO_BLK_T_FLUSH, 0)[..15]);
            let status = driver.queue(0).allocate(&[NONE]);
            driver.queue(0).add(&[short], &[status]);
        },
    ];
    for chain in chains {
        let (mut driver, _) = writable();
        chain(&mut driver);
        driver.kick(0);
        assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15 | 64);
        assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 2);
        assert_eq!(driver.queue(0).take_used(), None);
    }
}

#[test]
fn v1_2_2_1_a_reset_in_the_middle_forgets_what_was_asked() {
    let (mut driver, file) = writable();
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_OUT, 0));
    let data = queue.allocate(&[1; 512]);
    let status = queue.allocate(&[NONE]);
    queue.add(&[head, data], &[status]);
    driver.transport().kicks()[0].write(1).unwrap();
    driver.reset();
    driver.run();
    assert_eq!(driver.queue(0).used_idx(), 0);
    assert_eq!(driver.queue(0).content(status), [NONE]);
    assert_eq!(contents_of(&file), pattern(4096));

    // The driver starts over with fresh rings.
    let mut again = Driver::new(&guest_memory(), Block::new(composite().0, "", true).unwrap());
    again.start(0);
    again.reset();
    again.start(EVENT_IDX);
    assert_eq!(read(&mut again, 0, 512).1, pattern(512));
}

#[test]
fn v1_2_2_7_7_a_batch_is_one_interrupt_and_event_idx_can_defer_it() {
    let (disk, _) = composite();
    let mut driver = start(disk, true, EVENT_IDX);
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_IN, 0));
    let data = queue.allocate(&[0; 512]);
    let status = queue.allocate(&[NONE]);
    let add = |driver: &mut Driver<Block>, count: usize| {
        for _ in 0..count {
            driver.queue(0).add(&[head], &[data, status]);
        }
        driver.kick(0);
    };
    add(&mut driver, 32);
    assert_eq!(driver.take_interrupts(), 1);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    driver.queue(0).set_used_event(40);
    add(&mut driver, 8);
    assert_eq!(driver.take_interrupts(), 0, "the 41st was asked for");
    add(&mut driver, 1);
    assert_eq!(driver.take_interrupts(), 1);
    assert_eq!(driver.queue(0).used_idx(), 41);
    assert_eq!(driver.queue(0).avail_event(), 41, "a kick for the next");
}

#[test]
fn more_requests_than_one_turn_serves_are_all_served() {
    let (mut driver, _) = writable();
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_FLUSH, 0));
    let status = queue.allocate(&[NONE]);
    for _ in 0..QUEUE_SIZE {
        queue.add_indirect(&[head], &[status]);
    }
    driver.kick(0);
    assert_eq!(driver.queue(0).used_idx(), QUEUE_SIZE);
    assert_eq!(driver.take_interrupts(), u64::from(QUEUE_SIZE / BATCH));
}

/// A disk that tells in which order it was used.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<&'static str>>>, Arc<AtomicUsize>);

impl Disk for Journal {
    fn len(&self) -> u64 {
        4096
    }
    fn read_vectored_at(&self, to: &mut iovec::GuestIovecs<'_>, _: u64) -> Result<(), DiskError> {
        self.0.lock().unwrap().push("read");
        Ok(to.zero(to.len())?)
    }
    fn write_vectored_at(&self, _: &mut iovec::GuestIovecs<'_>, _: u64) -> Result<(), DiskError> {
        self.0.lock().unwrap().push("write");
        Ok(())
    }
    fn flush(&self) -> Result<(), DiskError> {
        self.0.lock().unwrap().push("flush");
        match self.1.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(DiskError::Host(io::Error::from_raw_os_error(libc::EIO))),
        }
    }
}

#[test]
fn v1_2_5_2_6_2_without_flush_every_write_is_durable_when_it_completes() {
    for (features, expected) in [(FLUSH, vec!["write"]), (0, vec!["write", "flush"])] {
        let journal = Journal::default();
        let mut driver = start(journal.clone(), false, features);
        assert_eq!(write(&mut driver, 0, &[1; 512]).status, OK);
        assert_eq!(*journal.0.lock().unwrap(), expected);
        read(&mut driver, 0, 512);
        assert_eq!(journal.0.lock().unwrap().last(), Some(&"read"));
        driver.device().lock().unwrap().flush().unwrap();
        assert_eq!(journal.0.lock().unwrap().last(), Some(&"flush"));
    }
}

#[test]
fn a_flush_that_fails_is_an_io_error() {
    for (features, kind, data) in [(FLUSH, VIRTIO_BLK_T_FLUSH, &[][..]), (0, VIRTIO_BLK_T_OUT, &[1; 512][..])]
    {
        let journal = Journal::default();
        let mut driver = start(journal.clone(), false, features);
        journal.1.store(1, Ordering::Relaxed);
        assert_eq!(request(&mut driver, kind, 0, data, 0).0.status, IOERR);
        journal.1.store(0, Ordering::Relaxed);
        assert_eq!(request(&mut driver, kind, 0, data, 0).0.status, OK);
    }
}
