//! PID 1's end of the payload's requests (format: [`crate::requests`]).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::{mem, ptr};

use super::report::check;
use crate::requests::{MAX_PACKET, Request, Status};

/// Most connections at a time; others wait in the socket's queue.
pub const MAX_CONNECTIONS: usize = 8;

/// The listening socket and the connections of the payload's processes.
#[derive(Debug)]
pub struct PayloadSocket {
    listener: OwnedFd,
    allowed_user: u32,
    connections: Vec<OwnedFd>,
}

impl PayloadSocket {
    /// Listens at `path`, for processes of `allowed_user`. Who may open the path is for the caller to say.
    ///
    /// # Errors
    /// Those of the socket calls; `InvalidInput` for a path that is too long.
    pub fn listen(path: &Path, allowed_user: u32) -> io::Result<Self> {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes no memory; the descriptor is new and owned by nobody else.
        let listener = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, kind, 0))?) };
        let (address, size) = address(path)?;
        // SAFETY: the address is initialised, of this size, and lives across the call.
        unsafe {
            check(libc::bind(listener.as_raw_fd(), (&raw const address).cast(), size))?;
            check(libc::listen(listener.as_raw_fd(), 64))?;
        }
        Ok(Self { listener, allowed_user, connections: Vec::new() })
    }

    /// What to wait on: the connections, and the listener unless there are too many of them.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (self.connections.len() < MAX_CONNECTIONS).then(|| self.listener.as_fd());
        self.connections.iter().map(AsFd::as_fd).chain(listener)
    }

    /// Takes new connections and answers every request that has come, without waiting for any.
    pub fn serve(&mut self, mut answer: impl FnMut(Request) -> Status) {
        while self.connections.len() < MAX_CONNECTIONS {
            let Some(connection) = self.accept() else { break };
            if peer_user(&connection) == Some(self.allowed_user) {
                self.connections.push(connection);
            }
        }
        self.connections.retain(|connection| is_served(connection, &mut answer));
    }

    fn accept(&self) -> Option<OwnedFd> {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: null for an address that is not wanted; the descriptor is new and owned by nobody else.
        unsafe {
            let socket = libc::accept4(self.listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), flags);
            (socket >= 0).then(|| OwnedFd::from_raw_fd(socket))
        }
    }
}

/// Answers the requests waiting on one connection; false when it is to be closed. Each turn answers a few at most, so that
/// no connection keeps PID 1 from the others.
fn is_served(connection: &OwnedFd, answer: &mut impl FnMut(Request) -> Status) -> bool {
    for _ in 0..4 {
        let mut packet = [0; MAX_PACKET];
        // SAFETY: pointer and length belong together. MSG_TRUNC gives a packet's real size, which is then too large.
        let size = unsafe {
            libc::recv(connection.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), libc::MSG_TRUNC)
        };
        let Ok(size) = usize::try_from(size) else {
            let error = io::Error::last_os_error().kind();
            return matches!(error, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        };
        // An empty packet, which is also how the end of a connection looks, is no request.
        let Some(Ok(request)) = packet.get(..size).map(Request::parse) else { return false };
        let reply = answer(request).packet();
        // SAFETY: as above.
        let sent = unsafe {
            libc::send(connection.as_raw_fd(), reply.as_ptr().cast(), reply.len(), libc::MSG_NOSIGNAL)
        };
        // One that does not take its answers is not worth keeping.
        if sent < 0 {
            return false;
        }
    }
    true
}

/// The user that connected, as the kernel recorded it then.
fn peer_user(connection: &OwnedFd) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = libc::socklen_t::try_from(size_of::<libc::ucred>()).ok()?;
    // SAFETY: the kernel writes at most `size` bytes into the structure of that size.
    let result = unsafe {
        let value = (&raw mut peer).cast();
        libc::getsockopt(connection.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut size)
    };
    (result == 0).then_some(peer.uid)
}

fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: sockaddr_un is plain old data, for which zeros are valid.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).map_err(io::Error::other)?;
    let bytes = path.as_bytes_with_nul();
    if bytes.len() > address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, &from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Ok((address, libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests;
