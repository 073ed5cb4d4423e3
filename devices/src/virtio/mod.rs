//! Virtio 1.2 devices over MMIO, modern only.
//!
//! A device is built from its resources, subscribed to the event loop for its queue kicks, and given to a
//! transport. The transport owns the registers; on DRIVER_OK it builds the queues and hands them over with
//! [`VirtioDevice::activate`]; on a reset it takes the device back to idle with [`VirtioDevice::reset`].

pub mod balloon;
pub mod blk;
mod chain;
pub mod console;
mod last_region;
pub mod mmio;
pub(crate) mod page;
pub mod queue;
mod queue_error;
mod ring;
pub mod rng;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vsock;

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::irq::Interrupt;
pub use blk::Block;
pub use console::Console;
pub use mmio::MmioTransport;
pub use queue::{Chain, QueueError, Virtqueue};
pub use rng::Rng;

/// Device ids (virtio 1.2, section 5).
pub mod device_id {
    /// Block device, 5.2.
    pub const BLOCK: u32 = 2;
    /// Console device, 5.3.
    pub const CONSOLE: u32 = 3;
    /// Entropy device, 5.4.
    pub const RNG: u32 = 4;
    /// Memory balloon, 5.5.
    pub const BALLOON: u32 = 5;
    /// Socket device, 5.10.
    pub const VSOCK: u32 = 19;
}

/// What a device is given when its driver is ready (virtio 1.2, 3.1.1 step 8).
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMemoryMmap,
    /// One per queue of the device, validated, in the spec's order; `None` where the driver did not enable it.
    pub queues: Vec<Option<Virtqueue>>,
    /// Where to report used buffers and changes; each queue has it too.
    pub interrupt: Arc<Interrupt>,
    /// The negotiated feature bits.
    pub features: u64,
}

/// A device cannot work with what the driver set up; the transport then sets DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// A queue that the device cannot do without was not enabled.
    #[error("queue {0} is not enabled")]
    QueueMissing(usize),
    /// A host resource failed.
    #[error("host resource")]
    Host(#[source] std::io::Error),
}

/// A virtio device, as its transport sees it. Its other face is `event_manager::MutEventSubscriber`: in
/// `init` it adds its [`kicks`](Self::kicks) to the event loop once, see [`watch_kicks`]; while it is idle it
/// ignores them.
pub trait VirtioDevice: Send {
    /// Device id (virtio 1.2, section 5), see [`device_id`].
    fn device_id(&self) -> u32;

    /// Feature bits that the device offers; the transport adds VERSION_1, RING_EVENT_IDX and, if the device
    /// [wants it](Self::offers_indirect), INDIRECT_DESC.
    fn features(&self) -> u64;

    /// Whether INDIRECT_DESC is offered. A driver that has it makes a table for every request of more than one buffer:
    /// memory to allocate, write, look up and free again, where a larger queue would do.
    fn offers_indirect(&self) -> bool {
        true
    }

    /// The largest size of each queue, a power of two each.
    fn queue_max_sizes(&self) -> &[u16];

    /// One eventfd per queue, written on a queue notification: by KVM (ioeventfd) or by the transport.
    fn kicks(&self) -> &[EventFd];

    /// Whether notifications of queue `index` are served on the vCPU that makes them, by [`serve`](Self::serve), instead
    /// of by a kick: for queues whose driver waits for the answer, as Linux does when it transmits to a console, and for
    /// answers that take less time than waking another thread. While another thread has the device they are kicks.
    fn serves_at_once(&self, _index: usize) -> bool {
        false
    }

    /// Serves queue `index` now. Must not wait for anything, nor take long: what is more than that it leaves to a kick.
    fn serve(&mut self, _index: usize) {}

    /// Fills `data` from the device's configuration space; bytes past its end are zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes a write to the configuration space; most devices have no writable field and ignore it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Takes the queues and starts to serve them.
    ///
    /// # Errors
    /// When the device cannot work with what it was given; it stays idle.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops serving, forgets every request and drops the queues: no guest memory is touched from here on.
    /// Does nothing on an idle device.
    fn reset(&mut self);

    /// The VM has ended: stops for good, makes durable what was written, and leaves nothing behind on the host.
    fn close(&mut self) {
        self.reset();
    }
}

/// Adds a device's kicks to the event loop, the queue's index as each event's data. They are watched by
/// edge, so that a kick costs the device no read: an eventfd wakes its watchers on every write, whatever its
/// count.
pub fn watch_kicks(kicks: &[EventFd], ops: &mut EventOps<'_>) {
    for (index, kick) in (0u32..).zip(kicks) {
        let events = Events::with_data(kick, index, EventSet::IN | EventSet::EDGE_TRIGGERED);
        if let Err(e) = ops.add(events) {
            log::error!("watch queue {index}: {e}; the device will not be served");
        }
    }
}
