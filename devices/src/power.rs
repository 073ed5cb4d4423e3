//! How a guest ends its machine: whichever device it tells, the first word counts.

use std::sync::atomic::{AtomicU8, Ordering};

/// An end of the machine that the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// A reset.
    Reset,
    /// Soft-off.
    PowerOff,
    /// Its kernel cannot go on.
    Panic,
}

const NONE: u8 = 0;
const RESET: u8 = 1;
const POWER_OFF: u8 = 2;
const PANIC: u8 = 3;

/// Where devices leave the guest's wish. The vCPU that told it looks here after each write to a port, and runs no
/// instruction more.
#[derive(Debug, Default)]
pub struct Power(AtomicU8);

impl Power {
    /// The machine is to end so; of several wishes the first counts.
    pub fn raise(&self, event: PowerEvent) {
        let value = match event {
            PowerEvent::Reset => RESET,
            PowerEvent::PowerOff => POWER_OFF,
            PowerEvent::Panic => PANIC,
        };
        // It fails when there is a wish already.
        let _ = self.0.compare_exchange(NONE, value, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The guest's wish, once it has one.
    pub fn raised(&self) -> Option<PowerEvent> {
        match self.0.load(Ordering::SeqCst) {
            RESET => Some(PowerEvent::Reset),
            POWER_OFF => Some(PowerEvent::PowerOff),
            PANIC => Some(PowerEvent::Panic),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wish_counts() {
        for first in [PowerEvent::Reset, PowerEvent::PowerOff, PowerEvent::Panic] {
            let power = Power::default();
            assert_eq!(power.raised(), None);
            power.raise(first);
            power.raise(PowerEvent::Reset);
            power.raise(PowerEvent::Panic);
            assert_eq!(power.raised(), Some(first));
        }
    }
}
