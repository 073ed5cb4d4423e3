//! Data both ways: order, credit, the end of each direction.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use proptest::prelude::*;

use super::guest::{Guest, packet};
use super::socket::{Socket, pattern, read_now};
use crate::virtio::vsock::packet::{op, shutdown};

/// A guest, a socket of it, and the host's end.
fn connected() -> (Guest, Socket, UnixStream) {
    connected_with(|_| {})
}

pub fn connected_with(prepare: impl FnOnce(&mut Guest)) -> (Guest, Socket, UnixStream) {
    let mut guest = Guest::new();
    prepare(&mut guest);
    guest.reset();
    guest.activate();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let socket = guest.connect(1000, 7);
    let (host, _) = service.accept().unwrap();
    host.set_nonblocking(true).unwrap();
    (guest, socket, host)
}

/// Sends all of `data` from the host while the guest receives.
fn host_sends(guest: &mut Guest, socket: &mut Socket, host: &mut UnixStream, data: &[u8]) {
    let (mut done, before) = (0, socket.received.len());
    for _ in 0..1_000_000 {
        if done < data.len() {
            match host.write(&data[done..]) {
                Ok(len) => done += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => panic!("{e}"),
            }
        }
        guest.step();
        socket.absorb(guest);
        if socket.received.len() - before == data.len() {
            return;
        }
    }
    panic!("{} of {} bytes arrived", socket.received.len() - before, data.len());
}

/// Sends all of `data` from the guest while the host receives.
fn guest_sends(guest: &mut Guest, socket: &mut Socket, host: &mut UnixStream, data: &[u8], size: usize) {
    let (mut done, mut received) = (0, Vec::new());
    for _ in 0..1_000_000 {
        done += socket.send(guest, &data[done..], size);
        assert!(!read_now(host, &mut received), "the host saw an end");
        guest.step();
        socket.absorb(guest);
        if received.len() == data.len() {
            assert!(received == data, "what arrived is not what was sent");
            return;
        }
    }
    panic!("{} of {} bytes arrived", received.len(), data.len());
}

#[test]
fn ping_pong() {
    let (mut guest, mut socket, mut host) = connected();
    for round in 0..100u8 {
        assert_eq!(socket.send(&mut guest, &[round], 1), 1);
        let mut byte = [0];
        host.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round]);
        host_sends(&mut guest, &mut socket, &mut host, &[round + 1]);
        assert_eq!(socket.received.last(), Some(&(round + 1)));
    }
}

#[test]
fn a_client_of_the_host_reaches_the_guest() {
    let mut guest = Guest::new();
    let mut client = UnixStream::connect(guest.path()).unwrap();
    client.write_all(b"CONNECT 55\nearly").unwrap();
    let mut socket = guest.accept();
    assert_eq!(socket.key.guest, 55);
    assert!(socket.key.host >= 1024);
    let mut line = vec![0; format!("OK {}\n", socket.key.host).len()];
    client.read_exact(&mut line).unwrap();
    assert_eq!(line, format!("OK {}\n", socket.key.host).as_bytes());
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.received, b"early", "bytes after the line are the guest's");
    host_sends(&mut guest, &mut socket, &mut client, b" and late");
    assert_eq!(socket.received, b"early and late");
    guest_sends(&mut guest, &mut socket, &mut client, b"answer", 2);
}

#[test]
fn eight_mib_to_the_guest_with_little_credit() {
    let (mut guest, mut socket, mut host) = connected();
    socket.buf_alloc = 5000;
    let header = socket.header(op::CREDIT_UPDATE);
    guest.send(&header, &[]);
    let data = pattern(8 << 20);
    host_sends(&mut guest, &mut socket, &mut host, &data);
    assert!(socket.received == data);
}

#[test]
fn eight_mib_to_the_guest_in_large_reads() {
    let (mut guest, mut socket, mut host) = connected_with(|guest| guest.event_idx = true);
    let data = pattern(8 << 20);
    host_sends(&mut guest, &mut socket, &mut host, &data);
    assert!(socket.received == data);
}

