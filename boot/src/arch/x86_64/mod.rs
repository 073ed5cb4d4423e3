//! x86-64: the Linux 64-bit boot protocol.

mod e820;
mod gdt;
pub mod layout;
mod linux64;
mod mptable;
mod paging;
mod state;

use vm_memory::GuestMemoryMmap;

use crate::elf::Kernel;
use crate::initrd::Initrd;
use crate::{BootSpec, LoadError, cmdline, put};
use e820::Ram;
use linux64::BootParams;

pub use layout::memory_regions;
pub use state::{BootState, Segment, Table};

/// `e_machine` of a kernel for this architecture, and what people call it.
pub(crate) const ELF_MACHINE: u16 = 62;
pub(crate) const ELF_MACHINE_NAME: &str = "x86-64 (62)";

/// Loads what `spec` says into `mem` and gives the registers of the first vCPU.
///
/// `mem` has the layout of [`memory_regions`] and is all zero, as fresh memory is: bytes that are to be zero are
/// not written, so that their pages stay untouched. Everything is checked before the first large read.
///
/// # Errors
/// When kernel, initrds, command line, number of vCPUs or memory are not as they must be: see [`LoadError`].
pub fn load(mem: &GuestMemoryMmap, spec: &BootSpec<'_>) -> Result<BootState, LoadError> {
    let ram = Ram::of(mem)?;
    cmdline::check(spec.cmdline, layout::CMDLINE_MAX).map_err(LoadError::Cmdline)?;
    let kernel = Kernel::parse(spec.kernel).map_err(LoadError::Kernel)?;
    check_inside(&kernel, &ram)?;
    let initrd = Initrd::measure(spec.initrds)?;
    let mut usable = ram.usable();
    usable.end = usable.end.min(layout::INITRD_ADDR_MAX + 1);
    let ramdisk = if initrd.size() > 0 { initrd.place(&usable, kernel.segments())? } else { 0 };

    mptable::write(mem, spec.vcpus)?;
    put(mem, layout::GDT_ADDR, &gdt::bytes())?;
    paging::write_identity_map(mem)?;
    // The byte behind the text is zero already.
    put(mem, layout::CMDLINE_ADDR, spec.cmdline.as_bytes())?;
    let below_4g = |address: u64| u32::try_from(address).expect("kernel and initrd lie below 3 GiB");
    let params = BootParams {
        cmdline: below_4g(layout::CMDLINE_ADDR),
        cmdline_max: below_4g(layout::CMDLINE_MAX as u64),
        ramdisk: below_4g(ramdisk),
        ramdisk_size: below_4g(initrd.size()),
        e820: &ram.e820(),
    };
    put(mem, layout::ZERO_PAGE_ADDR, &params.bytes()[..])?;
    kernel.read_into(mem, spec.kernel)?;
    initrd.read_into(mem, ramdisk)?;
    Ok(BootState::long_mode(kernel.entry()))
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
