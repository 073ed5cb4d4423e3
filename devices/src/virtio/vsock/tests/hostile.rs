//! A guest that keeps to no rule: no panic, no growth, no spinning, and no harm to the others.

use std::io::Write;
use std::os::unix::net::UnixListener;

use vm_memory::{Bytes, GuestAddress};
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

use super::guest::{CID, Guest, packet};
use super::socket::{pattern, read_now};
use crate::virtio::vsock::packet::{Header, Key, MAX_PAYLOAD, op, shutdown};

const KEY: Key = Key { host: 7, guest: 1000 };

#[test]
fn data_for_an_unknown_connection_is_reset() {
    let mut guest = Guest::new();
    for op in [op::RESPONSE, op::SHUTDOWN, op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 0, 8, 0xffff] {
        let header = packet(KEY, op);
        guest.send(&header, &[]);
        assert_eq!(guest.receive().0, header.reset(), "operation {op}");
    }
    guest.send(&packet(KEY, op::RST), &[]);
    guest.step();
    assert!(guest.inbox.is_empty(), "a reset is not answered");
}

#[test]
fn only_streams_to_the_host_are_served() {
    let mut guest = Guest::new();
    let _service = UnixListener::bind(guest.service_path(7)).unwrap();
    for header in [
        Header { kind: U16::new(2), ..packet(KEY, op::REQUEST) },
        Header { kind: U16::new(0xffff), ..packet(KEY, op::REQUEST) },
        Header { dst_cid: U64::new(1), ..packet(KEY, op::REQUEST) },
        Header { dst_cid: U64::new(CID), ..packet(KEY, op::REQUEST) },
    ] {
        guest.send(&header, &[]);
        guest.step();
        // A reset for another context id than the guest's own is impossible here: it is the sender.
        assert_eq!(guest.inbox.pop_front().unwrap().0, header.reset());
        guest.send(&Header { op: U16::new(op::RST), ..header }, &[]);
        assert!(guest.inbox.is_empty());
    }
    for src_cid in [0, 2, CID + 1, CID | 1 << 32] {
        guest.send(&Header { src_cid: U64::new(src_cid), ..packet(KEY, op::REQUEST) }, &[]);
        assert!(guest.inbox.is_empty(), "who claims to be another is not answered");
    }
    assert_eq!(guest.census()[0], 0);
}

#[test]
fn malformed_packets_end_their_connection_only() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut witness = guest.connect(999, 7);
    let mut witness_host = service.accept().unwrap().0;
    for (len, payload) in [(101, 100), (MAX_PAYLOAD + 1, 100), (u32::MAX, 0), (MAX_PAYLOAD + 1, 70_000)] {
        let mut socket = guest.connect(1000, 7);
        let mut host = service.accept().unwrap().0;
        let header = Header { len: U32::new(len), ..socket.header(op::RW) };
        guest.send(&header, &vec![0; payload]);
        socket.absorb(&mut guest);
        assert!(socket.reset, "length {len}");
        let mut received = Vec::new();
        assert!(read_now(&mut host, &mut received));
        assert!(received.is_empty());
    }
    for len in [1, 20, 43] {
        guest.send_bytes(&vec![0xff; len]);
        assert!(guest.inbox.is_empty());
    }
    for op in [0, 8, 0xffff, op::REQUEST, op::RESPONSE] {
        let mut socket = guest.connect(1000, 7);
        drop(service.accept().unwrap());
        let header = socket.header(op);
        guest.send(&header, &[]);
        socket.absorb(&mut guest);
        assert!(socket.reset, "operation {op}");
    }
    assert_eq!(guest.census()[0], 1);
    assert_eq!(witness.send(&mut guest, b"fine", 4), 4);
    let mut received = Vec::new();
    assert!(!read_now(&mut witness_host, &mut received));
    assert_eq!(received, b"fine");
}

#[test]
fn data_after_the_end_is_a_breach() {
    let mut guest = Guest::new();
    let _service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut socket = guest.connect(1000, 7);
    socket.shutdown(&mut guest, shutdown::SEND);
    assert_eq!(socket.send(&mut guest, b"more", 4), 4);
    assert!(socket.reset);
}