#[test]
fn eight_mib_to_the_host() {
    for event_idx in [false, true] {
        let (mut guest, mut socket, mut host) = connected_with(|guest| guest.event_idx = event_idx);
        guest_sends(&mut guest, &mut socket, &mut host, &pattern(8 << 20), 65536);
    }
}

#[test]
fn eight_mib_to_the_host_with_a_narrow_window() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    // The first ones have the wide window.
    let others: Vec<_> = (0..64).map(|i| (guest.connect(2000 + i, 7), service.accept().unwrap())).collect();
    let mut socket = guest.connect(1000, 7);
    assert!(socket.peer_alloc < others[0].0.peer_alloc);
    let mut host = service.accept().unwrap().0;
    guest_sends(&mut guest, &mut socket, &mut host, &pattern(8 << 20), 65536);
}

#[test]
fn scattered_buffers_on_both_sides() {
    for (rx_shape, tx_cuts) in [
        (vec![44, 100], vec![44, 1000]),
        (vec![1; 60], vec![1, 2, 3, 5, 7, 11, 700]),
        (vec![45], vec![45, 1, 4000, 3000]),
        (vec![20, 30, 4000, 2], vec![43, 2, 65536]),
    ] {
        let (mut guest, mut socket, mut host) = connected_with(|guest| {
            (guest.rx_shape, guest.tx_cuts, guest.rx_buffers) = (rx_shape, tx_cuts, 4);
        });
        let data = pattern(20_000);
        guest_sends(&mut guest, &mut socket, &mut host, &data, 9000);
        host_sends(&mut guest, &mut socket, &mut host, &data);
        assert!(socket.received == data);
    }
}

#[test]
fn rx_buffers_for_a_header_alone_are_passed_over() {
    for runts in 2..6 {
        let (mut guest, mut socket, mut host) = connected_with(|guest| guest.rx_runts = runts);
        let data = pattern(1 << 20);
        host_sends(&mut guest, &mut socket, &mut host, &data);
        assert!(socket.received == data);
    }
}

#[test]
fn the_guest_ends_its_direction_first() {
    let (mut guest, mut socket, mut host) = connected();
    socket.send(&mut guest, b"question", 100);
    socket.shutdown(&mut guest, shutdown::SEND);
    let mut question = Vec::new();
    assert!(read_now(&mut host, &mut question), "the host sees the end");
    assert_eq!(question, b"question");
    host_sends(&mut guest, &mut socket, &mut host, b"answer");
    drop(host);
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.received, b"answer");
    assert_eq!(socket.shut, shutdown::BOTH);
}

#[test]
fn the_guest_ends_its_direction_after_a_backlog() {
    let (mut guest, mut socket, mut host) = connected();
    let data = pattern(4 << 20);
    let sent = socket.send(&mut guest, &data, 65536);
    assert!(sent < data.len(), "the window is full");
    socket.shutdown(&mut guest, shutdown::SEND);
    let mut received = Vec::new();
    while !read_now(&mut host, &mut received) {
        guest.step();
    }
    assert!(received == data[..sent]);
}

#[test]
fn the_host_ends_its_direction_first() {
    let (mut guest, mut socket, mut host) = connected();
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.received, b"question");
    assert_eq!(socket.shut, shutdown::SEND);
    guest_sends(&mut guest, &mut socket, &mut host, &pattern(1 << 20), 65536);
    // The guest closes.
    socket.shutdown(&mut guest, shutdown::BOTH);
    assert!(socket.reset, "a full shutdown is answered with a reset");
    assert!(read_now(&mut host, &mut Vec::new()));
    assert_eq!(guest.census()[0], 0);
}

#[test]
fn the_host_ends_both_directions_at_once() {
    let (mut guest, mut socket, mut host) = connected();
    host.write_all(b"last words").unwrap();
    drop(host);
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.received, b"last words");
    assert_eq!(socket.shut, shutdown::BOTH);
    let header = socket.header(op::RST);
    guest.send(&header, &[]);
    assert!(guest.inbox.is_empty(), "a reset is not answered");
    assert_eq!(guest.census()[0], 0);
}

