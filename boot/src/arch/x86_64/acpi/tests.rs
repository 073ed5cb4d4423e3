//! The tables as a kernel follows them, and by an interpreter of AML where one is installed.

use super::super::layout::{ACPI_ADDR, ACPI_END};
use super::*;
use vm_memory::{Bytes, GuestAddress};

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap()
}

fn read(mem: &GuestMemoryMmap, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

/// The table at `at`, its checksum checked.
fn table(mem: &GuestMemoryMmap, at: u64) -> Vec<u8> {
    let len = usize::try_from(u32_at(&read(mem, at, 8), 4)).unwrap();
    let table = read(mem, at, len);
    assert!(at >= ACPI_ADDR && at + len as u64 <= ACPI_END);
    assert_eq!(sum(&table), 0, "{:?}", &table[..4]);
    table
}

/// FADT, MADT and DSDT, found from the RSDP.
fn tables(mem: &GuestMemoryMmap) -> [Vec<u8>; 3] {
    let rsdp = read(mem, ACPI_ADDR, 36);
    assert_eq!((&rsdp[..8], rsdp[15], sum(&rsdp[..20]), sum(&rsdp)), (&b"RSD PTR "[..], 2, 0, 0));
    let xsdt = table(mem, u64_at(&rsdp, 24));
    assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 16));
    let (fadt, madt) = (table(mem, u64_at(&xsdt, 36)), table(mem, u64_at(&xsdt, 44)));
    assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
    assert_eq!(u64::from(u32_at(&fadt, 40)), u64_at(&fadt, 140), "both pointers to the DSDT");
    let dsdt = table(mem, u64_at(&fadt, 140));
    assert_eq!(&dsdt[..4], b"DSDT");
    [fadt, madt, dsdt]
}

fn windows(count: u32) -> Vec<MmioDevice> {
    (0..count).map(|n| MmioDevice { base: 0xd000_0000 + n * 0x1000, size: 0x200, gsi: 5 + n }).collect()
}

#[test]
fn the_fadt_says_how_to_end_the_vm() {
    let mem = memory();
    write(&mem, 1, &windows(2)).unwrap();
    let [fadt, ..] = tables(&mem);
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    let facs_at = u64::from(u32_at(&fadt, 36));
    assert_eq!((facs_at % 64, &read(&mem, facs_at, 8)[..]), (0, &b"FACS\x40\0\0\0"[..]));
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9, "SCI_INT");
    assert_eq!(u32_at(&fadt, 48), 0, "SMI_CMD: always in ACPI mode");
    assert_eq!((u32_at(&fadt, 56), u32_at(&fadt, 64)), (0x600, 0x604), "PM1a event, control");
    assert_eq!((fadt[88], fadt[89]), (4, 2), "their lengths");
    assert_eq!(fadt[108], 0x32, "CENTURY");
    let flags = u32_at(&fadt, 112);
    for (bit, set, why) in [
        (4, false, "the power button is a fixed one"),
        (5, true, "the sleep button is not"),
        (10, true, "RESET_REG_SUP"),
        (20, false, "not hardware-reduced"),
    ] {
        assert_eq!(flags >> bit & 1 == 1, set, "{why}");
    }
    let boot_arch = u16::from_le_bytes([fadt[109], fadt[110]]);
    assert_eq!(boot_arch & 2, 0, "no keyboard controller to probe");
    // RESET_REG: system I/O, 8 bits wide, port 0x64; RESET_VALUE.
    assert_eq!((fadt[116], fadt[117], u64_at(&fadt, 120), fadt[128]), (1, 8, 0x64, 0xfe));
    assert_eq!((fadt[148], fadt[149], u64_at(&fadt, 152)), (1, 32, 0x600), "X_PM1a_EVT_BLK");
    assert_eq!((fadt[172], fadt[173], u64_at(&fadt, 176)), (1, 16, 0x604), "X_PM1a_CNT_BLK");
}

