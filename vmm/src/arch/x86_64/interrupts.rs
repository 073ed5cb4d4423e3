//! The interrupt controllers, all in KVM: local APICs, IOAPIC and PIC. No PIT: with the TSC deadline timer and
//! kvmclock Linux has no use for one, and a VM without it closes faster.

use kvm_ioctls::VmFd;

/// Three pages that KVM needs on Intel for real mode, just below the reset vector's page.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// Creates the controllers. To be called after every memory slot is set: a slot registered after them waits
/// milliseconds for a grace period in the kernel.
///
/// # Errors
/// When KVM refuses.
pub fn create_interrupt_controller(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    // Only Intel needs it; hosts without the capability refuse it, rightly.
    let _ = vm.set_tss_address(TSS_ADDRESS);
    vm.create_irq_chip()
}
