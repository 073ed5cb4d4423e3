//! Every guest physical address of an x86-64 VM, each with its why.
//!
//! ```text
//!   0x0000_0500  GDT                                  0x000f_fff0  first code after a reset; or a ROM's shadow
//!   0x0000_6000  setup_data                           0x0010_0000  kernel, initrd (low RAM)
//!   0x0000_7000  boot_params or hvm_start_info        0xc000_0000  no RAM up to 4 GiB:
//!   0x0000_8000  stack of the first code (grows down  0xd000_0000    virtio-mmio windows
//!   0x0000_9000  page tables             from 0x9000) 0xfec0_0000    I/O APIC
//!   0x0002_0000  command line                         0xfee0_0000    local APICs
//!   0x0009_e000  reserved: MP table                   0xfeff_c000    what VT-x needs of KVM
//!   0x000a_0000  no RAM that the guest may use        0xff00_0000    a ROM, up to 4 GiB
//!   0x000e_0000  ACPI tables                          0x1_0000_0000 the rest of RAM
//! ```

/// The GDT: above the real-mode vectors and BIOS data area (0 to 0x500), which Linux reads as such.
pub const GDT_ADDR: u64 = 0x500;
/// `setup_data`: a page of RAM below `boot_params`, which Linux reserves until it has read it.
pub const SETUP_DATA_ADDR: u64 = 0x6000;
/// `boot_params`: one page below the page tables, in RAM that Linux reserves before it reuses it.
pub const ZERO_PAGE_ADDR: u64 = 0x7000;
/// Initial stack pointer: 4 KiB of stack between `boot_params` and the page tables; Linux sets its own at once.
pub const STACK_TOP: u64 = 0x9000;
/// PML4, then one PDPT, then [`IDENTITY_GIB`] page directories, a page each.
pub const PAGE_TABLE_ADDR: u64 = 0x9000;
/// GiB from 0 that are mapped one to one: every address below 4 GiB, so that first code reaches all devices.
pub const IDENTITY_GIB: u64 = 4;
/// The command line: a page-aligned place below 640 KiB that nothing else uses.
pub const CMDLINE_ADDR: u64 = 0x2_0000;
/// Longest command line without its final zero: Linux's COMMAND_LINE_SIZE on x86 is 2048.
pub const CMDLINE_MAX: usize = 2047;

/// End of usable base memory; from here to [`BASE_MEMORY_END`] lies the MP table, and the range is reserved
/// in the e820 map. Two pages hold the table of 254 vCPUs.
pub const EBDA_START: u64 = 0x9_e000;
/// The MP floating pointer: the last KiB of 640 KiB, where the MP specification (chapter 4) has it searched.
pub const MP_POINTER_ADDR: u64 = 0x9_fc00;
/// 640 KiB: video memory and ROMs are above on a PC, and Linux never uses 640 KiB to 1 MiB as RAM.
pub const BASE_MEMORY_END: u64 = 0xa_0000;

/// ACPI tables: the BIOS area, which kernels search for the RSDP in steps of 16 from its beginning (ACPI 5.2.5.1).
pub const ACPI_ADDR: u64 = 0xe_0000;
/// One past the ACPI tables: from here to 1 MiB a PC has its ROM's last 64 KiB.
pub const ACPI_END: u64 = 0xf_0000;
/// Where a processor that is reset in real mode (or jumps to FFFF:0, as kernels do to reset one) finds code.
pub const RESET_CODE_ADDR: u64 = 0xf_fff0;
/// 1 MiB: kernel and initrd go here and above; everything below is this crate's.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;
/// 2 GiB - 1: the highest byte of an initrd, as current kernels' headers give it (`initrd_addr_max`).
pub const INITRD_ADDR_MAX: u64 = 0x7fff_ffff;

/// 3 GiB: RAM ends here and goes on at [`MMIO_GAP_END`]. A GiB for devices is room for any future window, and a
/// VM below 3 GiB has all its RAM in one piece, which 32-bit DMA masks reach.
pub const MMIO_GAP_START: u64 = 0xc000_0000;
/// 4 GiB: the devices' addresses that the architecture fixes (APICs) end below it.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;

