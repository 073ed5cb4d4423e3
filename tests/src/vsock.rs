//! AF_VSOCK sockets of the host, which the standard library has none of. A stream of these is a `UnixStream`, which only
//! reads, writes and closes.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: a sockaddr_vm of zeroes is valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).expect("a small number");
    (address.svm_cid, address.svm_port) = (cid, port);
    address
}

fn address_len() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).expect("16 bytes")
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn socket(kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_VSOCK, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a descriptor that the kernel just gave us, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Listens on a port of this machine for every guest.
///
/// # Errors
/// When there is no vsock, or the port is taken.
pub fn listen(kind: libc::c_int, port: u32) -> io::Result<OwnedFd> {
    let socket = socket(kind)?;
    let address = address(libc::VMADDR_CID_ANY, port);
    // SAFETY: `address` is a sockaddr_vm of that length that lives across the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), address_len()) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 16) })?;
    Ok(socket)
}

/// Waits for a connection.
///
/// # Errors
/// When the system refuses.
pub fn accept(listener: &OwnedFd) -> io::Result<UnixStream> {
    let none = std::ptr::null_mut();
    // SAFETY: no address is asked for.
    let fd = check(unsafe { libc::accept4(listener.as_raw_fd(), none, none.cast(), libc::SOCK_CLOEXEC) })?;
    // SAFETY: a descriptor that the kernel just gave us, owned by nobody else.
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Connects to a port of a guest.
///
/// # Errors
/// When nobody listens there.
pub fn connect(kind: libc::c_int, cid: u32, port: u32) -> io::Result<UnixStream> {
    let socket = socket(kind)?;
    let address = address(cid, port);
    // SAFETY: `address` is a sockaddr_vm of that length that lives across the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), address_len()) })?;
    Ok(UnixStream::from(socket))
}

/// Connects to a Unix socket of messages.
///
/// # Errors
/// When nobody listens there.
pub fn connect_seqpacket(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a descriptor that the kernel just gave us, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a sockaddr_un of zeroes is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).expect("a small number");
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).expect("110 bytes");
    // SAFETY: `address` is a sockaddr_un of that length, ended by a zero, that lives across the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(UnixStream::from(socket))
}
