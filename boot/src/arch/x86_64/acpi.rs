//! ACPI tables (ACPI 6.5, chapter 5): how a stock kernel learns of CPUs, interrupts and devices, and how to end the VM.
//!
//! ```text
//!   ACPI_ADDR: RSDP ─> XSDT ─> FADT ─> FACS
//!                       |       `────> DSDT: a device per virtio-mmio window, COM1, clock, panic device, _S5
//!                       `───> MADT: local APICs, I/O APIC, ACPI's own interrupt
//! ```
//!
//! The hardware is not "reduced": kernels then reset by the FADT's register and power off by PM1a, without help.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::GuestMemoryMmap;

use super::layout;
use crate::{LoadError, MmioDevice, put};

const OEM: [u8; 6] = *b"KAPSEL";
const OEM_TABLE: [u8; 8] = *b"KAPSELVM";
const OEM_REVISION: u32 = 1;
const HEADER_SIZE: u32 = 36;
/// The FACS asks for it; the others do well with it.
const ALIGN: u64 = 64;

/// MADT of ACPI 6.5.
const MADT_REVISION: u8 = 5;
/// MADT flags: there is a pair of 8259 too.
const PCAT_COMPAT: u32 = 1;
const INTERRUPT_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
const ISA_BUS: u8 = 0;
/// Active high, by edge.
const HIGH_EDGE: u16 = 1 | 1 << 2;
const ALL_PROCESSORS: u8 = 0xff;
const LINT1: u8 = 1;

/// FADT, IA-PC boot architecture flags: devices of a PC are there, as the serial port is; a keyboard controller and a
/// VGA are not, so that nobody looks for them.
const LEGACY_DEVICES: u16 = 1;
const NO_VGA: u16 = 1 << 2;
/// Written to port 0x64 it pulses the reset line.
const RESET_VALUE: u8 = 0xfe;
const RESET_PORT_OFFSET: u64 = 4;
/// Windows' names are numbered by two hexadecimal digits.
const WINDOWS_MAX: usize = 256;
/// DSDT with 64-bit integers.
const DSDT_REVISION: u8 = 2;

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Writes the tables for `vcpus` processors and the devices behind `windows`.
///
/// # Errors
/// When there are more than the tables have room for, or memory ends below them.
pub fn write(mem: &GuestMemoryMmap, vcpus: u8, windows: &[MmioDevice]) -> Result<(), LoadError> {
    if windows.len() > WINDOWS_MAX {
        return Err(LoadError::AcpiTooLarge { devices: windows.len() });
    }
    let mut at = (layout::ACPI_ADDR + Rsdp::len() as u64).next_multiple_of(ALIGN);
    let mut add = |table: &[u8]| {
        let address = at;
        let end = at.saturating_add(table.len() as u64);
        if end > layout::ACPI_END {
            return Err(LoadError::AcpiTooLarge { devices: windows.len() });
        }
        at = end.next_multiple_of(ALIGN);
        put(mem, address, table)?;
        Ok(address)
    };
    let facs = add(&bytes(&FACS::new()))?;
    let dsdt = add(dsdt(windows).as_slice())?;
    let fadt = add(&fadt(facs, dsdt))?;
    let madt = add(madt(vcpus).as_slice())?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = add(&bytes(&xsdt))?;
    put(mem, layout::ACPI_ADDR, &bytes(&Rsdp::new(OEM, xsdt)))
}

