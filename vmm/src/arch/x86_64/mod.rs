//! x86-64: what a vCPU must be told before it runs, and where devices answer.

mod cpuid;
mod interrupts;
mod probe;
mod registers;

pub use cpuid::CpuTemplate;
pub use interrupts::{create_interrupt_controller, edge};
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
    use boot::layout;
    use devices::{acpi_pm, cmos, pvpanic, reset, serial};

    pub use boot::layout::ACPI_GSI;
    pub use devices::serial::{COM1_GSI, COM2_GSI};

    /// ttyS0, the console.
    pub const COM1: (u64, u64) = (serial::COM1_BASE, serial::SERIAL_SIZE);
    /// ttyS1, the failure line.
    pub const COM2: (u64, u64) = (serial::COM2_BASE, serial::SERIAL_SIZE);
    /// Keyboard controller: here for its reset line only.
    pub const I8042: (u64, u64) = (reset::I8042_BASE, reset::I8042_SIZE);
    /// ACPI's fixed registers: the place that the tables have them at.
    pub const ACPI_PM: (u64, u64) = (layout::ACPI_PM_PORT, acpi_pm::ACPI_PM_SIZE);
    /// The panic device.
    pub const PVPANIC: (u64, u64) = (pvpanic::PVPANIC_PORT, pvpanic::PVPANIC_SIZE);
    /// Real-time clock.
    pub const CMOS: (u64, u64) = (cmos::CMOS_BASE, cmos::CMOS_SIZE);
}

#[cfg(test)]
mod tests {
    use super::ports;
    use boot::layout;

    #[test]
    fn what_the_tables_say_is_where_the_devices_are() {
        assert_eq!(ports::COM1.0, layout::SERIAL_PORT);
        assert_eq!(ports::COM1_GSI, layout::SERIAL_GSI);
        assert_eq!((ports::COM2.0, ports::COM2_GSI), (layout::SERIAL2_PORT, layout::SERIAL2_GSI));
        assert_eq!(ports::I8042.0, layout::I8042_PORT);
        assert_eq!(ports::PVPANIC.0, layout::PVPANIC_PORT);
        assert_eq!((ports::CMOS.0, devices::cmos::CENTURY), (layout::CMOS_PORT, layout::CMOS_CENTURY));
        let size = u64::from(layout::ACPI_PM1_EVENT_SIZE) + u64::from(layout::ACPI_PM1_CONTROL_SIZE);
        assert_eq!(ports::ACPI_PM, (layout::ACPI_PM_PORT, size));
        assert_eq!(u16::from(layout::ACPI_S5), devices::acpi_pm::SLEEP_TYPE_OFF);
    }
}
