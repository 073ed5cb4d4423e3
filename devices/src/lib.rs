//! Virtual devices of one VM: port and MMIO bus, serial port, reset controller, virtio over MMIO.
//!
//! ```text
//!   vCPU thread ──exit──> Bus ──> SerialPort | I8042 | virtio::MmioTransport
//!                                                        │ activate, reset, config
//!   event loop <──kick (ioeventfd)── Block | Rng | Vsock <┘
//!              ──irq  (irqfd)─────> guest
//! ```
//!
//! Nothing here knows KVM, files by path, or payloads. Guest memory is touched only through `vm-memory`.

pub mod bus;
pub mod irq;
pub mod virtio;
