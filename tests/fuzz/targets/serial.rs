#![no_main]
//! The serial port under a guest that touches any register in any width, while somebody types and the output may fail;
//! beside a model of what a 16550 owes its guest.
//!
//! ```text
//!   input: u8, how the output behaves | { operation u8 | a u8 | b u8 } ..
//!   operation, lower two bits:
//!     0  write b to register a % 10, in width a / 10     2  type a bytes, or 16 * a with the top bit
//!     1  read register a % 10, in width a / 10           3  let the event loop run, or flush with the top bit
//! ```

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use devices::bus::BusDevice;
use devices::serial::SerialPort;
use event_manager::{EventManager, SubscriberOps};
use libfuzzer_sys::fuzz_target;
use vmm_sys_util::eventfd::EventFd;

/// What a 16550 with 64 bytes of FIFO keeps for the guest.
const FIFO: usize = 64;
/// What waits behind it at most.
const WAITING: usize = 64 * 1024;
/// What is gathered of the output at most.
const GATHERED: usize = 1024;
const OPERATIONS: usize = 512;

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const INTERRUPT_IDENTIFICATION: u64 = 2;
const LINE_CONTROL: u64 = 3;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;
const LATCH: u8 = 0x80;
const LOOPBACK: u8 = 0x10;
const RECEIVED: u8 = 1;
const TRANSMITTED: u8 = 2;

/// Where output arrives: all at once, in small pieces, not always, or never.
struct Destination {
    arrived: Arc<Mutex<Vec<u8>>>,
    kind: u8,
    calls: usize,
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.calls += 1;
        let most = match self.kind % 4 {
            0 => bytes.len(),
            1 => bytes.len().min(1 + self.calls % 7),
            2 if self.calls % 5 == 3 => return Err(io::ErrorKind::StorageFull.into()),
            2 => bytes.len().min(100),
            _ => 0,
        };
        self.arrived.lock().expect("no panic").extend(&bytes[..most]);
        Ok(most)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the guest has done, what it is owed, and what must have come out.
#[derive(Default)]
struct Model {
    sent: Vec<u8>,
    fifo: VecDeque<u8>,
    waiting: VecDeque<u8>,
    enabled: u8,
    line_control: u8,
    modem_control: u8,
    /// An interrupt came that the guest has not looked at.
    unseen: bool,
    typed: u8,
}

impl Model {
    /// In loopback the receiver hears only the transmitter.
    fn refill(&mut self) {
        if self.modem_control & LOOPBACK == 0 {
            let count = (FIFO - self.fifo.len()).min(self.waiting.len());
            self.fifo.extend(self.waiting.drain(..count));
        }
    }

    fn is_latched(&self) -> bool {
        self.line_control & LATCH != 0
    }

    /// Gives whether a byte was transmitted.
    fn write(&mut self, register: u64, value: u8) -> bool {
        match register {
            DATA | INTERRUPT_ENABLE if self.is_latched() => {}
            DATA if self.modem_control & LOOPBACK == 0 => {
                self.sent.push(value);
                return true;
            }
            DATA if self.fifo.len() < FIFO => self.fifo.push_back(value),
            INTERRUPT_ENABLE => self.enabled = value & 0xf,
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => {
                self.modem_control = value;
                self.refill();
            }
            _ => {}
        }
        false
    }

    /// What the guest must see where the model knows it.
    fn read(&mut self, register: u64) -> Option<u8> {
        match register {
            DATA if !self.is_latched() => {
                let byte = self.fifo.pop_front().unwrap_or(0);
                self.refill();
                Some(byte)
            }
            INTERRUPT_IDENTIFICATION => {
                self.unseen = false;
                None
            }
            INTERRUPT_ENABLE if !self.is_latched() => Some(self.enabled),
            LINE_CONTROL => Some(self.line_control),
            MODEM_CONTROL => Some(self.modem_control),
            LINE_STATUS => Some(0x60 | u8::from(!self.fifo.is_empty())),
            8.. => Some(0),
            _ => None,
        }
    }

