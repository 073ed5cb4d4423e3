use super::*;
use event_manager::{EventManager, SubscriberOps};
use proptest::prelude::*;

const IER: u64 = 1;
const IIR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;

/// Output that tells how it was written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<Vec<u8>>>>);

impl Written {
    fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().push(bytes.to_vec());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn port() -> (Arc<SerialPort>, EventFd, Written) {
    let written = Written::default();
    let (port, interrupt) = SerialPort::new(Box::new(written.clone())).unwrap();
    (port, interrupt, written)
}

fn read(port: &SerialPort, register: u64) -> u8 {
    let mut data = [0xaa];
    port.read(register, &mut data);
    data[0]
}

fn transmit(port: &SerialPort, bytes: &[u8]) {
    for &byte in bytes {
        assert_eq!(read(port, LSR) & 0x60, 0x60, "the transmitter is always empty");
        port.write(0, &[byte]);
    }
}

fn receive(port: &SerialPort) -> Vec<u8> {
    let mut bytes = vec![];
    while read(port, LSR) & 1 != 0 {
        bytes.push(read(port, 0));
    }
    bytes
}

#[test]
fn a_line_is_one_write() {
    let (port, _, written) = port();
    transmit(&port, b"one\ntwo\nthr");
    assert_eq!(written.take(), [b"one\n".to_vec(), b"two\n".to_vec()]);
    transmit(&port, b"ee\n");
    assert_eq!(written.take(), [b"three\n"]);
}

#[test]
fn the_end_of_a_message_passes_it_on() {
    let done: [&dyn Fn(&SerialPort); 5] = [
        &|port| port.write(IER, &[0]),
        &|port| drop(read(port, IIR).to_string()),
        &|port| port.write(MCR, &[0x0b]),
        &|port| drop(read(port, 0).to_string()),
        &|port| port.flush(),
    ];
    for done in done {
        let (port, _, written) = port();
        transmit(&port, b"login: ");
        assert!(written.take().is_empty());
        done(&port);
        assert_eq!(written.take(), [b"login: "]);
        done(&port);
        assert!(written.take().is_empty());
    }
}

#[test]
fn what_is_left_is_passed_on_by_the_event_loop() {
    let (port, _, written) = port();
    let mut events = EventManager::<Arc<SerialPort>>::new().unwrap();
    events.add_subscriber(port.clone());
    for _ in 0..3 {
        transmit(&port, b"# ");
        assert!(written.take().is_empty());
        // The timer of FLUSH_DELAY is what ends this wait, however long it takes.
        assert_eq!(events.run().unwrap(), 1);
        assert_eq!(written.take(), [b"# "]);
    }
}

#[test]
fn what_is_left_is_passed_on_at_the_end() {
    let (port, _, written) = port();
    transmit(&port, b"bye");
    drop(port);
    assert_eq!(written.take(), [b"bye"]);
}

#[test]
fn a_long_line_does_not_gather_for_ever() {
    let (port, _, written) = port();
    transmit(&port, &[b'x'; 3 * MAX_OUTPUT]);
    assert_eq!(written.take(), vec![vec![b'x'; MAX_OUTPUT]; 3]);
}

#[test]
fn output_that_fails_does_not_stop_the_guest() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (port, interrupt) = SerialPort::new(Box::new(Broken)).unwrap();
    port.write(IER, &[2]);
    assert!(interrupt.read().is_ok());
    transmit(&port, b"lost\n");
    assert!(interrupt.read().is_err(), "the interrupt is pending, so it is not raised again");
    assert_eq!(read(&port, IIR) & 0x0f, 2);
    transmit(&port, b"l");
    assert!(interrupt.read().is_ok(), "the transmitter is empty again");
}

#[test]
fn input_is_received_in_order_and_interrupts() {
    let (port, interrupt, _) = port();
    port.write(IER, &[1]);
    assert!(interrupt.read().is_err());
    assert_eq!(port.enqueue(b"ab"), 2);
    assert!(interrupt.read().is_ok());
    assert_eq!(read(&port, IIR) & 0x0f, 4);
    assert_eq!(port.enqueue(b"c"), 1);
    assert_eq!(receive(&port), b"abc");
    assert_eq!(port.enqueue(b""), 0);
}

