//! The MP table (Intel MultiProcessor Specification 1.4, chapter 4): how a kernel without ACPI learns of CPUs, of
//! the I/O APIC and of what is wired to it. Without it Linux routes interrupts through the PIC.
//!
//! ```text
//!   .. | header 44 | CPUs 20 each | ISA bus 8 | I/O APIC 8 | interrupts 8 each | LINT0, LINT1 | .. | pointer 16
//!      ^ as high as it fits below MP_POINTER_ADDR                                                  ^ MP_POINTER_ADDR
//! ```

use vm_memory::GuestMemoryMmap;

use super::layout::{EBDA_START, GSI_COUNT, IOAPIC_ADDR, LAPIC_ADDR, MP_POINTER_ADDR, VCPUS_MAX};
use crate::{LoadError, put};

/// Specification 1.4.
const SPEC: u8 = 4;
/// Version registers of KVM's local APIC (integrated) and I/O APIC.
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;

const ENTRY_PROCESSOR: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IOAPIC: u8 = 2;
const ENTRY_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;

const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
/// Family 6; feature bits FPU and APIC. Kernels read the real ones by CPUID.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 0x201;
const IOAPIC_USABLE: u8 = 1;
const ISA_BUS: u8 = 0;
/// Interrupt kinds; polarity and trigger 0 mean as the bus has it: high and edge for ISA, as KVM's irqfd pulses.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
const ALL_LAPICS: u8 = 0xff;

const HEADER_SIZE: usize = 44;
const ALIGN: u64 = 16;

/// Writes table and pointer for `vcpus` CPUs.
///
/// # Errors
/// When there are none, or more than APIC ids; or guest memory ends below 640 KiB.
pub fn write(mem: &GuestMemoryMmap, vcpus: u8) -> Result<(), LoadError> {
    if !(1..=VCPUS_MAX).contains(&vcpus) {
        return Err(LoadError::Vcpus { found: vcpus, max: VCPUS_MAX });
    }
    let table = table(vcpus);
    let address = (MP_POINTER_ADDR - table.len() as u64) & !(ALIGN - 1);
    debug_assert!(address >= EBDA_START);
    put(mem, address, &table)?;
    let address = u32::try_from(address).expect("below 640 KiB");
    put(mem, MP_POINTER_ADDR, &pointer(address))
}

/// The floating pointer (4.1): a table is present, and interrupts start in virtual wire mode.
fn pointer(table: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(b"_MP_");
    bytes[4..8].copy_from_slice(&table.to_le_bytes());
    bytes[8] = 1;
    bytes[9] = SPEC;
    bytes[10] = complement(&bytes);
    bytes
}

