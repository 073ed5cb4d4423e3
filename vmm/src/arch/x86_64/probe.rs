//! Whether this host's KVM runs kernel-mode code as a processor does.
//!
//! Where KVM itself runs in a virtual machine without hardware help, ring 0 of a guest is interpreted, and the
//! interpreter lacks instructions that every kernel uses. A guest of four instructions tells.

use std::arch::x86_64::__cpuid;
use std::path::Path;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::host::ProbeError;

const CODE: u64 = 0x1000;
const HANDLER: u64 = 0x1100;
/// Vector 3 of the real-mode interrupt table.
const BREAKPOINT_VECTOR: u64 = 3 * 4;
const REPORT_PORT: u16 = 0xf4;
const REPORT: u8 = 0x4b;

/// xor ax, ax; popcnt ax, ax; int3
const PROBE_CODE: [u8; 7] = [0x31, 0xc0, 0xf3, 0x0f, 0xb8, 0xc0, 0xcc];
/// mov al, REPORT; out REPORT_PORT, al; hlt
const HANDLER_CODE: [u8; 5] = [0xb0, REPORT, 0xe6, 0xf4, 0xf4];

/// Whether KVM is one of the hardware kinds, for which no probe is needed.
pub fn kvm_modules_are_real() -> bool {
    ["kvm_intel", "kvm_amd"].iter().any(|module| Path::new("/sys/module").join(module).exists())
}

/// Whether this machine is itself emulated in software, where everything takes longer.
pub fn is_software_host() -> bool {
    if __cpuid(1).ecx & 1 << 31 == 0 {
        return false;
    }
    let leaf = __cpuid(0x4000_0000);
    let signature: Vec<u8> =
        [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|register| register.to_le_bytes()).collect();
    signature == b"TCGTCGTCGTCG"
}

/// Runs the probe guest: `Ok(true)` when int3 and popcnt work in its kernel mode.
///
/// # Errors
/// When not even a VM can be made.
pub fn probe_kernel_mode(kvm: &Kvm) -> Result<bool, ProbeError> {
    let step = |what| move |source| ProbeError::Kvm { what, source };
    let vm = kvm.create_vm().map_err(step("KVM_CREATE_VM"))?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x2000)])
        .map_err(|e| ProbeError::Memory(e.to_string()))?;
    let vector = u32::try_from(HANDLER).unwrap_or_default().to_le_bytes();
    for (bytes, at) in [(&PROBE_CODE[..], CODE), (&HANDLER_CODE, HANDLER), (&vector, BREAKPOINT_VECTOR)] {
        memory.write_slice(bytes, GuestAddress(at)).map_err(|e| ProbeError::Memory(e.to_string()))?;
    }
    let host = memory.get_host_address(GuestAddress(0)).map_err(|e| ProbeError::Memory(e.to_string()))?;
    let region = kvm_userspace_memory_region {
        memory_size: 0x2000,
        userspace_addr: host as u64,
        ..Default::default()
    };
    // SAFETY: `memory` is mapped for the whole range and dropped after `vm`'s only vCPU has run.
    unsafe { vm.set_user_memory_region(region) }.map_err(step("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(step("KVM_CREATE_VCPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(step("KVM_GET_SREGS"))?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).map_err(step("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(step("KVM_GET_REGS"))?;
    (regs.rip, regs.rsp, regs.rflags) = (CODE, 0x1ff0, 2);
    vcpu.set_regs(&regs).map_err(step("KVM_SET_REGS"))?;
    Ok(matches!(vcpu.run(), Ok(VcpuExit::IoOut(REPORT_PORT, [REPORT]))))
}
