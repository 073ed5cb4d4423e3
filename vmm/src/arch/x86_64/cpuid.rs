//! CPUID as the guest sees it: what KVM supports, less what does not work, plus what only a VMM knows.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VmFd};

const LEAF_VENDOR: u32 = 0;
const LEAF_FEATURES: u32 = 1;
const LEAF_CACHE: u32 = 4;
const LEAF_EXTENDED: u32 = 7;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_XSAVE: u32 = 0xd;
const LEAF_TSC: u32 = 0x15;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_KVM: u32 = 0x4000_0000;
const LEAF_KVM_FEATURES: u32 = 0x4000_0001;
/// Frequencies of TSC and APIC timer, as VMware has them and others read them.
const LEAF_FREQUENCIES: u32 = 0x4000_0010;
const LEAF_AMD_FEATURES: u32 = 0x8000_0001;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_SVM: u32 = 0x8000_000a;
const LEAF_AMD_CACHE: u32 = 0x8000_001d;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;
const LEAF_AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_XSAVE: u32 = 1 << 26;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HYPER_THREADING: u32 = 1 << 28;
const EDX_ARCH_CAPABILITIES: u32 = 1 << 29;
const AMD_ECX_CMP_LEGACY: u32 = 1 << 1;
const AMD_ECX_SVM: u32 = 1 << 2;
/// PV unhalt (7), PV IPI (11) and PV sched yield (13) send the guest into hypercalls. Where KVM runs on page
/// tables alone they never return; one vCPU has no use for them.
const KVM_HYPERCALL_FEATURES: u32 = 1 << 7 | 1 << 11 | 1 << 13;
/// KVM's local APIC timer counts nanoseconds.
const APIC_TIMER_KHZ: u32 = 1_000_000;

/// The part of CPUID that all vCPUs share. Made once per process: each KVM_GET_SUPPORTED_CPUID costs 0.3 ms
/// where CPUID itself traps.
pub struct CpuTemplate {
    cpuid: CpuId,
}

/// What there is to know beside what KVM supports.
#[derive(Clone, Copy, Debug)]
struct Machine {
    vcpus: u8,
    /// Whether the local APIC's timer has the TSC-deadline mode.
    deadline: bool,
    amd: bool,
    /// Whether hypercalls return.
    hypercalls: bool,
}

impl Machine {
    /// Bits of an APIC id.
    fn id_bits(self) -> u32 {
        u32::from(self.vcpus).next_power_of_two().trailing_zeros()
    }

    /// APIC ids that a package has room for, less one.
    fn last_id(self) -> u32 {
        (1 << self.id_bits()) - 1
    }
}

impl CpuTemplate {
    /// What this host's KVM can offer a VM of `vcpus` virtual CPUs.
    ///
    /// # Errors
    /// When KVM refuses KVM_GET_SUPPORTED_CPUID.
    pub fn new(kvm: &Kvm, vm: &VmFd, vcpus: u8) -> Result<Self, kvm_ioctls::Error> {
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        let machine = Machine {
            vcpus,
            deadline: vm.check_extension(Cap::TscDeadlineTimer),
            amd: is_amd(cpuid.as_slice()),
            hypercalls: vcpus > 1 && super::kvm_modules_are_real(),
        };
        Ok(Self::shaped(cpuid, machine))
    }

    fn shaped(mut cpuid: CpuId, machine: Machine) -> Self {
        let xsave = cpuid.as_slice().iter().any(|e| e.function == LEAF_FEATURES && e.ecx & ECX_XSAVE != 0);
        let max = cpuid.as_slice().iter().find(|e| e.function == LEAF_VENDOR).map_or(0, |e| e.eax);
        cpuid.retain(|entry| keep(entry, xsave));
        for entry in cpuid.as_mut_slice() {
            shape(entry, machine);
        }
        if max >= LEAF_TOPOLOGY {
            for level in topology(machine) {
                push(&mut cpuid, level);
            }
        }
        Self { cpuid }
    }