#[test]
fn what_is_received_is_told_of_first_and_the_transmitter_not_forgotten() {
    let (port, _interrupt, _) = port();
    assert_eq!(read(&port, IIR), 0xc1, "nothing");
    port.write(IER, &[3]);
    port.enqueue(b"ab");
    transmit(&port, b"x");
    // Until all was read, whatever else there is.
    assert_eq!(read(&port, IIR), 0xc4);
    assert_eq!(read(&port, 0), b'a');
    assert_eq!(read(&port, IIR), 0xc4);
    assert_eq!(read(&port, 0), b'b');
    assert_eq!(read(&port, IIR), 0xc2);
    assert_eq!(read(&port, IIR), 0xc1, "the transmitter is told of once");
    // A source that is not enabled is none.
    port.write(IER, &[2]);
    port.enqueue(b"c");
    assert_eq!(read(&port, IIR), 0xc2, "enabling it tells of it");
    assert_eq!(read(&port, IIR), 0xc1);
    transmit(&port, b"y");
    port.write(IER, &[0]);
    assert_eq!(read(&port, IIR), 0xc1);
    port.write(IER, &[1]);
    assert_eq!(read(&port, IIR), 0xc4);
}

#[test]
fn input_waits_within_bounds() {
    let (port, interrupt, _) = port();
    port.write(IER, &[1]);
    let bytes: Vec<u8> = (0..100_000u32).map(|i| i.to_le_bytes()[0]).collect();
    let taken = port.enqueue(&bytes);
    assert_eq!(taken, MAX_INPUT);
    let more = port.enqueue(&bytes[taken..]);
    assert_eq!(more, 64, "as much as the receiver's FIFO took out of what waited");
    assert_eq!(port.enqueue(&bytes[taken + more..]), 0);
    // The guest reads what the FIFO holds at one interrupt, and is interrupted for what follows.
    let mut got = vec![];
    while interrupt.read().is_ok() {
        got.extend(receive(&port));
    }
    assert_eq!(got, bytes[..taken + more]);
}

#[test]
fn in_loopback_the_receiver_hears_the_transmitter_only() {
    let (port, _, written) = port();
    port.write(MCR, &[0x10]);
    assert_eq!(port.enqueue(b"later"), 5);
    transmit(&port, b"\xae");
    assert_eq!(receive(&port), b"\xae");
    port.write(MCR, &[0]);
    assert_eq!(receive(&port), b"later");
    assert!(written.take().is_empty());
}

#[test]
fn the_divisor_latch_is_neither_output_nor_input() {
    let (port, _, written) = port();
    port.enqueue(b"x");
    port.write(LCR, &[0x83]);
    port.write(0, &[1]);
    port.write(1, &[0]);
    assert_eq!((read(&port, 0), read(&port, 1)), (1, 0));
    port.write(LCR, &[3]);
    port.flush();
    assert!(written.take().is_empty());
    assert_eq!(receive(&port), b"x");
}

proptest! {
    /// Whatever is accessed: no panic, and all that is transmitted arrives once and in order.
    #[test]
    fn any_accesses_keep_the_order_of_the_output(
        accesses in prop::collection::vec((0u64..9, any::<u8>(), any::<bool>()), 0..300),
    ) {
        let (port, _, written) = port();
        let (mut lcr, mut mcr) = (0, 0);
        let mut sent = vec![];
        for (register, value, is_write) in accesses {
            if !is_write {
                port.read(register, &mut [0; 4]);
                port.read(register, &mut []);
                continue;
            }
            port.write(register, &[value, 0]);
            port.write(register, &[]);
            match register {
                0 if lcr & 0x80 == 0 && mcr & 0x10 == 0 => sent.push(value),
                LCR => lcr = value,
                MCR => mcr = value,
                _ => {}
            }
        }
        port.flush();
        prop_assert_eq!(written.take().concat(), sent);
    }
}
