#![no_main]
//! A block device under a driver that does what the input says: over a file in memory, which is served while the driver
//! notifies, or over one that the event loop reads.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::{Arc, LazyLock};

use devices::virtio::Block;
use devices::virtio::blk::{BlockSpec, CompositeDisk, Content, EngineChoice, Extent};
use fuzz::driver::Machine;
use libfuzzer_sys::fuzz_target;

const PART: u64 = 0x8000;

/// The disk's writable part, in memory.
static MEMORY: LazyLock<Arc<File>> = LazyLock::new(|| {
    // SAFETY: the name is a string that ends with zero; the call gives a new descriptor, or -1, which is none.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "a descriptor");
    // SAFETY: the descriptor is new, and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(PART).expect("its length");
    Arc::new(file)
});

/// An unlinked file that is the disk's writable part.
static FILE: LazyLock<Arc<File>> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("virtio_blk-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    std::fs::remove_file(path).expect("unlink it");
    file.set_len(PART).expect("its length");
    Arc::new(file)
});

fuzz_target!(|data: &[u8]| {
    let file = if data.get(1).is_some_and(|b| b & 0x80 != 0) { &*MEMORY } else { &*FILE };
    let extent = |n: u64, content| Extent { start: n * PART, len: PART, content };
    let disk = CompositeDisk::new(vec![
        extent(0, Content::Bytes(vec![7; 0x8000].into())),
        extent(1, Content::File { file: Arc::clone(file), offset: 0, writable: true }),
        extent(2, Content::Zeros),
    ])
    .expect("extents in order");
    let read_only = data.first().is_some_and(|b| b & 1 == 1);
    let spec = BlockSpec { id: "fuzz".into(), read_only, queues: 1, engine: EngineChoice::Sync };
    let block = Block::with(disk, &spec).expect("descriptors");
    Machine::new(block, 1).run(data, || {});
    assert_eq!(file.metadata().expect("a file").len(), PART, "no request changes the disk's length");
});
