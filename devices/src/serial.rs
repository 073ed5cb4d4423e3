//! A 16550 serial port: registers by vm-superio, and around them what it leaves open: when output is passed
//! on, where input waits, and which interrupt is told of first.
//!
//! The guest's bytes are gathered and written out in one piece when a line ends, when 1 KiB has gathered,
//! or when the guest shows that it is done: it touches another register than the two of a transmit loop
//! (Linux restores the interrupt register after each message). What is left, such as a prompt, is written
//! [`FLUSH_DELAY`] later by the event loop, for which the port is an `event_manager::EventSubscriber`.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_manager::{EventOps, EventSet, EventSubscriber, Events};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::bus::BusDevice;

/// Number of ports.
pub const SERIAL_SIZE: u64 = 8;
/// First port of COM1, whose interrupt is [`COM1_GSI`].
pub const COM1_BASE: u64 = 0x3f8;
/// Interrupt of COM1.
pub const COM1_GSI: u32 = 4;
/// First port of COM2, whose interrupt is [`COM2_GSI`].
pub const COM2_BASE: u64 = 0x2f8;
/// Interrupt of COM2.
pub const COM2_GSI: u32 = 3;

/// How long gathered output waits at most before it is passed on.
pub const FLUSH_DELAY: Duration = Duration::from_millis(5);
/// Output gathered at most.
const MAX_OUTPUT: usize = 1024;
/// Input kept at most while the guest does not read.
const MAX_INPUT: usize = 64 * 1024;

/// Transmitter holding register when written, receiver buffer when read (divisor latch aside).
const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const INTERRUPT_IDENTIFICATION: u8 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;
const DIVISOR_LATCH: u8 = 1 << 7;
const LOOPBACK: u8 = 1 << 4;
/// Of the line status and of the interrupts that are enabled.
const RECEIVED: u8 = 1 << 0;
const TRANSMITTER_EMPTY: u8 = 1 << 1;
/// What the identification register says; its upper half says that there is a FIFO.
const IS_NONE: u8 = 1;
const IS_TRANSMITTER_EMPTY: u8 = 2;
const IS_RECEIVED: u8 = 4;
const SOURCES: u8 = 0xf;

/// A serial port that never makes the guest wait for input or for an interrupt.
pub struct SerialPort {
    state: Mutex<State>,
}

struct State {
    uart: Serial<Line, NoEvents, Output>,
    input: VecDeque<u8>,
    interrupt_enable: u8,
    /// The transmitter has become empty, and the guest was not told.
    is_empty_untold: bool,
    line_control: u8,
    modem_control: u8,
    /// Runs while output waits, so that it is armed once however many bytes come.
    timer: TimerFd,
    timer_runs: bool,
}

/// The interrupt line.
struct Line(EventFd);

impl Trigger for Line {
    type E = std::io::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        // Fails only when the counter is full: then the line is up already.
        let _ = self.0.write(1);
        Ok(())
    }
}

/// Gathers the bytes that the UART transmits one by one.
struct Output {
    gathered: Vec<u8>,
    to: Box<dyn Write + Send>,
    failed: bool,
}

impl Output {
    fn pass_on(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let result = self.to.write_all(&self.gathered).and_then(|()| self.to.flush());
        self.gathered.clear();
        if let Err(e) = result
            && !std::mem::replace(&mut self.failed, true)
        {
            log::warn!("serial output is lost: {e}");
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if bytes.last() == Some(&b'\n') || self.gathered.len() >= MAX_OUTPUT {
            self.pass_on();
        }
        Ok(bytes.len())
    }

    /// The UART flushes after every byte; that is not when output is passed on.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.pass_on();
    }
}

