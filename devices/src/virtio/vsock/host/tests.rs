use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::handshake::{MAX_LINE, parse_line};
use super::socket::Peeked;
use super::*;
use crate::virtio::vsock::packet::Kind::{Seqpacket, Stream};

/// A pair of sockets of messages: a client's, and the device's.
fn message_pair(dir: &Path) -> (HostSocket, HostSocket) {
    let listener = Listener::bind(&dir.join("pair"), Seqpacket).unwrap();
    let client = connect(&dir.join("pair"), Seqpacket).unwrap();
    (client, listener.accept().unwrap().unwrap())
}

#[test]
fn a_line_names_a_port() {
    for (line, port) in [
        ("CONNECT 5\n", Some(5)),
        ("connect 4294967295\r\n", Some(u32::MAX)),
        ("CONNECT  0 \n", Some(0)),
        ("CONNECT 4294967296\n", None),
        ("CONNECT +5\n", None),
        ("CONNECT -1\n", None),
        ("CONNECT 0x5\n", None),
        ("CONNECT 5 6\n", None),
        ("CONNECT\n", None),
        ("CONNECT5\n", None),
        ("CONNECT 5", Some(5)),
        ("OK 5\n", None),
        ("\n", None),
    ] {
        assert_eq!(parse_line(line.as_bytes()), port, "{line:?}");
    }
    assert_eq!(parse_line(b"CONNECT \xff\n"), None);
}

#[test]
fn a_line_may_come_in_pieces_and_nothing_after_it_is_taken() {
    let (mut client, stream) = UnixStream::pair().unwrap();
    let mut handshake = Handshake::new(HostSocket::from_pair(stream, Stream).unwrap());
    assert_eq!(handshake.advance(), Greeting::Partial);
    for byte in b"CONNECT 12" {
        client.write_all(&[*byte]).unwrap();
        assert_eq!(handshake.advance(), Greeting::Partial);
    }
    client.write_all(b"34\nhello\n").unwrap();
    assert_eq!(handshake.advance(), Greeting::Connect(1234));
    drop(client);
    let mut rest = String::new();
    UnixStream::from(OwnedFd::from(handshake.into_socket())).read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "hello\n");
}

#[test]
fn a_line_too_long_or_cut_short_is_refused() {
    let (mut client, stream) = UnixStream::pair().unwrap();
    client.write_all(&[b' '; MAX_LINE]).unwrap();
    assert_eq!(Handshake::new(HostSocket::from_pair(stream, Stream).unwrap()).advance(), Greeting::Refused);
    let (mut client, stream) = UnixStream::pair().unwrap();
    client.write_all(b"CONNECT 5").unwrap();
    drop(client);
    assert_eq!(Handshake::new(HostSocket::from_pair(stream, Stream).unwrap()).advance(), Greeting::Refused);
}

#[test]
fn the_socket_file_is_private_and_goes_with_its_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let listener = Listener::bind(&path, Stream).unwrap();
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Listener::bind(&path, Stream), Err(HostError::InUse { .. })));
    assert!(listener.accept().unwrap().is_some(), "the probe of the second bind");
    assert!(listener.accept().unwrap().is_none());
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_dead_socket_is_replaced_and_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    drop(UnixListener::bind(&path).unwrap());
    drop(Listener::bind(&path, Stream).unwrap());
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&path, Stream), Err(HostError::Exists { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_file_that_took_the_place_of_the_socket_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let listener = Listener::bind(&path, Stream).unwrap();
    fs::rename(&path, dir.path().join("old")).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(listener);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_path_that_no_socket_can_have_is_an_error() {
    for path in
        [PathBuf::new(), PathBuf::from("/tmp/".to_owned() + &"x".repeat(103)), "/no/such/dir/v".into()]
    {
        assert!(matches!(Listener::bind(&path, Stream), Err(HostError::Listen { .. })), "{path:?}");
    }
}

#[test]
fn a_full_backlog_refuses_at_once() {
    let dir = tempfile::tempdir().unwrap();
    assert!(connect_to_service(&dir.path().join("v"), 7, Stream).is_err(), "nobody listens");
    let service = Listener::bind(&dir.path().join("v_7"), Stream).unwrap();
    let waiting: Vec<_> = std::iter::from_fn(|| connect_to_service(&dir.path().join("v"), 7, Stream).ok())
        .take(10_000)
        .collect();
    assert!(waiting.len() < 10_000, "connect never said no");
    assert!(service.accept().unwrap().is_some());
}

#[test]
fn a_message_is_a_line() {
    let dir = tempfile::tempdir().unwrap();
    for (text, greeting) in [
        (&b"CONNECT 1234\n"[..], Greeting::Connect(1234)),
        (b"CONNECT 1234", Greeting::Connect(1234)),
        (b"CONNECT 1\nCONNECT 2\n", Greeting::Refused),
        (&[b'5'; 33], Greeting::Refused),
        (b"", Greeting::Refused),
    ] {
        let (client, device) = message_pair(dir.path());
        let mut handshake = Handshake::new(device);
        assert_eq!(handshake.advance(), Greeting::Partial);
        client.send(text).unwrap();
        client.send(b"CONNECT 7").unwrap();
        assert_eq!(handshake.advance(), greeting, "{text:?}");
        assert_eq!(
            handshake.into_socket().peek().unwrap(),
            Peeked::Message(9),
            "what follows is the guest's"
        );
    }
}

#[test]
fn an_empty_message_is_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (client, device) = message_pair(dir.path());
    assert_eq!(device.peek().unwrap(), Peeked::Nothing);
    client.send(b"").unwrap();
    assert_eq!(device.peek().unwrap(), Peeked::Empty);
    client.send(b"abc").unwrap();
    client.shutdown(std::net::Shutdown::Write);
    assert_eq!(device.peek().unwrap(), Peeked::Empty);
    assert_eq!(device.receive(&mut [], 0).unwrap(), 0);
    assert_eq!(device.peek().unwrap(), Peeked::Message(3));
    assert_eq!(device.receive(&mut [0; 8], 0).unwrap(), 3);
    assert_eq!(device.peek().unwrap(), Peeked::End);
}

#[test]
fn what_was_written_before_a_reset_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (client, device) = message_pair(dir.path());
    device.send(b"never read").unwrap();
    client.send(b"last words").unwrap();
    drop(client);
    assert_eq!(device.peek().unwrap(), Peeked::Message(10));
    assert_eq!(device.receive(&mut [0; 16], 0).unwrap(), 10);
    assert_eq!(device.peek().unwrap(), Peeked::End);
}

