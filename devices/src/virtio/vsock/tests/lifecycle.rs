//! Opening and refusing, claimed ports, limits, resets of the device.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use super::guest::{CID, Guest, packet};
use super::socket::{Socket, pattern, read_now};
use crate::virtio::VirtioDevice;
use crate::virtio::device_id;
use crate::virtio::vsock::packet::{Key, op, shutdown};
use crate::virtio::vsock::{GuestPort, Vsock, VsockConfig, VsockError};

#[test]
fn the_device_says_what_it_is() {
    let guest = Guest::new();
    let device = guest.device.lock().unwrap();
    assert_eq!(device.device_id(), device_id::VSOCK);
    assert_eq!(device.queue_max_sizes().len(), 3);
    assert_eq!(device.kicks().len(), 3);
    let mut config = [0xaa; 12];
    device.read_config(0, &mut config);
    assert_eq!(config[..8], CID.to_le_bytes());
    assert_eq!(config[8..], [0; 4]);
    let mut high = [0xaa; 4];
    device.read_config(4, &mut high);
    assert_eq!(high, [0; 4]);
    device.read_config(u64::MAX, &mut high);
    assert_eq!(high, [0; 4]);
}

#[test]
fn the_event_queue_is_quiet_and_may_be_absent() {
    let mut guest = Guest::new();
    assert_eq!(guest.events(), 0, "there is nothing to tell");
    guest.reset();
    guest.has_events = false;
    guest.activate();
    let _service = UnixListener::bind(guest.service_path(7)).unwrap();
    guest.connect(1000, 7);
    assert!(!guest.interrupt.is_reset_needed());
}

#[test]
fn reserved_context_ids_are_errors() {
    for guest_cid in [0, 1, 2, 0xffff_ffff, 1 << 32, u64::MAX] {
        let made = Vsock::new(VsockConfig { guest_cid, socket: None });
        assert!(matches!(made, Err(VsockError::GuestCid(cid)) if cid == guest_cid));
    }
    Vsock::new(VsockConfig { guest_cid: 0xffff_fffe, socket: None }).unwrap();
}

#[test]
fn the_socket_lives_as_long_as_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let config = VsockConfig { guest_cid: 3, socket: Some(dir.path().join("v")) };
    let device = Vsock::new(config.clone()).unwrap();
    assert!(matches!(Vsock::new(config.clone()), Err(VsockError::Socket(_))));
    drop(device);
    assert!(!dir.path().join("v").exists());
    let mut device = Vsock::new(config).unwrap();
    VirtioDevice::close(&mut device);
    assert!(!dir.path().join("v").exists(), "a VM that has ended leaves nothing behind");
}

#[test]
fn a_port_where_nobody_listens_is_refused() {
    let mut guest = Guest::new();
    let key = Key { host: 9, guest: 1000 };
    guest.send(&packet(key, op::REQUEST), &[]);
    let (header, _) = guest.receive();
    assert_eq!(header, packet(key, op::REQUEST).reset());
    assert_eq!(guest.census()[..2], [0, 0]);
}

#[test]
fn without_a_socket_only_claimed_ports_answer() {
    let device = Vsock::new(VsockConfig { guest_cid: CID, socket: None }).unwrap();
    let mut guest = Guest::with(|_| device);
    guest.send(&packet(Key { host: 9, guest: 1 }, op::REQUEST), &[]);
    assert_eq!(guest.receive_op(), op::RST);
}

#[test]
fn a_guest_that_refuses_closes_the_client() {
    let mut guest = Guest::new();
    let mut client = UnixStream::connect(guest.path()).unwrap();
    client.write_all(b"CONNECT 55\n").unwrap();
    let (request, _) = guest.receive();
    let key = Key { host: request.src_port.get(), guest: 55 };
    guest.send(&packet(key, op::RST), &[]);
    let mut answer = Vec::new();
    assert!(read_now(&mut client, &mut answer));
    assert!(answer.is_empty());
    assert!(guest.inbox.is_empty());
    assert_eq!(guest.census()[0], 0);
}

