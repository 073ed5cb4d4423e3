//! What a packet of a socket costs before a file is touched: `cargo bench -p devices --all-features --bench vsock_packet`.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::sync::Arc;

use devices::Interrupt;
use devices::virtio::Chain;
use devices::virtio::testing::{DriverQueue, guest_memory};
use devices::virtio::vsock::packet::{HEADER_LEN, HOST_CID, Header, Packet, Pieces, op, socket_type};
use divan::{Bencher, black_box};
use vm_memory::{GuestMemoryMmap, Permissions};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

const CID: u64 = 3;
const PAYLOAD: usize = 4096;

fn main() {
    divan::main();
}

/// A packet as Linux sends it, header and payload in a descriptor each or both in one.
fn chain(memory: &GuestMemoryMmap, apart: bool) -> Chain {
    let header = Header {
        src_cid: U64::new(CID),
        dst_cid: U64::new(HOST_CID),
        src_port: U32::new(1000),
        dst_port: U32::new(7),
        len: U32::new(u32::try_from(PAYLOAD).unwrap()),
        kind: U16::new(socket_type::STREAM),
        op: U16::new(op::RW),
        buf_alloc: U32::new(1 << 18),
        ..Header::new_zeroed()
    };
    let mut driver = DriverQueue::new(memory, 1 << 16, 256);
    let interrupt = Arc::new(Interrupt::new().unwrap());
    let mut device = driver.virtqueue(&interrupt, true);
    let buffers = if apart {
        vec![driver.allocate(header.as_bytes()), driver.allocate(&[0; PAYLOAD])]
    } else {
        vec![driver.allocate(&[header.as_bytes(), &[0; PAYLOAD]].concat())]
    };
    driver.add(&buffers, &[]);
    device.pop().unwrap().unwrap()
}

/// Reads the header and checks it.
#[divan::bench(args = [false, true])]
fn packet_parse(bencher: Bencher<'_, '_>, apart: bool) {
    let memory = guest_memory();
    let chain = chain(&memory, apart);
    bencher
        .bench_local(|| Packet::read(&memory, black_box(&chain), CID, true).unwrap().unwrap().payload_len());
}

/// Finds the payload in this process's memory, for the system call that sends it.
#[divan::bench(args = [false, true])]
fn packet_payload(bencher: Bencher<'_, '_>, apart: bool) {
    let memory = guest_memory();
    let chain = chain(&memory, apart);
    let packet = Packet::read(&memory, &chain, CID, true).unwrap().unwrap();
    bencher.bench_local(|| {
        let mut pieces = Pieces::with_capacity(1);
        pieces.append(&memory, black_box(&packet).payload(), Permissions::Read).unwrap();
        assert_eq!(black_box(pieces.as_slice()).len(), 1);
    });
    assert_eq!(chain.readable_len(), u64::from(HEADER_LEN) + PAYLOAD as u64);
}
