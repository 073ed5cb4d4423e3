use super::*;
use crate::virtio::testing::{Driver, EVENT_IDX, guest_memory};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;

fn driver(features: u64) -> Driver<Rng> {
    let mut driver = Driver::new(&guest_memory(), Rng::new().unwrap());
    driver.start(features);
    driver
}

#[test]
fn v1_2_5_4_6_buffers_are_filled_with_bytes_that_differ() {
    let mut driver = driver(0);
    let buffers: Vec<_> = (0..4).map(|_| driver.queue(0).allocate(&[0; 64])).collect();
    driver.queue(0).add(&[], &buffers[..1]);
    driver.queue(0).add(&[], &buffers[1..]);
    driver.kick(0);
    assert_eq!(driver.queue(0).take_used(), Some((0, 64)));
    assert_eq!(driver.queue(0).take_used(), Some((1, 192)));
    assert_eq!(driver.take_interrupts(), 1);
    let mut contents: Vec<_> = buffers.iter().map(|&b| driver.queue(0).content(b)).collect();
    contents.push(vec![0; 64]);
    contents.sort();
    contents.dedup();
    assert_eq!(contents.len(), 5, "2^-512 says otherwise");
}

#[test]
fn a_large_buffer_is_filled_in_part_and_no_further() {
    let mut driver = driver(0);
    let buffer = driver.queue(0).allocate(&[0; 3 * MAX_BYTES]);
    driver.queue(0).add(&[], &[buffer]);
    driver.kick(0);
    assert_eq!(driver.queue(0).take_used(), Some((0, 4096)));
    assert_eq!(driver.queue(0).content(buffer)[MAX_BYTES..], [0; 2 * MAX_BYTES]);
}

#[test]
fn more_buffers_than_one_turn_serves_are_all_served() {
    let mut driver = driver(EVENT_IDX);
    let buffer = driver.queue(0).allocate(&[0; 8]);
    let count = 3 * BATCH;
    for _ in 0..count {
        driver.queue(0).add(&[], &[buffer]);
    }
    driver.kick(0);
    assert_eq!(driver.queue(0).used_idx(), count);
}

#[test]
fn v1_2_2_1_2_a_buffer_that_cannot_be_written_needs_a_reset() {
    let mut driver = driver(0);
    let buffer = driver.queue(0).allocate(&[0; 8]);
    driver.queue(0).add(&[buffer], &[]);
    driver.kick(0);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15 | 64);
    driver.queue(0).add(&[], &[buffer]);
    driver.kick(0);
    assert_eq!(driver.queue(0).used_idx(), 0, "a device that needs a reset does nothing");
}

#[test]
fn an_idle_device_ignores_kicks() {
    let mut driver = driver(0);
    let buffer = driver.queue(0).allocate(&[0; 8]);
    driver.queue(0).add(&[], &[buffer]);
    driver.reset();
    driver.kick(0);
    assert_eq!(driver.queue(0).used_idx(), 0);
}
