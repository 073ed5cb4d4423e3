use super::*;

struct Client(OwnedFd);

impl Client {
    fn connect(path: &Path) -> Self {
        let (address, size) = address(path).unwrap();
        // SAFETY: as in `listen`.
        unsafe {
            let socket = check(libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0)).unwrap();
            let socket = OwnedFd::from_raw_fd(socket);
            check(libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size)).unwrap();
            Self(socket)
        }
    }

    fn send(&self, packet: &[u8]) {
        // SAFETY: pointer and length belong together.
        let sent = unsafe {
            libc::send(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), libc::MSG_NOSIGNAL)
        };
        assert_eq!(usize::try_from(sent).unwrap(), packet.len());
    }

    /// The packet that is there: none when there is none yet, an empty one at the end.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; MAX_PACKET];
        // SAFETY: pointer and length belong together.
        let size = unsafe {
            libc::recv(self.0.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), libc::MSG_DONTWAIT)
        };
        packet.truncate(usize::try_from(size).ok()?);
        Some(packet)
    }
}

fn own_user() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::getuid() }
}

fn listen(user: u32) -> (PayloadSocket, tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payload.sock");
    (PayloadSocket::listen(&path, user).unwrap(), dir, path)
}

#[test]
fn each_request_gets_one_answer() {
    let (mut socket, _dir, path) = listen(own_user());
    let client = Client::connect(&path);
    client.send(&Request::NotifyReady.packet());
    client.send(&Request::NotifyReady.packet());
    let mut asked = 0;
    socket.serve(|Request::NotifyReady| {
        asked += 1;
        if asked == 1 { Status::Ok } else { Status::Failed }
    });
    assert_eq!(asked, 2);
    assert_eq!(client.receive(), Some(Status::Ok.packet().to_vec()));
    assert_eq!(client.receive(), Some(Status::Failed.packet().to_vec()));
    assert_eq!(client.receive(), None, "the connection stays open");
}

#[test]
fn other_users_are_turned_away() {
    let (mut socket, _dir, path) = listen(own_user() + 1);
    let client = Client::connect(&path);
    client.send(&Request::NotifyReady.packet());
    socket.serve(|_| panic!("a stranger was served"));
    assert_eq!(socket.connections.len(), 0);
    assert!(client.receive().is_none_or(|packet| packet.is_empty()), "closed without an answer");
}

#[test]
fn a_connection_that_sends_anything_else_is_closed() {
    for packet in [&[][..], &[0], &[1, 0], &[1; MAX_PACKET], &[1; MAX_PACKET + 1]] {
        let (mut socket, _dir, path) = listen(own_user());
        let client = Client::connect(&path);
        client.send(packet);
        socket.serve(|_| panic!("served {packet:?}"));
        assert_eq!(socket.connections.len(), 0, "{packet:?}");
    }
}

#[test]
fn connections_are_bounded_and_the_next_gets_its_turn() {
    let (mut socket, _dir, path) = listen(own_user());
    let mut clients: Vec<_> = (0..=MAX_CONNECTIONS).map(|_| Client::connect(&path)).collect();
    socket.serve(|_| Status::Ok);
    assert_eq!(socket.connections.len(), MAX_CONNECTIONS);
    assert_eq!(socket.sources().count(), MAX_CONNECTIONS, "the listener is not waited on");
    let last = clients.pop().unwrap();
    last.send(&Request::NotifyReady.packet());
    drop(clients);
    socket.serve(|_| Status::Ok);
    socket.serve(|_| Status::Ok);
    assert_eq!(last.receive(), Some(Status::Ok.packet().to_vec()));
    assert_eq!(socket.sources().count(), 2);
}

#[test]
fn a_client_that_takes_no_answers_does_not_stop_the_server() {
    let (mut socket, _dir, path) = listen(own_user());
    let client = Client::connect(&path);
    let mut sent = 0;
    for _ in 0..10_000 {
        client.send(&Request::NotifyReady.packet());
        sent += 1;
        socket.serve(|_| Status::Ok);
        if socket.connections.is_empty() {
            break;
        }
    }
    assert!(sent < 10_000, "its answers pile up in the kernel only so far");
}

#[test]
fn a_path_that_does_not_fit_is_refused() {
    assert!(PayloadSocket::listen(Path::new(&"x".repeat(108)), 0).is_err());
}
