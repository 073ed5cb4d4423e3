use super::*;
use crate::virtio::testing::{Driver, DriverQueue, EVENT_IDX, guest_memory};
use proptest::prelude::*;
use std::sync::Mutex;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn driver(features: u64) -> (Driver<Console>, Written) {
    let written = Written::default();
    let mut driver = Driver::new(&guest_memory(), Console::new(Box::new(written.clone())).unwrap());
    driver.start(features);
    (driver, written)
}

fn enqueue(driver: &Driver<Console>, bytes: &[u8]) -> usize {
    driver.device().lock().unwrap().enqueue(bytes)
}

fn offer(queue: &mut DriverQueue, len: usize) -> crate::virtio::queue::Buffer {
    let buffer = queue.allocate(&vec![0; len]);
    queue.add(&[], &[buffer]);
    buffer
}

#[test]
fn v1_2_5_3_6_what_is_transmitted_is_passed_on() {
    for features in [0, EVENT_IDX] {
        let (mut driver, written) = driver(features);
        let hello = driver.queue(TRANSMIT).allocate(b"hello ");
        let world = driver.queue(TRANSMIT).allocate(b"world\n");
        driver.queue(TRANSMIT).add(&[hello, world], &[]);
        driver.queue(TRANSMIT).add(&[world], &[]);
        driver.kick(TRANSMIT);
        assert_eq!(written.take(), b"hello world\nworld\n");
        assert_eq!(driver.queue(TRANSMIT).take_used(), Some((0, 0)));
        assert_eq!(driver.queue(TRANSMIT).take_used(), Some((2, 0)));
        assert_eq!(driver.take_interrupts(), 1);
    }
}

#[test]
fn a_chain_without_end_is_cut() {
    let (mut driver, written) = driver(0);
    let buffer = driver.queue(TRANSMIT).allocate(&[b'x'; 1 << 16]);
    driver.queue(TRANSMIT).add(&[buffer; 20], &[]);
    driver.kick(TRANSMIT);
    assert_eq!(written.take().len(), 1 << 20);
    assert_eq!(driver.queue(TRANSMIT).take_used(), Some((0, 0)));
}

#[test]
fn v1_2_5_3_6_input_waits_for_buffers_and_buffers_for_input() {
    for features in [0, EVENT_IDX] {
        let (mut driver, _) = driver(features);
        let first = offer(driver.queue(RECEIVE), 8);
        driver.kick(RECEIVE);
        assert_eq!(driver.queue(RECEIVE).take_used(), None, "there is no input yet");
        assert_eq!(enqueue(&driver, b"0123456789"), 10);
        assert_eq!(driver.queue(RECEIVE).take_used(), Some((0, 8)));
        assert_eq!(driver.queue(RECEIVE).content(first), b"01234567");
        assert_eq!(driver.take_interrupts(), 1);
        let second = offer(driver.queue(RECEIVE), 8);
        driver.kick(RECEIVE);
        assert_eq!(driver.queue(RECEIVE).take_used(), Some((1, 2)));
        assert_eq!(driver.queue(RECEIVE).content(second), b"89\0\0\0\0\0\0");
    }
}

#[test]
fn input_from_before_the_driver_is_there_is_kept_within_bounds() {
    let mut console = Console::new(Box::new(io::sink())).unwrap();
    let bytes: Vec<u8> = (0..100_000u32).map(|i| i.to_le_bytes()[0]).collect();
    assert_eq!(console.enqueue(&bytes), MAX_INPUT);
    assert_eq!(console.enqueue(b"x"), 0);
    let mut driver = Driver::new(&guest_memory(), console);
    driver.start(0);
    let buffers: Vec<_> = (0..16).map(|_| offer(driver.queue(RECEIVE), 5000)).collect();
    driver.kick(RECEIVE);
    let got: Vec<u8> = buffers.iter().flat_map(|&b| driver.queue(RECEIVE).content(b)).collect();
    assert_eq!(got[..MAX_INPUT], bytes[..MAX_INPUT]);
    assert_eq!(driver.queue(RECEIVE).used_idx(), 14);
}

#[test]
fn a_buffer_for_input_that_cannot_be_written_needs_a_reset() {
    let (mut driver, _) = driver(0);
    let buffer = driver.queue(RECEIVE).allocate(&[0; 8]);
    driver.queue(RECEIVE).add(&[buffer], &[]);
    enqueue(&driver, b"x");
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15 | 64);
    assert_eq!(driver.queue(RECEIVE).take_used(), None);
}

#[test]
fn v1_2_2_1_a_reset_device_is_silent() {
    let (mut driver, written) = driver(0);
    let buffer = driver.queue(TRANSMIT).allocate(b"late");
    driver.queue(TRANSMIT).add(&[buffer], &[]);
    offer(driver.queue(RECEIVE), 8);
    driver.reset();
    driver.kick(TRANSMIT);
    enqueue(&driver, b"x");
    assert!(written.take().is_empty());
    assert_eq!(driver.queue(RECEIVE).take_used(), None);
}

#[test]
fn output_that_fails_does_not_stop_the_guest() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let mut driver = Driver::new(&guest_memory(), Console::new(Box::new(Broken)).unwrap());
    driver.start(0);
    let buffer = driver.queue(TRANSMIT).allocate(b"lost");
    for head in 0..3 {
        driver.queue(TRANSMIT).add(&[buffer], &[]);
        driver.kick(TRANSMIT);
        assert_eq!(driver.queue(TRANSMIT).take_used(), Some((head, 0)));
    }
}

proptest! {
    /// Input in any pieces into buffers of any sizes arrives whole and in order.
    #[test]
    fn input_arrives_in_order(
        steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..50), 1usize..40), 1..60),
        event_idx: bool,
    ) {
        let (mut driver, _) = driver(if event_idx { EVENT_IDX } else { 0 });
        let (mut sent, mut got, mut buffers) = (vec![], vec![], VecDeque::new());
        for (bytes, room) in steps {
            sent.extend(&bytes[..enqueue(&driver, &bytes)]);
            if buffers.len() < 16 {
                buffers.push_back(offer(driver.queue(RECEIVE), room));
                driver.kick(RECEIVE);
            }
            while let Some((_, len)) = driver.queue(RECEIVE).take_used() {
                let content = driver.queue(RECEIVE).content(buffers.pop_front().unwrap());
                got.extend(&content[..len as usize]);
            }
        }
        let waiting: Vec<u8> = driver.device().lock().unwrap().input.iter().copied().collect();
        prop_assert!(waiting.is_empty() || buffers.is_empty());
        got.extend(waiting);
        prop_assert_eq!(got, sent);
    }
}
