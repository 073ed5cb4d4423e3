//! Queues: their kicks, interrupts and limits.

use super::*;

#[test]
fn v1_2_2_1_a_reset_in_the_middle_forgets_what_was_asked() {
    let (mut driver, file) = writable();
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_OUT, 0));
    let data = queue.allocate(&[1; 512]);
    let status = queue.allocate(&[NONE]);
    queue.add(&[head, data], &[status]);
    driver.transport().kicks()[0].write(1).unwrap();
    driver.reset();
    driver.run();
    assert_eq!(driver.queue(0).used_idx(), 0);
    assert_eq!(driver.queue(0).content(status), [NONE]);
    assert_eq!(contents_of(&file), pattern(4096));

    // The driver starts over with fresh rings.
    let mut again = Driver::new(&guest_memory(), Block::new(composite().0, "", true).unwrap());
    again.start(0);
    again.reset();
    again.start(EVENT_IDX);
    assert_eq!(read(&mut again, 0, 512).1, pattern(512));
}

#[test]
fn v1_2_2_7_7_a_batch_is_one_interrupt_and_event_idx_can_defer_it() {
    let (disk, _) = composite();
    let mut driver = start(disk, true, EVENT_IDX);
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_IN, 0));
    let data = queue.allocate(&[0; 512]);
    let status = queue.allocate(&[NONE]);
    let add = |driver: &mut Driver<Block>, count: usize| {
        for _ in 0..count {
            driver.queue(0).add(&[head], &[data, status]);
        }
        driver.kick(0);
    };
    add(&mut driver, 32);
    assert_eq!(driver.take_interrupts(), 1);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    driver.queue(0).set_used_event(40);
    add(&mut driver, 8);
    assert_eq!(driver.take_interrupts(), 0, "the 41st was asked for");
    add(&mut driver, 1);
    assert_eq!(driver.take_interrupts(), 1);
    assert_eq!(driver.queue(0).used_idx(), 41);
    assert_eq!(driver.queue(0).avail_event(), 41, "a kick for the next");
}

#[test]
fn more_requests_than_one_turn_serves_are_all_served() {
    let disk = CompositeDisk::from_file(file_of(&pattern(4096)), 4096, true).unwrap();
    let mut driver = start_as(WAYS[0], disk, 1, FLUSH).unwrap();
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_FLUSH, 0));
    let status = queue.allocate(&[NONE]);
    let index = queue.add(&[head], &[status]);
    for _ in 1..SIZE {
        queue.publish(index);
    }
    driver.kick(0);
    assert_eq!(driver.queue(0).used_idx(), SIZE);
    assert_eq!(driver.take_interrupts(), u64::from(SIZE / BATCH));
}

#[test]
fn v1_2_2_7_5_3_1_an_indirect_table_that_was_not_negotiated_needs_a_reset() {
    let (mut driver, _) = writable();
    let queue = driver.queue(0);
    let head = queue.allocate(&header(VIRTIO_BLK_T_FLUSH, 0));
    let status = queue.allocate(&[NONE]);
    queue.add_indirect(&[head], &[status]);
    driver.kick(0);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS) & 64, 64);
    assert_eq!(driver.queue(0).take_used(), None);
}

#[test]
fn v1_2_2_7_13_more_chains_out_than_the_queue_has_need_a_reset() {
    for engine in WAITING {
        let Some(Held { mut driver, gate, .. }) = held(engine) else { continue };
        let queue = driver.queue(0);
        let head = queue.allocate(&header(VIRTIO_BLK_T_OUT, 0));
        let data = queue.allocate(&[1; 512]);
        let status = queue.allocate(&[NONE]);
        let index = queue.add(&[head, data], &[status]);
        for _ in 1..SIZE {
            driver.queue(0).publish(index);
        }
        driver.kick(0);
        assert_eq!(driver.device().lock().unwrap().under_way(), usize::from(SIZE), "{engine:?}");
        assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15);
        // The device waits for them before it gives up, and they end when nobody keeps the gate.
        driver.queue(0).publish(index);
        let opening = std::thread::spawn(move || drop(gate));
        driver.kick(0);
        opening.join().unwrap();
        let needs_reset = driver.read(VIRTIO_MMIO_STATUS) & 64 != 0;
        let answered = driver.queue(0).used_idx() > 0;
        assert!(needs_reset || answered, "{engine:?}: nothing became of it");
        driver.reset();
        assert_eq!(driver.device().lock().unwrap().under_way(), 0);
    }
}

#[test]
fn every_queue_is_served() {
    for how in WAYS {
        let disk = CompositeDisk::from_file(file_of(&pattern(4096)), 4096, true).unwrap();
        let Some(mut driver) = start_as(how, disk, 3, 1 << VIRTIO_BLK_F_MQ) else { continue };
        assert_eq!(config(&driver, 34, 2), 3);
        for index in [2, 0, 1] {
            let queue = driver.queue(index);
            let head = queue.allocate(&header(VIRTIO_BLK_T_IN, index as u64));
            let tail = queue.allocate(&[NONE; 513]);
            queue.add(&[head], &[tail]);
            driver.kick(index);
            settle(&mut driver);
            assert_eq!(driver.queue(index).take_used(), Some((0, 513)));
            let data = driver.queue(index).content(tail);
            assert_eq!(data[..512], pattern(4096)[512 * index..][..512], "{how:?}");
        }
    }
}

#[test]
fn a_driver_need_not_enable_all_queues() {
    let disk = CompositeDisk::from_file(file_of(&pattern(4096)), 4096, true).unwrap();
    let spec = BlockSpec { id: String::new(), read_only: true, queues: 2, engine: EngineChoice::Sync };
    let mut driver = Driver::new(&guest_memory(), Block::with(disk, &spec).unwrap());
    driver.negotiate(1 << VIRTIO_BLK_F_MQ);
    driver.set_up_queue(0);
    driver.write(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15);
    driver.kick(1);
    assert_eq!(read(&mut driver, 0, 512).0.status, OK);
}

#[test]
fn many_requests_end_with_few_interrupts_and_none_twice() {
    for how in WAYS {
        let disk = CompositeDisk::from_file(file_of(&pattern(4096)), 4096, true).unwrap();
        let Some(mut driver) = start_as(how, disk, 1, EVENT_IDX) else { continue };
        let queue = driver.queue(0);
        let head = queue.allocate(&header(VIRTIO_BLK_T_IN, 1));
        let tails: Vec<Buffer> = (0..64).map(|_| queue.allocate(&[NONE; 513])).collect();
        let heads: Vec<u32> = tails.iter().map(|tail| u32::from(queue.add(&[head], &[*tail]))).collect();
        driver.kick(0);
        settle(&mut driver);
        let mut used: Vec<(u32, u32)> = std::iter::from_fn(|| driver.queue(0).take_used()).collect();
        used.sort_unstable();
        assert_eq!(used, heads.iter().map(|&head| (head, 513)).collect::<Vec<_>>(), "{how:?}");
        assert_eq!(driver.take_interrupts(), 1, "{how:?}: the driver asked for the first only");
    }
}
