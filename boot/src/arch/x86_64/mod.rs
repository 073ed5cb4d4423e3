//! x86-64: the Linux 64-bit boot protocol, PVH, ROMs; and the tables that tell a kernel of its machine.

mod acpi;
mod e820;
mod gdt;
pub mod layout;
mod linux64;
mod mptable;
mod paging;
mod pvh;
mod rom;
mod segment;
mod state;

use std::ops::Range;

use vm_memory::GuestMemoryMmap;

use crate::image::Protocol;
use crate::initrd::Initrd;
use crate::kernel::Kernel;
use crate::{BootSpec, LoadError, MmioDevice, cmdline, put};
use e820::Ram;
use gdt::Mode;
use linux64::BootParams;

pub use layout::memory_regions;
pub use rom::Rom;
pub use segment::Segment;
pub use state::{BootState, Table};

/// `e_machine` of a kernel for this architecture, and what people call it.
pub(crate) const ELF_MACHINE: u16 = 62;
pub(crate) const ELF_MACHINE_NAME: &str = "x86-64 (62)";

/// `mov al, 0xfe; out 0x64, al; 1: hlt; jmp 1b`: what a kernel runs that resets the machine by a jump to FFFF:0.
const RESET_CODE: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

/// Loads what `spec` says into `mem` and gives the registers of the first vCPU.
///
/// `mem` has the layout of [`memory_regions`] and is all zero, as fresh memory is: bytes that are to be zero are
/// not written, so that their pages stay untouched. Everything is checked before the first large read.
///
/// # Errors
/// When kernel, initrds, command line, number of vCPUs or memory are not as they must be: see [`LoadError`].
pub fn load(mem: &GuestMemoryMmap, spec: &BootSpec<'_>) -> Result<BootState, LoadError> {
    let ram = Ram::of(mem)?;
    let kernel = Kernel::parse(spec.kernel).map_err(LoadError::Kernel)?;
    let limits = Limits::of(&kernel, &ram);
    cmdline::check(spec.cmdline, limits.cmdline).map_err(LoadError::Cmdline)?;
    check_inside(&kernel, &ram)?;
    let trailer = spec.bootconfig.trailer().map_err(LoadError::BootConfig)?;
    let initrd = Initrd::measure(spec.initrds, &trailer)?;
    let ramdisk = if initrd.size() > 0 { initrd.place(&limits.initrd, kernel.segments())? } else { 0 };

    write_tables(mem, spec.vcpus, spec.devices)?;
    put(mem, layout::RESET_CODE_ADDR, &RESET_CODE)?;
    // The byte behind the text is zero already.
    put(mem, layout::CMDLINE_ADDR, spec.cmdline.as_bytes())?;
    let state = match kernel.protocol() {
        Protocol::Linux64 => {
            if let Some(seed) = spec.seed {
                put(mem, layout::SETUP_DATA_ADDR, &linux64::random_seed(seed)[..])?;
            }
            put(mem, layout::GDT_ADDR, &gdt::bytes(Mode::Long))?;
            paging::write_identity_map(mem)?;
            let below_4g = |address: u64| u32::try_from(address).expect("kernel and initrd lie below 3 GiB");
            let params = BootParams {
                cmdline: below_4g(layout::CMDLINE_ADDR),
                cmdline_max: below_4g(layout::CMDLINE_MAX as u64),
                ramdisk: below_4g(ramdisk),
                ramdisk_size: below_4g(initrd.size()),
                has_setup_data: spec.seed.is_some(),
                setup: kernel.setup(),
                e820: &ram.e820(),
            };
            put(mem, layout::ZERO_PAGE_ADDR, &params.bytes()[..])?;
            BootState::long_mode(kernel.entry())
        }
        Protocol::Pvh => {
            put(mem, layout::GDT_ADDR, &gdt::bytes(Mode::Protected))?;
            put(mem, layout::ZERO_PAGE_ADDR, &pvh::page(ramdisk, initrd.size(), &ram.e820())[..])?;
            BootState::pvh(kernel.entry())
        }
    };
    kernel.read_into(mem, spec.kernel)?;
    initrd.read_into(mem, ramdisk)?;
    Ok(state)
}

/// Prepares `mem` for a VM of `vcpus` that starts in `rom`, which the caller maps at [`Rom::address`], and gives the
/// registers of the first vCPU. `devices` are announced by ACPI.
///
/// # Errors
/// When number of vCPUs or memory are not as they must be.
pub fn load_rom(
    mem: &GuestMemoryMmap,
    rom: &Rom,
    vcpus: u8,
    devices: &[MmioDevice],
) -> Result<BootState, LoadError> {
    let state = rom.load(mem)?;
    write_tables(mem, vcpus, devices)?;
    Ok(state)
}

/// What is the same for every kernel: the announcements of processors, interrupts and devices.
fn write_tables(mem: &GuestMemoryMmap, vcpus: u8, devices: &[MmioDevice]) -> Result<(), LoadError> {
    mptable::write(mem, vcpus)?;
    acpi::write(mem, vcpus, devices)
}

/// How far a kernel reaches.
struct Limits {
    /// Where the ramdisk may lie.
    initrd: Range<u64>,
    /// Longest command line, in bytes.
    cmdline: usize,
}

impl Limits {
    fn of(kernel: &Kernel, ram: &Ram) -> Self {
        let mut initrd = ram.usable();
        let (highest, cmdline) = match kernel.setup() {
            Some(setup) => {
                (setup.initrd_addr_max.into(), usize::try_from(setup.cmdline_size).unwrap_or_default())
            }
            None => (layout::INITRD_ADDR_MAX, layout::CMDLINE_MAX),
        };
        initrd.end = initrd.end.min(highest + 1).max(initrd.start);
        Self { initrd, cmdline: cmdline.min(layout::CMDLINE_MAX) }
    }
}

/// Every segment lies in low RAM above the tables.
fn check_inside(kernel: &Kernel, ram: &Ram) -> Result<(), LoadError> {
    let usable = ram.usable();
    match kernel.segments().iter().find(|s| s.address < usable.start || s.end() > usable.end) {
        Some(s) => Err(LoadError::SegmentOutside {
            index: s.index,
            start: s.address,
            end: s.end(),
            usable_start: usable.start,
            usable_end: usable.end,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
