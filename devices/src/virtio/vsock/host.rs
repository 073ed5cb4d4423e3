//! The host's side: Unix sockets, in the convention that Firecracker made known.
//!
//! ```text
//!   host to guest:  client ── connect <path> ──────────> Listener
//!                          ── CONNECT <guest port>\n ──>            (then the device asks the guest)
//!                          <── OK <host port>\n ───────             or the connection is closed: refused
//!   guest to host:  device ── connect <path>_<host port> ──> whoever listens there, else refused
//! ```
//!
//! The one file with system calls of sockets; none of them blocks and none raises SIGPIPE.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::packet::Pieces;

/// Longest line that a client may send, its newline included: `CONNECT 4294967295` and some white space.
const MAX_LINE: usize = 32;
/// AF_UNIX, in the width of a socket address.
const FAMILY: libc::sa_family_t = 1;
const _: () = assert!(libc::AF_UNIX == 1);
/// Connections that may wait to be accepted.
const BACKLOG: libc::c_int = 128;

/// The Unix socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is a file, and it is no socket.
    #[error("{} exists and is not a socket", path.display())]
    Exists {
        /// The socket's path.
        path: PathBuf,
    },
    /// Some process listens there.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("listen on {}", path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening Unix socket whose file, of mode 0600, lives as long as it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode: on drop, only our own file is removed.
    file: (u64, u64),
}

impl Listener {
    /// Listens on `path`. The socket of a dead process is replaced, anything else there is an error.
    ///
    /// # Errors
    /// When the path is taken, too long for a socket (107 bytes), or cannot be made.
    pub fn bind(path: &Path) -> Result<Self, HostError> {
        let refused = |source| HostError::Listen { path: path.to_owned(), source };
        let socket = match listen(path) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
                remove_stale(path)?;
                listen(path)
            }
            other => other,
        }
        .map_err(refused)?;
        let meta = fs::symlink_metadata(path).map_err(refused)?;
        Ok(Self { socket, path: path.to_owned(), file: (meta.dev(), meta.ino()) })
    }

    /// The listening socket, for an epoll.
    pub fn fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// The next client that waits, if one does. Its stream does not block.
    ///
    /// # Errors
    /// When the process or the system has no descriptor left.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    return Ok(Some(stream));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Connects to whoever listens for the guest on `port`, without waiting: a listener whose backlog is
    /// full refuses.
    ///
    /// # Errors
    /// When nobody does.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        connect(Path::new(&path))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Ok(meta) = fs::symlink_metadata(&self.path)
            && (meta.dev(), meta.ino()) == self.file
        {
            // Nothing is left to do about a file that cannot be removed.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a dead process: only the kernel refuses a connection to a socket file.
fn remove_stale(path: &Path) -> Result<(), HostError> {
    let failed = |source| HostError::Listen { path: path.to_owned(), source };
    if !fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(HostError::Exists { path: path.to_owned() });
    }
    match connect(path) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        _ => Err(HostError::InUse { path: path.to_owned() }),
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel just gave us, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The address of `path`, and its length.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    let mut address = libc::sockaddr_un {
        sun_family: FAMILY,
        sun_path: [0; size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path)],
    };
    // A leading zero would mean the abstract namespace, and an empty path an unnamed socket.
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let limit = address.sun_path.len() - 1;
        let text = format!("a socket's path has 1 to {limit} bytes, this one {}", bytes.len());
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let len = offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, libc::socklen_t::try_from(len).expect("at most the size of sockaddr_un")))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let (address, len) = address(path)?;
    let socket = new_socket()?;
    // The kernel makes the file with the mode of the socket itself, so nobody can connect between its
    // making and a later chmod, and the umask, which belongs to every thread, stays alone.
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) })?;
    // SAFETY: `address` is a sockaddr_un of `len` bytes that lives across the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(UnixListener::from(socket))
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let (address, len) = address(path)?;
    let socket = new_socket()?;
    // SAFETY: `address` is a sockaddr_un of `len` bytes that lives across the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(UnixStream::from(socket))
}

fn message(pieces: &Pieces<'_>) -> libc::msghdr {
    // SAFETY: a msghdr of zeroes is valid: no name, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_slice().as_ptr().cast_mut();
    message.msg_iovlen = pieces.as_slice().len() as _;
    message
}

fn transferred(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sends guest memory, as much as the socket takes.
///
/// # Errors
/// `WouldBlock` when it takes nothing, `BrokenPipe` when it never will again.
pub fn send_pieces(stream: &UnixStream, pieces: &Pieces<'_>) -> io::Result<usize> {
    let message = message(pieces);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pieces lie in guest memory that `pieces` borrows, and the kernel only reads them; that the
    // guest may change them meanwhile harms nobody but its own data.
    transferred(unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, flags) })
}

