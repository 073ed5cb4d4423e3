//! The block device (virtio 1.2, 5.2) over a [`CompositeDisk`].
//!
//! ```text
//!   kick -> Virtqueue -> Transfer: one buffer, one file, at hand: one call into guest memory ───────────┐
//!                         └─ Request::parse -> Task: preadv, pwritev on the spot ───────────────────────┤
//!                                               └─ what would wait -> Engine (io_uring, threads) -> event ┤
//!                                                   one status byte, then one interrupt per batch <───────┘
//! ```
//!
//! The kick wakes the event loop. Where all files lie in memory the vCPU that notifies serves the queue itself, as far as that
//! takes a moment: that is sooner done than another thread is woken.
//!
//! No byte of a request is copied by the device, and none is buffered. Durability is honest: a FLUSH completes after
//! `fdatasync`, which begins when all changes before it have ended; with a driver that did not negotiate FLUSH every change
//! is durable when it completes (5.2.6.2). Requests under way are at most those that the queues hold.

pub mod composite;
pub mod disk;
pub mod engine;
pub mod iovec;
pub mod request;
mod server;
mod task;
mod transfer;

use std::io;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{QueueError, Virtqueue};
use super::{ActivateError, Activation, VirtioDevice, device_id, watch_kicks};
use crate::irq::Interrupt;
pub use composite::{CompositeDisk, CompositeError, Content, Extent};
pub use disk::{DiskError, DiskFile, Piece};
pub use engine::EngineChoice;
use request::{Guest, Limits, MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZEROES_SECTORS, SECTOR_SIZE};
use server::{Server, Share};

/// Descriptors of a queue: room for 170 requests of one buffer each, or for two that are as long as they may be.
const QUEUE_SIZE: u16 = 512;
/// Queues that a driver may use.
pub const MAX_QUEUES: u16 = 16;
/// Data buffers of one request: a chain has a header and a status besides, and two chains fit in a queue.
const SEG_MAX: u32 = QUEUE_SIZE as u32 / 2 - 2;
/// Requests served before other devices have their turn.
const BATCH: u16 = 128;
/// Requests served on the vCPU that offers them, before it runs on.
const MOMENT: u16 = 64;
const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
/// The configuration space: 5.2.4 up to and with `write_zeroes_may_unmap`.
const CONFIG_SIZE: usize = 57;
/// A physical block is 4 KiB, the page that host files are cached in: 2 to this power logical blocks (5.2.4).
const PHYSICAL_BLOCK_EXP: u8 = 3;
/// The event of the engine, after those of the queues.
const ENGINE_EVENT: u32 = u32::MAX;

/// How a disk is shown to the guest, and served.
#[derive(Clone, Debug)]
pub struct BlockSpec {
    /// The serial number, of which the guest sees the first 20 bytes; the log names the disk by it.
    pub id: String,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Queues that the driver may use, at least 1 and at most [`MAX_QUEUES`]; one per vCPU is best.
    pub queues: u16,
    /// Who waits for the files.
    pub engine: EngineChoice,
}

/// A virtio block device.
pub struct Block {
    server: Server,
    features: u64,
    config: [u8; CONFIG_SIZE],
    queue_sizes: Vec<u16>,
    kicks: Vec<EventFd>,
    active: Option<Active>,
}

/// What is there while a driver uses the device.
struct Active {
    /// The driver need not enable all of them.
    queues: Vec<Option<Virtqueue>>,
    guest: Guest,
    interrupt: Arc<Interrupt>,
    write_through: bool,
}