/// Port `address` as ACPI writes it, of `size` bytes.
fn ports(address: u64, size: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, size.saturating_mul(8), 0, access, address)
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let below_4g = |address: u64| u32::try_from(address).expect("below 1 MiB");
    let event = layout::ACPI_PM_PORT;
    let control = event + u64::from(layout::ACPI_PM1_EVENT_SIZE);
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_32(below_4g(facs))
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // The flag says that it is *not* a fixed one; the power button is.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.dsdt = below_4g(dsdt).into();
    fadt.sci_int = u16::try_from(layout::ACPI_GSI).expect("a GSI is below 24").into();
    fadt.pm1a_evt_blk = below_4g(event).into();
    fadt.pm1a_cnt_blk = below_4g(control).into();
    fadt.pm1_evt_len = layout::ACPI_PM1_EVENT_SIZE;
    fadt.pm1_cnt_len = layout::ACPI_PM1_CONTROL_SIZE;
    fadt.x_pm1a_evt_blk = ports(event, layout::ACPI_PM1_EVENT_SIZE, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = ports(control, layout::ACPI_PM1_CONTROL_SIZE, AccessSize::WordAccess);
    fadt.century = layout::CMOS_CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    fadt.reset_reg = ports(layout::I8042_PORT + RESET_PORT_OFFSET, 1, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    bytes(&fadt.finalize())
}

fn madt(vcpus: u8) -> Sdt {
    let mut body = Vec::new();
    body.extend(layout::LAPIC_ADDR.to_le_bytes());
    body.extend(PCAT_COMPAT.to_le_bytes());
    for id in 0..vcpus {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(vcpus, layout::IOAPIC_ADDR, 0).to_aml_bytes(&mut body);
    let gsi = layout::ACPI_GSI.to_le_bytes();
    body.extend([INTERRUPT_OVERRIDE, 10, ISA_BUS, gsi[0]]);
    body.extend(gsi);
    body.extend(HIGH_EDGE.to_le_bytes());
    body.extend([LOCAL_APIC_NMI, 6, ALL_PROCESSORS, 0, 0, LINT1]);
    let mut madt = Sdt::new(*b"APIC", HEADER_SIZE, MADT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    madt.append_slice(&body);
    madt
}

/// A line that is signalled by edge and not shared.
fn line(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn io(port: u64, len: u8) -> IO {
    let port = u16::try_from(port).expect("ports are 16 bits");
    IO::new(port, port, 1, len)
}

fn dsdt(windows: &[MmioDevice]) -> Sdt {
    let mut aml = Vec::new();
    for (index, window) in windows.iter().enumerate() {
        virtio(index, window, &mut aml);
    }
    let serial_ports =
        [(layout::SERIAL_PORT, layout::SERIAL_GSI), (layout::SERIAL2_PORT, layout::SERIAL2_GSI)];
    for (unit, (port, gsi)) in (1_u8..).zip(serial_ports) {
        let id = EISAName::new("PNP0501");
        device(&format!("COM{unit}"), &id, unit, vec![&io(port, 8), &line(gsi)], &mut aml);
    }
    device("RTC_", &EISAName::new("PNP0B00"), 0, vec![&io(layout::CMOS_PORT, 2)], &mut aml);
    device("PVPN", &"QEMU0001", 0, vec![&io(layout::PVPANIC_PORT, 1)], &mut aml);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_SIZE, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&Scope::raw(Path::new("_SB_"), aml));
    let soft_off = Package::new(vec![&layout::ACPI_S5, &layout::ACPI_S5, &0_u8, &0_u8]);
    dsdt.append_slice(&bytes(&Name::new(Path::new("_S5_"), &soft_off)));
    dsdt
}

/// A device, the `unit`-th of its kind, and what it answers at.
fn device(name: &str, id: &dyn Aml, unit: u8, resources: Vec<&dyn Aml>, aml: &mut Vec<u8>) {
    let id = Name::new(Path::new("_HID"), id);
    let unit = Name::new(Path::new("_UID"), &unit);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
    Device::new(Path::new(name), vec![&id, &unit, &resources]).to_aml_bytes(aml);
}

/// A virtio-mmio window: Linux knows the id (drivers/virtio/virtio_mmio.c, `virtio_mmio_acpi_match`).
fn virtio(index: usize, window: &MmioDevice, aml: &mut Vec<u8>) {
    // No more than WINDOWS_MAX: two digits name it.
    let unit = u8::try_from(index).unwrap_or(u8::MAX);
    let memory = Memory32Fixed::new(true, window.base, window.size);
    device(&format!("VM{unit:02X}"), &"LNRO0005", unit, vec![&memory, &line(window.gsi)], aml);
}

#[cfg(test)]
mod tests;
