//! The same device with the host kernel's vhost-vsock behind it: guests and programs of the host meet as
//! AF_VSOCK sockets, each guest under a context id that is its own on the host.
//!
//! ```text
//!   guest ──kick (ioeventfd)──> vhost worker ──> AF_VSOCK sockets of the host
//!         <──call (irqfd)─────              <──
//! ```
//!
//! The kernel has the rx and the tx queue; no packet comes through this process. The registers and the
//! configuration space are ours. What the kernel finds wrong with a ring it says through an eventfd.

use std::io;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use log::error;
use vhost::vhost_kern::vsock::Vsock as VhostFile;
use vhost::vsock::VhostVsock as _;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_ACCESS_PLATFORM;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::VsockError;
use super::face::{self, F_SEQPACKET, F_STREAM, QUEUE_SIZES, RX, TX};
use crate::irq::Interrupt;
use crate::virtio::mmio::TRANSPORT_FEATURES;
use crate::virtio::{ActivateError, Activation, VirtioDevice, Virtqueue, device_id};

/// The kernel's vhost-vsock cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VhostError {
    /// No such device, or no right to use it.
    #[error("open /dev/vhost-vsock")]
    Open(#[source] vhost::Error),
    /// Another VM of this host has the context id.
    #[error("context id {0} is in use by another VM of this host")]
    CidInUse(u64),
    /// An ioctl failed.
    #[error("{0}")]
    Call(&'static str, #[source] vhost::Error),
}

/// The socket device of one guest, its queues served by the host's kernel.
pub struct KernelVsock {
    guest_cid: u64,
    kernel: VhostFile<Arc<GuestMemoryMmap>>,
    features: u64,
    kicks: [EventFd; 3],
    broken: EventFd,
    /// There while the kernel serves the queues.
    interrupt: Option<Arc<Interrupt>>,
}

fn call<T>(name: &'static str, result: vhost::Result<T>) -> Result<T, VhostError> {
    result.map_err(|error| VhostError::Call(name, error))
}

impl KernelVsock {
    /// A device that no driver uses yet, for a guest with this memory. From here on the context id is taken.
    ///
    /// # Errors
    /// When the context id is reserved or taken, or the host has no vhost-vsock.
    pub fn new(guest_cid: u64, memory: &GuestMemoryMmap) -> Result<Self, VsockError> {
        face::check_cid(guest_cid)?;
        let kernel = VhostFile::new(Arc::new(memory.clone())).map_err(VhostError::Open)?;
        call("VHOST_SET_OWNER", kernel.set_owner())?;
        match kernel.set_guest_cid(guest_cid) {
            Err(vhost::Error::IoctlError(error)) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
                return Err(VhostError::CidInUse(guest_cid).into());
            }
            set => call("VHOST_VSOCK_SET_GUEST_CID", set)?,
        }
        let features = call("VHOST_GET_FEATURES", kernel.get_features())?;
        let kicks = face::kicks()?;
        let broken = EventFd::new(EFD_NONBLOCK).map_err(VsockError::Descriptors)?;
        Ok(Self { guest_cid, kernel, features, kicks, broken, interrupt: None })
    }

    fn give_up(&mut self) {
        if let Some(interrupt) = self.interrupt.take() {
            self.reset();
            interrupt.needs_reset();
        }
    }

    fn start(
        &self,
        memory: &GuestMemoryMmap,
        queues: &[Virtqueue],
        interrupt: &Interrupt,
        features: u64,
    ) -> Result<(), VhostError> {
        // Guest addresses are what they seem: with this bit the kernel would wait for their translations.
        let known = (TRANSPORT_FEATURES | F_SEQPACKET) & !(1 << VIRTIO_F_ACCESS_PLATFORM);
        call("VHOST_SET_FEATURES", self.kernel.set_features(features & known & self.features))?;
        call("VHOST_SET_MEM_TABLE", self.kernel.set_mem_table(&regions(memory)))?;
        for (index, queue) in queues.iter().enumerate() {
            let layout = queue.layout();
            let addresses = VringConfigData {
                queue_max_size: QUEUE_SIZES[index],
                queue_size: layout.size,
                flags: 0,
                desc_table_addr: layout.descriptors,
                used_ring_addr: layout.device,
                avail_ring_addr: layout.driver,
                log_addr: None,
            };
            call("VHOST_SET_VRING_NUM", self.kernel.set_vring_num(index, layout.size))?;
            call("VHOST_SET_VRING_BASE", self.kernel.set_vring_base(index, 0))?;
            call("VHOST_SET_VRING_ADDR", self.kernel.set_vring_addr(index, &addresses))?;
            call("VHOST_SET_VRING_ERR", self.kernel.set_vring_err(index, &self.broken))?;
            call("VHOST_SET_VRING_CALL", self.kernel.set_vring_call(index, interrupt.line()))?;
            call("VHOST_SET_VRING_KICK", self.kernel.set_vring_kick(index, &self.kicks[index]))?;
        }
        call("VHOST_VSOCK_SET_RUNNING", self.kernel.start())
    }
}

/// Where the guest's memory lies in this process.
fn regions(memory: &GuestMemoryMmap) -> Vec<VhostUserMemoryRegionInfo> {
    memory
        .iter()
        .map(|region| VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            mmap_offset: 0,
            mmap_handle: -1,
        })
        .collect()
}

impl VirtioDevice for KernelVsock {
    fn device_id(&self) -> u32 {
        device_id::VSOCK
    }

    fn features(&self) -> u64 {
        F_STREAM | self.features & F_SEQPACKET
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        face::read_config(self.guest_cid, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let Activation { memory, queues, interrupt, features } = activation;
        let queues = face::data_queues(queues)?;
        interrupt.raised_by_kernel();
        self.start(&memory, &queues, &interrupt, features)
            .map_err(|error| ActivateError::Host(io::Error::other(error)))?;
        self.interrupt = Some(interrupt);
        face::look_again(&self.kicks[RX..=TX]);
        Ok(())
    }

    fn reset(&mut self) {
        self.interrupt = None;
        // Fails only when it never ran. The kernel touches no queue after it.
        if let Err(error) = self.kernel.stop() {
            error!("vsock: stop vhost-vsock: {error}");
        }
    }
}

impl MutEventSubscriber for KernelVsock {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.broken, EventSet::IN)) {
            error!("vsock: watch the state of the rings: {error}");
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let _ = self.broken.read();
        error!("vsock: the kernel found the driver's queues broken");
        self.give_up();
    }
}
