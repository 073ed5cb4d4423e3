//! The device through its registers and queue, as a driver has it.

use super::*;
use crate::bus::BusDevice;
use crate::virtio::queue::Buffer;
use crate::virtio::testing::{Driver, EVENT_IDX, NEXT, RawDescriptor, WRITE, guest_memory};
use proptest::prelude::*;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::{Duration, Instant};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_SCSI_CMD, VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_STATUS,
};

// The values of 5.2.6.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What the status byte is before the device writes it.
const NONE: u8 = 0xaa;
/// The fixture's queues.
const SIZE: u16 = 256;
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

fn start(disk: CompositeDisk, read_only: bool, features: u64) -> Driver<Block> {
    let mut driver = Driver::new(&guest_memory(), Block::new(disk, "a-disk", read_only).unwrap());
    driver.start(features);
    driver
}

/// How requests are served: by whom, and whether all of them.
#[derive(Clone, Copy, Debug)]
struct How(EngineChoice, bool);

/// Every way there is on this host.
const WAYS: [How; 5] = [
    How(EngineChoice::Sync, false),
    How(EngineChoice::IoUring, false),
    How(EngineChoice::IoUring, true),
    How(EngineChoice::Threads, false),
    How(EngineChoice::Threads, true),
];

/// A driver of a disk that is served in this way; none, loudly, where the kernel has no io_uring.
fn start_as(
    How(engine, defer): How,
    disk: CompositeDisk,
    queues: u16,
    features: u64,
) -> Option<Driver<Block>> {
    let spec = BlockSpec { id: "a-disk".to_owned(), read_only: false, queues, engine };
    let mut block = match Block::with(disk, &spec) {
        Ok(block) => block,
        Err(e) => {
            assert_eq!(engine, EngineChoice::IoUring, "{e}");
            let line = format!("kapsel-skip: blk::tests io_uring: {e}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
    };
    if defer {
        block.defer_all();
    }
    let mut driver = Driver::new(&guest_memory(), block);
    driver.start(features);
    Some(driver)
}

/// Lets the device work until no request is under way.
fn settle(driver: &mut Driver<Block>) {
    driver.run();
    while driver.device().lock().unwrap().under_way() > 0 {
        driver.wait();
    }
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
    settle(driver);
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
    assert_eq!(config(&driver, 57, 8), 0);
    assert_eq!(config(&driver, u64::from(u32::MAX), 8), 0);
    assert_eq!(
        (config(&driver, 24, 1), config(&driver, 26, 2)),
        (3, 8),
        "blocks of 4 KiB behind those of 512"
    );
    assert_eq!((config(&driver, 34, 2), config(&driver, 36, 8)), (1, 0), "one queue, nothing to discard");
    let both = 1 << 2 | 1 << 6 | 1 << 10;
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_FEATURES) & 0xffff, both | 1 << 5, "read-only");
    let (driver, _) = writable();
    let features = driver.read(VIRTIO_MMIO_DEVICE_FEATURES) & 0xffff;
    assert_eq!(features, both | 1 << 9 | 1 << 13 | 1 << 14, "flush, discard, write zeroes");
    assert_eq!([36, 40, 44, 48, 52].map(|at| config(&driver, at, 4)), [1 << 21, 16, 8, 1 << 17, 16]);
    assert_eq!(config(&driver, 56, 4), 1, "zeroes may unmap");
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
        cuts in prop::collection::vec(1u32..700, 0..12), sector in 0u64..35, sectors in 1usize..6,
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
        queue.add(&cut(head), &cut(tail));
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
        settle(&mut driver);
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
    for kind in [VIRTIO_BLK_T_SCSI_CMD, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, 3, 9, u32::MAX] {
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
    let mut block = driver.device().lock().unwrap();
    assert_eq!(block.server.errors.admit(Instant::now()), None, "the log has had its line");
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
    let disk = CompositeDisk::from_file(file_of(&pattern(4096)), 4096, true).unwrap();
    let mut driver = start_as(WAYS[0], disk, 1, FLUSH).unwrap();
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_FLUSH, 0));
    let status = queue.allocate(&[NONE]);
    let index = queue.add(&[head], &[status]);
    for _ in 1..SIZE {
        queue.publish(index);
    }
    driver.kick(0);
    assert_eq!(driver.queue(0).used_idx(), SIZE);
    assert_eq!(driver.take_interrupts(), u64::from(SIZE / BATCH));
}