/// Sends bytes, as many as the socket takes.
///
/// # Errors
/// `WouldBlock` when it takes nothing, `BrokenPipe` when it never will again.
pub fn send(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the buffer lives across the call and the kernel only reads it.
    transferred(unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Receives into guest memory; 0 is the end of the stream.
///
/// # Errors
/// `WouldBlock` when there is nothing, `ConnectionReset` when the other end left data unread.
pub fn receive_pieces(stream: &UnixStream, pieces: &Pieces<'_>) -> io::Result<usize> {
    let mut message = message(pieces);
    // SAFETY: the pieces lie in guest memory that `pieces` borrows and that the guest shares anyway: nothing
    // in this process holds a reference into it.
    transferred(unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
}

fn receive(stream: &UnixStream, bytes: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: the buffer lives across the call and is ours alone.
    transferred(unsafe { libc::recv(stream.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) })
}

/// What a client's line amounts to so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting {
    /// There is more to come.
    Partial,
    /// It wants to talk to this port of the guest.
    Connect(u32),
    /// It left, or speaks something else.
    Refused,
}

/// A client of the host that has not said yet where it wants to go.
#[derive(Debug)]
pub struct Handshake {
    stream: UnixStream,
    line: [u8; MAX_LINE],
    len: usize,
}

impl Handshake {
    /// A client that was just accepted.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, line: [0; MAX_LINE], len: 0 }
    }

    /// The client's socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The client's socket, everything after the line still in it.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Reads on, up to the newline and not a byte further: what follows is meant for the guest.
    pub fn advance(&mut self) -> Greeting {
        loop {
            let seen = match receive(&self.stream, &mut self.line[self.len..], libc::MSG_PEEK) {
                Ok(0) => return Greeting::Refused,
                Ok(seen) => &self.line[self.len..self.len + seen],
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Greeting::Partial,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Greeting::Refused,
            };
            let newline = seen.iter().position(|byte| *byte == b'\n');
            let end = self.len + newline.map_or(seen.len(), |at| at + 1);
            // The very bytes that were peeked at: this takes them out of the socket.
            match receive(&self.stream, &mut self.line[self.len..end], 0) {
                Ok(taken) if self.len + taken == end => self.len = end,
                _ => return Greeting::Refused,
            }
            if newline.is_some() {
                return parse_line(&self.line[..end]).map_or(Greeting::Refused, Greeting::Connect);
            }
            if self.len == MAX_LINE {
                return Greeting::Refused;
            }
        }
    }
}

/// The port of `CONNECT <port>\n`; the word in any case.
fn parse_line(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (word, port) = (words.next()?, words.next()?);
    let known = word.eq_ignore_ascii_case("CONNECT") && words.next().is_none();
    // `parse` would take a sign.
    (known && port.bytes().all(|byte| byte.is_ascii_digit())).then(|| port.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

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
        let mut handshake = Handshake::new(stream);
        assert_eq!(handshake.advance(), Greeting::Partial);
        for byte in b"CONNECT 12" {
            client.write_all(&[*byte]).unwrap();
            assert_eq!(handshake.advance(), Greeting::Partial);
        }
        client.write_all(b"34\nhello\n").unwrap();
        assert_eq!(handshake.advance(), Greeting::Connect(1234));
        drop(client);
        let mut rest = String::new();
        handshake.into_stream().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "hello\n");
    }

    #[test]
    fn a_line_too_long_or_cut_short_is_refused() {
        let (mut client, stream) = UnixStream::pair().unwrap();
        client.write_all(&[b' '; MAX_LINE]).unwrap();
        assert_eq!(Handshake::new(stream).advance(), Greeting::Refused);
        let (mut client, stream) = UnixStream::pair().unwrap();
        client.write_all(b"CONNECT 5").unwrap();
        drop(client);
        assert_eq!(Handshake::new(stream).advance(), Greeting::Refused);
    }

    #[test]
    fn the_socket_file_is_private_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Listener::bind(&path), Err(HostError::InUse { .. })));
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
        drop(Listener::bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path), Err(HostError::Exists { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_file_that_took_the_place_of_the_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let listener = Listener::bind(&path).unwrap();
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
            assert!(matches!(Listener::bind(&path), Err(HostError::Listen { .. })), "{path:?}");
        }
    }

    #[test]
    fn a_full_backlog_refuses_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&dir.path().join("v")).unwrap();
        assert!(listener.connect(7).is_err(), "nobody listens");
        let service = Listener::bind(&dir.path().join("v_7")).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| listener.connect(7).ok()).take(10_000).collect();
        assert!(waiting.len() < 10_000, "connect never said no");
        assert!(service.accept().unwrap().is_some());
    }
}