/// Header (4.2) and entries (4.3), checksum set.
fn table(vcpus: u8) -> Vec<u8> {
    let ioapic = vcpus;
    let mut entries = Vec::new();
    let mut count = 0_u16;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..vcpus {
        let flags = if id == 0 { CPU_ENABLED | CPU_BOOT } else { CPU_ENABLED };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[ENTRY_PROCESSOR, id, LAPIC_VERSION, flags]);
        entry[4..8].copy_from_slice(&CPU_SIGNATURE.to_le_bytes());
        entry[8..12].copy_from_slice(&CPU_FEATURES.to_le_bytes());
        add(&entry);
    }
    add(&[ENTRY_BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = IOAPIC_ADDR.to_le_bytes();
    add(&[ENTRY_IOAPIC, ioapic, IOAPIC_VERSION, IOAPIC_USABLE, a, b, c, d]);
    for gsi in (0..GSI_COUNT).filter_map(|gsi| u8::try_from(gsi).ok()) {
        // KVM's default routing: GSI n is input n of the I/O APIC.
        add(&[ENTRY_INTERRUPT, INT, 0, 0, ISA_BUS, gsi, ioapic, gsi]);
    }
    add(&[ENTRY_LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, ALL_LAPICS, 0]);
    add(&[ENTRY_LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_LAPICS, 1]);

    let mut table = vec![0; HEADER_SIZE];
    table.extend_from_slice(&entries);
    let len = u16::try_from(table.len()).expect("254 CPUs make 5.4 KiB");
    table[..4].copy_from_slice(b"PCMP");
    table[4..6].copy_from_slice(&len.to_le_bytes());
    table[6] = SPEC;
    table[8..16].copy_from_slice(b"KAPSEL  ");
    table[16..28].copy_from_slice(b"VM          ");
    table[34..36].copy_from_slice(&count.to_le_bytes());
    table[36..40].copy_from_slice(&LAPIC_ADDR.to_le_bytes());
    table[7] = complement(&table);
    table
}

/// The byte that makes the sum of all zero.
fn complement(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::super::layout::BASE_MEMORY_END;
    use super::*;
    use vm_memory::{Bytes, GuestAddress};

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
    }

    /// What a kernel finds: searches the last KiB of base memory in steps of 16, then follows the pointer.
    fn find(mem: &GuestMemoryMmap) -> (u64, Vec<u8>) {
        let mut at = MP_POINTER_ADDR;
        let pointer = loop {
            let mut bytes = [0; 16];
            mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            if bytes.starts_with(b"_MP_") {
                break bytes;
            }
            at += 16;
            assert!(at < BASE_MEMORY_END);
        };
        assert_eq!((sum(&pointer), pointer[8], pointer[9], &pointer[11..]), (0, 1, 4, &[0; 5][..]));
        let address = u64::from(u32::from_le_bytes(pointer[4..8].try_into().unwrap()));
        let mut header = [0; HEADER_SIZE];
        mem.read_slice(&mut header, GuestAddress(address)).unwrap();
        let mut table = vec![0; usize::from(u16::from_le_bytes([header[4], header[5]]))];
        mem.read_slice(&mut table, GuestAddress(address)).unwrap();
        (address, table)
    }

    fn entries(table: &[u8]) -> Vec<&[u8]> {
        let mut rest = &table[HEADER_SIZE..];
        let mut entries = Vec::new();
        while let [kind, ..] = rest {
            let (entry, after) = rest.split_at(if *kind == ENTRY_PROCESSOR { 20 } else { 8 });
            entries.push(entry);
            rest = after;
        }
        entries
    }

    #[test]
    fn a_kernel_finds_every_cpu_and_interrupt() {
        for vcpus in [1, 2, 37, 254] {
            let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
            write(&mem, vcpus).unwrap();
            let (address, table) = find(&mem);
            assert!(address >= EBDA_START && address + table.len() as u64 <= MP_POINTER_ADDR);
            assert_eq!(sum(&table), 0);
            assert_eq!((&table[..4], table[6]), (&b"PCMP"[..], 4));
            assert_eq!(table[36..40], 0xfee0_0000_u32.to_le_bytes());
            let entries = entries(&table);
            assert_eq!(usize::from(u16::from_le_bytes([table[34], table[35]])), entries.len());

            let cpus: Vec<_> = entries.iter().filter(|e| e[0] == ENTRY_PROCESSOR).collect();
            assert_eq!(cpus.len(), usize::from(vcpus));
            for (id, cpu) in cpus.iter().enumerate() {
                assert_eq!((usize::from(cpu[1]), cpu[3]), (id, if id == 0 { 3 } else { 1 }));
            }
            let apic: Vec<_> = entries.iter().filter(|e| e[0] == ENTRY_IOAPIC).collect();
            assert_eq!(apic.len(), 1);
            assert_eq!((apic[0][1], apic[0][3]), (vcpus, 1), "an id that no CPU has, usable");
            assert_eq!(apic[0][4..], 0xfec0_0000_u32.to_le_bytes());

            let wired: Vec<_> = entries.iter().filter(|e| e[0] == ENTRY_INTERRUPT).collect();
            assert_eq!(wired.len(), 24);
            for (gsi, entry) in (0_u8..).zip(wired) {
                assert_eq!(entry[1..], [INT, 0, 0, ISA_BUS, gsi, vcpus, gsi]);
            }
            let bus: Vec<_> = entries.iter().filter(|e| e[0] == ENTRY_BUS).collect();
            assert_eq!((bus.len(), &bus[0][1..]), (1, &b"\0ISA   "[..]));
        }
    }

    #[test]
    fn entries_stand_in_the_order_the_specification_demands() {
        let table = table(3);
        let kinds: Vec<u8> = entries(&table).iter().map(|e| e[0]).collect();
        assert!(kinds.is_sorted(), "4.3: ascending by type");
    }

    #[test]
    fn cpus_without_an_id_are_refused() {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        for vcpus in [0, 255] {
            assert!(matches!(write(&mem, vcpus), Err(LoadError::Vcpus { .. })));
        }
    }
}
