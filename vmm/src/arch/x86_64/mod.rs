//! x86-64: what a vCPU must be told before it runs, and where devices answer.

mod cpuid;
mod interrupts;
mod probe;
mod registers;

pub use cpuid::CpuTemplate;
pub use interrupts::create_interrupt_controller;
pub use probe::{is_software_host, kvm_modules_are_real, probe_kernel_mode};
pub use registers::{configure_vcpu, instruction_pointer};

/// Where virtio-mmio devices answer.
pub mod slots {
    pub use boot::layout::{
        ACPI_GSI as TAKEN_GSI, VIRTIO_GSI_FIRST as FIRST_GSI, VIRTIO_GSI_LAST as LAST_GSI,
        VIRTIO_MMIO_BASE as BASE, VIRTIO_MMIO_STRIDE as STRIDE,
    };
    pub use devices::virtio::mmio::MMIO_SIZE as SIZE;
}

/// Port ranges of the platform's devices: first port, number of ports.
pub mod ports {
    use devices::{cmos, reset, serial};

    pub use devices::serial::COM1_GSI;

    /// ttyS0, the console.
    pub const COM1: (u64, u64) = (serial::COM1_BASE, serial::SERIAL_SIZE);
    /// Keyboard controller: here for its reset line only.
    pub const I8042: (u64, u64) = (reset::I8042_BASE, reset::I8042_SIZE);
    /// Real-time clock.
    pub const CMOS: (u64, u64) = (cmos::CMOS_BASE, cmos::CMOS_SIZE);
}
