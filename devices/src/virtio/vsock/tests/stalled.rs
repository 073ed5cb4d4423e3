//! Connections whose ends take nothing hold up no other, in either direction.

use super::guest::Guest;
use super::lifecycle::raise_descriptor_limit;
use super::socket::{Socket, pattern};
use crate::virtio::vsock::host::{HostSocket, Listener};
use crate::virtio::vsock::packet::{Kind, op};

const KINDS: [Kind; 2] = [Kind::Stream, Kind::Seqpacket];
const PIECE: usize = 4000;

/// A connection between a new guest port and this service.
fn connect(guest: &mut Guest, service: &Listener, kind: Kind, from: u32) -> (Socket, HostSocket) {
    let port = if kind == Kind::Stream { 7 } else { 8 };
    let socket = guest.connect_as(kind, from, port);
    (socket, service.accept().unwrap().unwrap())
}

/// Neither end takes anything from here on, and both have sent all they may.
fn stall(guest: &mut Guest, socket: &mut Socket, host: &HostSocket) {
    (socket.reading, socket.buf_alloc) = (false, 10_000);
    let header = socket.header(op::CREDIT_UPDATE);
    guest.send(&header, &[]);
    while host.send(&pattern(PIECE)).is_ok_and(|sent| sent == PIECE) {}
    let large = pattern(30_000);
    while socket.send(guest, &large, large.len()) == large.len() {}
    guest.step();
    socket.absorb(guest);
    assert_eq!(socket.credit(), 0, "the host takes nothing");
    assert!(socket.received.len() > 2000 && !socket.reset, "{}", socket.received.len());
}

/// Data goes to and fro.
fn exchange(guest: &mut Guest, socket: &mut Socket, host: &HostSocket) {
    let data = pattern(30_000);
    let mut echo = vec![0; data.len()];
    for round in 1..=20 {
        assert_eq!(socket.send(guest, &data, 65536), data.len(), "credit lacks");
        let mut got = 0;
        while got < data.len() {
            got += host.receive(&mut echo[got..], 0).expect("it has come");
        }
        assert!(echo == data);
        assert_eq!(host.send(&echo).unwrap(), data.len());
        guest.step();
        socket.absorb(guest);
        assert_eq!(socket.received.len(), round * data.len());
    }
    assert!(socket.received.chunks(data.len()).all(|part| part == data));
}

#[test]
fn stalled_connections_of_either_type_hold_up_none_of_either_type() {
    raise_descriptor_limit();
    let mut guest = Guest::new();
    let services = [7, 8].map(|port| guest.service_path(port));
    let [streams, messages] = &services;
    let services =
        [Listener::bind(streams, Kind::Stream).unwrap(), Listener::bind(messages, Kind::Seqpacket).unwrap()];
    let mut stalled = Vec::new();
    for from in 0..100 {
        for (kind, service) in KINDS.into_iter().zip(&services) {
            let (mut socket, host) = connect(&mut guest, service, kind, 2000 + from);
            stall(&mut guest, &mut socket, &host);
            stalled.push((socket, host));
        }
    }
    for (kind, service) in KINDS.into_iter().zip(&services) {
        let (mut socket, host) = connect(&mut guest, service, kind, 1000);
        exchange(&mut guest, &mut socket, &host);
    }
    // None of them was given up for that.
    guest.step();
    for (socket, _) in &mut stalled {
        socket.absorb(&mut guest);
        assert!(!socket.reset && socket.shut == 0);
    }
    assert_eq!(guest.census()[0], 202);
}
