//! Seqpacket connections (virtio 1.2, 5.10.6.7): messages stay whole, in order, and within bounds.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use zerocopy::little_endian::U32;

use super::guest::{Guest, packet_of};
use super::socket::{Socket, pattern, read_now};
use crate::virtio::vsock::host::{self, HostSocket, Listener};
use crate::virtio::vsock::packet::{Header, Key, Kind, op, seqpacket, shutdown};

/// A guest, its seqpacket socket, and the host's end.
fn connected() -> (Guest, Socket, HostSocket) {
    connected_with(|_| {})
}

fn connected_with(prepare: impl FnOnce(&mut Guest)) -> (Guest, Socket, HostSocket) {
    let mut guest = Guest::new();
    prepare(&mut guest);
    guest.reset();
    guest.activate();
    let service = listen(&guest, 7);
    let socket = guest.connect_as(Kind::Seqpacket, 1000, 7);
    let host = service.accept().unwrap().unwrap();
    (guest, socket, host)
}

fn listen(guest: &Guest, port: u32) -> Listener {
    Listener::bind(&guest.service_path(port), Kind::Seqpacket).unwrap()
}

/// A client of the host, at the device's socket for messages.
fn connect(guest: &Guest) -> HostSocket {
    host::connect(&host::clients_path(&guest.path(), Kind::Seqpacket), Kind::Seqpacket).unwrap()
}

/// The messages that wait at the host, and whether their end came.
fn receive(host: &HostSocket) -> (Vec<Vec<u8>>, bool) {
    let mut messages = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match host.receive(&mut buffer, 0) {
            Ok(0) => return (messages, true),
            Ok(len) => messages.push(buffer[..len].to_vec()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return (messages, false),
            Err(e) => panic!("{e}"),
        }
    }
}

fn rw(socket: &mut Socket, len: usize, flags: u32) -> Header {
    let len = u32::try_from(len).unwrap();
    socket.sent = socket.sent.wrapping_add(len);
    Header { len: U32::new(len), flags: U32::new(flags), ..socket.header(op::RW) }
}

#[test]
fn a_message_of_the_guest_is_a_message_of_the_host() {
    let (mut guest, mut socket, host) = connected();
    for (data, size) in [(pattern(1), 1), (pattern(5000), 900), (pattern(200_000), 65536), (pattern(3), 2)] {
        assert_eq!(socket.send(&mut guest, &data, size), data.len());
        let (messages, end) = receive(&host);
        assert!(messages == [data] && !end);
    }
    socket.send(&mut guest, b"one", 9);
    socket.send(&mut guest, b"two", 9);
    assert_eq!(receive(&host).0, [b"one", b"two"]);
}

#[test]
fn a_message_of_the_host_is_a_message_of_the_guest() {
    let (mut guest, mut socket, host) = connected();
    for len in [1, 4096 - 44, 4096, 100_000, 200_000] {
        host.send(&pattern(len)).unwrap();
        guest.step();
        socket.absorb(&mut guest);
    }
    host.send(b"a").unwrap();
    host.send(b"b").unwrap();
    guest.step();
    socket.absorb(&mut guest);
    let lens: Vec<usize> = socket.messages().iter().map(|message| message.len()).collect();
    assert_eq!(lens, [1, 4052, 4096, 100_000, 200_000, 1, 1]);
    assert!(socket.messages()[4] == pattern(200_000));
}

#[test]
fn a_message_that_the_guests_buffers_do_not_hold_comes_in_parts() {
    for (shape, buffers) in [(vec![45], 1), (vec![44, 10, 7], 3), (vec![4096], 2)] {
        let (mut guest, mut socket, host) = connected_with(|guest| {
            (guest.rx_shape, guest.rx_buffers) = (shape, buffers);
        });
        host.send(&pattern(9000)).unwrap();
        host.send(b"next").unwrap();
        guest.step();
        socket.absorb(&mut guest);
        assert!(socket.messages() == [&pattern(9000)[..], b"next"]);
    }
}

