//! Virtual devices of one VM: port and MMIO bus, serial port, reset controller, virtio over MMIO.
//!
//! ```text
//!   vCPU thread ──exit──> Bus ──> SerialPort | I8042 | AcpiPm | PvPanic | Cmos | virtio::MmioTransport
//!        <── Power ───────────────────────────┴────────┴─────────┘                         │
//!                                                                   activate, reset, config│
//!   event loop <──kick (ioeventfd)── Block | Console | Rng | Vsock <───────────────────────┘
//!              ──irq  (irqfd)─────> guest
//! ```
//!
//! Nothing here knows KVM, files by path, or payloads. Guest memory is touched only through `vm-memory`.

pub mod acpi_pm;
pub mod bus;
pub mod cmos;
pub mod irq;
pub mod power;
pub mod pvpanic;
pub mod reset;
pub mod serial;
pub mod virtio;

pub use acpi_pm::AcpiPm;
pub use bus::{Bus, BusDevice, BusError};
pub use cmos::Cmos;
pub use irq::Interrupt;
pub use power::{Power, PowerEvent};
pub use pvpanic::PvPanic;
pub use reset::I8042;
pub use serial::SerialPort;