#[test]
fn a_host_that_stops_reading_tells_the_guest() {
    let (mut guest, mut socket, mut host) = connected();
    host.shutdown(Shutdown::Read).unwrap();
    socket.send(&mut guest, b"unwanted", 100);
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.shut, shutdown::RECEIVE);
    assert!(!socket.reset);
    host_sends(&mut guest, &mut socket, &mut host, b"still here");
    // What was on its way is dropped, but its credit is not.
    for _ in 0..10 {
        assert_eq!(socket.send(&mut guest, &[0; 65536], 65536), 65536);
    }
    assert!(!socket.reset);
}

#[test]
fn a_guest_that_sends_no_more_hears_of_the_end_once() {
    let (mut guest, mut socket, mut host) = connected();
    (socket.buf_alloc, socket.reading) = (4, false);
    let header = socket.header(op::CREDIT_UPDATE);
    guest.send(&header, &[]);
    socket.shutdown(&mut guest, shutdown::SEND);
    host.write_all(b"1234more").unwrap();
    drop(host);
    guest.step();
    let ops: Vec<u16> = guest.inbox.iter().map(|(header, _)| header.op.get()).collect();
    assert_eq!(ops, [op::RW, op::CREDIT_REQUEST], "the end comes after the data");
    socket.absorb(&mut guest);
    socket.read_all(&mut guest);
    guest.step();
    let ops: Vec<u16> = guest.inbox.iter().map(|(header, _)| header.op.get()).collect();
    assert_eq!(ops, [op::RW, op::CREDIT_REQUEST]);
    socket.absorb(&mut guest);
    socket.read_all(&mut guest);
    guest.step();
    let (end, _) = guest.receive();
    assert_eq!((end.op.get(), end.flags.get()), (op::SHUTDOWN, shutdown::BOTH));
    assert_eq!(socket.received, b"1234more");
}

#[test]
fn a_guest_that_stops_reading_tells_the_host() {
    let (mut guest, mut socket, mut host) = connected();
    socket.shutdown(&mut guest, shutdown::RECEIVE);
    assert_eq!(host.write(b"unwanted").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest_sends(&mut guest, &mut socket, &mut host, b"still here", 3);
    assert!(socket.received.is_empty());
    drop(host);
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.shut, shutdown::BOTH);
}

#[test]
fn a_host_that_closes_on_unread_data_still_gives_what_it_wrote() {
    let (mut guest, mut socket, mut host) = connected();
    socket.send(&mut guest, b"ignored", 100);
    host.write_all(b"go away").unwrap();
    drop(host);
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.received, b"go away");
    assert!(socket.reset || socket.shut == shutdown::BOTH);
}

#[test]
fn what_the_guest_sent_before_it_closed_arrives() {
    for last in [op::SHUTDOWN, op::RST] {
        let (mut guest, mut socket, mut host) = connected();
        let data = pattern(4 << 20);
        let sent = socket.send(&mut guest, &data, 65536);
        let mut header = socket.header(last);
        header.flags = shutdown::BOTH.into();
        guest.send(&header, &[]);
        socket.absorb(&mut guest);
        assert_eq!(socket.reset, last == op::SHUTDOWN);
        assert_eq!(host.write(b"?").unwrap_err().kind(), ErrorKind::BrokenPipe);
        let mut received = Vec::new();
        while !read_now(&mut host, &mut received) {
            guest.step();
        }
        assert!(received == data[..sent]);
        guest.step();
        assert_eq!(guest.census()[0], 0, "the rest is gone");
    }
}

#[test]
fn credit_is_told_when_asked_for() {
    let (mut guest, mut socket, _host) = connected();
    let header = socket.header(op::CREDIT_REQUEST);
    guest.send(&header, &[]);
    let (header, _) = guest.receive();
    assert_eq!(header.op.get(), op::CREDIT_UPDATE);
    assert_eq!(header.buf_alloc.get(), socket.peer_alloc);
}