#[test]
fn the_rest_of_a_message_comes_before_anybody_elses() {
    let (mut guest, mut first, host) =
        connected_with(|guest| (guest.rx_shape, guest.rx_buffers) = (vec![144], 2));
    let service = listen(&guest, 8);
    let mut second = guest.connect_as(Kind::Seqpacket, 1001, 8);
    let other = service.accept().unwrap().unwrap();
    host.send(&pattern(1000)).unwrap();
    other.send(&pattern(1000)).unwrap();
    guest.step();
    let from: Vec<u32> = guest.inbox.iter().map(|(header, _)| header.src_port.get()).collect();
    assert_eq!(from.len(), 20);
    assert!(
        from[..10].iter().all(|port| *port == from[0]) && from[10..].iter().all(|port| *port == from[19])
    );
    first.absorb(&mut guest);
    second.absorb(&mut guest);
    assert!(first.messages() == [pattern(1000)] && second.messages() == [pattern(1000)]);
}

#[test]
fn a_message_waits_until_the_guest_has_credit_for_all_of_it() {
    let (mut guest, mut socket, host) = connected();
    (socket.buf_alloc, socket.reading) = (1000, false);
    let header = socket.header(op::CREDIT_UPDATE);
    guest.send(&header, &[]);
    host.send(&pattern(600)).unwrap();
    host.send(&pattern(500)).unwrap();
    guest.step();
    let ops: Vec<u16> = guest.inbox.iter().map(|(header, _)| header.op.get()).collect();
    assert_eq!(ops, [op::RW, op::CREDIT_REQUEST], "asked once, and not in a loop");
    socket.absorb(&mut guest);
    guest.step();
    assert!(guest.inbox.is_empty());
    socket.read_all(&mut guest);
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.messages().len(), 2);
}

#[test]
fn a_message_that_the_guest_can_never_hold_ends_the_connection() {
    let (mut guest, mut socket, host) = connected();
    socket.buf_alloc = 1000;
    let header = socket.header(op::CREDIT_UPDATE);
    guest.send(&header, &[]);
    host.send(&pattern(1001)).unwrap();
    guest.step();
    socket.absorb(&mut guest);
    assert!(socket.reset && socket.received.is_empty());
    assert!(host.send(b"?").is_err());
}

#[test]
fn a_message_longer_than_the_window_breaks_the_credit() {
    let (mut guest, mut socket, host) = connected();
    let window = socket.peer_alloc as usize;
    // Beginnings only: nothing of them goes to the host.
    while socket.credit() > 0 {
        let len = 65536.min(socket.credit() as usize);
        let header = rw(&mut socket, len, 0);
        guest.send(&header, &pattern(len));
        socket.absorb(&mut guest);
    }
    assert!(guest.census()[4] <= 2 * window, "{:?}", guest.census());
    assert!(!socket.reset);
    let header = rw(&mut socket, 1, 0);
    guest.send(&header, b"!");
    socket.absorb(&mut guest);
    assert!(socket.reset);
    assert_eq!(receive(&host), (vec![], true));
}

#[test]
fn a_message_of_a_whole_window_needs_all_credit_back() {
    let (mut guest, mut socket, host) = connected();
    let window = socket.peer_alloc as usize;
    // Less than half of the window: nothing that the device would tell of by itself.
    for first in [100, window / 3, window / 2 - 1] {
        assert_eq!(socket.send(&mut guest, &pattern(first), 65536), first);
        assert_eq!(receive(&host).0.len(), 1);
        let whole = pattern(window);
        let mut sent = 0;
        for _ in 0..100 {
            let len = 65536.min(window - sent).min(socket.credit() as usize);
            if len > 0 {
                let flags = if sent + len == window { seqpacket::EOM } else { 0 };
                let header = rw(&mut socket, len, flags);
                guest.send(&header, &whole[sent..sent + len]);
                sent += len;
            }
            socket.absorb(&mut guest);
        }
        assert_eq!(sent, window, "stalled");
        assert!(receive(&host).0 == [whole]);
    }
}

#[test]
fn messages_that_wait_for_the_host_stay_apart() {
    let (mut guest, mut socket, host) = connected();
    let mut sent = Vec::new();
    for len in (1..).map(|n| n * 37 % 1000 + 1) {
        let data = pattern(len);
        let before = socket.sent;
        if socket.credit() as usize <= len || socket.send(&mut guest, &data, 300) < len {
            break;
        }
        assert_eq!(socket.sent.wrapping_sub(before) as usize, len);
        sent.push(data);
    }
    socket.shutdown(&mut guest, shutdown::SEND);
    let mut received = Vec::new();
    loop {
        let (messages, end) = receive(&host);
        received.extend(messages);
        if end {
            break;
        }
        guest.step();
    }
    assert!(sent.len() > 500 && received == sent, "{} of {}", received.len(), sent.len());
}

