//! The interrupt controllers, all in KVM: local APICs, IOAPIC and PIC. No PIT: with the TSC deadline timer and
//! kvmclock Linux has no use for one, and a VM without it closes faster.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use boot::layout::{KVM_IDENTITY_MAP_ADDR, KVM_TSS_ADDR};
use devices::irq::Pulse;
use kvm_bindings::{KVMIO, kvm_irq_level};
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_IRQ_LINE, KVMIO, 0x61, kvm_irq_level);

/// Creates the controllers. To be called after every memory slot is set: a slot registered after them waits
/// milliseconds for a grace period in the kernel.
///
/// # Errors
/// When KVM refuses.
pub fn create_interrupt_controller(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    // Only Intel needs them; hosts without the capability refuse them, rightly.
    let _ = vm.set_identity_map_address(KVM_IDENTITY_MAP_ADDR);
    let _ = vm.set_tss_address(usize::try_from(KVM_TSS_ADDR).unwrap_or(usize::MAX));
    vm.create_irq_chip()
}

/// What raises the IOAPIC's line `gsi` and lowers it again: an edge. KVM does so on the calling thread, while an irqfd of such
/// a line waits for a thread of the kernel's.
///
/// # Errors
/// When the process has no file descriptor left.
pub fn edge(vm: &VmFd, gsi: u32) -> io::Result<Pulse> {
    // SAFETY: the descriptor is open for as long as `vm`, which is borrowed.
    let vm = unsafe { BorrowedFd::borrow_raw(vm.as_raw_fd()) }.try_clone_to_owned()?;
    Ok(Box::new(move || {
        [1, 0].into_iter().all(|level| {
            let mut request = kvm_irq_level { level, ..Default::default() };
            request.__bindgen_anon_1.irq = gsi;
            // SAFETY: the descriptor is a VM's, and the request is of the type that the call reads.
            unsafe { ioctl_with_ref(&vm, KVM_IRQ_LINE(), &request) == 0 }
        })
    }))
}
