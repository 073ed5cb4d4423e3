//! The panic device (QEMU: docs/specs/pvpanic.rst): one port by which a guest's kernel says that it cannot go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bus::BusDevice;
use crate::power::{Power, PowerEvent};

/// The port, where QEMU has it.
pub const PVPANIC_PORT: u64 = 0x505;
/// Number of ports.
pub const PVPANIC_SIZE: u64 = 1;

/// The kernel panicked, and will do nothing more.
const PANICKED: u8 = 1 << 0;
/// The kernel panicked, and another one takes over to save what it can.
const CRASH_LOADED: u8 = 1 << 1;

/// The device.
pub struct PvPanic {
    power: Arc<Power>,
    told: AtomicBool,
}

impl PvPanic {
    /// A device that tells `power` of a panic.
    pub fn new(power: Arc<Power>) -> Self {
        Self { power, told: AtomicBool::new(false) }
    }
}

impl BusDevice for PvPanic {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let events = data.first().copied().unwrap_or_default();
        if events & PANICKED != 0 {
            self.power.raise(PowerEvent::Panic);
        } else if events & CRASH_LOADED != 0 && !self.told.swap(true, Ordering::Relaxed) {
            log::warn!("the guest's kernel panicked, its crash kernel takes over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_vm_and_a_crash_kernel_does_not() {
        let power = Arc::new(Power::default());
        let device = PvPanic::new(Arc::clone(&power));
        let mut data = [0xaa];
        device.read(0, &mut data);
        assert_eq!(data, [3], "what it understands");
        for ignored in [&[][..], &[0], &[2], &[0xfe]] {
            device.write(0, ignored);
            assert_eq!(power.raised(), None, "{ignored:?}");
        }
        device.write(0, &[1]);
        assert_eq!(power.raised(), Some(PowerEvent::Panic));
    }
}