impl Block {
    /// A device over `disk`, idle, with one queue and the best engine. The guest sees as many whole sectors as the disk has.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(disk: CompositeDisk, id: &str, read_only: bool) -> io::Result<Self> {
        Self::with(disk, &BlockSpec { id: id.to_owned(), read_only, queues: 1, engine: EngineChoice::Auto })
    }

    /// A device over `disk`, idle, as `spec` says.
    ///
    /// # Errors
    /// When the process has no file descriptor left, or the kernel lacks the engine that was asked for.
    pub fn with(disk: CompositeDisk, spec: &BlockSpec) -> io::Result<Self> {
        let queues = spec.queues.clamp(1, MAX_QUEUES);
        let limits =
            Limits { capacity: disk.len() / SECTOR_SIZE * SECTOR_SIZE, discard: false, write_zeroes: false };
        let kind = if spec.read_only {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        let more = if queues > 1 { 1 << VIRTIO_BLK_F_MQ } else { 0 };
        let shape = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_TOPOLOGY;
        let engine = server::engine(spec.engine, &disk, queues, QUEUE_SIZE)?;
        let in_memory = disk.files().iter().all(DiskFile::is_in_memory);
        let place = if in_memory { "in memory, " } else { "" };
        log::info!("disk {}: {place}{} I/O, queues: {queues}", spec.id, engine.name());
        let mut id = spec.id.as_bytes()[..spec.id.len().min(ID_BYTES)].to_vec();
        id.resize(ID_BYTES, 0);
        let mut server = Server::new(disk, &spec.id, spec.read_only, engine, limits);
        server.id = id;
        Ok(Self {
            config: config(limits.capacity, queues, spec.read_only),
            server,
            features: kind | more | shape,
            queue_sizes: vec![QUEUE_SIZE; usize::from(queues)],
            kicks: (0..queues).map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<_>>()?,
            active: None,
        })
    }

    /// Who waits for the files: `io_uring`, `threads`, or nobody (`synchronous`).
    pub fn engine(&self) -> &'static str {
        self.server.engine.name()
    }

    /// Leaves every request to the engine, as if nothing were ever at hand.
    #[cfg(any(test, feature = "testing"))]
    pub fn defer_all(&mut self) {
        if self.server.engine.waits() {
            self.server.mode = task::Mode::Defer;
        }
    }

    /// Requests that the engine has.
    #[cfg(any(test, feature = "testing"))]
    pub fn under_way(&self) -> usize {
        self.server.under_way()
    }

    /// Makes every completed write durable, as at the end of the VM.
    ///
    /// # Errors
    /// When the host cannot.
    pub fn flush(&self) -> Result<(), DiskError> {
        self.server.disk.flush()
    }

    fn serve_some(&mut self, index: usize, limit: u16, mut share: Share) {
        let Self { active: Some(active), server, .. } = self else { return };
        let Active { queues, guest, write_through, .. } = active;
        let Some(Some(queue)) = queues.get_mut(index) else { return };
        let served =
            queue.drain_some(limit, |_, chain| server.serve(index, guest, chain, *write_through, &mut share));
        if let Ok(true) = served {
            // Fails only when the counter is full: then the kick is there.
            let _ = self.kicks[index].write(1);
        }
        // What the kernel had at hand after all has ended when `start` comes back.
        self.server.start();
        match served {
            Ok(_) => self.reap(),
            Err(e) => self.give_up(&e),
        }
    }

    /// Answers what the engine has ended.
    fn reap(&mut self) {
        let Self { active: Some(active), server, .. } = self else { return };
        if server.under_way() == 0 {
            return;
        }
        let Active { queues, guest, .. } = active;
        let mut told = 0_u32;
        let mut result = server.reap(guest, |ended| {
            told |= 1 << ended.queue;
            match queues.get_mut(ended.queue) {
                Some(Some(queue)) => queue.give_back(ended.head, ended.used),
                _ => Ok(()),
            }
        });
        for (index, queue) in queues.iter_mut().enumerate() {
            if let Some(queue) = queue
                && told & 1 << index != 0
            {
                result = result.and_then(|()| queue.notify());
            }
        }
        if let Err(e) = result {
            self.give_up(&e);
        }
    }

    fn give_up(&mut self, error: &QueueError) {
        log::debug!("virtio-blk {}: {error}", self.server.name);
        self.server.abandon();
        if let Some(active) = self.active.take() {
            active.interrupt.needs_reset();
        }
    }
}

/// The configuration space of 5.2.4.
fn config(capacity: u64, queues: u16, read_only: bool) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(capacity / SECTOR_SIZE).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &512_u32.to_le_bytes());
    put(24, &[PHYSICAL_BLOCK_EXP]);
    // No more is gained by larger requests than by one physical block.
    put(26, &(1_u16 << PHYSICAL_BLOCK_EXP).to_le_bytes());
    put(34, &queues.to_le_bytes());
    if !read_only {
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &MAX_RANGES.to_le_bytes());
        put(44, &(1_u32 << PHYSICAL_BLOCK_EXP).to_le_bytes());
        put(48, &MAX_ZEROES_SECTORS.to_le_bytes());
        put(52, &MAX_RANGES.to_le_bytes());
        put(56, &[1]);
    }
    config
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        device_id::BLOCK
    }

    fn features(&self) -> u64 {
        self.features
    }

    /// The queues have room for as many requests of three buffers as matter.
    fn offers_indirect(&self) -> bool {
        false
    }

    /// A file in memory is read sooner than another thread would wake up.
    fn serves_at_once(&self, _index: usize) -> bool {
        self.server.disk.files().iter().all(DiskFile::is_in_memory)
    }

    fn serve(&mut self, index: usize) {
        self.serve_some(index, MOMENT, Share::MOMENT);
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, features } = activation;
        if queues.first().is_none_or(Option::is_none) {
            return Err(ActivateError::QueueMissing(0));
        }
        let has = |bit: u32| features & 1 << bit != 0;
        self.server.limits.discard = has(VIRTIO_BLK_F_DISCARD);
        self.server.limits.write_zeroes = has(VIRTIO_BLK_F_WRITE_ZEROES);
        let write_through = !has(VIRTIO_BLK_F_FLUSH);
        self.active = Some(Active { queues, guest: Guest::new(memory), interrupt, write_through });
        Ok(())
    }

    fn reset(&mut self) {
        self.server.abandon();
        self.active = None;
    }

    fn close(&mut self) {
        self.reset();
        if let Err(error) = self.flush() {
            let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            log::error!(
                "disk {}: what the guest wrote last may be lost: {error}: {reason}",
                self.server.name
            );
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
        if let Some(event) = self.server.engine.event() {
            let events = Events::with_data(event, ENGINE_EVENT, EventSet::IN | EventSet::EDGE_TRIGGERED);
            if let Err(e) = ops.add(events) {
                log::error!("watch the disk's engine: {e}; the disk will not be served");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        match events.data() {
            ENGINE_EVENT => self.reap(),
            queue => self.serve_some(usize::try_from(queue).unwrap_or(usize::MAX), BATCH, Share::ALL),
        }
    }
}

#[cfg(test)]
mod tests;