#[test]
fn empty_messages_are_dropped_both_ways() {
    let (mut guest, mut socket, host) = connected();
    for _ in 0..100 {
        let header = rw(&mut socket, 0, seqpacket::EOM);
        guest.send(&header, &[]);
        host.send(&[]).unwrap();
    }
    host.send(b"x").unwrap();
    let header = rw(&mut socket, 1, seqpacket::EOM | seqpacket::EOR);
    guest.send(&header, b"y");
    socket.absorb(&mut guest);
    assert_eq!(receive(&host), (vec![b"y".to_vec()], false));
    assert_eq!(socket.messages(), [b"x"]);
    // An empty packet may still be what ends a message.
    let header = rw(&mut socket, 1, 0);
    guest.send(&header, b"z");
    let header = rw(&mut socket, 0, seqpacket::EOM);
    guest.send(&header, &[]);
    assert_eq!(receive(&host), (vec![b"z".to_vec()], false));
}

#[test]
fn a_half_close_passes_both_ways() {
    let (mut guest, mut socket, host) = connected();
    host.send(b"last").unwrap();
    host.shutdown(std::net::Shutdown::Write);
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!((socket.messages(), socket.shut), (vec![&b"last"[..]], shutdown::SEND));
    // A message without its end is never delivered.
    let header = rw(&mut socket, 3, 0);
    guest.send(&header, b"cut");
    socket.shutdown(&mut guest, shutdown::SEND);
    assert_eq!(receive(&host), (vec![], true));
}

#[test]
fn a_client_of_the_host_talks_in_messages() {
    let mut guest = Guest::new();
    let client = connect(&guest);
    client.send(b"CONNECT 5000\n").unwrap();
    client.send(b"early").unwrap();
    let mut socket = guest.accept();
    assert_eq!((socket.kind, socket.key.guest), (Kind::Seqpacket, 5000));
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.messages(), [b"early"]);
    let answer = receive(&client).0;
    assert_eq!(answer, [format!("OK {}\n", socket.key.host).into_bytes()]);
    socket.send(&mut guest, b"answer", 100);
    assert_eq!(receive(&client).0, [b"answer"]);
}

#[test]
fn without_the_feature_there_are_no_messages() {
    let mut guest = Guest::new();
    guest.features = 0;
    guest.reset();
    guest.activate();
    let _service = listen(&guest, 7);
    let request = packet_of(Kind::Seqpacket, Key { host: 7, guest: 1000 }, op::REQUEST);
    guest.send(&request, &[]);
    assert_eq!(guest.receive().0, request.reset());
    let client = connect(&guest);
    let _ = client.send(b"CONNECT 5000\n");
    guest.step();
    assert!(guest.inbox.is_empty());
    assert_eq!(client.receive(&mut [0], 0).unwrap_or(0), 0, "turned away");
}

#[test]
fn a_service_of_the_other_type_refuses() {
    let mut guest = Guest::new();
    let _messages = listen(&guest, 7);
    let _stream = std::os::unix::net::UnixListener::bind(guest.service_path(8)).unwrap();
    for (kind, port) in [(Kind::Stream, 7), (Kind::Seqpacket, 8)] {
        let request = packet_of(kind, Key { host: port, guest: 1000 }, op::REQUEST);
        guest.send(&request, &[]);
        assert_eq!(guest.receive().0, request.reset());
    }
}

#[test]
fn a_packet_of_the_other_type_is_of_no_connection() {
    let (mut guest, mut socket, host) = connected();
    for op in [op::RW, op::SHUTDOWN, op::CREDIT_REQUEST] {
        let stray = packet_of(Kind::Stream, socket.key, op);
        guest.send(&stray, &[]);
        assert_eq!(guest.receive().0, stray.reset());
    }
    guest.send(&packet_of(Kind::Stream, socket.key, op::RST), &[]);
    assert!(guest.inbox.is_empty());
    socket.send(&mut guest, b"still here", 100);
    assert_eq!(receive(&host).0, [b"still here"]);
}