/// A driver of a disk of 1 MiB in memory.
fn in_memory() -> (Driver<Block>, File) {
    // SAFETY: the name is a string that ends with zero; the call gives a new descriptor, or -1, which is none.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&pattern(1 << 20)).unwrap();
    let disk = CompositeDisk::from_file(Arc::new(file.try_clone().unwrap()), 1 << 20, true).unwrap();
    (start(disk, false, FLUSH), file)
}

/// Offers a request in buffers of its own; gives its data and its status.
fn offer_transfer(driver: &mut Driver<Block>, kind: u32, sector: u64, len: usize) -> (Buffer, Buffer) {
    let queue = driver.queue(0);
    let head = queue.allocate(&header(kind, sector));
    let (data, status) = (queue.allocate(&vec![0x11; len]), queue.allocate(&[NONE]));
    if kind == VIRTIO_BLK_T_IN {
        queue.add(&[head], &[data, status]);
    } else {
        queue.add(&[head, data], &[status]);
    }
    (data, status)
}

#[test]
fn a_file_in_memory_is_served_while_the_driver_notifies() {
    let (mut driver, file) = in_memory();
    let (data, status) = offer_transfer(&mut driver, VIRTIO_BLK_T_IN, 3, 4096);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).take_used(), Some((0, 4097)));
    assert_eq!(driver.queue(0).content(data), pattern(1 << 20)[3 * 512..][..4096]);
    assert_eq!(driver.queue(0).content(status), [OK]);
    offer_transfer(&mut driver, VIRTIO_BLK_T_OUT, 1, 1024);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).take_used(), Some((3, 1)));
    assert_eq!(contents_of(&file)[512..1536], [0x11; 1024]);
    assert_eq!(driver.take_interrupts(), 2);
}

#[test]
fn what_takes_long_is_not_done_while_the_driver_notifies() {
    let (mut driver, _) = in_memory();
    // Two fit in a moment, the third does not, and what comes after it waits its turn.
    for len in [128 << 10, 128 << 10, 512, 512] {
        offer_transfer(&mut driver, VIRTIO_BLK_T_IN, 0, len);
    }
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).used_idx(), 2);
    driver.run();
    assert_eq!(driver.queue(0).used_idx(), 4);
    let queue = driver.queue(0);
    let (head, status) = (queue.allocate(&header(VIRTIO_BLK_T_FLUSH, 0)), queue.allocate(&[NONE]));
    queue.add(&[head], &[status]);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).used_idx(), 4, "a flush may take any time");
    driver.run();
    assert_eq!((driver.queue(0).used_idx(), driver.queue(0).content(status)), (5, vec![OK]));
}

#[test]
fn a_notification_does_not_wait_for_the_thread_that_has_the_device() {
    let (mut driver, _) = in_memory();
    offer_transfer(&mut driver, VIRTIO_BLK_T_IN, 0, 512);
    let device = Arc::clone(driver.device());
    let held = device.lock().unwrap();
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).used_idx(), 0);
    drop(held);
    driver.run();
    assert_eq!(driver.queue(0).used_idx(), 1);
}

#[test]
fn a_file_on_a_device_is_not_read_by_the_vcpu() {
    // The executable lies in no file system that is memory; where it does, there is nothing to see here.
    let file = Arc::new(File::open(std::env::current_exe().unwrap()).unwrap());
    let disk = CompositeDisk::from_file(file, 4096, false).unwrap();
    let in_memory = disk.files()[0].is_in_memory();
    let block = Block::new(disk, "", true).unwrap();
    assert_eq!(block.serves_at_once(0), in_memory);
}

#[test]
fn v1_2_2_7_5_3_1_an_indirect_table_that_was_not_negotiated_needs_a_reset() {
    let (mut driver, _) = writable();
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_FLUSH, 0));
    let status = queue.allocate(&[NONE]);
    queue.add_indirect(&[head], &[status]);
    driver.kick(0);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS) & 64, 64);
    assert_eq!(driver.queue(0).take_used(), None);
}

