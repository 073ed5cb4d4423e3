//! Virtual devices of one VM: port and MMIO bus, serial port, reset controller, virtio over MMIO.
//!
//! ```text
//!   vCPU thread ──exit──> Bus ──> SerialPort | I8042 | Cmos | virtio::MmioTransport
//!                                                               │ activate, reset, config
//!   event loop <──kick (ioeventfd)── Block | Console | Rng | Vsock <┘
//!              ──irq  (irqfd)─────> guest
//! ```
//!
//! Nothing here knows KVM, files by path, or payloads. Guest memory is touched only through `vm-memory`.

pub mod bus;
pub mod cmos;
pub mod irq;
pub mod reset;
pub mod serial;
pub mod virtio;

pub use bus::{Bus, BusDevice, BusError};
pub use cmos::Cmos;
pub use irq::Interrupt;
pub use reset::I8042;
pub use serial::SerialPort;