/// The first virtio-mmio window: inside the gap and away from the APICs.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;
/// Distance between windows: a page each, so that a window can be mapped or protected by itself.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// First GSI of a virtio device: 0 to 4 are timer, keyboard, cascade and the two serial ports. [`ACPI_GSI`] is none.
pub const VIRTIO_GSI_FIRST: u32 = 5;
/// Last GSI of a virtio device: the I/O APIC has [`GSI_COUNT`] inputs.
pub const VIRTIO_GSI_LAST: u32 = GSI_COUNT - 1;
/// Inputs of KVM's I/O APIC.
pub const GSI_COUNT: u32 = 24;
/// ACPI's system control interrupt: the line it has on PCs. It is signalled by edge, as all of ours are: a level
/// would need KVM to tell of each end of interrupt, and to arrange that takes milliseconds at every start.
pub const ACPI_GSI: u32 = 9;
/// First port of ACPI's fixed registers: PM1a event block (4 bytes), then PM1a control block (2). Any free ports do.
pub const ACPI_PM_PORT: u64 = 0x600;
/// Size of the PM1a event block.
pub const ACPI_PM1_EVENT_SIZE: u8 = 4;
/// Size of the PM1a control block.
pub const ACPI_PM1_CONTROL_SIZE: u8 = 2;
/// What `SLP_TYP` is for the soft-off state; a number of the platform's choice.
pub const ACPI_S5: u8 = 5;
/// Port of the panic device: where QEMU has it, so that what looks for it without ACPI finds it too.
pub const PVPANIC_PORT: u64 = 0x505;
/// First port of the real-time clock.
pub const CMOS_PORT: u64 = 0x70;
/// Register of the real-time clock that has the century.
pub const CMOS_CENTURY: u8 = 0x32;
/// ISA interrupt of the first serial port.
pub const SERIAL_GSI: u32 = 4;
/// First port of the first serial port (COM1).
pub const SERIAL_PORT: u64 = 0x3f8;
/// ISA interrupt of the second serial port.
pub const SERIAL2_GSI: u32 = 3;
/// First port of the second serial port (COM2).
pub const SERIAL2_PORT: u64 = 0x2f8;
/// First port of the keyboard controller, by which a PC is reset (0x60 data, 0x64 command).
pub const I8042_PORT: u64 = 0x60;

/// Where KVM's I/O APIC answers; fixed.
pub const IOAPIC_ADDR: u32 = 0xfec0_0000;
/// Where local APICs answer after a reset; fixed.
pub const LAPIC_ADDR: u32 = 0xfee0_0000;
/// A page for KVM's real-mode identity map (KVM_SET_IDENTITY_MAP_ADDR): above all devices, below any ROM.
pub const KVM_IDENTITY_MAP_ADDR: u64 = 0xfeff_c000;
/// Three pages for KVM's real-mode TSS (KVM_SET_TSS_ADDR).
pub const KVM_TSS_ADDR: u64 = 0xfeff_d000;
/// Largest ROM, which ends at 4 GiB: as much as a PC's flash has at most.
pub const ROM_MAX: u64 = 16 << 20;

/// Most vCPUs that can be announced: APIC ids are 0 to 253, the I/O APIC takes the next, 255 is broadcast.
pub const VCPUS_MAX: u8 = 254;

/// Where RAM of `size` bytes lies, as (start, length), lowest first. Empty for a size of 0.
pub fn memory_regions(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(MMIO_GAP_START);
    let high = size - low;
    [(0, low), (MMIO_GAP_END, high)].into_iter().filter(|(_, len)| *len > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_the_gap_below_four_gib_free() {
        assert_eq!(memory_regions(0), []);
        assert_eq!(memory_regions(512 << 20), [(0, 512 << 20)]);
        assert_eq!(memory_regions(3 << 30), [(0, 3 << 30)]);
        assert_eq!(memory_regions((3 << 30) + 4096), [(0, 3 << 30), (4 << 30, 4096)]);
        assert_eq!(memory_regions(8 << 30), [(0, 3 << 30), (4 << 30, 5 << 30)]);
    }

    #[test]
    fn fixed_addresses_do_not_overlap() {
        let ranges = [
            (GDT_ADDR, GDT_ADDR + 0x40),
            (SETUP_DATA_ADDR, SETUP_DATA_ADDR + 0x1000),
            (ZERO_PAGE_ADDR, ZERO_PAGE_ADDR + 0x1000),
            (STACK_TOP - 0x1000, STACK_TOP),
            (PAGE_TABLE_ADDR, PAGE_TABLE_ADDR + (2 + IDENTITY_GIB) * 0x1000),
            (CMDLINE_ADDR, CMDLINE_ADDR + CMDLINE_MAX as u64 + 1),
            (EBDA_START, BASE_MEMORY_END),
            (ACPI_ADDR, ACPI_END),
            (RESET_CODE_ADDR, RESET_CODE_ADDR + 0x10),
            (HIGH_MEMORY_START, MMIO_GAP_START),
            (
                VIRTIO_MMIO_BASE,
                VIRTIO_MMIO_BASE + u64::from(VIRTIO_GSI_LAST - VIRTIO_GSI_FIRST + 1) * VIRTIO_MMIO_STRIDE,
            ),
            (IOAPIC_ADDR.into(), u64::from(IOAPIC_ADDR) + 0x1000),
            (LAPIC_ADDR.into(), u64::from(LAPIC_ADDR) + 0x1000),
            (KVM_IDENTITY_MAP_ADDR, KVM_IDENTITY_MAP_ADDR + 0x1000),
            (KVM_TSS_ADDR, KVM_TSS_ADDR + 0x3000),
            (MMIO_GAP_END - ROM_MAX, MMIO_GAP_END),
        ];
        for pair in ranges.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{pair:x?}");
        }
    }
}