#[test]
fn a_client_that_leaves_before_the_answer_resets_the_guest() {
    let mut guest = Guest::new();
    let mut client = UnixStream::connect(guest.path()).unwrap();
    client.write_all(b"CONNECT 55\n").unwrap();
    let (request, _) = guest.receive();
    drop(client);
    let (reset, _) = guest.receive();
    assert_eq!((reset.op.get(), reset.src_port), (op::RST, request.src_port));
    assert_eq!(guest.census()[0], 0);
    // A late answer meets nobody.
    guest.send(&packet(Key { host: request.src_port.get(), guest: 55 }, op::RESPONSE), &[]);
    assert_eq!(guest.receive_op(), op::RST);
}

#[test]
fn a_client_that_speaks_something_else_is_closed() {
    let mut guest = Guest::new();
    let mut client = UnixStream::connect(guest.path()).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    guest.step();
    assert!(read_now(&mut client, &mut Vec::new()));
    assert!(guest.inbox.is_empty());
    assert_eq!(guest.census()[0], 0);
}

#[test]
fn clients_get_ports_of_their_own() {
    let mut guest = Guest::new();
    let mut clients = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..5 {
        let mut client = UnixStream::connect(guest.path()).unwrap();
        client.write_all(b"CONNECT 55\n").unwrap();
        ports.push(guest.accept().key.host);
        clients.push(client);
    }
    ports.dedup();
    assert_eq!(ports.len(), 5);
}

/// A guest whose port 42 is claimed for privileged guest ports, and the ends that were given out.
fn claiming() -> (Guest, Arc<Mutex<Vec<UnixStream>>>) {
    let given = Arc::new(Mutex::new(Vec::new()));
    let kept = given.clone();
    let guest = Guest::with(|mut vsock| {
        let accept = move |from: GuestPort| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            kept.lock().unwrap().push(ours);
            from.is_privileged().then_some(theirs)
        };
        vsock.claim(42, Box::new(accept));
        vsock
    });
    (guest, given)
}

