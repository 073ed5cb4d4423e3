//! ACPI's fixed power management hardware (ACPI 6.5, 4.8.3): the power button, and the way to soft-off.
//!
//! ```text
//!   offset 0  PM1 status   power button (bit 8), cleared by writing 1
//!          2  PM1 enable   which of them interrupt
//!          4  PM1 control  SCI_EN (bit 0), SLP_TYP (bits 10 to 12), SLP_EN (bit 13, reads as 0)
//! ```
//!
//! The interrupt is an edge for each event that comes up, so that none is lost while the guest serves another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::power::{Power, PowerEvent};

/// Number of ports.
pub const ACPI_PM_SIZE: u64 = 6;

/// SLP_TYP of soft-off, as the DSDT's `_S5` has it.
pub const SLEEP_TYPE_OFF: u16 = 5;

const STATUS: usize = 0;
const ENABLE: usize = 2;
const CONTROL: usize = 4;
const REGISTERS: usize = 6;

const POWER_BUTTON: u16 = 1 << 8;
/// Global lock, power button, sleep button and real-time clock: what a driver may enable, whether it can come up or not.
const ENABLE_WRITABLE: u16 = 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10;
/// There is no other mode than ACPI's.
const SCI_ENABLED: u16 = 1;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_TYPE_MASK: u16 = 7 << SLEEP_TYPE_SHIFT;
const SLEEP_ENABLE: u16 = 1 << 13;

#[derive(Debug, Default)]
struct State {
    status: u16,
    enable: u16,
    sleep_type: u16,
}

impl State {
    fn bytes(&self) -> [u8; REGISTERS] {
        let mut bytes = [0; REGISTERS];
        bytes[STATUS..ENABLE].copy_from_slice(&self.status.to_le_bytes());
        bytes[ENABLE..CONTROL].copy_from_slice(&self.enable.to_le_bytes());
        bytes[CONTROL..].copy_from_slice(&(SCI_ENABLED | self.sleep_type).to_le_bytes());
        bytes
    }
}

/// The registers behind their ports.
pub struct AcpiPm {
    state: Mutex<State>,
    interrupt: EventFd,
    power: Arc<Power>,
}

impl AcpiPm {
    /// Registers that nobody has touched; soft-off is told to `power`.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(power: Arc<Power>) -> std::io::Result<Self> {
        Ok(Self { state: Mutex::default(), interrupt: EventFd::new(EFD_NONBLOCK)?, power })
    }

    /// The eventfd to bind to ACPI's interrupt line.
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Presses the power button. Tells whether the guest listens to it.
    pub fn press_power_button(&self) -> bool {
        let mut state = self.lock();
        let listens = state.enable & POWER_BUTTON != 0;
        state.status |= POWER_BUTTON;
        if listens {
            self.signal();
        }
        listens
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) {
        // Fails only when the counter is full: then the line is up already.
        let _ = self.interrupt.write(1);
    }
}

impl BusDevice for AcpiPm {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.lock().bytes();
        let offset = usize::try_from(offset).unwrap_or(REGISTERS);
        for (at, byte) in (offset..).zip(data) {
            *byte = bytes.get(at).copied().unwrap_or_default();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(at) = usize::try_from(offset).ok().filter(|at| at.saturating_add(data.len()) <= REGISTERS)
        else {
            return;
        };
        // Bits that are not written keep their value; those of the status are cleared by ones.
        let mut state = self.lock();
        let mut image = State { status: 0, ..*state }.bytes();
        image[at..at + data.len()].copy_from_slice(data);
        let register = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let pending = state.status & state.enable;
        state.status &= !register(STATUS);
        state.enable = register(ENABLE) & ENABLE_WRITABLE;
        state.sleep_type = register(CONTROL) & SLEEP_TYPE_MASK;
        if state.status & state.enable & !pending != 0 {
            self.signal();
        }
        if register(CONTROL) & SLEEP_ENABLE != 0 {
            match state.sleep_type >> SLEEP_TYPE_SHIFT {
                SLEEP_TYPE_OFF => self.power.raise(PowerEvent::PowerOff),
                other => log::debug!("the guest asks for a sleep state of type {other}, which there is not"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device() -> (Arc<Power>, AcpiPm) {
        let power = Arc::new(Power::default());
        (Arc::clone(&power), AcpiPm::new(power).unwrap())
    }

    fn read16(device: &AcpiPm, offset: u64) -> u16 {
        let mut data = [0xaa; 2];
        device.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    #[test]
    fn section_4_8_3_1_the_power_button_is_an_event() {
        let (_, device) = device();
        assert!(!device.press_power_button(), "nobody listens");
        assert!(device.interrupt().read().is_err());
        assert_eq!(read16(&device, 0), 1 << 8);
        // A driver that comes later is told what is pending when it enables it.
        device.write(2, &(1_u16 << 8).to_le_bytes());
        assert_eq!(device.interrupt().read().unwrap(), 1);
        device.write(0, &(1_u16 << 8).to_le_bytes());
        assert_eq!((read16(&device, 0), read16(&device, 2)), (0, 1 << 8), "cleared by a one");
        assert!(device.press_power_button());
        assert!(device.press_power_button());
        assert_eq!(device.interrupt().read().unwrap(), 2, "an edge for each");
        device.write(0, &[0, 0]);
        assert_eq!(read16(&device, 0), 1 << 8, "zeros clear nothing");
        // Both registers with one access.
        device.write(0, &[0, 1, 0, 0]);
        assert_eq!((read16(&device, 0), read16(&device, 2)), (0, 0));
    }

    #[test]
    fn section_4_8_3_2_soft_off_takes_type_and_enable() {
        let (power, device) = device();
        assert_eq!(read16(&device, 4), 1, "SCI_EN");
        for control in [5 << 10, 1 << 13, 1 << 13 | 4 << 10, 1] {
            device.write(4, &u16::to_le_bytes(control));
            assert_eq!(power.raised(), None, "{control:#x}");
        }
        // As Linux does it: the type, then the type with SLP_EN.
        device.write(4, &u16::to_le_bytes(5 << 10 | 1));
        assert_eq!(read16(&device, 4), 5 << 10 | 1);
        device.write(4, &u16::to_le_bytes(5 << 10 | 1 << 13 | 1));
        assert_eq!(power.raised(), Some(PowerEvent::PowerOff));
        assert_eq!(read16(&device, 4) & 1 << 13, 0, "SLP_EN reads as 0");
    }

    #[test]
    fn a_byte_is_enough() {
        let (power, device) = device();
        device.write(5, &[0x34]);
        assert_eq!(power.raised(), Some(PowerEvent::PowerOff));
    }

    proptest! {
        #[test]
        fn no_access_panics_or_leaves_the_registers(
            accesses in prop::collection::vec((0_u64..8, prop::collection::vec(any::<u8>(), 0..8)), 0..20),
        ) {
            let (_, device) = device();
            for (offset, data) in &accesses {
                device.write(*offset, data);
                let mut read = vec![0; data.len()];
                device.read(*offset, &mut read);
            }
            prop_assert_eq!(read16(&device, 0), 0, "only the button sets a status");
            prop_assert_eq!(read16(&device, 2) & !ENABLE_WRITABLE, 0);
        }
    }
}
