//! Boot registers as KVM takes them.

use boot::BootState;
use kvm_bindings::{Msrs, kvm_dtable, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::CpuTemplate;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back.
const MTRR_DEFAULT_WRITE_BACK: u64 = 1 << 11 | 6;

const LAPIC_LVT_LINT0: usize = 0x350;
const LAPIC_LVT_LINT1: usize = 0x360;
const DELIVERY_EXTINT: u32 = 7 << 8;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_MASK: u32 = 7 << 8;

/// Makes `vcpu` ready to run: CPUID, model-specific registers, FPU, local APIC, and for the boot processor
/// (`boot` given) the registers that the boot protocol asks for. Others wait for their start-up interrupt.
///
/// # Errors
/// When KVM refuses; the text names the state.
pub fn configure_vcpu(
    vcpu: &VcpuFd,
    id: u8,
    cpu: &CpuTemplate,
    boot: Option<&BootState>,
) -> Result<(), (&'static str, kvm_ioctls::Error)> {
    // An old KVM that cannot tell leaves it to the guest to find out.
    let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
    vcpu.set_cpuid2(&cpu.for_vcpu(id, tsc_khz)).map_err(|e| ("CPUID", e))?;
    set_msrs(vcpu);
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(|e| ("FPU", e))?;
    set_lapic(vcpu).map_err(|e| ("local APIC", e))?;
    if let Some(boot) = boot {
        set_sregs(vcpu, boot).map_err(|e| ("segments and control registers", e))?;
        let regs = kvm_regs {
            rip: boot.rip,
            rbx: boot.rbx,
            rdx: boot.rdx,
            rsi: boot.rsi,
            rsp: boot.rsp,
            rbp: boot.rsp,
            rflags: boot.rflags,
            ..Default::default()
        };
        vcpu.set_regs(&regs).map_err(|e| ("registers", e))?;
    }
    Ok(())
}

/// One at a time, because KVM stops at the first that it refuses; each is a mere default that a host may lack.
fn set_msrs(vcpu: &VcpuFd) {
    for (index, data) in
        [(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING), (MSR_MTRR_DEF_TYPE, MTRR_DEFAULT_WRITE_BACK)]
    {
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        let set = Msrs::from_entries(&[entry]).ok().and_then(|msrs| vcpu.set_msrs(&msrs).ok());
        if set != Some(1) {
            log::debug!("MSR {index:#x} cannot be set to {data:#x}");
        }
    }
}

/// LINT0 takes the PIC's interrupts, LINT1 is the NMI: the "virtual wire" that the MP table announces.
fn set_lapic(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut lapic = vcpu.get_lapic()?;
    for (offset, mode) in [(LAPIC_LVT_LINT0, DELIVERY_EXTINT), (LAPIC_LVT_LINT1, DELIVERY_NMI)] {
        let register = &mut lapic.regs[offset..offset + 4];
        let mut bytes = [0; 4];
        for (byte, value) in bytes.iter_mut().zip(register.iter()) {
            *byte = value.to_ne_bytes()[0];
        }
        let value = u32::from_le_bytes(bytes) & !DELIVERY_MASK | mode;
        for (slot, byte) in register.iter_mut().zip(value.to_le_bytes()) {
            *slot = std::ffi::c_char::from_ne_bytes([byte]);
        }
    }
    vcpu.set_lapic(&lapic)
}

fn set_sregs(vcpu: &VcpuFd, boot: &BootState) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs = segment(&boot.cs);
    sregs.ds = segment(&boot.data);
    sregs.es = segment(&boot.data);
    sregs.fs = segment(&boot.data);
    sregs.gs = segment(&boot.data);
    sregs.ss = segment(&boot.data);
    sregs.tr = segment(&boot.tr);
    sregs.gdt = kvm_dtable { base: boot.gdt.base, limit: boot.gdt.limit, ..Default::default() };
    sregs.idt = kvm_dtable { base: boot.idt.base, limit: boot.idt.limit, ..Default::default() };
    sregs.cr0 = boot.cr0;
    sregs.cr3 = boot.cr3;
    sregs.cr4 = boot.cr4;
    sregs.efer = boot.efer;
    vcpu.set_sregs(&sregs)
}

fn segment(s: &boot::arch::Segment) -> kvm_segment {
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: s.kind(),
        present: s.present(),
        dpl: s.dpl(),
        db: s.db(),
        s: s.s(),
        l: s.l(),
        g: s.g(),
        ..Default::default()
    }
}

/// Where the vCPU is, for reports.
pub fn instruction_pointer(vcpu: &VcpuFd) -> Option<u64> {
    vcpu.get_regs().ok().map(|regs| regs.rip)
}