#[test]
fn a_claimed_port_never_reaches_a_unix_socket() {
    let (mut guest, given) = claiming();
    let service = UnixListener::bind(guest.service_path(42)).unwrap();
    service.set_nonblocking(true).unwrap();
    let mut socket = guest.connect(1023, 42);
    socket.send(&mut guest, b"started", 100);
    assert_eq!(service.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let mut ours = given.lock().unwrap().pop().unwrap();
    let mut received = Vec::new();
    assert!(!read_now(&mut ours, &mut received));
    assert_eq!(received, b"started");
    ours.write_all(b"ack").unwrap();
    guest.step();
    socket.absorb(&mut guest);
    assert_eq!(socket.received, b"ack");
}

#[test]
fn a_claimed_port_may_refuse_the_unprivileged() {
    let (mut guest, _given) = claiming();
    let service = UnixListener::bind(guest.service_path(42)).unwrap();
    service.set_nonblocking(true).unwrap();
    for from in [1024, 50_000, u32::MAX] {
        guest.send(&packet(Key { host: 42, guest: from }, op::REQUEST), &[]);
        assert_eq!(guest.receive_op(), op::RST);
    }
    assert_eq!(service.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn connections_over_the_limit_are_refused() {
    let mut guest = Guest::with(|vsock| vsock.with_limit(3));
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut sockets: Vec<Socket> = (0..3).map(|i| guest.connect(1000 + i, 7)).collect();
    guest.send(&packet(Key { host: 7, guest: 2000 }, op::REQUEST), &[]);
    assert_eq!(guest.receive_op(), op::RST);
    // What the guest has taken is not the host's, and the other way round.
    let mut clients: Vec<UnixStream> = (0..4)
        .map(|_| {
            let mut client = UnixStream::connect(guest.path()).unwrap();
            client.write_all(b"CONNECT 5\n").unwrap();
            client
        })
        .collect();
    guest.step();
    let requests = guest.inbox.iter().filter(|(header, _)| header.op.get() == op::REQUEST).count();
    assert_eq!(requests, 3);
    assert!(matches!(clients[3].read(&mut [0; 9]), Ok(0) | Err(_)), "refused");
    assert_eq!(guest.census()[0], 6);
    guest.inbox.clear();
    // One that is over makes room.
    sockets[1].shutdown(&mut guest, shutdown::BOTH);
    assert!(sockets[1].reset);
    guest.connect(2000, 7);
    drop(service);
}

#[test]
fn who_has_all_but_left_makes_room() {
    let mut guest = Guest::with(|vsock| vsock.with_limit(3));
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    // A connection that the guest never resets, one that the host never empties, one that goes on.
    let mut closed = guest.connect(1000, 7);
    drop(service.accept().unwrap());
    guest.step();
    closed.absorb(&mut guest);
    assert_eq!(closed.shut, shutdown::BOTH);
    let mut full = guest.connect(1001, 7);
    let mut full_host = service.accept().unwrap().0;
    full.send(&mut guest, &pattern(4 << 20), 65536);
    full.shutdown(&mut guest, shutdown::BOTH);
    let lively = guest.connect(1002, 7);
    assert_eq!(guest.census()[0], 3);

    let second = guest.connect(1003, 7);
    closed.absorb(&mut guest);
    assert!(closed.reset, "the eldest goes first");
    let third = guest.connect(1004, 7);
    assert!(read_now(&mut full_host, &mut Vec::new()));
    guest.send(&packet(Key { host: 7, guest: 1005 }, op::REQUEST), &[]);
    assert_eq!(guest.receive_op(), op::RST);
    drop((lively, second, third));

    // Clients that never say their port.
    let mut silent: Vec<_> = (0..4).map(|_| UnixStream::connect(guest.path()).unwrap()).collect();
    guest.step();
    assert!(read_now(&mut silent[0], &mut Vec::new()), "the eldest goes first");
    assert!(silent[1..].iter_mut().all(|client| !read_now(client, &mut Vec::new())));
}

#[test]
fn a_port_is_used_again_as_soon_as_the_guest_has_done_with_it() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    for round in 0..3 {
        let mut socket = guest.connect(1000, 7);
        let mut host = service.accept().unwrap().0;
        match round {
            // The guest resets it, or has forgotten it when all that was missing was its reset.
            0 => guest.send(&packet(socket.key, op::RST), &[]),
            1 => {
                drop(host);
                guest.step();
                socket.absorb(&mut guest);
                assert_eq!(socket.shut, shutdown::BOTH);
            }
            _ => {
                socket.send(&mut guest, b"last", 9);
                let mut received = Vec::new();
                read_now(&mut host, &mut received);
                assert_eq!(received, b"last");
            }
        }
    }
}

#[test]
fn four_thousand_connections_at_a_time() {
    raise_descriptor_limit();
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut sockets = Vec::new();
    let mut hosts = Vec::new();
    for from in 0..4000 {
        sockets.push(guest.connect(10_000 + from, 7));
        hosts.push(service.accept().unwrap().0);
    }
    for (socket, host) in sockets.iter_mut().zip(&mut hosts) {
        socket.send(&mut guest, &socket.key.guest.to_le_bytes(), 100);
        let mut received = Vec::new();
        read_now(host, &mut received);
        assert_eq!(received, socket.key.guest.to_le_bytes());
        host.write_all(&received).unwrap();
    }
    guest.step();
    let mut inbox: Vec<_> = guest.inbox.drain(..).filter(|(header, _)| header.op.get() == op::RW).collect();
    inbox.sort_by_key(|(header, _)| header.dst_port.get());
    assert_eq!(inbox.len(), 4000);
    assert!(inbox.iter().all(|(header, data)| header.dst_port.get().to_le_bytes() == data[..]));
    drop(hosts);
    guest.step();
    for socket in &sockets {
        guest.send_later(&packet(socket.key, op::RST), &[]);
        guest.step();
    }
    assert_eq!(guest.census()[0], 0);
}

/// Both ends of each connection are this process's.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives across both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        assert!(limit.rlim_max > 9000, "a hard limit of {} descriptors is too few", limit.rlim_max);
        limit.rlim_cur = limit.rlim_cur.max(9000);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

#[test]
fn a_reset_of_the_device_drops_everything() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let mut socket = guest.connect(1000, 7);
    let mut host = service.accept().unwrap().0;
    socket.send(&mut guest, b"before", 100);
    let mut client = UnixStream::connect(guest.path()).unwrap();
    guest.step();
    guest.reset();
    let mut received = Vec::new();
    assert!(read_now(&mut host, &mut received));
    assert_eq!(received, b"before");
    assert!(read_now(&mut client, &mut Vec::new()));
    assert_eq!(guest.census()[0], 0);

    // While idle, kicks and clients wait.
    guest.kick(1);
    let mut waiting = UnixStream::connect(guest.path()).unwrap();
    waiting.write_all(b"CONNECT 55\n").unwrap();
    guest.step();
    assert_eq!(guest.census()[0], 0);

    guest.activate();
    assert_eq!(guest.accept().key.guest, 55);
    let mut line = [0; 3];
    waiting.read_exact(&mut line).unwrap();
    assert_eq!(line, *b"OK ");
    // What the guest knew before is unknown now.
    let header = socket.header(op::CREDIT_UPDATE);
    guest.send(&header, &[]);
    assert_eq!(guest.receive_op(), op::RST);
    guest.connect(1000, 7);
}

#[test]
fn a_second_activation_replaces_the_first() {
    let mut guest = Guest::new();
    let _service = UnixListener::bind(guest.service_path(7)).unwrap();
    for _ in 0..3 {
        guest.connect(1000, 7);
        guest.activate();
    }
}

#[test]
fn thousands_of_connections_come_and_go() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    for i in 0..3000 {
        let mut socket = guest.connect(1000 + i, 7);
        drop(service.accept().unwrap());
        if i % 3 == 0 {
            socket.shutdown(&mut guest, shutdown::BOTH);
        } else {
            guest.send(&packet(socket.key, op::RST), &[]);
            socket.absorb(&mut guest);
        }
    }
    guest.step();
    let [used, slots, resets, ready, backlog] = guest.census();
    assert_eq!([used, resets, ready, backlog], [0, 0, 0, 0]);
    assert!(slots <= 2, "{slots}");
}

