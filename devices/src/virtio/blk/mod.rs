//! The block device (virtio 1.2, 5.2) over any [`Disk`].
//!
//! ```text
//!   kick -> Virtqueue::drain -> Request::parse -> Disk (preadv, pwritev into guest memory)
//!                            -> Request::complete: one status byte -> one interrupt per batch
//! ```
//!
//! Durability is honest: a FLUSH completes after `fdatasync`, and with a driver that did not negotiate
//! FLUSH every write does (5.2.6.2).

pub mod composite;
pub mod disk;
pub mod iovec;
pub mod request;

use std::io;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
};
use vm_memory::{GuestMemoryMmap, Permissions};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{Chain, QueueError, Virtqueue};
use super::{ActivateError, Activation, VirtioDevice, device_id, watch_kicks};
use crate::irq::Interrupt;
pub use composite::{CompositeDisk, CompositeError, Content, Extent};
pub use disk::{Disk, DiskError};
use iovec::IovecStorage;
use request::{Operation, Request, SECTOR_SIZE, Status};

/// Requests that a driver may have in flight.
const QUEUE_SIZE: u16 = 256;
/// Data buffers of one request: a chain has a header and a status besides.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Requests served before other devices have their turn.
const BATCH: u16 = 128;
const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
/// The configuration space as far as it means something: 5.2.4 up to and with `blk_size`.
const CONFIG_SIZE: usize = 24;

/// A virtio block device.
pub struct Block {
    backend: Backend,
    features: u64,
    config: [u8; CONFIG_SIZE],
    kicks: [EventFd; 1],
    active: Option<Active>,
}

/// What is there while a driver uses the device.
struct Active {
    queue: Virtqueue,
    interrupt: Arc<Interrupt>,
    write_through: bool,
}

/// The disk, and what serving a request needs.
struct Backend {
    disk: Box<dyn Disk>,
    id: [u8; ID_BYTES],
    read_only: bool,
    /// The capacity in bytes: whole sectors.
    capacity: u64,
    iovecs: IovecStorage,
    /// An error of the host was logged; the next one would only fill the log.
    reported: bool,
}

impl Block {
    /// A device over `disk`, idle. The guest sees its first 20 bytes of `id` as its serial number, and as
    /// many whole sectors as the disk has.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(disk: impl Disk + 'static, id: &str, read_only: bool) -> io::Result<Self> {
        let sectors = disk.len() / SECTOR_SIZE;
        let mut name = [0; ID_BYTES];
        let len = id.len().min(ID_BYTES);
        name[..len].copy_from_slice(&id.as_bytes()[..len]);
        let mut config = [0; CONFIG_SIZE];
        config[0..8].copy_from_slice(&sectors.to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&512u32.to_le_bytes());
        let kind = if read_only { 1 << VIRTIO_BLK_F_RO } else { 1 << VIRTIO_BLK_F_FLUSH };
        let backend = Backend {
            disk: Box::new(disk),
            id: name,
            read_only,
            capacity: sectors * SECTOR_SIZE,
            iovecs: IovecStorage::default(),
            reported: false,
        };
        Ok(Self {
            backend,
            features: kind | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE,
            config,
            kicks: [EventFd::new(EFD_NONBLOCK)?],
            active: None,
        })
    }

    /// Makes every completed write durable, as at the end of the VM.
    ///
    /// # Errors
    /// When the host cannot.
    pub fn flush(&self) -> Result<(), DiskError> {
        self.backend.disk.flush()
    }

    fn serve(&mut self) {
        let Some(active) = &mut self.active else { return };
        let (backend, write_through) = (&mut self.backend, active.write_through);
        match active.queue.drain(BATCH, |memory, chain| backend.serve(memory, chain, write_through)) {
            Ok(false) => {}
            Ok(true) => {
                // Fails only when the counter is full: then the kick is there.
                let _ = self.kicks[0].write(1);
            }
            Err(e) => {
                log::debug!("virtio-blk {}: {e}", backend.name());
                active.interrupt.needs_reset();
                self.active = None;
            }
        }
    }
}

impl Backend {
    fn name(&self) -> String {
        let len = self.id.iter().position(|&b| b == 0).unwrap_or(ID_BYTES);
        String::from_utf8_lossy(&self.id[..len]).into_owned()
    }

    /// Serves one request to its end and gives the used length.
    fn serve(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &Chain,
        write_through: bool,
    ) -> Result<u32, QueueError> {
        let request = Request::parse(chain, memory, self.capacity)?;
        let (result, filled) = match request.operation() {
            Operation::Read(offset) => {
                let mut to = self.iovecs.gather(memory, request.data_in(), Permissions::Write)?;
                (self.disk.read_vectored_at(&mut to, offset), request.data_len())
            }
            Operation::Write(offset) if self.read_only => (Err(DiskError::ReadOnly { offset }), 0),
            Operation::Write(offset) => {
                let mut from = self.iovecs.gather(memory, request.data_out(), Permissions::Read)?;
                let written = self.disk.write_vectored_at(&mut from, offset);
                (written.and_then(|()| if write_through { self.disk.flush() } else { Ok(()) }), 0)
            }
            Operation::Flush => (self.disk.flush(), 0),
            Operation::GetId => {
                let filled = request.answer(memory, &self.id)?;
                return request.complete(memory, Status::Ok, filled);
            }
            Operation::OutOfRange => return request.complete(memory, Status::IoError, 0),
            Operation::Unsupported(_) => return request.complete(memory, Status::Unsupported, 0),
        };
        match result {
            Ok(()) => request.complete(memory, Status::Ok, filled),
            Err(e) => {
                self.report(request.operation(), &e);
                request.complete(memory, Status::IoError, 0)
            }
        }
    }

    /// One line about the first error of the host. What the guest brought about itself is not for the log.
    fn report(&mut self, operation: Operation, error: &DiskError) {
        if let DiskError::Host(e) = error
            && !std::mem::replace(&mut self.reported, true)
        {
            log::warn!("disk {}: {operation:?}: {e}; more errors of it are not logged", self.name());
        }
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        device_id::BLOCK
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().next().flatten().ok_or(ActivateError::QueueMissing(0))?;
        let write_through = activation.features & (1 << VIRTIO_BLK_F_FLUSH) == 0;
        self.active = Some(Active { queue, interrupt: activation.interrupt, write_through });
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn close(&mut self) {
        self.reset();
        if let Err(error) = self.flush() {
            log::error!("disk: what the guest wrote last may be lost: {error}");
        }
    }
}

/// Copies the part of a configuration space that a driver asked for; zeros past its end.
pub(super) fn copy_config(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    let len = rest.len().min(data.len());
    data[..len].copy_from_slice(&rest[..len]);
}

impl MutEventSubscriber for Block {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch_kicks(&self.kicks, ops);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.serve();
    }
}

#[cfg(test)]
mod tests;