#[test]
fn a_credit_overrun_ends_the_connection_and_stores_nothing() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut socket = guest.connect(1000, 7);
    let _host = service.accept().unwrap().0;
    // The host reads nothing: first its socket fills, then the window.
    while socket.credit() > 0 {
        socket.send(&mut guest, &[1; 65536], 65536);
    }
    assert!(!socket.reset);
    // Credit that the guest was not told of yet is not counted against it, more is.
    let window = socket.peer_alloc as usize;
    let mut over = 0;
    while !socket.reset {
        assert!(guest.census()[4] <= 2 * window);
        assert!(over <= window);
        let header = Header { len: U32::new(4096), ..socket.header(op::RW) };
        guest.send(&header, &[0; 4096]);
        socket.absorb(&mut guest);
        over += 4096;
    }
    let [used, .., backlog] = guest.census();
    assert_eq!((used, backlog), (0, 0));
}

#[test]
fn false_credit_stalls_its_own_connection() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut socket = guest.connect(1000, 7);
    let mut host = service.accept().unwrap().0;
    for fwd_cnt in [1, 1 << 31, (1 << 31) + 5] {
        let header = Header { fwd_cnt: U32::new(fwd_cnt), ..socket.header(op::CREDIT_UPDATE) };
        guest.send(&header, &[]);
        host.write_all(b"x").unwrap();
        guest.step();
        guest.inbox.clear();
    }
    assert!(socket.received.is_empty());
    let header = socket.header(op::CREDIT_UPDATE);
    guest.send(&header, &[]);
    socket.absorb(&mut guest);
    assert_eq!(socket.received, b"xxx");
}

#[test]
fn a_flood_of_requests_without_rx_buffers_waits() {
    let mut guest = Guest::new();
    guest.reset();
    guest.rx_buffers = 0;
    guest.activate();
    let mut asked = 0;
    let mut stuck = 0;
    // Nobody listens, so each request is worth a reset that the guest does not take.
    while stuck < 3 {
        if guest.tx_has_room() {
            guest.send(&packet(Key { host: 9, guest: asked }, op::REQUEST), &[]);
            asked += 1;
        } else {
            guest.step();
            stuck += 1;
        }
        assert!(asked < 10_000, "the tx queue never waits");
    }
    let [used, slots, resets, ready, _] = guest.census();
    assert_eq!((used, slots, ready), (0, 0, 0));
    assert!((256..=258).contains(&resets), "{resets}");
    // As soon as there are buffers, all are answered.
    guest.rx_buffers = 64;
    guest.post_rx();
    guest.step();
    assert_eq!(guest.inbox.len(), asked as usize);
    assert_eq!(guest.census()[2], 0);
    assert!(guest.tx_has_room());
}

#[test]
fn a_late_reset_never_meets_the_next_connection() {
    let mut guest = Guest::new();
    let _service = UnixListener::bind(guest.service_path(7)).unwrap();
    for (next, answers) in [(op::RST, vec![]), (op::REQUEST, vec![op::RESPONSE])] {
        guest.reset();
        guest.rx_buffers = 0;
        guest.activate();
        guest.send(&packet(KEY, op::RW), &[]);
        assert_eq!(guest.census()[2], 1, "an unsent reset");
        guest.send(&packet(KEY, next), &[]);
        guest.rx_buffers = 64;
        guest.post_rx();
        guest.step();
        let ops: Vec<u16> = guest.inbox.iter().map(|(header, _)| header.op.get()).collect();
        assert_eq!(ops, answers);
    }
}

#[test]
fn opening_and_resetting_without_rx_buffers_stores_nothing() {
    let mut guest = Guest::new();
    let _service = UnixListener::bind(guest.service_path(7)).unwrap();
    guest.reset();
    guest.rx_buffers = 0;
    guest.activate();
    for i in 0..5000 {
        let key = Key { host: 7, guest: 1000 + i % 3 };
        guest.send(&packet(key, op::REQUEST), &[]);
        guest.send(&packet(key, op::RST), &[]);
        if i % 100 == 99 {
            // The service's backlog.
            while _service.set_nonblocking(true).is_ok() && _service.accept().is_ok() {}
        }
    }
    let [used, slots, resets, ready, _] = guest.census();
    assert_eq!((used, resets), (0, 0));
    assert!(slots <= 1 && ready <= 1, "{slots} slots, {ready} ready");
}

