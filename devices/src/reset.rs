//! The keyboard controller of a machine that has no keyboard: ports 0x60 to 0x64, for their two uses that
//! are left. A pulse of the reset line ends the VM (Linux's `reboot=k`), and a probe for a keyboard finds
//! quickly that there is none.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use crate::bus::BusDevice;
use crate::power::{Power, PowerEvent};

/// First port.
pub const I8042_BASE: u64 = 0x60;
/// Number of ports.
pub const I8042_SIZE: u64 = 5;

const DATA: u64 = 0;
/// Port 0x61, which belongs to the timer and the speaker.
const PORT_B: u64 = 1;
const COMMAND: u64 = 4;

/// Bytes that seem to wait in the output buffer. A driver empties it before it starts: Linux gives up after
/// 17 reads and says that there is no controller, within a millisecond; with an empty buffer it would go on
/// and wait half a second for an answer to its first command. The bytes run out, so that code that reads
/// until the buffer is empty ends too.
const STALE_BYTES: u8 = 32;

const STATUS_OUTPUT_FULL: u8 = 1 << 0;
/// System flag and keyboard lock open, as after a power-on self test. Bit 1, input buffer full, is never
/// set: whoever is about to send a command waits for it to clear.
const STATUS_IDLE: u8 = 1 << 2 | 1 << 4;

/// The timer's gate and the speaker's, which software may set.
const PORT_B_WRITABLE: u8 = 0x0f;
/// The memory refresh clock, which toggles for ever.
const PORT_B_REFRESH: u8 = 1 << 4;
/// The output of timer channel 2. Software that times a loop by it waits until it is set.
const PORT_B_TIMER_OUT: u8 = 1 << 5;

/// A keyboard controller without a keyboard.
pub struct I8042 {
    power: Arc<Power>,
    stale: AtomicU8,
    port_b: Mutex<u8>,
}

impl I8042 {
    /// A controller that has not been asked anything; a reset is told to `power`.
    pub fn new(power: Arc<Power>) -> Self {
        Self { power, stale: AtomicU8::new(STALE_BYTES), port_b: Mutex::new(0) }
    }

    fn port_b(&self, change: impl FnOnce(&mut u8)) -> u8 {
        let mut state = self.port_b.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut state);
        *state
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(first) = data.first_mut() else { return };
        *first = match offset {
            DATA => {
                let take = |n: u8| Some(n.saturating_sub(1));
                // The update always succeeds.
                let _ = self.stale.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
                0
            }
            PORT_B => self.port_b(|state| *state ^= PORT_B_REFRESH) | PORT_B_TIMER_OUT,
            COMMAND if self.stale.load(Ordering::Relaxed) > 0 => STATUS_IDLE | STATUS_OUTPUT_FULL,
            COMMAND => STATUS_IDLE,
            _ => 0,
        };
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            // Commands 0xf0 to 0xff pulse the lines whose bit is clear; line 0 is the processor's reset.
            (COMMAND, &[command, ..]) if command & 0xf1 == 0xf0 => {
                self.power.raise(PowerEvent::Reset);
            }
            (PORT_B, &[value, ..]) => {
                self.port_b(|state| *state = *state & !PORT_B_WRITABLE | value & PORT_B_WRITABLE);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(device: &I8042, port: u64) -> u8 {
        let mut data = [0xaa];
        device.read(port - I8042_BASE, &mut data);
        data[0]
    }

    #[test]
    fn a_pulse_of_the_reset_line_and_nothing_else_resets() {
        for command in 0..=u8::MAX {
            let power = Arc::new(Power::default());
            let device = I8042::new(Arc::clone(&power));
            device.write(DATA, &[command]);
            device.write(COMMAND, &[]);
            assert_eq!(power.raised(), None);
            device.write(COMMAND, &[command]);
            let pulses = (0xf0..=0xfe).contains(&command) && command % 2 == 0;
            assert_eq!(power.raised(), pulses.then_some(PowerEvent::Reset), "{command:#x}");
        }
    }

    #[test]
    fn the_input_buffer_is_never_full() {
        let device = I8042::new(Arc::default());
        for _ in 0..100 {
            assert_eq!(read(&device, 0x64) & 2, 0);
            read(&device, 0x60);
        }
    }

    #[test]
    fn linux_sees_no_controller_and_a_drain_ends() {
        let device = I8042::new(Arc::default());
        let pending = || read(&device, 0x64) & STATUS_OUTPUT_FULL != 0;
        // Linux calls it absent when 16 reads have not emptied the output buffer.
        for _ in 0..16 {
            assert!(pending());
            read(&device, 0x60);
        }
        assert!(pending());
        let left = (0..1000).take_while(|_| pending() && read(&device, 0x60) == 0).count();
        assert_eq!(left, usize::from(STALE_BYTES) - 16);
    }

    #[test]
    fn port_0x61_keeps_the_gates_and_shows_time_passing() {
        let device = I8042::new(Arc::default());
        device.write(1, &[0xf3]);
        let (a, b) = (read(&device, 0x61), read(&device, 0x61));
        assert_eq!(a & 0x0f, 3);
        assert_eq!((a ^ b) & PORT_B_REFRESH, PORT_B_REFRESH);
        assert_eq!(a & PORT_B_TIMER_OUT, PORT_B_TIMER_OUT);
    }
}
