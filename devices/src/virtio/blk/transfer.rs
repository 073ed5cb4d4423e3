//! What nearly every request is, recognised at a glance: a header, one buffer of data, a status.
//!
//! ```text
//!   read:  [ header 16 ]           -> [ data ] [ status 1 ]
//!   write: [ header 16 ] [ data ]  -> [ status 1 ]
//! ```
//!
//! Its bytes are in one file and at hand, so that it is one call to the kernel. Whatever is not like this, however little,
//! goes the whole way of a [`Request`](super::request::Request).

use vm_memory::GuestAddress;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

use super::composite::CompositeDisk;
use super::disk::Piece;
use super::engine::{Kind, Operation};
use super::request::{Guest, HEADER_SIZE, Header, Limits, Status};
use super::task::{Mode, WRITE_AT_ONCE};
use crate::virtio::queue::{Buffer, Chain, QueueError};

/// A read or a write of one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Whether it changes the disk.
    pub write: bool,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// The data.
    pub data: Buffer,
    status_at: GuestAddress,
}

impl Transfer {
    /// The transfer that `chain`, which begins with `header`, asks for, if it is one.
    #[inline]
    pub fn of(header: Header, chain: &Chain, limits: &Limits) -> Option<Self> {
        let (first, data, status, write) = match (chain.readable(), chain.writable()) {
            ([first], [data, status]) => (first, data, status, false),
            ([first, data], [status]) => (first, data, status, true),
            _ => return None,
        };
        let kind = if write { VIRTIO_BLK_T_OUT } else { VIRTIO_BLK_T_IN };
        if first.len as usize != HEADER_SIZE || status.len != 1 || header.kind != kind {
            return None;
        }
        let offset = limits.place(header.sector, u64::from(data.len))?;
        Some(Self { write, offset, data: *data, status_at: status.addr })
    }

    /// Moves the data, if that is one call that takes no wait, or that the caller may wait for.
    #[inline]
    pub fn is_moved(&self, disk: &CompositeDisk, mode: Mode, guest: &mut Guest) -> bool {
        let whole = u64::from(self.data.len);
        let Ok(Piece::File { file, offset, len }) = disk.piece(self.offset, whole, self.write) else {
            return false;
        };
        let Some(host) = disk.files().get(file) else { return false };
        let wait = mode.waits_for(host);
        let tries = wait || mode.tries(host, self.write);
        if len != whole || self.write && len > WRITE_AT_ONCE || !tries {
            return false;
        }
        let Some(data) = guest.find(self.data) else { return false };
        let (data, size) = (data.as_ptr().cast::<libc::c_void>(), self.data.len as usize);
        let place = libc::off_t::try_from(offset).unwrap_or(libc::off_t::MAX);
        if wait {
            // SAFETY: the buffer is guest memory that stays mapped; what a read fills is a writable buffer of the chain's.
            let moved = unsafe {
                match self.write {
                    false => libc::pread(host.fd(), data, size, place),
                    true => libc::pwrite(host.fd(), data, size, place),
                }
            };
            return usize::try_from(moved) == Ok(size);
        }
        let iovec = libc::iovec { iov_base: data, iov_len: size };
        let kind = if self.write { Kind::Write } else { Kind::Read };
        let operation = Operation { file, kind, offset, len, iovecs: &raw const iovec, count: 1 };
        // SAFETY: as above.
        let moved = unsafe { operation.run(host.fd(), true) };
        u64::try_from(moved) == Ok(whole)
    }

    /// Answers that it was done; gives the used length.
    ///
    /// # Errors
    /// When guest memory is gone.
    #[inline]
    pub fn answer(&self, guest: &mut Guest) -> Result<u32, QueueError> {
        guest.put(self.status_at, Status::Ok.byte())?;
        Ok(if self.write { 1 } else { self.data.len.saturating_add(1) })
    }
}
