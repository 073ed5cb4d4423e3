//! The payload manager's way to this process where the host's kernel has the guest's sockets: an AF_VSOCK listener on
//! the guest's port, in the place of the port that the device of this process keeps to itself.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use guest_api::ports::{HOST_CID, report_port};

use crate::guest::Door;

/// AF_VSOCK, in the width of a socket address.
const FAMILY: libc::sa_family_t = 40;
const _: () = assert!(libc::AF_VSOCK == 40);
/// Connections that may wait; all but one are refused.
const BACKLOG: libc::c_int = 4;
/// Connections taken at a time.
const BATCH: usize = 16;

/// Takes connections to the guest's port and lets the guest's manager in.
pub struct ReportListener {
    socket: OwnedFd,
    guest_cid: u32,
    door: Arc<Door>,
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: a sockaddr_vm of zeroes is valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    (address.svm_family, address.svm_cid, address.svm_port) = (FAMILY, cid, port);
    address
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn address_len() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).expect("16 bytes")
}

impl ReportListener {
    /// Listens on the host's side for the guest `guest_cid`.
    ///
    /// # Errors
    /// When the host has no vsock, or the port is taken.
    pub fn bind(guest_cid: u32, door: Arc<Door>) -> io::Result<Self> {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) })?;
        // SAFETY: a descriptor that the kernel just gave us, owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = address(HOST_CID, report_port(guest_cid));
        // SAFETY: `address` is a sockaddr_vm of that length that lives across the call.
        check(unsafe { libc::bind(fd, (&raw const address).cast(), address_len()) })?;
        // SAFETY: no pointers.
        check(unsafe { libc::listen(fd, BACKLOG) })?;
        Ok(Self { socket, guest_cid, door })
    }

    /// The next connection, and who is at its other end.
    fn accept(&self) -> io::Result<(UnixStream, libc::sockaddr_vm)> {
        let (mut peer, mut len) = (address(0, 0), address_len());
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: `peer` has `len` bytes, and both live across the call.
        let fd = check(unsafe {
            libc::accept4(self.socket.as_raw_fd(), (&raw mut peer).cast(), &raw mut len, flags)
        })?;
        // A stream of the standard library is of any family: it only reads, writes and closes.
        // SAFETY: a descriptor that the kernel just gave us, owned by nobody else.
        Ok((UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) }), peer))
    }
}

impl MutEventSubscriber for ReportListener {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.socket, EventSet::IN)) {
            log::error!("watch the payload manager's port: {error}");
        }
    }

    fn process(&mut self, _events: Events, ops: &mut EventOps<'_>) {
        for _ in 0..BATCH {
            match self.accept() {
                // The kernel vouches for the context id, the guest's kernel for the port.
                Ok((stream, peer)) if peer.svm_cid == self.guest_cid => {
                    self.door.admit(peer.svm_port, stream);
                }
                Ok((_, peer)) => {
                    log::warn!("context id {} at the payload manager's port refused", peer.svm_cid)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // It would be reported for ever.
                    log::error!("payload manager's port given up: {error}");
                    let _ = ops.remove(Events::empty(&self.socket));
                    return;
                }
            }
        }
    }
}
