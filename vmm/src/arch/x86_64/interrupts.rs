//! The interrupt controllers, all in KVM: local APICs, IOAPIC and PIC. No PIT: with the TSC deadline timer and
//! kvmclock Linux has no use for one, and a VM without it closes faster.

use std::sync::Arc;

use boot::layout::{KVM_IDENTITY_MAP_ADDR, KVM_TSS_ADDR};
use devices::irq::Pulse;
use kvm_ioctls::VmFd;

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
pub fn edge(vm: &Arc<VmFd>, gsi: u32) -> Pulse {
    let vm = Arc::clone(vm);
    Box::new(move || [true, false].into_iter().all(|level| vm.set_irq_line(gsi, level).is_ok()))
}