#[test]
fn windows_come_back_with_their_connections() {
    let mut guest = Guest::new();
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    let wide = guest.connect(999, 7).peer_alloc;
    let _first = service.accept().unwrap();
    // More than may be wide at a time; each leaves a rest behind for a while.
    for i in 0..80 {
        let mut socket = guest.connect(1000 + i, 7);
        let mut host = service.accept().unwrap().0;
        assert_eq!(socket.peer_alloc, wide, "connection {i}");
        socket.send(&mut guest, &[0; 600_000], 65536);
        socket.shutdown(&mut guest, shutdown::BOTH);
        assert_eq!(guest.census()[0], 2, "the rest keeps a slot");
        while !read_now(&mut host, &mut Vec::new()) {
            guest.step();
        }
    }
}

#[test]
fn hundreds_of_connections_at_once() {
    let mut guest = Guest::new();
    let (mut sockets, mut hosts) = (Vec::new(), Vec::new());
    let service = UnixListener::bind(guest.service_path(7)).unwrap();
    for i in 0..400 {
        sockets.push(guest.connect(1000 + i, 7));
        hosts.push(service.accept().unwrap().0);
    }
    for host in &mut hosts {
        host.write_all(b"hello").unwrap();
    }
    guest.step();
    for (socket, host) in sockets.iter_mut().zip(&mut hosts) {
        socket.absorb(&mut guest);
        assert_eq!(socket.received, b"hello");
        assert_eq!(socket.send(&mut guest, b"world", 5), 5);
        let mut answer = [0; 5];
        host.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"world");
    }
}