/// A part of a disk that may be written, or not, and its bytes.
fn part() -> impl Strategy<Value = (Content, Vec<u8>)> {
    let bytes = prop::collection::vec(any::<u8>(), 1..3000);
    prop_oneof![
        bytes.clone().prop_map(|b| (Content::Bytes(b.clone().into()), b)),
        (1usize..3000).prop_map(|len| (Content::Zeros, vec![0; len])),
        (bytes.clone(), 0usize..50).prop_map(|(b, offset)| {
            let file = file_of(&[vec![0xee; offset], b.clone(), vec![0xee; 20]].concat());
            (Content::File { file, offset: offset as u64, writable: true }, b)
        }),
        (bytes, 0usize..50).prop_map(|(b, offset)| {
            let file = file_of(&[vec![0xee; offset], b.clone()].concat());
            (Content::File { file, offset: offset as u64, writable: false }, b)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any reads and writes, several at a time, over any extents, served in any way: as on a flat disk.
    #[test]
    fn v1_2_5_2_6_random_requests_over_random_extents_are_those_of_a_flat_disk(
        parts in prop::collection::vec(part(), 1..12), way in 0usize..5,
        requests in prop::collection::vec((0u64..24, 1usize..8, any::<bool>(), any::<u8>()), 1..16),
    ) {
        // The flat disk: each byte, and whether it may be written.
        let mut flat = vec![];
        for (content, bytes) in &parts {
            let writable = matches!(content, Content::File { writable: true, .. });
            flat.extend(bytes.iter().map(|&byte| (byte, writable)));
        }
        let mut start = 0;
        let mut extents = vec![];
        for (content, bytes) in parts {
            extents.push(Extent { start, len: bytes.len() as u64, content });
            start += bytes.len() as u64;
        }
        let Some(mut driver) = start_as(WAYS[way], CompositeDisk::new(extents).unwrap(), 1, FLUSH) else { return Ok(()) };
        let capacity = flat.len() / 512 * 512;
        for (sector, sectors, is_write, seed) in requests {
            let begin = usize::try_from(sector).unwrap() * 512;
            let range = begin..begin + 512 * sectors;
            let on_disk = range.end <= capacity;
            if is_write {
                let data: Vec<u8> = pattern(512 * sectors).iter().map(|b| b ^ seed).collect();
                let status = write(&mut driver, sector, &data).status;
                let first_bad = range.clone().find(|&at| !on_disk || !flat[at].1);
                prop_assert_eq!(status, if first_bad.is_none() { OK } else { IOERR });
                // What lies before the first byte that cannot be written was.
                let until = if on_disk { first_bad.unwrap_or(range.end) } else { begin };
                for at in begin..until {
                    flat[at].0 = data[at - begin];
                }
            } else {
                let (outcome, data) = read(&mut driver, sector, 512 * sectors);
                prop_assert_eq!(outcome.status, if on_disk { OK } else { IOERR });
                if on_disk {
                    let expected: Vec<u8> = flat[range].iter().map(|pair| pair.0).collect();
                    prop_assert_eq!(data, expected);
                }
            }
        }
        // And all of it at once, in as many requests as there are sectors, each its own.
        let queue = driver.queue(0);
        let mut buffers = vec![];
        for sector in 0..capacity / 512 {
            let head = queue.allocate(&header(VIRTIO_BLK_T_IN, sector as u64));
            let tail = queue.allocate(&[NONE; 513]);
            queue.add(&[head], &[tail]);
            buffers.push(tail);
        }
        driver.kick(0);
        settle(&mut driver);
        for (buffer, expected) in buffers.into_iter().zip(flat.chunks_exact(512)) {
            let data = driver.queue(0).content(buffer);
            prop_assert_eq!(data[512], OK);
            prop_assert!(data.iter().zip(expected).all(|(byte, pair)| *byte == pair.0));
        }
    }
}

fn ranges(ranges: &[(u64, u32, u32)]) -> Vec<u8> {
    let bytes = |&(sector, count, flags): &(u64, u32, u32)| {
        [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    ranges.iter().flat_map(bytes).collect()
}

const ALL: u64 = FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

#[test]
fn v1_2_5_2_6_2_zeroes_are_read_where_they_were_written_and_nowhere_else() {
    for how in WAYS {
        for unmap in [0, 1] {
            let file = file_of(&pattern(64 * 512));
            let disk = CompositeDisk::from_file(Arc::clone(&file), 64 * 512, true).unwrap();
            let Some(mut driver) = start_as(how, disk, 1, ALL) else { continue };
            let data = ranges(&[(3, 5, unmap), (10, 0, 0), (20, 33, unmap)]);
            let (outcome, _) = request(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, &data, 0);
            assert_eq!(outcome, Outcome { status: OK, used: 1 }, "{how:?}");
            let mut expected = pattern(64 * 512);
            expected[3 * 512..8 * 512].fill(0);
            expected[20 * 512..53 * 512].fill(0);
            assert_eq!(contents_of(&file), expected, "{how:?} {unmap}");
        }
    }
}

#[test]
fn v1_2_5_2_6_2_a_discard_leaves_the_rest_of_the_disk_alone() {
    for how in WAYS {
        let file = file_of(&pattern(64 * 512));
        let disk = CompositeDisk::from_file(Arc::clone(&file), 64 * 512, true).unwrap();
        let Some(mut driver) = start_as(how, disk, 1, ALL) else { continue };
        let data = ranges(&[(8, 16, 0), (63, 1, 0)]);
        assert_eq!(request(&mut driver, VIRTIO_BLK_T_DISCARD, 0, &data, 0).0.status, OK, "{how:?}");
        let (got, expected) = (contents_of(&file), pattern(64 * 512));
        assert_eq!(got[..8 * 512], expected[..8 * 512]);
        assert_eq!(got[24 * 512..63 * 512], expected[24 * 512..63 * 512]);
        assert_eq!(got.len(), expected.len(), "the file is as long as it was");
    }
}

#[test]
fn v1_2_5_2_6_2_ranges_are_checked() {
    let (driver, file) = writable();
    drop(driver);
    let mut driver = start(CompositeDisk::from_file(Arc::clone(&file), 4096, true).unwrap(), false, ALL);
    let mut status = |kind, data: &[u8]| request(&mut driver, kind, 0, data, 0).0.status;
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(status(kind, &ranges(&[(0, 1, 2)])), UNSUPP, "an unknown flag");
        for bad in [
            (8, 1, 0),
            (0, 9, 0),
            (u64::MAX, 1, 0),
            (u64::MAX / 512, 1, 0),
            (1 << 55, 1, 0),
            (0, u32::MAX, 0),
        ] {
            assert_eq!(status(kind, &ranges(&[bad])), IOERR, "{bad:?}");
            assert_eq!(status(kind, &ranges(&[(0, 1, 0), bad])), IOERR, "{bad:?} after a good one");
        }
        assert_eq!(status(kind, &ranges(&[(0, 0, 0); 17])), IOERR, "more ranges than were offered");
        for data in [&[][..], &ranges(&[(0, 1, 0)])[..15], &[0; 17]] {
            assert_eq!(status(kind, data), IOERR, "{} bytes", data.len());
        }
        assert_eq!(status(kind, &ranges(&[(0, 0, 0); 16])), OK, "as many as were offered, of nothing");
    }
    assert_eq!(status(VIRTIO_BLK_T_DISCARD, &ranges(&[(0, 1, 1)])), UNSUPP, "unmap is not for a discard");
    assert_eq!(contents_of(&file), pattern(4096));

    let (disk, _) = composite();
    let mut driver = start(disk, false, ALL);
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let (outcome, _) = request(&mut driver, kind, 0, &ranges(&[(0, 4, 0)]), 0);
        assert_eq!(outcome.status, IOERR, "no extent is writable");
    }
}

/// A device of the host as a disk.
fn device(path: &str) -> CompositeDisk {
    let file = File::options().read(true).write(true).open(path).unwrap();
    CompositeDisk::from_file(Arc::new(file), 4096, true).unwrap()
}

#[test]
fn the_hosts_errors_are_io_errors_and_the_device_lives() {
    for how in WAYS {
        let Some(mut driver) = start_as(how, device("/dev/full"), 1, ALL) else { continue };
        for _ in 0..3 {
            assert_eq!(write(&mut driver, 0, &[1; 512]).status, IOERR, "{how:?}: no space");
            let zeroes = ranges(&[(0, 1, 0)]);
            assert_eq!(request(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, &zeroes, 0).0.status, IOERR);
            assert_eq!(read(&mut driver, 0, 512).0.status, OK);
        }
        let file = file_of(&pattern(1000));
        let Some(mut driver) = start_as(how, CompositeDisk::from_file(file, 4096, true).unwrap(), 1, ALL)
        else {
            continue;
        };
        assert_eq!(read(&mut driver, 1, 1024).0, Outcome { status: IOERR, used: 0 }, "{how:?}: cut short");
        assert_eq!(read(&mut driver, 0, 512).0.status, OK);
        // Address 0 of this process is nothing that can be read: EIO.
        let file = Arc::new(File::open("/proc/self/mem").unwrap());
        let Some(mut driver) = start_as(how, CompositeDisk::from_file(file, 4096, false).unwrap(), 1, ALL)
        else {
            continue;
        };
        assert_eq!(read(&mut driver, 0, 512).0.status, IOERR, "{how:?}: EIO");
    }
}

#[test]
fn v1_2_5_2_6_2_without_flush_every_write_is_durable_when_it_completes() {
    // What is written to /dev/null cannot be made durable, which tells whether it was tried.
    for how in WAYS {
        for (features, expected) in [(ALL, OK), (ALL & !FLUSH, IOERR)] {
            let Some(mut driver) = start_as(how, device("/dev/null"), 1, features) else { continue };
            assert_eq!(write(&mut driver, 0, &[1; 512]).status, expected, "{how:?}");
            assert_eq!(request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[], 0).0.status, IOERR, "{how:?}");
        }
    }
    let block = Block::new(device("/dev/null"), "", false).unwrap();
    block.flush().unwrap_err();
}

/// A disk that is a pipe, which takes what is written only when somebody reads; and its other end. It is full.
fn full_pipe() -> (CompositeDisk, File) {
    let mut ends = [0; 2];
    // SAFETY: the array has room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: both are new and nobody else's.
    let [reader, mut writer] = ends.map(|fd| unsafe { File::from_raw_fd(fd) });
    // SAFETY: a plain number is asked for.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
    writer.write_all(&vec![0; usize::try_from(size).unwrap()]).unwrap();
    (CompositeDisk::from_file(Arc::new(writer), 1 << 20, true).unwrap(), reader)
}

/// Offers a request and does not wait; gives its status byte.
fn offer(driver: &mut Driver<Block>, kind: u32, data: &[u8]) -> Buffer {
    let queue = driver.queue(0);
    let head = queue.allocate(&header(kind, 0));
    let status = queue.allocate(&[NONE]);
    if data.is_empty() {
        queue.add(&[head], &[status]);
    } else {
        let data = queue.allocate(data);
        queue.add(&[head, data], &[status]);
    }
    driver.kick(0);
    status
}

#[test]
fn v1_2_5_2_6_2_a_flush_waits_for_the_writes_before_it() {
    let (disk, mut reader) = full_pipe();
    let Some(mut driver) = start_as(How(EngineChoice::IoUring, true), disk, 1, ALL) else { return };
    let first = offer(&mut driver, VIRTIO_BLK_T_OUT, &[1; 512]);
    let flush = offer(&mut driver, VIRTIO_BLK_T_FLUSH, &[]);
    let id = offer(&mut driver, VIRTIO_BLK_T_GET_ID, &[]);
    let status = |driver: &mut Driver<Block>, at| driver.queue(0).content(at)[0];
    assert_eq!(status(&mut driver, first), NONE);
    assert_eq!(status(&mut driver, flush), NONE, "the flush did not wait");
    assert_eq!(status(&mut driver, id), OK, "others need not wait");
    assert_eq!(driver.device().lock().unwrap().under_way(), 1);
    reader.read_exact(&mut [0; 65536]).unwrap();
    settle(&mut driver);
    assert_eq!(status(&mut driver, first), OK);
    assert_eq!(status(&mut driver, flush), IOERR, "a pipe has nothing to make durable");
    let order: Vec<u32> = std::iter::from_fn(|| driver.queue(0).take_used()).map(|used| used.0).collect();
    assert_eq!(order, [5, 0, 3], "GET_ID, write, flush");
}

#[test]
fn v1_2_2_4_a_reset_with_requests_in_flight_answers_none_of_them() {
    let (disk, mut reader) = full_pipe();
    let Some(mut driver) = start_as(How(EngineChoice::IoUring, true), disk, 1, ALL) else { return };
    let write = offer(&mut driver, VIRTIO_BLK_T_OUT, &[1; 512]);
    let flush = offer(&mut driver, VIRTIO_BLK_T_FLUSH, &[]);
    assert_eq!(driver.device().lock().unwrap().under_way(), 1);
    // The reset waits for what the kernel has of guest memory, which this lets go on.
    let drain = std::thread::spawn(move || {
        reader.read_exact(&mut [0; 65536]).unwrap();
        reader
    });
    driver.reset();
    let reader = drain.join().unwrap();
    driver.run();
    assert_eq!(driver.device().lock().unwrap().under_way(), 0);
    assert_eq!(driver.queue(0).used_idx(), 0, "a completion of the old epoch reached the ring");
    assert_eq!(driver.queue(0).content(write), [NONE]);
    assert_eq!(driver.queue(0).content(flush), [NONE]);
    assert_eq!(driver.take_interrupts(), 0);
    drop(reader);
}

#[test]
fn v1_2_2_7_13_more_chains_out_than_the_queue_has_need_a_reset() {
    let (disk, reader) = full_pipe();
    let Some(mut driver) = start_as(How(EngineChoice::IoUring, true), disk, 1, ALL) else { return };
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_OUT, 0));
    let data = queue.allocate(&[1; 512]);
    let status = queue.allocate(&[NONE]);
    let index = queue.add(&[head, data], &[status]);
    for _ in 1..SIZE {
        driver.queue(0).publish(index);
    }
    driver.kick(0);
    assert_eq!(driver.device().lock().unwrap().under_way(), usize::from(SIZE));
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15);
    // Whoever reads nothing more makes the writes end.
    drop(reader);
    driver.queue(0).publish(index);
    driver.kick(0);
    let needs_reset = driver.read(VIRTIO_MMIO_STATUS) & 64 != 0;
    let answered = driver.queue(0).used_idx() > 0;
    assert!(needs_reset || answered, "nothing became of it");
    driver.reset();
    assert_eq!(driver.device().lock().unwrap().under_way(), 0);
}

