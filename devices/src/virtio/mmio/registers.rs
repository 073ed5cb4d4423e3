//! The state behind the registers: what was negotiated, where the queues are, and in which order a driver
//! may say so (virtio 1.2, 3.1.1). Pure; what a write means for the device is returned as an [`Effect`].

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH,
    VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_BASE_HIGH, VIRTIO_MMIO_SHM_BASE_LOW,
    VIRTIO_MMIO_SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::virtio::queue::Virtqueue;

/// Features that every device has because the transport and the queue walker do them.
pub(in crate::virtio) const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Status bits that a driver may set; the remaining one, DEVICE_NEEDS_RESET, is the device's.
const DRIVER_BITS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_FAILED;

/// What a register write means for the device.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The driver is ready: the device takes its queues.
    Activate,
    /// The driver wants the device idle and the registers as they were at first.
    Reset,
    /// The driver took a queue away while the device was using it.
    StopDevice,
}

/// The registers of one queue, as the driver wrote them.
#[derive(Debug)]
struct QueueRegisters {
    max_size: u16,
    size: u32,
    ready: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self { max_size, size: u32::from(max_size), ready: false, descriptors: 0, driver: 0, device: 0 }
    }

    /// The queue, if a device can use it: a size that is a power of two and at most the maximum, parts that
    /// are aligned (2.7) and lie in guest memory.
    fn build(&self, memory: &GuestMemoryMmap, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.device)).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Virtqueue::check(&queue, memory).ok()?;
        Some(queue)
    }
}

/// Everything a driver sets before DRIVER_OK.
#[derive(Debug)]
pub(super) struct Registers {
    offered: u64,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    /// The driver accepted a feature past bit 63, where none is.
    impossible_features: bool,
    queue_sel: u32,
    queues: Vec<QueueRegisters>,
}

impl Registers {
    /// Registers at reset of a device with `features` and queues of these sizes.
    pub(super) fn new(features: u64, queue_max_sizes: &[u16]) -> Self {
        Self {
            offered: features | TRANSPORT_FEATURES,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            impossible_features: false,
            queue_sel: 0,
            queues: queue_max_sizes.iter().map(|&max| QueueRegisters::new(max)).collect(),
        }
    }

    /// Offers these features no more.
    pub(super) fn withdraw(&mut self, features: u64) {
        self.offered &= !features;
    }

    pub(super) fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|q| q.max_size).collect();
        *self = Self { offered: self.offered, ..Self::new(0, &sizes) };
    }

    /// The negotiated features.
    pub(super) fn features(&self) -> u64 {
        self.driver_features
    }

    /// The queues the driver enabled, one item per queue of the device.
    pub(super) fn queues<'a>(
        &'a self,
        memory: &'a GuestMemoryMmap,
    ) -> impl Iterator<Item = Option<Queue>> + 'a {
        let event_idx = self.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        self.queues.iter().map(move |q| q.ready.then(|| q.build(memory, event_idx)).flatten())
    }

    /// The Status register, given whether the device asked for a reset.
    pub(super) fn status(&self, needs_reset: bool) -> u32 {
        self.status | if needs_reset { VIRTIO_CONFIG_S_NEEDS_RESET } else { 0 }
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    pub(super) fn read(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered, self.device_features_sel),
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.selected().map_or(0, |q| u32::from(q.max_size)),
            VIRTIO_MMIO_QUEUE_READY => self.selected().map_or(0, |q| u32::from(q.ready)),
            // A shared memory region that does not exist has a length of -1 (4.2.2 SHMLen).
            VIRTIO_MMIO_SHM_LEN_LOW | VIRTIO_MMIO_SHM_LEN_HIGH => u32::MAX,
            VIRTIO_MMIO_SHM_BASE_LOW | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u32, value: u32, memory: &GuestMemoryMmap) -> Effect {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.accept_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_QUEUE_READY => return self.set_ready(value, memory),
            VIRTIO_MMIO_STATUS => return self.set_status(value),
            _ => self.configure_queue(offset, value),
        }
        Effect::None
    }

    /// Features are fixed once FEATURES_OK is accepted (3.1.1 step 5).
    fn accept_features(&mut self, value: u32) {
        if self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        match self.driver_features_sel {
            0 | 1 => set_half(&mut self.driver_features, self.driver_features_sel == 1, value),
            _ => self.impossible_features |= value != 0,
        }
    }

    /// Bits can be added but not removed, other than by a reset (2.1.1); each is accepted only in its turn.
    fn set_status(&mut self, value: u32) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        if value & self.status != self.status {
            return Effect::None;
        }
        let added = value & DRIVER_BITS & !self.status;
        self.status |=
            added & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FAILED);
        if added & VIRTIO_CONFIG_S_FEATURES_OK != 0 && self.features_are_fine() {
            self.status |= VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 && self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            self.status |= VIRTIO_CONFIG_S_DRIVER_OK;
            return Effect::Activate;
        }
        Effect::None
    }

    fn features_are_fine(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_ACKNOWLEDGE)
            && self.has(VIRTIO_CONFIG_S_DRIVER)
            && !self.impossible_features
            && self.driver_features & !self.offered == 0
            && self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0
            && self.offered & !self.driver_features & (1 << VIRTIO_F_ACCESS_PLATFORM) == 0
    }

    /// The selected queue, as long as the driver may still set it up: between FEATURES_OK and DRIVER_OK
    /// (3.1.1 step 7), while it is not ready (4.2.2.2).
    fn unfinished_queue(&mut self) -> Option<&mut QueueRegisters> {
        if !self.has(VIRTIO_CONFIG_S_FEATURES_OK) || self.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?).filter(|q| !q.ready)
    }

    fn configure_queue(&mut self, offset: u32, value: u32) {
        let Some(queue) = self.unfinished_queue() else { return };
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => queue.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut queue.descriptors, false, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut queue.descriptors, true, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut queue.driver, false, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut queue.driver, true, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut queue.device, false, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut queue.device, true, value),
            _ => {}
        }
    }

    fn set_ready(&mut self, value: u32, memory: &GuestMemoryMmap) -> Effect {
        if value == 1 {
            if let Some(queue) = self.unfinished_queue() {
                queue.ready = queue.build(memory, false).is_some();
            }
            return Effect::None;
        }
        let running = self.has(VIRTIO_CONFIG_S_DRIVER_OK);
        let index = usize::try_from(self.queue_sel).unwrap_or(usize::MAX);
        let Some(queue) = self.queues.get_mut(index).filter(|_| value == 0) else { return Effect::None };
        if std::mem::take(&mut queue.ready) && running { Effect::StopDevice } else { Effect::None }
    }
}

fn half(value: u64, index: u32) -> u32 {
    let bytes = value.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    match index {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_half(register: &mut u64, high: bool, value: u32) {
    let value = u64::from(value);
    *register = if high { *register & 0xffff_ffff | value << 32 } else { *register & !0xffff_ffff | value };
}
