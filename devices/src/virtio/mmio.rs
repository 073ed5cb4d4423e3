//! The registers of virtio over MMIO, version 2 (virtio 1.2, 4.2.2): 0x100 bytes of 32-bit registers, then
//! the device's configuration space.
//!
//! ```text
//!   vCPU ──read, write──> MmioTransport ── InterruptStatus, InterruptACK, QueueNotify: no lock
//!                              ├─ Registers (lock): features, status, queues
//!                              └─ device (lock): config space, activate on DRIVER_OK, reset on Status = 0
//! ```
//!
//! The lock on the registers is taken before the lock on the device, never after.

mod registers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_F_ACCESS_PLATFORM;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_ID,
    VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE,
    VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_SHM_BASE_HIGH,
    VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS,
    VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use super::page::{MMIO_SIZE, RegisterPage};
use super::queue::Virtqueue;
use super::{ActivateError, Activation, VirtioDevice};
use crate::bus::BusDevice;
use crate::irq::Interrupt;
pub(super) use registers::TRANSPORT_FEATURES;
use registers::{Effect, Registers};

/// Bytes of it that are the device's configuration space.
const CONFIG_SIZE: usize = 0x100;
/// Offset of QueueNotify, for the ioeventfd of a queue: 4 bytes, the queue's index as the value.
pub const QUEUE_NOTIFY: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// Offset of InterruptACK, which takes the bits of InterruptStatus that were seen to.
pub const INTERRUPT_ACK: u64 = VIRTIO_MMIO_INTERRUPT_ACK as u64;

/// The registers that `Registers` answers.
const READABLE: [u32; 7] = [
    VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_QUEUE_NUM_MAX,
    VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_SHM_LEN_LOW,
    VIRTIO_MMIO_SHM_LEN_HIGH,
    VIRTIO_MMIO_SHM_BASE_LOW,
    VIRTIO_MMIO_SHM_BASE_HIGH,
];

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"KPSL");

/// What is particular about a device's place in its VM.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Where the guest reads the registers without an exit: for devices that do not change their configuration space on
    /// their own.
    pub page: Option<RegisterPage>,
    /// The device reaches a part of the guest's memory only, as in a protected VM: ACCESS_PLATFORM is offered, and a driver
    /// that does not accept it is refused (virtio 1.2, 6.2).
    pub access_platform: bool,
}

