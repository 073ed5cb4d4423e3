//! Registers as plain data: what the first vCPU starts with. The VMM copies it into whatever its hypervisor takes.

use super::gdt::{self, Mode};
use super::segment::Segment;

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Base address.
    pub base: u64,
    /// Limit in bytes (the last valid offset).
    pub limit: u16,
}

/// The registers of the first vCPU at the kernel's entry; those not named are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootState {
    /// Entry point.
    pub rip: u64,
    /// Address of `hvm_start_info` where the protocol is PVH.
    pub rbx: u64,
    /// The processor's family after a reset.
    pub rdx: u64,
    /// Address of `boot_params` where the protocol is Linux's.
    pub rsi: u64,
    /// Stack.
    pub rsp: u64,
    /// Flags: interrupts off.
    pub rflags: u64,
    /// Code segment.
    pub cs: Segment,
    /// DS, ES, FS, GS and SS alike.
    pub data: Segment,
    /// Task register: VT-x wants a valid one.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdt: Table,
    /// Interrupt descriptor table: empty, a fault before the kernel sets its own ends the VM.
    pub idt: Table,
    /// CR0: protection and paging, as the mode has it.
    pub cr0: u64,
    /// CR3: the identity page tables, where there is paging.
    pub cr3: u64,
    /// CR4: PAE in 64-bit mode.
    pub cr4: u64,
    /// EFER: long mode in 64-bit mode.
    pub efer: u64,
}

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always one.
const RFLAGS_FIXED: u64 = 1 << 1;

/// Real-mode segments after a reset (Intel SDM vol. 3, table 10-1): present, ring 0, accessed, 64 KiB.
const REAL_CODE: u16 = 0x9b;
const REAL_DATA: u16 = 0x93;
const REAL_TSS: u16 = 0x8b;
const REAL_LIMIT: u16 = 0xffff;
/// EDX after a reset: family 6.
const RESET_EDX: u64 = 0x600;

impl BootState {
    /// 64-bit mode at `rip` with the tables of [`super::layout`].
    pub(super) fn long_mode(rip: u64) -> Self {
        use super::layout::{PAGE_TABLE_ADDR, STACK_TOP, ZERO_PAGE_ADDR};
        Self {
            rsi: ZERO_PAGE_ADDR,
            rsp: STACK_TOP,
            cr0: CR0_PE | CR0_ET | CR0_PG,
            cr3: PAGE_TABLE_ADDR,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            ..Self::flat(Mode::Long, rip)
        }
    }

    /// 32-bit mode without paging at `rip`, as the PVH entry demands.
    pub(super) fn pvh(rip: u64) -> Self {
        Self { rbx: super::layout::ZERO_PAGE_ADDR, ..Self::flat(Mode::Protected, rip) }
    }

    fn flat(mode: Mode, rip: u64) -> Self {
        Self {
            rip,
            rbx: 0,
            rdx: 0,
            rsi: 0,
            rsp: 0,
            rflags: RFLAGS_FIXED,
            cs: gdt::segment(mode, gdt::BOOT_CS),
            data: gdt::segment(mode, gdt::BOOT_DS),
            tr: gdt::segment(mode, gdt::BOOT_TSS),
            gdt: Table { base: super::layout::GDT_ADDR, limit: gdt::LIMIT },
            idt: Table { base: 0, limit: 0 },
            cr0: CR0_PE | CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
        }
    }

    /// A processor after its reset: in real mode, 16 bytes below 4 GiB (Intel SDM vol. 3, 10.1).
    pub(super) fn reset() -> Self {
        let real =
            |selector, base, attributes| Segment { selector, base, limit: REAL_LIMIT.into(), attributes };
        let empty = Table { base: 0, limit: REAL_LIMIT };
        Self {
            rip: 0xfff0,
            rbx: 0,
            rdx: RESET_EDX,
            rsi: 0,
            rsp: 0,
            rflags: RFLAGS_FIXED,
            cs: real(0xf000, 0xffff_0000, REAL_CODE),
            data: real(0, 0, REAL_DATA),
            tr: real(0, 0, REAL_TSS),
            gdt: empty,
            idt: empty,
            cr0: CR0_ET | CR0_NW | CR0_CD,
            cr3: 0,
            cr4: 0,
            efer: 0,
        }
    }
}
