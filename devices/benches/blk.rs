//! What a block request costs before a file is touched: `cargo bench -p devices --all-features --bench blk`.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::sync::Arc;

use devices::Interrupt;
use devices::virtio::blk::request::{Guest, Limits, Request};
use devices::virtio::blk::{CompositeDisk, Content, Extent};
use devices::virtio::testing::{DriverQueue, guest_memory};
use devices::virtio::{Chain, QueueError};
use divan::{Bencher, black_box};

const BASE: u64 = 1 << 16;
const LIMITS: Limits = Limits { capacity: 1 << 30, discard: true, write_zeroes: true };

fn main() {
    divan::main();
}

/// A read of 4 KiB: header, page, status.
fn offer(driver: &mut DriverQueue, indirect: bool) {
    let head = driver.allocate(&[0; 16]);
    let page = driver.allocate(&[0; 4096]);
    let status = driver.allocate(&[0]);
    if indirect {
        driver.add_indirect(&[head], &[page, status]);
    } else {
        driver.add(&[head], &[page, status]);
    }
}

/// Pop, walk, complete: everything about a queue but the driver's part.
#[divan::bench(args = [false, true])]
fn queue_walk(bencher: Bencher<'_, '_>, indirect: bool) {
    let memory = guest_memory();
    let mut driver = DriverQueue::new(&memory, BASE, 256);
    let interrupt = Arc::new(Interrupt::new().unwrap());
    let mut device = driver.virtqueue(&interrupt, true);
    offer(&mut driver, indirect);
    let mut index = 1_u16;
    bencher.bench_local(|| {
        let served =
            device.drain(1, |_, chain| -> Result<u32, QueueError> { Ok(black_box(chain).head().into()) });
        served.unwrap();
        // The same chain once more.
        index = index.wrapping_add(1);
        driver.set_avail_idx(index);
    });
}

fn chain(memory: &vm_memory::GuestMemoryMmap) -> Chain {
    let mut driver = DriverQueue::new(memory, BASE, 256);
    let interrupt = Arc::new(Interrupt::new().unwrap());
    let mut device = driver.virtqueue(&interrupt, true);
    offer(&mut driver, true);
    device.pop().unwrap().unwrap()
}

#[divan::bench]
fn request_parse(bencher: Bencher<'_, '_>) {
    let memory = guest_memory();
    let (chain, mut guest) = (chain(&memory), Guest::new(memory.clone()));
    bencher.bench_local(|| {
        let header = guest.header(black_box(&chain)).unwrap();
        Request::parse(header, &chain, &guest, &LIMITS).unwrap().data_len
    });
}

#[divan::bench(args = [1, 20, 128])]
fn extent_lookup(bencher: Bencher<'_, '_>, partitions: u64) {
    const LEN: u64 = 1 << 20;
    let file = Arc::new(std::fs::File::open("/dev/null").unwrap());
    let content = |_| Content::File { file: Arc::clone(&file), offset: 0, writable: false };
    let extents = (0..partitions).map(|n| Extent { start: n * LEN, len: LEN, content: content(n) }).collect();
    let disk = CompositeDisk::new(extents).unwrap();
    let mut at = 0_u64;
    bencher.bench_local(|| {
        // No order that a processor could guess.
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        disk.piece(black_box((at >> 16) % (partitions * LEN - 4096)), 4096, false).is_ok()
    });
}