    /// CPUID of the vCPU with local APIC id `id`, whose TSC counts `tsc_khz` thousand a second; 0 where KVM cannot tell.
    pub fn for_vcpu(&self, id: u8, tsc_khz: u32) -> CpuId {
        let mut cpuid = self.cpuid.clone();
        let mut intel_tsc = false;
        for entry in cpuid.as_mut_slice() {
            match entry.function {
                LEAF_VENDOR => intel_tsc = entry.eax >= LEAF_TSC && vendor(entry) == *b"GenuineIntel",
                // EBX 31:24: the APIC id.
                LEAF_FEATURES => entry.ebx = entry.ebx & 0x00ff_ffff | u32::from(id) << 24,
                LEAF_TOPOLOGY => entry.edx = u32::from(id),
                // EAX: the APIC id; EBX 7:0: the core's.
                LEAF_AMD_TOPOLOGY => (entry.eax, entry.ebx) = (u32::from(id), u32::from(id)),
                LEAF_KVM if tsc_khz > 0 => entry.eax = entry.eax.max(LEAF_FREQUENCIES),
                _ => {}
            }
        }
        if tsc_khz > 0 {
            let frequencies = kvm_cpuid_entry2 {
                function: LEAF_FREQUENCIES,
                eax: tsc_khz,
                ebx: APIC_TIMER_KHZ,
                ..Default::default()
            };
            push(&mut cpuid, frequencies);
        }
        if tsc_khz > 0 && intel_tsc {
            // TSC = crystal (ECX, in Hz) * EBX / EAX; half the TSC's frequency always fits 32 bits.
            let (eax, ebx, ecx) = (1, 2, tsc_khz.saturating_mul(500));
            push(&mut cpuid, kvm_cpuid_entry2 { function: LEAF_TSC, eax, ebx, ecx, ..Default::default() });
        }
        cpuid
    }
}

fn vendor(entry: &kvm_cpuid_entry2) -> [u8; 12] {
    let mut vendor = [0; 12];
    for (to, register) in vendor.chunks_exact_mut(4).zip([entry.ebx, entry.edx, entry.ecx]) {
        to.copy_from_slice(&register.to_le_bytes());
    }
    vendor
}

fn is_amd(entries: &[kvm_cpuid_entry2]) -> bool {
    let vendor = entries.iter().find(|e| e.function == LEAF_VENDOR).map(vendor);
    vendor.is_some_and(|vendor| vendor == *b"AuthenticAMD" || vendor == *b"HygonGenuine")
}

/// Adds an entry; when the list has as many as KVM takes, it stays as it is: none of these is needed to run.
fn push(cpuid: &mut CpuId, entry: kvm_cpuid_entry2) {
    if cpuid.push(entry).is_err() {
        log::debug!("no room for CPUID leaf {:#x}", entry.function);
    }
}

fn keep(entry: &kvm_cpuid_entry2, xsave: bool) -> bool {
    match entry.function {
        // XSAVE sizes without XSAVE mislead guests that look at the sizes first.
        LEAF_XSAVE => xsave,
        // No nested virtualisation is offered.
        LEAF_AMD_SVM => false,
        // The host's topology and clock are not the guest's, which are added.
        LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 | LEAF_AMD_TOPOLOGY_V2 | LEAF_TSC | LEAF_FREQUENCIES => false,
        _ => true,
    }
}

/// Leaf 0xb: one package of single-threaded cores. Level 0 is SMT (type 1), level 1 is core (type 2), then the end.
fn topology(machine: Machine) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, kind: u32| kvm_cpuid_entry2 {
        function: LEAF_TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | kind << 8,
        ..Default::default()
    };
    [level(0, 0, 1, 1), level(1, machine.id_bits(), machine.vcpus.into(), 2), level(2, 0, 0, 0)]
}

/// The APIC ids that share the cache of `eax` (7:5: its level), less one: each core has its own, but the last level is everybody's.
fn sharing(machine: Machine, eax: u32) -> u32 {
    if eax >> 5 & 7 >= 3 { machine.last_id() } else { 0 }
}