#[test]
fn a_stream_beside_it_is_not_disturbed() {
    let (mut guest, mut socket, host) = connected();
    let service = std::os::unix::net::UnixListener::bind(guest.service_path(9)).unwrap();
    let mut stream = guest.connect(1000, 9);
    let mut peer: UnixStream = service.accept().unwrap().0;
    // A message without an end, and one that the guest has no credit for.
    let header = rw(&mut socket, 3, 0);
    guest.send(&header, b"cut");
    socket.buf_alloc = 2000;
    socket.reading = false;
    let header = socket.header(op::CREDIT_UPDATE);
    guest.send(&header, &[]);
    host.send(&pattern(1500)).unwrap();
    host.send(&pattern(1500)).unwrap();
    peer.write_all(&pattern(100_000)).unwrap();
    guest.step();
    stream.absorb(&mut guest);
    assert!(stream.received == pattern(100_000));
    stream.send(&mut guest, &pattern(50_000), 65536);
    let mut received = Vec::new();
    read_now(&mut peer, &mut received);
    assert!(received == pattern(50_000));
}

#[test]
fn a_port_is_claimed_for_one_type() {
    let pair = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&pair.path().join("pair"), Kind::Seqpacket).unwrap();
    let ours = host::connect(&pair.path().join("pair"), Kind::Seqpacket).unwrap();
    let mut theirs = Some(UnixStream::from(OwnedFd::from(listener.accept().unwrap().unwrap())));
    let mut guest = Guest::with(|mut vsock| {
        vsock.claim_messages(42, Box::new(move |_| theirs.take()));
        vsock
    });
    let stream = packet_of(Kind::Stream, Key { host: 42, guest: 999 }, op::REQUEST);
    guest.send(&stream, &[]);
    assert_eq!(guest.receive().0, stream.reset());
    let mut socket = guest.connect_as(Kind::Seqpacket, 1000, 42);
    socket.send(&mut guest, b"claimed", 100);
    assert_eq!(receive(&ours).0, [b"claimed"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// 5.10.6.7: any messages in any fragments, through any buffers, with any credit, stay what they are.
    #[test]
    fn messages_arrive_unchanged(
        out in prop::collection::vec(1usize..30_000, 0..8),
        into in prop::collection::vec(1usize..30_000, 0..8),
        rx_shape in prop::collection::vec(1u32..1500, 0..4),
        rx_buffers in 1u16..64,
        size in 1000usize..70_000,
        buf_alloc in 30_000u32..100_000,
        event_idx: bool,
        slow: bool,
    ) {
        let (mut guest, mut socket, host) = connected_with(|guest| {
            guest.rx_shape = rx_shape;
            // Room for a header and some bytes.
            guest.rx_shape.push(100);
            (guest.rx_buffers, guest.event_idx) = (rx_buffers, event_idx);
        });
        socket.buf_alloc = buf_alloc;
        let header = socket.header(op::CREDIT_UPDATE);
        guest.send(&header, &[]);
        let all_out: Vec<Vec<u8>> = out.iter().map(|len| pattern(*len)).collect();
        let all_in: Vec<Vec<u8>> = into.iter().map(|len| pattern(*len)).collect();
        let (mut sent, mut part, mut given, mut received) = (0, 0, 0, Vec::new());
        for round in 0..10_000 {
            if let Some(message) = all_out.get(sent) {
                part += socket.send(&mut guest, &message[part..], size.min(65536));
                if part == message.len() {
                    (sent, part) = (sent + 1, 0);
                }
            }
            if given < all_in.len() && host.send(&all_in[given]).is_ok() {
                given += 1;
            }
            if !slow || round % 7 == 0 {
                received.extend(receive(&host).0);
            }
            guest.step();
            socket.absorb(&mut guest);
            prop_assert!(!socket.reset);
            if received.len() == all_out.len() && socket.messages().len() == all_in.len() {
                break;
            }
        }
        prop_assert!(received == all_out, "{} of {} out", received.len(), all_out.len());
        prop_assert!(socket.messages() == all_in, "{} of {} in", socket.messages().len(), all_in.len());
    }
}
