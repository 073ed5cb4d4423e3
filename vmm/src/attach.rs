//! A virtio device meets the VM: an MMIO slot, an interrupt line, an ioeventfd per queue.
//!
//! A device's slot is its own, whatever else is attached: adding a disk moves nothing.

use std::sync::{Arc, Mutex, PoisonError};

use boot::{Cmdline, MmioDevice};
use devices::bus::{Bus, BusError};
use devices::irq::STATUS_USED_BUFFER;
use devices::virtio::mmio::{INTERRUPT_ACK, Placement, QUEUE_NOTIFY, RegisterPage};
use devices::virtio::{MmioTransport, VirtioDevice};
use kvm_ioctls::{IoEventAddress, VmFd};
use vm_memory::GuestMemoryMmap;

use crate::arch::{self, slots};

/// The slot of each device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The entropy device.
    Rng,
    /// The socket device.
    Vsock,
    /// The console device, which carries the payload's log.
    Console,
    /// The memory balloon.
    Balloon,
    /// The n-th disk.
    Disk(u8),
}

/// How many disks have a slot.
pub const MAX_DISKS: usize = 12;

impl Slot {
    fn index(self) -> u8 {
        match self {
            Self::Rng => 0,
            // 1 and 4 are for devices to come.
            Self::Console => 2,
            Self::Balloon => 3,
            // Beside the disks: the guest reads the registers of these as memory, of which one piece is enough then.
            Self::Vsock => 5,
            Self::Disk(n) => 6 + n,
        }
    }

    /// First address.
    pub fn base(self) -> u64 {
        slots::BASE + u64::from(self.index()) * slots::STRIDE
    }

    /// Interrupt line: one each, past the one that the platform itself has among them.
    pub fn gsi(self) -> u32 {
        let line = slots::FIRST_GSI + u32::from(self.index());
        if line < slots::TAKEN_GSI { line } else { line + 1 }
    }

    /// The window as kernels are told of it.
    pub fn window(self) -> MmioDevice {
        let below_4g = |value: u64| u32::try_from(value).expect("windows lie below 4 GiB");
        MmioDevice { base: below_4g(self.base()), size: below_4g(slots::SIZE), gsi: self.gsi() }
    }
}

/// Why a device could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No file descriptor left, or no memory.
    #[error("make the transport")]
    Transport(#[source] std::io::Error),
    /// The slot is taken.
    #[error("place the device on the bus")]
    Bus(#[from] BusError),
    /// KVM refused.
    #[error("{0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// The kernel command line has no room left.
    #[error("announce the device on the kernel command line")]
    Cmdline(#[from] boot::CmdlineError),
}

/// Announces the device of `slot` on the kernel's command line.
///
/// # Errors
/// When the line is full.
pub fn announce(cmdline: &mut Cmdline, slot: Slot) -> Result<(), AttachError> {
    cmdline.virtio_mmio(slots::SIZE, slot.base(), slot.gsi())?;
    Ok(())
}

/// Puts `device` into `slot` of the running platform, its registers shown in `page` if there is one.
///
/// # Errors
/// When KVM or the host has no room for it.
pub fn attach<D: VirtioDevice + 'static>(
    vm: &Arc<VmFd>,
    mmio: &mut Bus,
    memory: &GuestMemoryMmap,
    slot: Slot,
    device: &Arc<Mutex<D>>,
    page: Option<RegisterPage>,
) -> Result<(), AttachError> {
    let is_shown = page.is_some();
    let transport =
        MmioTransport::placed(Placement { page, access_platform: false }, memory.clone(), device.clone())
            .map_err(AttachError::Transport)?;
    vm.register_irqfd(transport.interrupt().line(), slot.gsi())
        .map_err(|e| AttachError::Kvm("KVM_IRQFD", e))?;
    transport.interrupt().raise_by(arch::edge(vm, slot.gsi()));
    let notify = IoEventAddress::Mmio(slot.base() + QUEUE_NOTIFY);
    let device = device.lock().unwrap_or_else(PoisonError::into_inner);
    for (index, kick) in device.kicks().iter().enumerate() {
        if device.serves_at_once(index) {
            continue; // the access itself reaches the device
        }
        let queue = u32::try_from(index).unwrap_or(u32::MAX);
        vm.register_ioevent(kick, &notify, queue).map_err(|e| AttachError::Kvm("KVM_IOEVENTFD", e))?;
    }
    drop(device);
    if is_shown {
        let acknowledged = IoEventAddress::Mmio(slot.base() + INTERRUPT_ACK);
        vm.register_ioevent(transport.acknowledged(), &acknowledged, STATUS_USED_BUFFER)
            .map_err(|e| AttachError::Kvm("KVM_IOEVENTFD", e))?;
    }
    Ok(mmio.insert(slot.base(), slots::SIZE, transport)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_an_interrupt_line_of_the_ioapic() {
        let last = Slot::Disk(u8::try_from(MAX_DISKS).unwrap() - 1);
        assert!(last.gsi() < 24, "the IOAPIC has 24 lines, {} is not one", last.gsi());
        let slots = [Slot::Rng, Slot::Vsock].into_iter().chain((0..12).map(Slot::Disk));
        let lines: std::collections::BTreeSet<u32> = slots.map(Slot::gsi).collect();
        assert_eq!(lines.len(), 14, "each has a line of its own");
        assert!(!lines.contains(&slots::TAKEN_GSI));
        assert_eq!(Slot::Rng.base(), slots::BASE);
        assert_eq!(Slot::Disk(1).base() - Slot::Disk(0).base(), slots::STRIDE);
    }
}