fn shape(entry: &mut kvm_cpuid_entry2, machine: Machine) {
    match entry.function {
        LEAF_FEATURES => {
            // EBX 23:16: APIC ids in the package.
            entry.ebx = entry.ebx & 0xff00_ffff | (machine.last_id() + 1) << 16;
            entry.ecx |= ECX_HYPERVISOR;
            set(&mut entry.edx, EDX_HYPER_THREADING, machine.vcpus > 1);
            // With it Linux neither calibrates the APIC timer nor asks for a PIT.
            set(&mut entry.ecx, ECX_TSC_DEADLINE, machine.deadline);
            // VMX (5) and its kin are not for guests.
            entry.ecx &= !(1 << 5);
        }
        // EAX 31:26: cores in the package, 25:14: threads that share the cache, minus one each; type 0 is no cache.
        LEAF_CACHE if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x3fff | sharing(machine, entry.eax) << 14 | machine.last_id() << 26;
        }
        LEAF_AMD_CACHE if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x3fff | sharing(machine, entry.eax) << 14;
        }
        // Some hosts announce ARCH_CAPABILITIES although the MSR cannot be set: the guest would read zeros.
        LEAF_EXTENDED if entry.index == 0 => entry.edx &= !EDX_ARCH_CAPABILITIES,
        LEAF_KVM_FEATURES if !machine.hypercalls => entry.eax &= !KVM_HYPERCALL_FEATURES,
        LEAF_AMD_FEATURES => {
            entry.ecx &= !AMD_ECX_SVM;
            set(&mut entry.ecx, AMD_ECX_CMP_LEGACY, machine.amd && machine.vcpus > 1);
        }
        // EBX 15:8: threads per core, minus one; ECX: one node.
        LEAF_AMD_TOPOLOGY => (entry.ebx, entry.ecx) = (0, 0),
        // ECX 7:0: threads in the package, minus one; 15:12: bits of an APIC id.
        LEAF_AMD_SIZES if machine.amd => {
            let threads = u32::from(machine.vcpus.saturating_sub(1));
            entry.ecx = entry.ecx & 0xffff_0f00 | machine.id_bits() << 12 | threads;
        }
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    const ONE: Machine = Machine { vcpus: 1, deadline: true, amd: false, hypercalls: false };

    #[test]
    fn the_hypervisor_and_deadline_bits_follow_the_host() {
        let mut leaf = entry(LEAF_FEATURES, 0);
        shape(&mut leaf, ONE);
        assert_eq!(leaf.ecx, ECX_HYPERVISOR | ECX_TSC_DEADLINE);
        shape(&mut leaf, Machine { deadline: false, ..ONE });
        assert_eq!(leaf.ecx, ECX_HYPERVISOR);
    }

    #[test]
    fn arch_capabilities_and_hypercall_features_are_hidden() {
        let mut leaf = entry(LEAF_EXTENDED, 0);
        leaf.edx = u32::MAX;
        shape(&mut leaf, ONE);
        assert_eq!(leaf.edx, !EDX_ARCH_CAPABILITIES);
        let mut leaf = entry(LEAF_KVM_FEATURES, 0);
        leaf.eax = 0x0100_7efb;
        shape(&mut leaf, Machine { hypercalls: true, ..ONE });
        assert_eq!(leaf.eax, 0x0100_7efb, "where they return, several vCPUs are faster with them");
        shape(&mut leaf, ONE);
        assert_eq!(leaf.eax & KVM_HYPERCALL_FEATURES, 0);
        assert_ne!(leaf.eax & 1 << 3, 0, "kvmclock stays");
    }

    #[test]
    fn xsave_sizes_are_kept_only_with_xsave() {
        assert!(!keep(&entry(LEAF_XSAVE, 0), false));
        assert!(keep(&entry(LEAF_XSAVE, 0), true));
    }

    /// CPUID of the last of `vcpus` on a processor of `vendor` with every leaf that counts.
    fn last_of(vcpus: u8, vendor: &[u8; 12], tsc_khz: u32) -> impl Fn(u32, u32) -> kvm_cpuid_entry2 {
        let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap());
        let mut first = entry(LEAF_VENDOR, 0);
        (first.eax, first.ebx, first.edx, first.ecx) = (0x1f, word(0), word(4), word(8));
        let mut all =
            vec![first, entry(LEAF_FEATURES, 0), entry(LEAF_TOPOLOGY, 0), entry(LEAF_TOPOLOGY_V2, 0)];
        for (index, kind) in [(0, 1 << 5 | 1), (1, 1 << 5 | 2), (2, 2 << 5 | 3), (3, 3 << 5 | 3), (4, 0)] {
            for leaf in [LEAF_CACHE, LEAF_AMD_CACHE] {
                all.push(kvm_cpuid_entry2 { eax: kind, ..entry(leaf, index) });
            }
        }
        all.push(kvm_cpuid_entry2 { eax: LEAF_KVM_FEATURES, ..entry(LEAF_KVM, 0) });
        all.extend(
            [LEAF_AMD_FEATURES, LEAF_AMD_SIZES, LEAF_AMD_TOPOLOGY, LEAF_TSC].map(|leaf| entry(leaf, 0)),
        );
        let amd = is_amd(&all);
        let template = CpuTemplate::shaped(CpuId::from_entries(&all).unwrap(), Machine { vcpus, amd, ..ONE });
        let cpuid = template.for_vcpu(vcpus - 1, tsc_khz);
        move |function, index| {
            let mut found = cpuid.as_slice().iter().filter(|e| (e.function, e.index) == (function, index));
            let first = found.next().copied().unwrap_or_default();
            assert!(found.next().is_none(), "{function:#x} is there twice");
            first
        }
    }

    #[test]
    fn each_vcpu_is_a_core_of_one_package() {
        // vCPUs, bits of an APIC id.
        for (vcpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (32, 5)] {
            let leaf = last_of(vcpus, b"AuthenticAMD", 2_596_118);
            let (count, id, room) = (u32::from(vcpus), u32::from(vcpus) - 1, 1_u32 << bits);
            assert_eq!(leaf(1, 0).ebx, id << 24 | room << 16);
            assert_eq!(leaf(1, 0).edx >> 28 & 1, u32::from(vcpus > 1), "HTT");
            let levels = [0, 1, 2].map(|n| leaf(0xb, n)).map(|e| (e.eax, e.ebx, e.ecx, e.edx, e.flags));
            assert_eq!(levels, [(0, 1, 0x100, id, 1), (bits, count, 0x201, id, 1), (0, 0, 2, id, 1)]);
            assert_eq!(leaf(0x1f, 0), kvm_cpuid_entry2::default(), "left to leaf 0xb");
            // Two first-level caches and a second of each core's own, a third that all share; then no more.
            for (index, shared) in [(0, 0), (1, 0), (2, 0), (3, room - 1), (4, 0)] {
                assert_eq!(leaf(4, index).eax >> 14 & 0xfff, shared);
                assert_eq!(leaf(0x8000_001d, index).eax >> 14 & 0xfff, shared);
            }
            assert_eq!(leaf(4, 0).eax >> 26, room - 1, "cores");
            assert_eq!(leaf(0x8000_0008, 0).ecx, bits << 12 | id);
            let amd = leaf(0x8000_001e, 0);
            assert_eq!((amd.eax, amd.ebx, amd.ecx), (id, id, 0));
            assert_eq!(leaf(0x8000_0001, 0).ecx >> 1 & 1, u32::from(vcpus > 1), "CmpLegacy");
        }
    }

    #[test]
    fn the_clocks_frequency_is_told() {
        let leaf = last_of(1, b"AuthenticAMD", 2_596_118);
        let told = leaf(0x4000_0010, 0);
        assert_eq!((told.eax, told.ebx), (2_596_118, 1_000_000));
        assert_eq!(leaf(0x4000_0000, 0).eax, 0x4000_0010);
        assert_eq!(leaf(0x15, 0), kvm_cpuid_entry2::default(), "Linux reads it on Intel only");
        let intel = last_of(1, b"GenuineIntel", 5_800_001)(0x15, 0);
        assert_eq!(u64::from(intel.ecx) * u64::from(intel.ebx) / u64::from(intel.eax), 5_800_001_000);
        let unknown = last_of(1, b"GenuineIntel", 0);
        assert_eq!(unknown(0x4000_0010, 0), kvm_cpuid_entry2::default());
        assert_eq!((unknown(0x15, 0).eax, unknown(0x4000_0000, 0).eax), (0, 0x4000_0001));
        assert_eq!(last_of(4, b"GenuineIntel", 1)(0x8000_0008, 0).ecx, 0, "reserved there");
    }
}