#[test]
fn every_queue_is_served() {
    for how in WAYS {
        let disk = CompositeDisk::from_file(file_of(&pattern(4096)), 4096, true).unwrap();
        let Some(mut driver) = start_as(how, disk, 3, 1 << VIRTIO_BLK_F_MQ) else { continue };
        assert_eq!(config(&driver, 34, 2), 3);
        for index in [2, 0, 1] {
            let queue = driver.queue(index);
            let head = queue.allocate(&header(VIRTIO_BLK_T_IN, index as u64));
            let tail = queue.allocate(&[NONE; 513]);
            queue.add(&[head], &[tail]);
            driver.kick(index);
            settle(&mut driver);
            assert_eq!(driver.queue(index).take_used(), Some((0, 513)));
            let data = driver.queue(index).content(tail);
            assert_eq!(data[..512], pattern(4096)[512 * index..][..512], "{how:?}");
        }
    }
}

#[test]
fn a_driver_need_not_enable_all_queues() {
    let disk = CompositeDisk::from_file(file_of(&pattern(4096)), 4096, true).unwrap();
    let spec = BlockSpec { id: String::new(), read_only: true, queues: 2, engine: EngineChoice::Sync };
    let mut driver = Driver::new(&guest_memory(), Block::with(disk, &spec).unwrap());
    driver.negotiate(1 << VIRTIO_BLK_F_MQ);
    driver.set_up_queue(0);
    driver.write(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15);
    driver.kick(1);
    assert_eq!(read(&mut driver, 0, 512).0.status, OK);
}