    fn type_in(&mut self, count: usize) -> (Vec<u8>, usize) {
        let bytes: Vec<u8> = (0..count)
            .map(|_| {
                self.typed = self.typed.wrapping_add(1);
                self.typed
            })
            .collect();
        let taken = count.min(WAITING - self.waiting.len());
        self.waiting.extend(&bytes[..taken]);
        self.refill();
        (bytes, taken)
    }
}

struct Machine {
    port: Arc<SerialPort>,
    interrupt: EventFd,
    model: Model,
}

impl Machine {
    fn operate(&mut self, events: &mut EventManager<Arc<SerialPort>>, [operation, a, b]: [u8; 3]) {
        let top = operation & 0x80 != 0;
        let (register, width) = (u64::from(a % 10), [1, 2, 4, 8, 0][usize::from(a / 10 % 5)]);
        let (enabled, fifo) = (self.model.enabled, self.model.fifo.len());
        let (mut transmitted, mut received) = (false, false);
        match operation & 3 {
            0 => {
                self.port.write(register, &[b; 8][..width]);
                if width > 0 {
                    transmitted = self.model.write(register, b);
                    received = fifo == 0 && !self.model.fifo.is_empty();
                }
            }
            1 => {
                let mut data = [0xaa; 8];
                self.port.read(register, &mut data[..width]);
                if width > 0 {
                    received = register == DATA && fifo == 1 && !self.model.waiting.is_empty();
                    received &= !self.model.is_latched() && self.model.modem_control & LOOPBACK == 0;
                    let want = self.model.read(register);
                    assert!(
                        want.is_none_or(|want| want == data[0]),
                        "register {register}: {want:?}, {data:?}"
                    );
                    let is_source =
                        register != INTERRUPT_IDENTIFICATION || [0xc1, 0xc2, 0xc4].contains(&data[0]);
                    assert!(is_source, "{data:?} is no source of interrupts");
                    assert!(data[1..width].iter().all(|byte| *byte == 0), "one register is one byte");
                }
            }
            2 => {
                let (bytes, taken) = self.model.type_in(usize::from(a) << if top { 4 } else { 0 });
                assert_eq!(self.port.enqueue(&bytes), taken, "what is kept for the guest is bounded");
                received = fifo == 0 && !self.model.fifo.is_empty();
            }
            _ if top => self.port.flush(),
            _ => drop(events.run_with_timeout(0)),
        }
        let came = self.interrupt.read().is_ok();
        self.model.unseen |= came;
        let enabled_now = self.model.enabled;
        assert!(!came || enabled | enabled_now != 0, "an interrupt that nobody wants");
        assert!(!(received && enabled & RECEIVED != 0) || came, "input comes and nobody is told");
        let is_owed = transmitted && enabled & TRANSMITTED != 0;
        assert!(!is_owed || self.model.unseen, "a byte left and nobody is told");
    }
}

/// Whether `part` is `whole` with some of it left out.
fn is_within(part: &[u8], whole: &[u8]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|byte| rest.any(|other| other == byte))
}

fuzz_target!(|data: &[u8]| {
    let [kind, operations @ ..] = data else { return };
    let arrived = Arc::default();
    let destination = Destination { arrived: Arc::clone(&arrived), kind: *kind, calls: 0 };
    let is_whole = kind % 4 < 2;
    let (port, interrupt) = SerialPort::new(Box::new(destination)).expect("descriptors");
    let mut events = EventManager::<Arc<SerialPort>>::new().expect("an epoll descriptor");
    events.add_subscriber(port.clone());
    // What the registers hold at the start: interrupts reach the processor, characters have 8 bits.
    let model = Model { modem_control: 0x08, line_control: 0x03, ..Model::default() };
    let mut machine = Machine { port, interrupt, model };
    for operation in operations.as_chunks::<3>().0.iter().take(OPERATIONS) {
        machine.operate(&mut events, *operation);
        let (out, sent) = (arrived.lock().expect("no panic").len(), machine.model.sent.len());
        assert!(out <= sent, "more came out than went in");
        assert!(!is_whole || sent - out < GATHERED, "output is gathered without a bound");
    }
    // Out of loopback and with the latch shut, all that was typed is there to be read, in order.
    for (register, value) in [(MODEM_CONTROL, 0), (LINE_CONTROL, 0)] {
        machine.operate(&mut events, [0, u8::try_from(register).expect("a register"), value]);
    }
    let mut model = machine.model;
    while !model.fifo.is_empty() {
        let mut data = [0];
        machine.port.read(DATA, &mut data);
        assert_eq!(model.read(DATA), Some(data[0]));
    }
    assert!(model.waiting.is_empty());
    drop((machine.port, events));
    let out = arrived.lock().expect("no panic");
    assert!(if is_whole { *out == model.sent } else { is_within(&out, &model.sent) });
});