impl SerialPort {
    /// A port that transmits to `output`, and the eventfd of its interrupt, to be bound to a GSI.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(output: Box<dyn Write + Send>) -> std::io::Result<(Arc<Self>, EventFd)> {
        let interrupt = EventFd::new(EFD_NONBLOCK)?;
        let output = Output { gathered: Vec::with_capacity(MAX_OUTPUT), to: output, failed: false };
        let state = State {
            uart: Serial::new(Line(interrupt.try_clone()?), output),
            input: VecDeque::new(),
            interrupt_enable: 0,
            is_empty_untold: false,
            line_control: 0,
            modem_control: 0,
            timer: TimerFd::new().map_err(std::io::Error::from)?,
            timer_runs: false,
        };
        Ok((Arc::new(Self { state: Mutex::new(state) }), interrupt))
    }

    /// Offers bytes to the guest's receiver and gives the number taken: all of them as long as not more than
    /// 64 KiB wait to be read. Never blocks.
    pub fn enqueue(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        let taken = bytes.len().min(MAX_INPUT - state.input.len());
        state.input.extend(&bytes[..taken]);
        state.refill();
        taken
    }

    /// Passes on what was transmitted so far, as at the end of the VM.
    pub fn flush(&self) {
        self.lock().uart.writer_mut().pass_on();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Moves waiting input into the receiver's FIFO. In loopback the receiver hears only the transmitter.
    fn refill(&mut self) {
        if self.input.is_empty() || self.modem_control & LOOPBACK != 0 {
            return;
        }
        let count = self.uart.fifo_capacity().min(self.input.len());
        if count > 0 {
            let next: Vec<u8> = self.input.drain(..count).collect();
            // The FIFO has room and the line does not fail, so neither does this.
            if let Err(e) = self.uart.enqueue_raw_bytes(&next) {
                log::debug!("serial input: {e}");
            }
        }
    }

    /// Whether an access to a register is not one to the divisor's latch, which has its place at times.
    fn is(&self, register: u8, other: u8) -> bool {
        register == other && self.line_control & DIVISOR_LATCH == 0
    }

    fn is_data(&self, register: u8) -> bool {
        self.is(register, DATA)
    }

    /// The one source of an interrupt that comes first: what is received, until it is read, then the transmitter, once. The
    /// UART forgets both when it is asked, and tells of both at once, which on a 16550 means a third.
    fn identify(&mut self) -> u8 {
        let both = self.uart.read(INTERRUPT_IDENTIFICATION);
        self.is_empty_untold |= both & (IS_NONE | IS_TRANSMITTER_EMPTY) == IS_TRANSMITTER_EMPTY;
        let source = if self.interrupt_enable & self.uart.read(LINE_STATUS) & RECEIVED != 0 {
            IS_RECEIVED
        } else if self.interrupt_enable & TRANSMITTER_EMPTY != 0 && std::mem::take(&mut self.is_empty_untold)
        {
            IS_TRANSMITTER_EMPTY
        } else {
            IS_NONE
        };
        both & !SOURCES | source
    }

    /// Sees to it that gathered output does not wait for ever.
    fn arm(&mut self) {
        if self.timer_runs || self.uart.writer().gathered.is_empty() {
            return;
        }
        match self.timer.reset(FLUSH_DELAY, None) {
            Ok(()) => self.timer_runs = true,
            // Without a timer, output is passed on at once.
            Err(_) => self.uart.writer_mut().pass_on(),
        }
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let (Ok(register), Some(first)) = (u8::try_from(offset), data.first_mut()) else { return };
        let mut state = self.lock();
        if register != LINE_STATUS {
            state.uart.writer_mut().pass_on();
        }
        *first = match register {
            INTERRUPT_IDENTIFICATION => state.identify(),
            _ => state.uart.read(register),
        };
        if state.is_data(register) {
            state.refill();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (Ok(register), Some(&value)) = (u8::try_from(offset), data.first()) else { return };
        let mut state = self.lock();
        if !state.is_data(register) {
            state.uart.writer_mut().pass_on();
        }
        match register {
            INTERRUPT_ENABLE if state.is(register, INTERRUPT_ENABLE) => state.interrupt_enable = value,
            LINE_CONTROL => state.line_control = value,
            MODEM_CONTROL => state.modem_control = value,
            _ => {}
        }
        // Neither the line nor `Output` fails.
        if let Err(e) = state.uart.write(register, value) {
            log::debug!("serial register {register}: {e}");
        }
        if register == MODEM_CONTROL {
            state.refill();
        }
        state.arm();
    }
}

impl AsRawFd for SerialPort {
    /// The timer of [`FLUSH_DELAY`].
    fn as_raw_fd(&self) -> RawFd {
        self.lock().timer.as_raw_fd()
    }
}

impl EventSubscriber for SerialPort {
    fn init(&self, ops: &mut EventOps<'_>) {
        // By edge: an expired timer need not be read before it is set again.
        if let Err(e) = ops.add(Events::new(self, EventSet::IN | EventSet::EDGE_TRIGGERED)) {
            log::error!("watch the serial port: {e}; output without a newline may be late");
        }
    }

    fn process(&self, _events: Events, _ops: &mut EventOps<'_>) {
        let mut state = self.lock();
        state.timer_runs = false;
        state.uart.writer_mut().pass_on();
    }
}

#[cfg(test)]
mod tests;
