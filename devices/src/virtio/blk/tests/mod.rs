//! The device through its registers and queue, as a driver has it.

mod at_once;
mod queues;
mod ranges;
mod requests;
mod waiting;

use super::engine::Hold;
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

fn ranges(ranges: &[(u64, u32, u32)]) -> Vec<u8> {
    let bytes = |&(sector, count, flags): &(u64, u32, u32)| {
        [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    ranges.iter().flat_map(bytes).collect()
}

const ALL: u64 = FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

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

/// Those that wait apart.
const WAITING: [EngineChoice; 2] = [EngineChoice::IoUring, EngineChoice::Threads];

/// A driver of a disk whose writes end only when the gate is open.
struct Held {
    driver: Driver<Block>,
    gate: Gate,
    /// The status of a flush.
    flushed: u8,
}

/// Keeps writes from ending, until it is opened or dropped.
enum Gate {
    /// The other end of a full pipe.
    Pipe(File),
    /// The threads.
    Threads(Hold),
}

impl Gate {
    /// Lets a write, and all others of threads, end; what this gives is to be kept for as long as they may.
    fn open(self) -> Self {
        match self {
            Self::Pipe(mut reader) => {
                reader.read_exact(&mut [0; 65536]).unwrap();
                Self::Pipe(reader)
            }
            Self::Threads(hold) => {
                hold.open();
                Self::Threads(hold)
            }
        }
    }
}

fn held(engine: EngineChoice) -> Option<Held> {
    if engine == EngineChoice::IoUring {
        let (disk, reader) = full_pipe();
        let driver = start_as(How(engine, true), disk, 1, ALL)?;
        // A pipe has nothing to make durable.
        return Some(Held { driver, gate: Gate::Pipe(reader), flushed: IOERR });
    }
    let disk = CompositeDisk::from_file(file_of(&[0; 4096]), 4096, true).unwrap();
    let driver = start_as(How(engine, true), disk, 1, ALL)?;
    let hold = driver.device().lock().unwrap().server.engine.hold().unwrap();
    Some(Held { driver, gate: Gate::Threads(hold), flushed: OK })
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
