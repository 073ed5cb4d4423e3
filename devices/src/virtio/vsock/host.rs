//! The host's side: Unix sockets, in the convention that Firecracker made known.
//!
//! ```text
//!   host to guest:  client ── connect <path> ──────────> Listener
//!                          ── CONNECT <guest port>\n ──>            (then the device asks the guest)
//!                          <── OK <host port>\n ───────             or the connection is closed: refused
//!   guest to host:  device ── connect <path>_<host port> ──> whoever listens there, else refused
//! ```
//!
//! Messages go the same way over sockets of type SOCK_SEQPACKET: clients connect to `<path>.seqpacket`, where
//! each line of the handshake is one message, and whoever listens at `<path>_<port>` with a socket of that type
//! is who a guest's seqpacket connection reaches. One message of the guest is one message of the Unix socket.
//! A Unix socket carries neither empty messages, which a reader takes for the end, nor MSG_EOR: the guest's are
//! dropped, and each message from the host is a record of its own.
//!
//! Where the socket's directory is open to its owner alone, so is the socket: whatever somebody does to the
//! file's mode, clients of other users but root are turned away.
//!
//! The sockets themselves are in [`socket`], the lines in [`handshake`].

pub mod handshake;
pub mod socket;

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub use self::handshake::{Greeting, Handshake};
pub use self::socket::HostSocket;
use super::packet::Kind;

/// What the path of the socket for messages has behind the other's.
const SEQPACKET_SUFFIX: &str = ".seqpacket";
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
    socket: OwnedFd,
    kind: Kind,
    path: PathBuf,
    /// Device and inode: on drop, only our own file is removed.
    file: (u64, u64),
    /// Nobody but the owner of its directory and root is to connect.
    private: bool,
}

impl Listener {
    /// Listens on `path`. The socket of a dead process is replaced, anything else there is an error.
    ///
    /// # Errors
    /// When the path is taken, too long for a socket (107 bytes), or cannot be made.
    pub fn bind(path: &Path, kind: Kind) -> Result<Self, HostError> {
        let refused = |source| HostError::Listen { path: path.to_owned(), source };
        let socket = match listen(path, kind) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
                remove_stale(path, kind)?;
                listen(path, kind)
            }
            other => other,
        }
        .map_err(refused)?;
        let meta = fs::symlink_metadata(path).map_err(refused)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = fs::metadata(parent.unwrap_or(Path::new("."))).map_err(refused)?;
        let private = directory.mode() & 0o077 == 0;
        Ok(Self { socket, kind, path: path.to_owned(), file: (meta.dev(), meta.ino()), private })
    }

    /// The listening socket, for an epoll.
    pub fn fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// The next client that waits, if one does.
    ///
    /// # Errors
    /// When the process or the system has no descriptor left.
    pub fn accept(&self) -> io::Result<Option<HostSocket>> {
        loop {
            match socket::accept(&self.socket, self.kind) {
                Ok(client) if !self.private || client.is_ours()? => return Ok(Some(client)),
                Ok(_) => log::warn!("vsock: a client of another user at {} refused", self.path.display()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Connects to whoever listens for the guest on `port` with a socket of this kind, without waiting: a listener
/// whose backlog is full refuses. `path` is the device's.
///
/// # Errors
/// When nobody does.
pub fn connect_to_service(path: &Path, port: u32, kind: Kind) -> io::Result<HostSocket> {
    connect(&with_suffix(path, &format!("_{port}")), kind)
}

/// Where clients of a device whose socket is at `path` connect for a connection of this kind.
pub fn clients_path(path: &Path, kind: Kind) -> PathBuf {
    match kind {
        Kind::Stream => path.to_owned(),
        Kind::Seqpacket => with_suffix(path, SEQPACKET_SUFFIX),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(path);
    path.push(suffix);
    path.into()
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
fn remove_stale(path: &Path, kind: Kind) -> Result<(), HostError> {
    let failed = |source| HostError::Listen { path: path.to_owned(), source };
    if !fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(HostError::Exists { path: path.to_owned() });
    }
    // A living socket of another type says so instead (EPROTOTYPE).
    match connect(path, kind) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        _ => Err(HostError::InUse { path: path.to_owned() }),
    }
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

fn listen(path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    let (address, len) = address(path)?;
    let socket = socket::new(kind)?;
    // The kernel makes the file with the mode of the socket itself, so nobody can connect between its
    // making and a later chmod, and the umask, which belongs to every thread, stays alone.
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) })?;
    // SAFETY: `address` is a sockaddr_un of `len` bytes that lives across the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket)
}

/// Connects to whoever listens there, without waiting.
pub(super) fn connect(path: &Path, kind: Kind) -> io::Result<HostSocket> {
    let (address, len) = address(path)?;
    let socket = socket::new(kind)?;
    // SAFETY: `address` is a sockaddr_un of `len` bytes that lives across the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    HostSocket::new(socket, kind)
}

#[cfg(test)]
mod tests;
