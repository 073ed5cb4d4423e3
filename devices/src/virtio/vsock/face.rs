//! What the driver sees of the device whoever serves its queues: the configuration space (virtio 1.2, 5.10.4), the features,
//! the queues.
//!
//! The event queue is for the one event there is: connections were lost in a migration or a restore (5.10.6, Device Events).
//! This device knows neither, so a driver's buffers stay in it.

use std::io;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::VsockError;
use super::packet::HOST_CID;
use crate::virtio::{ActivateError, Virtqueue};

/// Index of the queue of packets to the guest.
pub(super) const RX: usize = 0;
/// Index of the queue of packets from the guest.
pub(super) const TX: usize = 1;
/// Sizes of the rx, the tx and the event queue. Many small rx buffers, as Linux has them, make one large read.
pub(super) const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
/// Stream sockets are supported (5.10.3).
pub(super) const F_STREAM: u64 = 1 << 0;
/// Seqpacket sockets are supported (5.10.3).
pub(super) const F_SEQPACKET: u64 = 1 << 1;

/// Checks a guest's context id: 3 to 2^32 - 2 (5.10.4).
pub(super) fn check_cid(cid: u64) -> Result<(), VsockError> {
    if cid <= HOST_CID || cid >= u64::from(u32::MAX) {
        return Err(VsockError::GuestCid(cid));
    }
    Ok(())
}

/// The configuration space is the guest's context id.
pub(super) fn read_config(guest_cid: u64, offset: u64, data: &mut [u8]) {
    let config = guest_cid.to_le_bytes();
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or(&[]);
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
    data[len..].fill(0);
}

/// Descriptors for the kicks of the queues.
pub(super) fn kicks() -> Result<[EventFd; 3], VsockError> {
    let kick = || -> io::Result<EventFd> { EventFd::new(EFD_NONBLOCK) };
    let make = || Ok([kick()?, kick()?, kick()?]);
    make().map_err(VsockError::Descriptors)
}

/// The rx and the tx queue, without which there is no device. A driver need not have the event queue.
pub(super) fn data_queues(queues: Vec<Option<Virtqueue>>) -> Result<[Virtqueue; 2], ActivateError> {
    let mut queues = queues.into_iter();
    let mut queue = |index| queues.next().flatten().ok_or(ActivateError::QueueMissing(index));
    Ok([queue(RX)?, queue(TX)?])
}

/// Has the queues looked at: what the driver offered before its device was ready may have been kicked for in vain.
pub(super) fn look_again(kicks: &[EventFd]) {
    for kick in kicks {
        // Fails only when the counter is full, and then the event is pending already.
        let _ = kick.write(1);
    }
}
