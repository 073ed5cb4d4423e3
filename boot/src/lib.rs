//! Kernel loading: guest memory in, registers out.
//!
//! ```text
//!   kernel (ELF64, bzImage) ─ Kernel::parse ─┐
//!   initrds, BootConfig ─────────────────────┤            ┌─> guest memory: image, initrd, command line, tables
//!   command line (Cmdline) ──────────────────┼─ load() ───┤   (boot_params or hvm_start_info, ACPI, MP)
//!   layout of RAM, devices, a random seed ───┘            └─> BootState: every register the first vCPU starts with
//!
//!   a raw ROM ─ Rom::read ─ load_rom() ─> the same, and pages to be mapped so that they end at 4 GiB
//! ```
//!
//! Nothing here knows KVM or devices, so all of it is tested without either. Kernels and initrds are taken as
//! hostile: every number in their headers is checked before it is used, and a load that fails has written
//! only to guest memory.
#![forbid(unsafe_code)]

pub mod arch;
mod bootconfig;
mod bytes;
mod bzimage;
mod cmdline;
mod elf;
mod image;
mod initrd;
mod kernel;

use std::fs::File;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, guest_memory};

pub use arch::{BootState, Rom, Segment, Table, layout, load, load_rom, memory_regions};
pub use bootconfig::{BootConfig, BootConfigError, BootValue};
pub use bzimage::BzImageError;
pub use cmdline::{Cmdline, CmdlineError};
pub use elf::ElfError;
pub use image::{Protocol, Segment as KernelSegment};
pub use kernel::{Kernel, KernelError};

/// What to boot, and with what.
#[derive(Debug)]
pub struct BootSpec<'a> {
    /// The kernel image, see [`Kernel`]. Its file position is moved.
    pub kernel: &'a File,
    /// Initial ramdisks, handed over as one: concatenated, each padded to 4 bytes. File positions are moved.
    pub initrds: &'a [&'a File],
    /// The boot configuration, appended to the ramdisks; the command line has to ask for it (`bootconfig`).
    pub bootconfig: &'a BootConfig,
    /// The kernel's command line, see [`Cmdline`].
    pub cmdline: &'a str,
    /// How many vCPUs the tables announce, at least 1.
    pub vcpus: u8,
    /// The virtio-mmio windows that ACPI announces.
    pub devices: &'a [MmioDevice],
    /// Random bytes for the kernel's generator, for protocols that can hand them over; used for one boot only.
    pub seed: Option<&'a [u8; 32]>,
}

impl<'a> BootSpec<'a> {
    /// `kernel` alone, with one vCPU.
    pub fn new(kernel: &'a File) -> Self {
        const NO_BOOTCONFIG: &BootConfig = &BootConfig::new();
        Self {
            kernel,
            initrds: &[],
            bootconfig: NO_BOOTCONFIG,
            cmdline: "",
            vcpus: 1,
            devices: &[],
            seed: None,
        }
    }
}

/// A virtio device's window of registers and its interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// First address.
    pub base: u32,
    /// Bytes.
    pub size: u32,
    /// Interrupt line, signalled by edge.
    pub gsi: u32,
}

/// Why a kernel could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel image is not one that can be started.
    #[error("kernel")]
    Kernel(#[source] KernelError),
    /// A segment of the kernel does not fit the guest's memory.
    #[error(
        "kernel segment {index} wants {start:#x}..{end:#x}, usable memory is {usable_start:#x}..{usable_end:#x}"
    )]
    SegmentOutside {
        /// Index of its program header.
        index: usize,
        /// First guest physical address.
        start: u64,
        /// One past the last.
        end: u64,
        /// First address a kernel may use.
        usable_start: u64,
        /// One past the last.
        usable_end: u64,
    },
    /// A segment could not be read from the file.
    #[error("read kernel segment {index}")]
    ReadSegment {
        /// Index of its program header.
        index: usize,
        /// The cause.
        source: std::io::Error,
    },
    /// A ramdisk could not be read.
    #[error("read initrd {index}")]
    ReadInitrd {
        /// Which one, from 0.
        index: usize,
        /// The cause.
        source: std::io::Error,
    },
    /// No gap between the kernel's segments and the end of low memory holds the ramdisks.
    #[error("initrd of {size} bytes does not fit: the largest free range of guest memory has {free} bytes")]
    InitrdTooLarge {
        /// Bytes of all ramdisks with their padding.
        size: u64,
        /// Bytes that are free in one piece.
        free: u64,
    },
    /// The command line is not one that can be handed over.
    #[error("kernel command line")]
    Cmdline(#[source] CmdlineError),
    /// The boot configuration is more than a kernel reads.
    #[error("bootconfig")]
    BootConfig(#[source] BootConfigError),
    /// The ROM could not be read.
    #[error("read the ROM")]
    ReadRom(#[source] std::io::Error),
    /// A ROM of no use.
    #[error("ROM of {len} bytes, expected {min} to {max}")]
    RomSize {
        /// Its size.
        len: u64,
        /// The least it can be.
        min: u64,
        /// The most it can be.
        max: u64,
    },
    /// The guest's memory does not have the layout of [`memory_regions`].
    #[error("guest memory at {start:#x}..{end:#x} is not part of a valid layout")]
    MemoryLayout {
        /// First address of the offending region.
        start: u64,
        /// One past its last.
        end: u64,
    },
    /// More or fewer vCPUs than the tables can announce.
    #[error("{found} vCPUs, expected 1 to {max}")]
    Vcpus {
        /// How many were asked for.
        found: u8,
        /// How many there can be.
        max: u8,
    },
    /// More devices than the ACPI tables have room for.
    #[error("ACPI tables with {devices} devices do not fit their 64 KiB")]
    AcpiTooLarge {
        /// Devices there are.
        devices: usize,
    },
    /// A table could not be written: guest memory is smaller than its layout says.
    #[error("write boot tables")]
    WriteTables(#[source] guest_memory::Error),
}

/// What went wrong with a file, out of what reading it into guest memory says.
fn io_error(error: guest_memory::Error) -> std::io::Error {
    match error {
        guest_memory::Error::IOError(error) => error,
        other => std::io::Error::other(other),
    }
}

/// Writes `bytes` at the guest physical address `at`.
fn put(mem: &GuestMemoryMmap, at: u64, bytes: &[u8]) -> Result<(), LoadError> {
    mem.write_slice(bytes, GuestAddress(at)).map_err(LoadError::WriteTables)
}
