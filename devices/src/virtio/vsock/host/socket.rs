//! One connected Unix socket of the host, a stream's or of messages. The one file with system calls of them;
//! none blocks and none raises SIGPIPE.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::virtio::vsock::packet::{Kind, Pieces};

/// What the kernel takes of the send buffer for itself before it calls a message too long.
const MESSAGE_OVERHEAD: u32 = 32;
/// Send buffer that is asked for; the kernel doubles it, and caps it at net.core.wmem_max. A guest's window
/// fits, so that the copy in this process is rarely needed.
const SEND_BUFFER: libc::c_int = 256 * 1024;

/// The host's end of a connection.
#[derive(Debug)]
pub struct HostSocket {
    fd: OwnedFd,
    kind: Kind,
}

/// What a socket of messages has next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// Nothing yet.
    Nothing,
    /// A message of this many bytes, not zero.
    Message(usize),
    /// An empty message.
    Empty,
    /// The end.
    End,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn transferred(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A socket that is connected to nobody yet.
pub(super) fn new(kind: Kind) -> io::Result<OwnedFd> {
    let kind = match kind {
        Kind::Stream => libc::SOCK_STREAM,
        Kind::Seqpacket => libc::SOCK_SEQPACKET,
    };
    // SAFETY: no pointers.
    let fd =
        check(unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // SAFETY: a descriptor that the kernel just gave us, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next client of a listening socket.
pub(super) fn accept(listener: &OwnedFd, kind: Kind) -> io::Result<HostSocket> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let none = std::ptr::null_mut();
    // SAFETY: no address is asked for.
    let fd = check(unsafe { libc::accept4(listener.as_raw_fd(), none, none.cast(), flags) })?;
    // SAFETY: a descriptor that the kernel just gave us, owned by nobody else.
    HostSocket::new(unsafe { OwnedFd::from_raw_fd(fd) }, kind)
}

impl HostSocket {
    /// Takes over a connected socket that does not block.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn new(fd: OwnedFd, kind: Kind) -> io::Result<Self> {
        let socket = Self { fd, kind };
        socket.set_option(libc::SO_SNDBUF, &SEND_BUFFER)?;
        Ok(socket)
    }

    /// Takes over one end of a pair.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn from_pair(end: UnixStream, kind: Kind) -> io::Result<Self> {
        end.set_nonblocking(true)?;
        Self::new(end.into(), kind)
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn set_option(&self, option: libc::c_int, value: &libc::c_int) -> io::Result<()> {
        let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four bytes");
        // SAFETY: `value` is an int of that length, and the kernel only reads it.
        check(unsafe {
            let value = std::ptr::from_ref(value).cast();
            libc::setsockopt(self.as_raw_fd(), libc::SOL_SOCKET, option, value, len)
        })
        .map(drop)
    }

    fn option<T>(&self, option: libc::c_int, mut value: T) -> io::Result<T> {
        let mut len = libc::socklen_t::try_from(size_of::<T>()).expect("a small option");
        // SAFETY: `value` and `len` live across the call; the kernel writes at most `len` bytes to `value`,
        // of a type whose every bit pattern is valid (the callers ask for ints and a ucred).
        check(unsafe {
            let value = (&raw mut value).cast();
            libc::getsockopt(self.as_raw_fd(), libc::SOL_SOCKET, option, value, &raw mut len)
        })?;
        Ok(value)
    }

    /// The longest message that it takes, in bytes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn longest_message(&self) -> io::Result<u32> {
        let buffer: libc::c_int = self.option(libc::SO_SNDBUF, 0)?;
        Ok(u32::try_from(buffer).unwrap_or(0).saturating_sub(MESSAGE_OVERHEAD))
    }

    /// Whether whoever is at the other end is this process's user, or root.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn is_ours(&self) -> io::Result<bool> {
        let peer = self.option(libc::SO_PEERCRED, libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: 0 })?;
        // SAFETY: geteuid only returns a number.
        Ok(peer.uid == 0 || peer.uid == unsafe { libc::geteuid() })
    }

    /// Ends one or both directions.
    pub fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        // Fails only when the other end is gone, and then there is nothing to end.
        // SAFETY: no pointers.
        let _ = unsafe { libc::shutdown(self.as_raw_fd(), how) };
    }

    /// Sends guest memory: as much as the socket takes, a message whole.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing, `BrokenPipe` when it never will again.
    pub fn send_pieces(&self, pieces: &Pieces<'_>) -> io::Result<usize> {
        let message = message(pieces);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the pieces lie in guest memory that `pieces` borrows, and the kernel only reads them; that
        // the guest may change them meanwhile harms nobody but its own data.
        transferred(unsafe { libc::sendmsg(self.as_raw_fd(), &raw const message, flags) })
    }

    /// Sends bytes: as many as the socket takes, a message whole.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing, `BrokenPipe` when it never will again.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the buffer lives across the call and the kernel only reads it.
        transferred(unsafe { libc::send(self.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
    }

    /// Receives into guest memory; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, `ConnectionReset` when the other end left data unread.
    pub fn receive_pieces(&self, pieces: &Pieces<'_>) -> io::Result<usize> {
        let mut message = message(pieces);
        // SAFETY: the pieces lie in guest memory that `pieces` borrows and that the guest shares anyway:
        // nothing in this process holds a reference into it.
        transferred(unsafe { libc::recvmsg(self.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
    }

    /// Receives bytes; `flags` beside MSG_DONTWAIT.
    ///
    /// # Errors
    /// As [`receive_pieces`](Self::receive_pieces).
    pub fn receive(&self, bytes: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
        let flags = flags | libc::MSG_DONTWAIT;
        // SAFETY: the buffer lives across the call and is ours alone.
        transferred(unsafe { libc::recv(self.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), flags) })
    }

    /// What a socket of messages has next, which stays there.
    ///
    /// # Errors
    /// When the connection is of no more use.
    pub fn peek(&self) -> io::Result<Peeked> {
        for _ in 0..2 {
            match self.receive(&mut [], libc::MSG_PEEK | libc::MSG_TRUNC) {
                Ok(0) => break,
                Ok(len) => return Ok(Peeked::Message(len)),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Ok(Peeked::Nothing);
                }
                // The other end left data unread. It is told once, before what it wrote itself.
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
                Err(e) => return Err(e),
            }
        }
        let mut poll = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one pollfd that lives across the call.
        check(unsafe { libc::poll(&raw mut poll, 1, 0) })?;
        if poll.revents & (libc::POLLRDHUP | libc::POLLHUP) == 0 {
            return Ok(Peeked::Empty);
        }
        let mut queued: libc::c_int = 0;
        // SAFETY: FIONREAD writes an int.
        check(unsafe { libc::ioctl(self.as_raw_fd(), libc::FIONREAD, &raw mut queued) })?;
        Ok(if queued > 0 { Peeked::Empty } else { Peeked::End })
    }
}

impl AsRawFd for HostSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for HostSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn message(pieces: &Pieces<'_>) -> libc::msghdr {
    // SAFETY: a msghdr of zeroes is valid: no name, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_slice().as_ptr().cast_mut();
    message.msg_iovlen = pieces.as_slice().len() as _;
    message
}

impl From<HostSocket> for OwnedFd {
    fn from(socket: HostSocket) -> Self {
        socket.fd
    }
}