/// One virtio device on the MMIO bus.
pub struct MmioTransport {
    memory: GuestMemoryMmap,
    device: Arc<Mutex<dyn VirtioDevice>>,
    device_id: u32,
    kicks: Vec<EventFd>,
    at_once: Vec<bool>,
    interrupt: Arc<Interrupt>,
    registers: Mutex<Registers>,
    page: Option<RegisterPage>,
    acknowledged: EventFd,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked ends the VM by itself; the guest's register access need not panic too.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MmioTransport {
    /// Puts a device behind a set of registers.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(
        memory: GuestMemoryMmap,
        device: Arc<Mutex<dyn VirtioDevice>>,
    ) -> std::io::Result<Arc<MmioTransport>> {
        Self::placed(Placement::default(), memory, device)
    }

    /// The same, in a place of its own.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn placed(
        Placement { page, access_platform }: Placement,
        memory: GuestMemoryMmap,
        device: Arc<Mutex<dyn VirtioDevice>>,
    ) -> std::io::Result<Arc<MmioTransport>> {
        let platform = if access_platform { 1 << VIRTIO_F_ACCESS_PLATFORM } else { 0 };
        let locked = lock(&device);
        let device_id = locked.device_id();
        let kicks = locked.kicks().iter().map(EventFd::try_clone).collect::<Result<Vec<_>, _>>()?;
        let at_once = (0..kicks.len()).map(|index| locked.serves_at_once(index)).collect();
        let mut registers = Registers::new(locked.features() | platform, locked.queue_max_sizes());
        if !locked.offers_indirect() {
            registers.withdraw(1 << VIRTIO_RING_F_INDIRECT_DESC);
        }
        let registers = Mutex::new(registers);
        drop(locked);
        let interrupt = Arc::new(Interrupt::new()?.shown(page.clone()));
        let acknowledged = EventFd::new(EFD_NONBLOCK)?;
        let transport = Arc::new(Self {
            memory,
            device,
            device_id,
            kicks,
            at_once,
            interrupt,
            registers,
            page,
            acknowledged,
        });
        transport.show(&lock(&transport.registers));
        transport.show_configuration();
        Ok(transport)
    }

    /// Shows what a register write may have changed, before the guest can look.
    fn show(&self, registers: &Registers) {
        let Some(page) = &self.page else { return };
        page.show(VIRTIO_MMIO_MAGIC_VALUE, MAGIC);
        page.show(VIRTIO_MMIO_VERSION, VERSION);
        page.show(VIRTIO_MMIO_DEVICE_ID, self.device_id);
        page.show(VIRTIO_MMIO_VENDOR_ID, VENDOR);
        for offset in READABLE {
            page.show(offset, registers.read(offset));
        }
        page.show(VIRTIO_MMIO_STATUS, registers.status(false));
        self.interrupt.show_need();
    }

    fn show_configuration(&self) {
        if let Some(page) = &self.page {
            let mut config = [0; CONFIG_SIZE];
            lock(&self.device).read_config(0, &mut config);
            page.show_configuration(&config);
        }
    }

    /// The device's interrupt, whose line is to be bound to a GSI.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// One eventfd per queue, to be bound to writes of the queue's index to [`QUEUE_NOTIFY`].
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// An eventfd that may be bound to writes of the used-buffer bit to [`INTERRUPT_ACK`] where the guest reads its registers
    /// from a page. Nobody looks at it: the bit then stays set until another acknowledgement or a reset, which costs a driver
    /// no more than a look at a used ring that has not grown; InterruptStatus says what may have happened (4.2.2).
    pub fn acknowledged(&self) -> &EventFd {
        &self.acknowledged
    }

    /// Takes the device back to idle, as a guest's write of 0 to Status does: it touches guest memory no more.
    pub fn reset(&self) {
        self.reset_locked(&mut lock(&self.registers));
    }

    fn reset_locked(&self, registers: &mut Registers) {
        lock(&self.device).reset();
        registers.reset();
        self.interrupt.reset();
        self.show(registers);
    }

    fn activate(&self, registers: &Registers) {
        let indirect = registers.features() & 1 << VIRTIO_RING_F_INDIRECT_DESC != 0;
        let queue = |queue| {
            let queue = Virtqueue::new(queue, self.memory.clone(), Arc::clone(&self.interrupt));
            if indirect { queue } else { queue.without_indirect() }
        };
        let activation = Activation {
            memory: self.memory.clone(),
            queues: registers.queues(&self.memory).map(|q| q.map(queue)).collect(),
            interrupt: Arc::clone(&self.interrupt),
            features: registers.features(),
        };
        match lock(&self.device).activate(activation) {
            Ok(()) => {}
            // The driver's doing, which it may repeat for ever: not for the log.
            Err(e @ ActivateError::QueueMissing(_)) => {
                log::debug!("virtio device {}: {e}", self.device_id);
                self.interrupt.needs_reset();
            }
            Err(ActivateError::Host(e)) => {
                log::warn!("virtio device {}: activate: {e}", self.device_id);
                self.interrupt.needs_reset();
            }
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device_id,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.generation(),
            VIRTIO_MMIO_STATUS => lock(&self.registers).status(self.interrupt.is_reset_needed()),
            _ => lock(&self.registers).read(offset),
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            // Without an ioeventfd, or by an access that it does not match.
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                let Ok(index) = usize::try_from(value) else { return };
                let Some((kick, at_once)) = self.kicks.get(index).zip(self.at_once.get(index)) else {
                    return;
                };
                if *at_once && let Ok(mut device) = self.device.try_lock() {
                    device.serve(index);
                } else {
                    // Fails only when the counter is full: then the device has a kick to come.
                    let _ = kick.write(1);
                }
            }
            _ => {
                let mut registers = lock(&self.registers);
                match registers.write(offset, value, &self.memory) {
                    Effect::None => {}
                    Effect::Activate => self.activate(&registers),
                    Effect::Reset => self.reset_locked(&mut registers),
                    Effect::StopDevice => {
                        lock(&self.device).reset();
                        self.interrupt.needs_reset();
                    }
                }
                self.show(&registers);
            }
        }
    }
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            data.fill(0);
            lock(&self.device).read_config(offset, data);
        } else if let Some(register) = register(offset)
            && let Ok(data) = <&mut [u8; 4]>::try_from(&mut *data)
        {
            *data = self.read_register(register).to_le_bytes();
        } else {
            // Registers are 32 bits wide and aligned, nothing else (4.2.2.2).
            data.fill(0);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            lock(&self.device).write_config(offset, data);
            self.show_configuration();
        } else if let Some(register) = register(offset)
            && let Ok(data) = <[u8; 4]>::try_from(data)
        {
            self.write_register(register, u32::from_le_bytes(data));
        }
    }
}

fn register(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|o| o % 4 == 0)
}
