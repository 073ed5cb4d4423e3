//! CPUID as the guest sees it: what KVM supports, less what does not work, plus what only a VMM knows.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VmFd};

const LEAF_FEATURES: u32 = 1;
const LEAF_CACHE: u32 = 4;
const LEAF_EXTENDED: u32 = 7;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_XSAVE: u32 = 0xd;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
const LEAF_AMD_SVM: u32 = 0x8000_000a;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_XSAVE: u32 = 1 << 26;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_ARCH_CAPABILITIES: u32 = 1 << 29;
/// PV unhalt (7), PV IPI (11) and PV sched yield (13) send the guest into hypercalls. Where KVM runs on page
/// tables alone they never return; one vCPU has no use for them.
const KVM_HYPERCALL_FEATURES: u32 = 1 << 7 | 1 << 11 | 1 << 13;

/// The part of CPUID that all vCPUs share. Made once per process: each KVM_GET_SUPPORTED_CPUID costs 0.3 ms
/// where CPUID itself traps.
pub struct CpuTemplate {
    cpuid: CpuId,
    vcpus: u8,
}

impl CpuTemplate {
    /// What this host's KVM can offer a VM of `vcpus` virtual CPUs.
    ///
    /// # Errors
    /// When KVM refuses KVM_GET_SUPPORTED_CPUID.
    pub fn new(kvm: &Kvm, vm: &VmFd, vcpus: u8) -> Result<Self, kvm_ioctls::Error> {
        let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        let xsave = cpuid.as_slice().iter().any(|e| e.function == LEAF_FEATURES && e.ecx & ECX_XSAVE != 0);
        let deadline = vm.check_extension(Cap::TscDeadlineTimer);
        cpuid.retain(|entry| keep(entry, xsave));
        for entry in cpuid.as_mut_slice() {
            shape(entry, deadline, vcpus);
        }
        Ok(Self { cpuid, vcpus })
    }

    /// CPUID of the vCPU with local APIC id `id`.
    pub fn for_vcpu(&self, id: u8) -> CpuId {
        let mut cpuid = self.cpuid.clone();
        for entry in cpuid.as_mut_slice() {
            match entry.function {
                LEAF_FEATURES => {
                    // EBX: APIC id 31:24, logical processors in the package 23:16.
                    entry.ebx = entry.ebx & 0x0000_ffff | u32::from(id) << 24 | u32::from(self.vcpus) << 16;
                }
                LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => entry.edx = u32::from(id),
                LEAF_AMD_TOPOLOGY => entry.eax = u32::from(id),
                _ => {}
            }
        }
        cpuid
    }
}

fn keep(entry: &kvm_cpuid_entry2, xsave: bool) -> bool {
    match entry.function {
        // XSAVE sizes without XSAVE mislead guests that look at the sizes first.
        LEAF_XSAVE => xsave,
        // No nested virtualisation is offered.
        LEAF_AMD_SVM => false,
        // The host's topology is not the guest's; leaf 0xb is filled by `shape`.
        LEAF_TOPOLOGY_V2 => false,
        LEAF_TOPOLOGY => entry.index < 2,
        _ => true,
    }
}

fn shape(entry: &mut kvm_cpuid_entry2, deadline: bool, vcpus: u8) {
    match entry.function {
        LEAF_FEATURES => {
            entry.ecx |= ECX_HYPERVISOR;
            // With it Linux neither calibrates the APIC timer nor asks for a PIT.
            entry.ecx = if deadline { entry.ecx | ECX_TSC_DEADLINE } else { entry.ecx & !ECX_TSC_DEADLINE };
            // VMX (5) and its kin are not for guests.
            entry.ecx &= !(1 << 5);
        }
        LEAF_CACHE => {
            // EAX 31:26: cores in the package, minus one.
            entry.eax = entry.eax & 0x03ff_ffff | u32::from(vcpus.saturating_sub(1)) << 26;
        }
        // Some hosts announce ARCH_CAPABILITIES although the MSR cannot be set: the guest would read zeros.
        LEAF_EXTENDED if entry.index == 0 => entry.edx &= !EDX_ARCH_CAPABILITIES,
        LEAF_TOPOLOGY => {
            // One package of single-threaded cores: level 0 is SMT (type 1), level 1 is core (type 2).
            let bits = u32::from(vcpus).next_power_of_two().trailing_zeros();
            (entry.eax, entry.ebx, entry.ecx) = match entry.index {
                0 => (0, 1, 1 << 8),
                _ => (bits, u32::from(vcpus), 1 | 2 << 8),
            };
        }
        LEAF_KVM_FEATURES => entry.eax &= !KVM_HYPERCALL_FEATURES,
        0x8000_0001 => entry.ecx &= !(1 << 2), // SVM
        // EBX: threads per core, minus one; ECX: one node.
        LEAF_AMD_TOPOLOGY => (entry.ebx, entry.ecx) = (0, 0),
        // ECX 7:0: threads in the package, minus one.
        0x8000_0008 => entry.ecx = entry.ecx & 0xffff_ff00 | u32::from(vcpus.saturating_sub(1)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    #[test]
    fn the_hypervisor_and_deadline_bits_follow_the_host() {
        let mut leaf = entry(LEAF_FEATURES, 0);
        shape(&mut leaf, true, 1);
        assert_eq!(leaf.ecx, ECX_HYPERVISOR | ECX_TSC_DEADLINE);
        shape(&mut leaf, false, 1);
        assert_eq!(leaf.ecx, ECX_HYPERVISOR);
    }

    #[test]
    fn arch_capabilities_and_hypercall_features_are_hidden() {
        let mut leaf = entry(LEAF_EXTENDED, 0);
        leaf.edx = u32::MAX;
        shape(&mut leaf, true, 1);
        assert_eq!(leaf.edx, !EDX_ARCH_CAPABILITIES);
        let mut leaf = entry(LEAF_KVM_FEATURES, 0);
        leaf.eax = 0x0100_7efb;
        shape(&mut leaf, true, 1);
        assert_eq!(leaf.eax & KVM_HYPERCALL_FEATURES, 0);
        assert_ne!(leaf.eax & 1 << 3, 0, "kvmclock stays");
    }

    #[test]
    fn xsave_sizes_are_kept_only_with_xsave() {
        assert!(!keep(&entry(LEAF_XSAVE, 0), false));
        assert!(keep(&entry(LEAF_XSAVE, 0), true));
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id() {
        let mut cpuid = CpuId::new(2).unwrap();
        cpuid.as_mut_slice()[0] = entry(LEAF_FEATURES, 0);
        cpuid.as_mut_slice()[1] = entry(LEAF_TOPOLOGY, 0);
        let template = CpuTemplate { cpuid, vcpus: 4 };
        let third = template.for_vcpu(3);
        assert_eq!(third.as_slice()[0].ebx, 3 << 24 | 4 << 16);
        assert_eq!(third.as_slice()[1].edx, 3);
    }
}
