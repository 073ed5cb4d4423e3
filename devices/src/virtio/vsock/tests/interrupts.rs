//! How often guest and device wake each other.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::flow::connected_with;
use super::guest::Guest;
use super::socket::{Socket, pattern, read_now};
use crate::virtio::VirtioDevice;
use crate::virtio::vsock::packet::{Header, op};

/// A connection on which nothing has happened yet.
fn quiet(prepare: impl FnOnce(&mut Guest)) -> (Guest, Socket, UnixStream) {
    let (guest, socket, host) = connected_with(prepare);
    guest.interrupt.line().read().unwrap();
    (guest, socket, host)
}

/// A byte for the host.
fn send_byte(guest: &mut Guest, socket: &mut Socket) {
    let header = Header { len: 1.into(), ..socket.header(op::RW) };
    guest.send_later(&header, b"x");
    guest.kick(1);
}

#[test]
fn one_interrupt_for_a_batch() {
    let (mut guest, mut socket, mut host) = quiet(|guest| guest.event_idx = true);
    for _ in 0..10 {
        let mut header = socket.header(op::RW);
        header.len = 3.into();
        guest.send_later(&header, b"abc");
    }
    host.write_all(&pattern(100_000)).unwrap();
    guest.step();
    let raised = guest.interrupt.line().read().unwrap();
    assert!(raised <= 3, "{raised} interrupts for 10 packets out and about 25 in");
    let mut received = Vec::new();
    read_now(&mut host, &mut received);
    assert_eq!(received, b"abc".repeat(10));
}

#[test]
fn packets_that_were_taken_are_told_of_with_the_answer() {
    for event_idx in [false, true] {
        let (mut guest, mut socket, mut host) = quiet(|guest| guest.event_idx = event_idx);
        for _ in 0..5 {
            send_byte(&mut guest, &mut socket);
            guest.step();
            assert!(guest.interrupt.line().read().is_err(), "the packet alone is worth none");
            host.write_all(b"y").unwrap();
            guest.step();
            assert_eq!(guest.interrupt.line().read().unwrap(), 1);
        }
    }
}

#[test]
fn packets_that_were_taken_are_told_of_without_an_answer() {
    for event_idx in [false, true] {
        let (mut guest, mut socket, _host) = quiet(|guest| guest.event_idx = event_idx);
        guest.device.lock().unwrap().untold.period = Duration::from_millis(1);
        for _ in 0..3 {
            send_byte(&mut guest, &mut socket);
            guest.wait_for_interrupt();
        }
    }
}

#[test]
fn a_queue_that_fills_is_told_of_at_once() {
    let (mut guest, mut socket, _host) = quiet(|guest| {
        guest.event_idx = true;
        // A header and its payload are one descriptor.
        guest.tx_cuts = vec![1 << 20];
    });
    for _ in 0..63 {
        send_byte(&mut guest, &mut socket);
    }
    guest.step();
    assert!(guest.interrupt.line().read().is_err(), "63 of 256");
    send_byte(&mut guest, &mut socket);
    guest.step();
    assert_eq!(guest.interrupt.line().read().unwrap(), 1, "a quarter of the queue");
}

#[test]
fn one_kick_is_enough_for_a_full_queue() {
    for event_idx in [false, true] {
        let (mut guest, mut socket, mut host) = connected_with(|guest| {
            guest.event_idx = event_idx;
            // A header and its payload in one descriptor: 250 packets fit the ring.
            guest.tx_cuts = vec![1 << 20];
        });
        // The kick of each packet but the last is taken back.
        for at in 0..150u8 {
            let header = Header { len: 1.into(), ..socket.header(op::RW) };
            guest.send_later(&header, &[at]);
            let _ = guest.device.lock().unwrap().kicks()[1].read();
        }
        guest.kick(1);
        guest.step();
        let mut received = Vec::new();
        assert!(!read_now(&mut host, &mut received));
        assert_eq!(received, (0..150).collect::<Vec<u8>>());
    }
}
