//! What is the device's whoever serves its other queues: the event queue (virtio 1.2, 5.10.6.9) and the
//! configuration space (5.10.4).

use std::io;

use super::VsockError;
use super::packet::HOST_CID;
use crate::virtio::{QueueError, Virtqueue};

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, a `struct virtio_vsock_event`: connections are gone, and the guest's
/// context id may be another.
const TRANSPORT_RESET: [u8; 4] = 0_u32.to_le_bytes();

/// The event queue, and the one event there is.
#[derive(Default)]
pub(super) struct EventQueue {
    /// None while idle, or when the driver wants no events.
    queue: Option<Virtqueue>,
    /// The driver has yet to be told.
    owed: bool,
}

impl EventQueue {
    pub(super) fn activate(&mut self, queue: Option<Virtqueue>) {
        self.queue = queue;
    }

    /// A driver that begins anew has no connections to lose.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Tells the driver as soon as it has a buffer that its connections are gone.
    pub(super) fn transport_reset(&mut self) -> Result<(), QueueError> {
        self.owed = self.queue.is_some();
        self.serve()
    }

    /// Sends what is owed.
    pub(super) fn serve(&mut self) -> Result<(), QueueError> {
        let Some(queue) = self.queue.as_mut().filter(|_| self.owed) else { return Ok(()) };
        let memory = queue.memory().clone();
        loop {
            while let Some(chain) = queue.pop()? {
                let written = chain.write_at(&memory, 0, &TRANSPORT_RESET)?;
                let told = written == TRANSPORT_RESET.len();
                queue.complete(&chain, u32::try_from(written).expect("four bytes"))?;
                if told {
                    self.owed = false;
                    return queue.notify();
                }
            }
            queue.notify()?;
            if !queue.enable_kicks()? {
                return Ok(());
            }
        }
    }
}

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

/// Descriptors for the kicks of the three queues.
pub(super) fn kicks() -> Result<[vmm_sys_util::eventfd::EventFd; 3], VsockError> {
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
    let kick = || -> io::Result<EventFd> { EventFd::new(EFD_NONBLOCK) };
    let make = || Ok([kick()?, kick()?, kick()?]);
    make().map_err(VsockError::Descriptors)
}