#[test]
fn many_requests_end_with_few_interrupts_and_none_twice() {
    for how in WAYS {
        let disk = CompositeDisk::from_file(file_of(&pattern(4096)), 4096, true).unwrap();
        let Some(mut driver) = start_as(how, disk, 1, EVENT_IDX) else { continue };
        let queue = driver.queue(0);
        let head = queue.allocate(&header(VIRTIO_BLK_T_IN, 1));
        let tails: Vec<Buffer> = (0..64).map(|_| queue.allocate(&[NONE; 513])).collect();
        let heads: Vec<u32> = tails.iter().map(|tail| u32::from(queue.add(&[head], &[*tail]))).collect();
        driver.kick(0);
        settle(&mut driver);
        let mut used: Vec<(u32, u32)> = std::iter::from_fn(|| driver.queue(0).take_used()).collect();
        used.sort_unstable();
        assert_eq!(used, heads.iter().map(|&head| (head, 513)).collect::<Vec<_>>(), "{how:?}");
        assert_eq!(driver.take_interrupts(), 1, "{how:?}: the driver asked for the first only");
    }
}

#[test]
fn errors_are_told_now_and_then() {
    let mut log = server::ErrorLog::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(log.admit(at(0)), Some(0));
    assert_eq!(log.admit(at(1)), None);
    assert_eq!(log.admit(at(9)), None);
    assert_eq!(log.admit(at(10)), Some(2));
    assert_eq!(log.admit(at(11)), None);
    assert_eq!(log.admit(at(21)), Some(1));
}