#[test]
fn a_guest_without_rx_buffers_spins_nothing() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let socket = guest.connect(1000, 7);
    let mut host = service.accept().unwrap().0;
    guest.rx_buffers = 0;
    while guest.rx_posted() > 0 {
        host.write_all(&[1; 4000]).unwrap();
        guest.step();
    }
    host.set_nonblocking(true).unwrap();
    while host.write(&[1; 65536]).is_ok() {}
    // `step` fails when the loop does not come to rest; a host that leaves must not change that.
    guest.step();
    drop(host);
    guest.step();
    guest.step();
    guest.rx_buffers = 64;
    guest.post_rx();
    guest.step();
    assert!(
        guest
            .inbox
            .iter()
            .any(|(header, _)| header.op.get() == op::CREDIT_REQUEST || header.op.get() == op::SHUTDOWN)
    );
    drop(socket);
}

#[test]
fn rx_buffers_without_room_come_back_empty() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut socket = guest.connect(1000, 7);
    let mut host = service.accept().unwrap().0;
    guest.reset();
    guest.rx_shape = vec![43];
    guest.rx_buffers = 10;
    guest.activate();
    drop((socket, host));
    // They are not offered again.
    guest.rx_buffers = 0;
    // A header needs 44 bytes: the requests are answered once such buffers come.
    guest.send(&packet(KEY, op::RW), &[]);
    assert!(guest.inbox.is_empty());
    guest.rx_shape = vec![44];
    guest.rx_buffers = 10;
    guest.post_rx();
    guest.step();
    guest.step();
    assert_eq!(guest.inbox.pop_front().unwrap().0.op.get(), op::RST);
    // And data needs 45.
    socket = guest.connect(1001, 7);
    host = service.accept().unwrap().0;
    host.write_all(b"data").unwrap();
    guest.rx_buffers = 0;
    guest.step();
    guest.rx_shape = vec![45];
    guest.rx_buffers = 10;
    guest.post_rx();
    guest.step();
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.received, b"data");
}

#[test]
fn a_broken_ring_stops_the_device_until_a_reset() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let _socket = guest.connect(1000, 7);
    let mut host = service.accept().unwrap().0;
    // A descriptor that points outside of memory.
    guest.tx.offer(&guest.mem, &[(1 << 40, 44)], false).unwrap();
    guest.kick(1);
    guest.step();
    assert!(guest.interrupt.is_reset_needed());
    assert!(read_now(&mut host, &mut Vec::new()), "its connections are gone");
    guest.kick(1);
    guest.step();
    guest.interrupt.reset();
    guest.activate();
    guest.connect(1000, 7);
    assert!(!guest.interrupt.is_reset_needed());
}

#[test]
fn a_payload_that_changes_under_the_device_harms_nobody() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut socket = guest.connect(1000, 7);
    let mut host = service.accept().unwrap().0;
    // All descriptors of the chain are the very same memory as the header.
    let header = Header { len: U32::new(44), ..socket.header(op::RW) };
    let at = 0x80_0000;
    guest.mem.write_slice(zerocopy::IntoBytes::as_bytes(&header), GuestAddress(at)).unwrap();
    guest.tx.offer(&guest.mem, &[(at, 44), (at, 44)], false).unwrap();
    guest.kick(1);
    guest.step();
    let mut received = Vec::new();
    read_now(&mut host, &mut received);
    assert_eq!(received, zerocopy::IntoBytes::as_bytes(&header));
}

#[test]
fn a_reset_opens_no_connection() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    service.set_nonblocking(true).unwrap();
    guest.send(&packet(KEY, op::RST), &[]);
    assert!(guest.inbox.is_empty());
    assert!(service.accept().is_err(), "a reset is no request");
    assert_eq!(guest.census()[0], 0);
}