#[test]
fn the_longest_message_is_what_the_socket_takes() {
    let dir = tempfile::tempdir().unwrap();
    let (client, _device) = message_pair(dir.path());
    let longest = client.longest_message().unwrap() as usize;
    assert!(longest >= 128 * 1024, "{longest}");
    assert_eq!(client.send(&vec![0; longest + 1]).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
    assert_eq!(client.send(&vec![0; longest]).unwrap(), longest);
}

#[test]
fn sockets_of_both_types_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let _service = Listener::bind(&dir.path().join("v_7"), Stream).unwrap();
    assert!(connect_to_service(&path, 7, Stream).is_ok());
    assert!(connect_to_service(&path, 7, Seqpacket).is_err());
    // A living socket of the other type is not taken for a dead one.
    let _other = Listener::bind(&path, Stream).unwrap();
    assert!(matches!(Listener::bind(&path, Seqpacket), Err(HostError::InUse { .. })));
}

#[test]
fn only_a_private_directory_asks_who_a_client_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    for (mode, private) in [(0o700, true), (0o755, false), (0o701, false)] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let listener = Listener::bind(&path, Stream).unwrap();
        assert_eq!(listener.private, private, "{mode:o}");
        let _client = UnixStream::connect(&path).unwrap();
        assert!(listener.accept().unwrap().unwrap().is_ours().unwrap());
    }
}

/// What an epoll says of a socket now.
fn news(epoll: &Epoll) -> Vec<EventSet> {
    let mut events = [EpollEvent::default(); 4];
    let count = epoll.wait(0, &mut events).unwrap();
    events[..count].iter().map(EpollEvent::event_set).collect()
}

/// Why the guest hears only with its next send that a client of the host receives no more: no event stands for it. By edge
/// the kernel does wake who waits for room, but it does so as well each time the client reads, which would cost every
/// message a turn of the event loop.
#[test]
fn nothing_tells_a_peer_that_shut_its_receiving_side_from_one_that_reads() {
    let watch = |socket: &UnixStream, events| {
        let epoll = Epoll::new().unwrap();
        epoll.ctl(ControlOperation::Add, socket.as_raw_fd(), EpollEvent::new(events, 0)).unwrap();
        epoll
    };
    let [reads, shuts] = [true, false].map(|reads| {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        (&ours).write_all(b"x").unwrap();
        let ends = EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        let level = watch(&ours, ends | EventSet::OUT);
        let edges =
            [ends, ends | EventSet::OUT].map(|events| watch(&ours, events | EventSet::EDGE_TRIGGERED));
        let before = edges.each_ref().map(news);
        assert_eq!(before, [vec![], vec![EventSet::OUT]]);
        if reads {
            peer.read_exact(&mut [0]).unwrap();
        } else {
            peer.shutdown(std::net::Shutdown::Read).unwrap();
            let refused = (&ours).write(b"x").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe, "only a send is told");
        }
        (news(&level), edges.each_ref().map(news))
    });
    assert_eq!(reads, (vec![EventSet::OUT], [vec![], vec![EventSet::OUT]]));
    assert_eq!(shuts, reads);
}