#[test]
fn the_madt_has_every_processor_and_interrupt() {
    for vcpus in [1, 2, 32, 254] {
        let mem = memory();
        write(&mem, vcpus, &[]).unwrap();
        let [_, madt, _] = tables(&mem);
        assert_eq!((u32_at(&madt, 36), u32_at(&madt, 40)), (0xfee0_0000, 1));
        let mut rest = &madt[44..];
        let mut apics = Vec::new();
        let mut others = Vec::new();
        while let [kind, len, ..] = *rest {
            let (entry, after) = rest.split_at(len.into());
            if kind == 0 {
                apics.push(entry)
            } else {
                others.push(entry)
            }
            rest = after;
        }
        assert_eq!(apics.len(), usize::from(vcpus));
        for (id, apic) in (0..vcpus).zip(apics) {
            assert_eq!(apic, [0, 8, id, id, 1, 0, 0, 0]);
        }
        assert_eq!(others.len(), 3);
        assert_eq!(others[0], [1, 12, vcpus, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0], "I/O APIC from GSI 0");
        assert_eq!(others[1], [2, 10, 0, 9, 9, 0, 0, 0, 5, 0], "ACPI's interrupt: high, edge");
        assert_eq!(others[2], [4, 6, 0xff, 0, 0, 1], "NMI on LINT1");
    }
}

#[test]
fn the_dsdt_has_a_device_for_each_window() {
    let mem = memory();
    write(&mem, 1, &windows(18)).unwrap();
    let [_, _, dsdt] = tables(&mem);
    let count = |bytes: &[u8]| dsdt.windows(bytes.len()).filter(|w| *w == bytes).count();
    assert_eq!((count(b"LNRO0005\0"), count(b"QEMU0001\0")), (18, 1));
    // EISA id PNP0501, twice, at the ports of COM1 and COM2.
    assert_eq!(count(&[0x0c, 0x41, 0xd0, 0x05, 0x01]), 2);
    assert_eq!(
        (count(&[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]), count(&[0x47, 1, 0xf8, 2, 0xf8, 2, 1, 8])),
        (1, 1)
    );
    // Memory32Fixed, read-write; extended interrupt: consumer, edge, high, exclusive.
    let last = [&[0x86, 9, 0, 1][..], &0xd001_1000_u32.to_le_bytes(), &0x200_u32.to_le_bytes()].concat();
    assert_eq!(count(&[&last[..], &[0x89, 6, 0, 3, 1, 22, 0, 0, 0]].concat()), 1);
    assert_eq!(count(b"_S5_\x12\x08\x04\x0a\x05\x0a\x05"), 1);
}

#[test]
fn devices_without_end_are_refused() {
    let mem = memory();
    let many = vec![MmioDevice { base: 0xd000_0000, size: 0x200, gsi: 5 }; 257];
    let error = write(&mem, 1, &many).unwrap_err();
    assert_eq!(error.to_string(), "ACPI tables with 257 devices do not fit their 64 KiB");
    write(&mem, 254, &many[1..]).unwrap();
    assert!(read(&mem, ACPI_END, 0x1_0000).iter().all(|b| *b == 0));
}

/// Intel's own disassembler reads every table (Debian package acpica-tools).
#[test]
fn iasl_reads_the_tables() {
    let mem = memory();
    write(&mem, 2, &windows(18)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for table in tables(&mem) {
        let name = String::from_utf8(table[..4].to_vec()).unwrap();
        std::fs::write(dir.path().join(format!("{name}.dat")), &table).unwrap();
        let iasl = std::process::Command::new("iasl")
            .args(["-d", &format!("{name}.dat")])
            .current_dir(dir.path())
            .output();
        let Ok(output) = iasl else {
            let line = b"kapsel-skip: iasl_reads_the_tables: no iasl command\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
            return;
        };
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains("Error"), "{name}: {said}");
        let source = std::fs::read_to_string(dir.path().join(format!("{name}.dsl"))).unwrap();
        assert!(!source.contains("Invalid") && !source.contains("**** "), "{source}");
        if name == "DSDT" {
            assert!(source.contains("Device (VM11)") && source.contains("0x00000016,"), "{source}");
        }
    }
}