/// 5.10.6: flags that are not defined for an operation are reserved.
#[test]
fn reserved_flags_mean_nothing() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut socket = guest.connect(1000, 7);
    let mut host = service.accept().unwrap().0;
    for flags in [0, !shutdown::BOTH] {
        socket.shutdown(&mut guest, flags);
    }
    let header = Header { len: U32::new(4), flags: U32::new(u32::MAX), ..socket.header(op::RW) };
    guest.send(&header, b"fine");
    let mut received = Vec::new();
    assert!(!read_now(&mut host, &mut received), "neither direction has ended");
    assert_eq!(received, b"fine");
    for op in [op::CREDIT_UPDATE, op::CREDIT_REQUEST] {
        let header = Header { flags: U32::new(u32::MAX), ..socket.header(op) };
        guest.send(&header, &[]);
    }
    host.write_all(b"and back").unwrap();
    guest.step();
    socket.absorb(&mut guest);
    assert!(!socket.reset && socket.shut == 0);
    assert_eq!(socket.received, b"and back");
    socket.shutdown(&mut guest, u32::MAX);
    assert!(socket.reset, "both directions have ended");
    assert_eq!(guest.census()[0], 0);
}

#[test]
fn payload_of_a_control_packet_is_not_data() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let long = |header: Header| Header { len: U32::new(3), ..header };
    guest.send(&long(packet(KEY, op::REQUEST)), b"bad");
    assert_eq!(guest.receive_op(), op::RESPONSE);
    let mut host = service.accept().unwrap().0;
    for op in [op::CREDIT_UPDATE, op::CREDIT_REQUEST] {
        guest.send(&long(packet(KEY, op)), b"bad");
    }
    let mut received = Vec::new();
    assert!(!read_now(&mut host, &mut received));
    assert!(received.is_empty(), "{received:?}");
    guest.inbox.clear();
    guest.send(&long(packet(KEY, op::RST)), b"bad");
    assert!(read_now(&mut host, &mut received) && received.is_empty());
    assert_eq!(guest.census()[0], 0);
}

#[test]
fn before_its_answer_a_connection_of_the_host_takes_nothing() {
    for op in [op::RW, op::SHUTDOWN, op::CREDIT_UPDATE, op::CREDIT_REQUEST, op::REQUEST, 0, 99] {
        let mut guest = Guest::new();
        let mut client = std::os::unix::net::UnixStream::connect(guest.path()).unwrap();
        client.write_all(b"CONNECT 55\n").unwrap();
        let (request, _) = guest.receive();
        let key = Key { host: request.src_port.get(), guest: 55 };
        guest.send(&packet(key, op), &[]);
        assert_eq!(guest.receive_op(), op::RST, "operation {op}");
        let mut received = Vec::new();
        assert!(read_now(&mut client, &mut received) && received.is_empty(), "the client was let in");
        assert_eq!(guest.census()[0], 0);
    }
}

#[test]
fn a_buffer_that_shrinks_takes_no_more() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut socket = guest.connect(1000, 7);
    let mut host = service.accept().unwrap().0;
    socket.reading = false;
    for (buf_alloc, received) in [(1000, 1000), (500, 1000), (0, 1000), (1001, 1001), (u32::MAX, 5000)] {
        socket.buf_alloc = buf_alloc;
        let header = socket.header(op::CREDIT_UPDATE);
        guest.send(&header, &[]);
        // What is unread may be more than the buffer is now: only what is new must fit.
        socket.buf_alloc = u32::MAX;
        if received == 1000 && buf_alloc == 1000 {
            host.write_all(&pattern(5000)).unwrap();
        }
        guest.step();
        socket.absorb(&mut guest);
        assert_eq!(socket.received.len(), received, "with room for {buf_alloc}");
    }
    assert!(socket.received == pattern(5000));
}

#[test]
fn zeroes_are_no_packet() {
    let mut guest = Guest::new();
    guest.send(&Header::new_zeroed(), &[]);
    assert!(guest.inbox.is_empty());
}