#[test]
fn a_stalled_guest_is_asked_for_credit_once() {
    let (mut guest, mut socket, mut host) = connected();
    socket.buf_alloc = 100;
    socket.reading = false;
    let header = socket.header(op::CREDIT_UPDATE);
    guest.send(&header, &[]);
    host.write_all(&[7; 300]).unwrap();
    guest.step();
    let ops: Vec<u16> = guest.inbox.iter().map(|(header, _)| header.op.get()).collect();
    assert_eq!(ops, [op::RW, op::CREDIT_REQUEST]);
    socket.absorb(&mut guest);
    // The answer has no news, so it is not asked again, nor is the loop kept busy.
    guest.step();
    assert!(guest.inbox.is_empty());
    for _ in 0..2 {
        socket.read_all(&mut guest);
        guest.step();
        socket.absorb(&mut guest);
    }
    assert_eq!(socket.received, [7; 300]);
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut pairs: Vec<_> =
        (0..8).map(|i| (guest.connect(1000 + i, 7), service.accept().unwrap().0)).collect();
    for (_, host) in &mut pairs {
        host.set_nonblocking(true).unwrap();
        while host.write(&[1; 4096]).is_ok() {}
    }
    // 64 rx buffers of 4 KiB: nobody gets them all.
    guest.kick(0);
    for _ in 0..10 {
        guest.step();
    }
    for (socket, _) in &mut pairs {
        socket.absorb(&mut guest);
        assert!(socket.received.len() > 65536, "{}", socket.received.len());
    }
}

#[test]
fn empty_data_packets_are_nothing() {
    let (mut guest, mut socket, mut host) = connected();
    let header = socket.header(op::RW);
    guest.send(&header, &[]);
    assert!(!read_now(&mut host, &mut Vec::new()));
    assert!(guest.inbox.is_empty());
    assert_eq!(guest.census()[0], 1);
    guest.send(&packet(socket.key, op::RST), &[]);
    assert_eq!(guest.census()[0], 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any stream in any fragments, through any buffers, with any credit.
    #[test]
    fn streams_arrive_unchanged(
        out in prop::collection::vec(1usize..40_000, 0..12),
        into in prop::collection::vec(1usize..40_000, 0..12),
        rx_shape in prop::collection::vec(1u32..1500, 1..4),
        rx_buffers in 1u16..64,
        cuts in prop::collection::vec(1usize..9000, 1..6),
        buf_alloc in 1u32..100_000,
        event_idx: bool,
        slow: bool,
    ) {
        let (mut guest, mut socket, mut host) = connected_with(|guest| {
            guest.rx_shape = rx_shape;
            // Room for a header and at least one byte.
            guest.rx_shape.push(45);
            guest.tx_cuts = cuts;
            guest.tx_cuts.push(3000);
            (guest.rx_buffers, guest.event_idx) = (rx_buffers, event_idx);
        });
        socket.buf_alloc = buf_alloc;
        let header = socket.header(op::CREDIT_UPDATE);
        guest.send(&header, &[]);
        let (all_out, all_in) = (pattern(out.iter().sum()), pattern(into.iter().sum()));
        let (mut sent, mut given, mut received) = (0, 0, Vec::new());
        for round in 0..100_000 {
            if sent < all_out.len() {
                let size = out[round % out.len()];
                let end = all_out.len().min(sent + size);
                sent += socket.send(&mut guest, &all_out[sent..end], size);
            }
            if given < all_in.len() {
                let end = all_in.len().min(given + into[round % into.len()]);
                given += host.write(&all_in[given..end]).unwrap_or(0);
            }
            if !slow || round % 7 == 0 {
                prop_assert!(!read_now(&mut host, &mut received));
            }
            guest.step();
            socket.absorb(&mut guest);
            prop_assert!(!socket.reset);
            if received.len() == all_out.len() && socket.received.len() == all_in.len() {
                break;
            }
        }
        prop_assert!(received == all_out, "{} of {} bytes out", received.len(), all_out.len());
        prop_assert!(socket.received == all_in, "{} of {} in", socket.received.len(), all_in.len());
    }
}
