//! The walker against chains that a driver may write, and against those that it may not.

use super::*;
use crate::virtio::testing::{DriverQueue, INDIRECT, NEXT, RawDescriptor, WRITE, guest_memory};
use proptest::prelude::*;

const BASE: u64 = 0x10000;

struct Setup {
    driver: DriverQueue,
    device: Virtqueue,
    interrupt: Arc<Interrupt>,
}

fn setup_at(size: u16, start: u16, event_idx: bool) -> Setup {
    let memory = guest_memory();
    let mut driver = DriverQueue::new(&memory, BASE, size);
    driver.start_at(start);
    let interrupt = Arc::new(Interrupt::new().unwrap());
    let device = driver.virtqueue(&interrupt, event_idx);
    Setup { driver, device, interrupt }
}

fn setup() -> Setup {
    setup_at(16, 0, false)
}

fn descriptor(flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor { addr: BASE + 0x80000, len: 16, flags, next }
}

fn interrupts(setup: &Setup) -> u64 {
    setup.interrupt.line().read().unwrap_or(0)
}

/// Serves all chains, writing 7 as the used length.
fn drain(device: &mut Virtqueue, limit: u16) -> (Vec<u16>, bool) {
    let mut heads = vec![];
    let serve = |_: &GuestMemoryMmap, chain: &Chain| -> Result<u32, QueueError> {
        heads.push(chain.head());
        Ok(7)
    };
    let more = device.drain(limit, serve).unwrap();
    (heads, more)
}

fn buffers(driver: &mut DriverQueue, lens: &[u8]) -> Vec<Buffer> {
    lens.iter().map(|&len| driver.allocate(&vec![len; usize::from(len)])).collect()
}

proptest! {
    #[test]
    fn v1_2_7_4_2_a_chain_is_its_buffers_in_order(
        readable in prop::collection::vec(1u8..60, 0..8), writable in prop::collection::vec(1u8..60, 0..8),
        indirect: bool, start: u16,
    ) {
        prop_assume!(readable.len() + writable.len() > 0);
        let Setup { mut driver, mut device, .. } = setup_at(16, start, false);
        let (readable, writable) = (buffers(&mut driver, &readable), buffers(&mut driver, &writable));
        let head = if indirect {
            driver.add_indirect(&readable, &writable)
        } else {
            driver.add(&readable, &writable)
        };
        let chain = device.pop().unwrap().unwrap();
        prop_assert_eq!(chain.head(), head);
        prop_assert_eq!(chain.readable(), readable);
        prop_assert_eq!(chain.writable(), writable);
        prop_assert!(device.pop().unwrap().is_none());
        device.complete(&chain, 5).unwrap();
        prop_assert_eq!(driver.take_used(), Some((u32::from(head), 5)));
        prop_assert_eq!(driver.take_used(), None);
    }

    #[test]
    fn v1_2_7_13_indices_wrap_around(start: u16, batches in prop::collection::vec(1usize..16, 1..8)) {
        let Setup { mut driver, mut device, .. } = setup_at(16, start, false);
        let buffer = driver.allocate(&[0; 4]);
        for batch in batches {
            let heads: Vec<u16> = (0..batch).map(|_| driver.add(&[], &[buffer])).collect();
            let (served, more) = drain(&mut device, u16::MAX);
            prop_assert!(!more);
            prop_assert_eq!(&served, &heads);
            for head in heads {
                prop_assert_eq!(driver.take_used(), Some((u32::from(head), 7)));
            }
        }
    }

    /// Whatever a table holds: the walk ends, without a panic, and what it gives is within bounds.
    #[test]
    fn v1_2_7_5_any_table_ends_in_a_checked_chain_or_an_error(
        table in prop::collection::vec((0u64..0x200_0000, 0u32..0x2000, 0u16..8, 0u16..20), 16),
        head in 0u16..20, aligned: bool,
    ) {
        let Setup { mut driver, mut device, .. } = setup();
        for (index, &(addr, len, flags, next)) in (0u16..).zip(&table) {
            // Mostly addresses that exist and, for indirect tables, whole descriptors.
            let (addr, len) = if aligned { (BASE + addr % 0x100, len & !15) } else { (addr, len) };
            driver.set_descriptor(index, RawDescriptor { addr, len, flags, next });
        }
        driver.publish(head);
        if let Ok(chain) = device.pop() {
            let chain = chain.unwrap();
            prop_assert!(chain.count() <= 16 && chain.count() > 0);
            for buffer in chain.readable().iter().chain(chain.writable()) {
                let mem = device.memory();
                let len = buffer.len as usize;
                prop_assert!(len > 0);
                prop_assert!(vm_memory::GuestMemoryBackend::check_range(mem, buffer.addr, len));
            }
        }
    }

    /// A chain of one buffer is what any chain of one buffer to write is, and nothing else is.
    #[test]
    fn v1_2_7_4_a_chain_of_one_buffer_is_the_same_taken_either_way(
        table in prop::collection::vec((0u64..0x200_0000, 0u32..0x2000, 0u16..8, 0u16..20), 16),
        head in 0u16..20, plain: bool, bytes in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let Setup { mut driver, mut device, .. } = setup();
        for (index, &(addr, len, flags, next)) in (0u16..).zip(&table) {
            let (addr, flags) = if plain { (BASE + 0x8_0000 + addr % 0x100, WRITE) } else { (addr, flags) };
            driver.set_descriptor(index, RawDescriptor { addr, len, flags, next });
        }
        driver.publish(head);
        let is_indirect = |head: u16| !plain && table[usize::from(head)].2 & INDIRECT != 0;
        let memory = device.memory().clone();
        let mut batch = device.batch().unwrap();
        let mut chain = Chain::default();
        let written = batch.pop_one_buffer().unwrap().map(|one| {
            (one.head(), one.writable_len(), one.write_at(0, &bytes))
        });
        if written.is_some() {
            prop_assert!(!batch.pop(&mut chain).unwrap(), "it was taken");
            batch.unpop();
        }
        match batch.pop(&mut chain) {
            Ok(true) => prop_assert_eq!(
                written.map(|(head, len, _)| (head, u64::from(len))),
                (chain.count() == 1 && chain.readable_len() == 0 && !is_indirect(head))
                    .then(|| (chain.head(), chain.writable_len())),
            ),
            other => prop_assert!(other.is_err() && written.is_none()),
        }
        if let Some((_, _, count)) = written {
            let mut there = vec![0; bytes.len()];
            let place = chain.writable()[0];
            prop_assert_eq!(count, bytes.len().min(place.len as usize));
            vm_memory::Bytes::read_slice(&memory, &mut there[..count], place.addr).unwrap();
            prop_assert_eq!(&there[..count], &bytes[..count]);
        }
    }

    /// 2.7.7.2: with EVENT_IDX the driver is interrupted exactly when the used index passes its mark.
    #[test]
    fn v1_2_7_7_2_an_interrupt_when_the_event_index_is_passed(
        start: u16, batches in prop::collection::vec((1u16..16, -3i16..20), 1..8),
    ) {
        let mut setup = setup_at(16, start, true);
        let buffer = setup.driver.allocate(&[0; 4]);
        let mut used = start;
        for (batch, ahead) in batches {
            // A mark behind the used index was passed before.
            let event = used.wrapping_add_signed(ahead);
            setup.driver.set_used_event(event);
            for _ in 0..batch {
                setup.driver.add(&[], &[buffer]);
            }
            drain(&mut setup.device, u16::MAX);
            used = used.wrapping_add(batch);
            prop_assert_eq!(interrupts(&setup), u64::from(u16::try_from(ahead).is_ok_and(|ahead| ahead < batch)));
            prop_assert_eq!(setup.driver.avail_event(), used);
        }
    }
}

#[test]
fn v1_2_7_5_a_loop_is_an_error() {
    let Setup { mut driver, mut device, .. } = setup();
    for index in 0..4 {
        driver.set_descriptor(index, descriptor(NEXT, (index + 1) % 4));
    }
    driver.publish(0);
    assert!(matches!(device.pop(), Err(QueueError::BrokenChain { head: 0 })));
}

#[test]
fn v1_2_7_5_an_index_past_the_table_is_an_error() {
    for (head, next) in [(16, 0), (0, 16), (u16::MAX, 0), (0, u16::MAX)] {
        let Setup { mut driver, mut device, .. } = setup();
        driver.set_descriptor(0, descriptor(NEXT, next));
        driver.publish(head);
        assert!(matches!(device.pop(), Err(QueueError::BrokenChain { .. })), "{head} {next}");
    }
}

#[test]
fn v1_2_7_4_2_a_readable_buffer_after_a_writable_one_is_an_error() {
    let Setup { mut driver, mut device, .. } = setup();
    driver.set_descriptor(0, descriptor(WRITE | NEXT, 1));
    driver.set_descriptor(1, descriptor(0, 0));
    driver.publish(0);
    assert!(matches!(device.pop(), Err(QueueError::Order { head: 0 })));
}

#[test]
fn v1_2_7_5_buffers_are_guest_memory() {
    let hole = 4 << 20;
    for (addr, len) in
        [(BASE, 0), (hole, 1), (hole - 1, 2), (u64::MAX, 1), (u64::MAX - 15, 16), (0, u32::MAX)]
    {
        for flags in [0, WRITE] {
            let Setup { mut driver, mut device, .. } = setup();
            driver.set_descriptor(0, RawDescriptor { addr, len, flags, next: 0 });
            driver.publish(0);
            assert!(matches!(device.pop(), Err(QueueError::Buffer { .. })), "{addr:#x}+{len:#x}");
        }
    }
}

#[test]
fn a_buffer_may_span_regions_that_meet() {
    use vm_memory::GuestAddress;
    let regions = [(GuestAddress(0), 2 << 20), (GuestAddress(2 << 20), 4096), (GuestAddress(3 << 20), 4096)];
    let memory = GuestMemoryMmap::from_ranges(&regions).unwrap();
    for (addr, len, fine) in
        [((2 << 20) - 8, 16, true), ((2 << 20) - 8, 8 + 4097, false), ((2 << 20) + 4095, 2, false)]
    {
        let mut driver = DriverQueue::new(&memory, BASE, 16);
        let mut device = driver.virtqueue(&Arc::new(Interrupt::new().unwrap()), false);
        driver.set_descriptor(0, RawDescriptor { addr, len, flags: WRITE, next: 0 });
        driver.publish(0);
        assert_eq!(device.pop().is_ok(), fine, "{addr:#x}+{len:#x}");
    }
}

#[test]
fn v1_2_7_5_3_1_indirect_tables_are_whole_single_and_last() {
    let table = BASE + 0x40000;
    let indirect = |len, flags| RawDescriptor { addr: table, len, flags: INDIRECT | flags, next: 1 };
    for bad in [indirect(0, 0), indirect(15, 0), indirect(24, 0), indirect(32, NEXT)] {
        let Setup { mut driver, mut device, .. } = setup();
        driver.set_descriptor_at(table, descriptor(0, 0));
        driver.set_descriptor(0, bad);
        driver.set_descriptor(1, descriptor(0, 0));
        driver.publish(0);
        assert!(matches!(device.pop(), Err(QueueError::Indirect { head: 0 })), "{bad:?}");
    }
    let Setup { mut driver, mut device, .. } = setup();
    driver.set_descriptor_at(table, indirect(16, 0));
    driver.set_descriptor(0, indirect(16, 0));
    driver.publish(0);
    assert!(matches!(device.pop(), Err(QueueError::Indirect { head: 0 })), "nested");

    let Setup { mut driver, mut device, .. } = setup();
    driver.set_descriptor(0, RawDescriptor { addr: (4 << 20) - 16, len: 32, flags: INDIRECT, next: 0 });
    driver.publish(0);
    assert!(matches!(device.pop(), Err(QueueError::Buffer { .. })), "a table that leaves memory");
}

#[test]
fn v1_2_7_5_3_2_buffers_may_precede_an_indirect_table() {
    let Setup { mut driver, mut device, .. } = setup();
    let table = BASE + 0x40000;
    driver.set_descriptor(0, descriptor(NEXT, 1));
    // The write flag of a table's own descriptor means nothing.
    driver.set_descriptor(1, RawDescriptor { addr: table, len: 32, flags: INDIRECT | WRITE, next: 0 });
    driver.set_descriptor_at(table, descriptor(NEXT, 1));
    driver.set_descriptor_at(table + 16, descriptor(WRITE, 0));
    driver.publish(0);
    let chain = device.pop().unwrap().unwrap();
    assert_eq!((chain.readable().len(), chain.writable().len()), (2, 1));
}

#[test]
fn v1_2_7_5_3_1_a_chain_is_no_longer_than_the_device_allows() {
    for (max_size, entries, fine) in [(16, 16, true), (16, 17, false), (32, 32, true), (32, 33, false)] {
        let Setup { driver, interrupt, .. } = setup();
        let mut driver = driver.with_max_size(max_size);
        let mut device = driver.virtqueue(&interrupt, false);
        let buffer = driver.allocate(&[0; 4]);
        driver.add_indirect(&vec![buffer; entries], &[]);
        assert_eq!(device.pop().is_ok(), fine, "{entries} of {max_size}");
    }
}

#[test]
fn v1_2_7_13_3_an_available_index_that_jumps_is_an_error() {
    for (start, jump, fine) in
        [(0, 16, true), (0, 17, false), (65530, 16, true), (65530, 17, false), (5, 65535, false)]
    {
        let Setup { driver, mut device, .. } = setup_at(16, start, false);
        driver.set_descriptor(0, descriptor(WRITE, 0));
        driver.set_avail_idx(start.wrapping_add(jump));
        assert_eq!(device.pop().is_ok(), fine, "{start} + {jump}");
        let Setup { driver, mut device, .. } = setup_at(16, start, true);
        driver.set_avail_idx(start.wrapping_add(jump));
        assert_eq!(device.enable_kicks().is_ok(), fine, "{start} + {jump}");
    }
}

#[test]
fn a_chain_that_was_taken_back_comes_again() {
    let Setup { mut driver, mut device, .. } = setup();
    let buffer = driver.allocate(&[0; 4]);
    let heads = [driver.add(&[buffer], &[]), driver.add(&[], &[buffer])];
    let mut batch = device.batch().unwrap();
    let mut chain = Chain::default();
    for taken in [1, 2] {
        for head in &heads[..taken] {
            assert!(batch.pop(&mut chain).unwrap());
            assert_eq!(chain.head(), *head);
        }
        for _ in 0..taken {
            batch.unpop();
        }
    }
    for head in heads {
        assert_eq!(device.pop().unwrap().unwrap().head(), head);
    }
    assert!(device.pop().unwrap().is_none());
}

#[test]
fn v1_2_7_7_without_event_idx_the_flag_suppresses_interrupts() {
    let mut setup = setup();
    let buffer = setup.driver.allocate(&[0; 4]);
    for (flags, expected) in [(0, 1), (1, 0), (0, 1)] {
        setup.driver.set_avail_flags(flags);
        setup.driver.add(&[], &[buffer]);
        setup.driver.add(&[], &[buffer]);
        drain(&mut setup.device, u16::MAX);
        assert_eq!(interrupts(&setup), expected, "one per batch, unless the flag says none");
    }
    drain(&mut setup.device, u16::MAX);
    assert_eq!(interrupts(&setup), 0, "nothing was used");
}

#[test]
fn v1_2_7_10_kicks_are_off_while_a_queue_is_drained() {
    let Setup { mut driver, mut device, .. } = setup();
    let buffer = driver.allocate(&[0; 4]);
    driver.add(&[], &[buffer]);
    let mut flags = vec![];
    let serve = |_: &GuestMemoryMmap, _: &Chain| -> Result<u32, QueueError> {
        flags.push(driver.used_flags());
        Ok(0)
    };
    assert!(!device.drain(16, serve).unwrap());
    assert_eq!(flags, [1]);
    assert_eq!(driver.used_flags(), 0);
}

#[test]
fn a_chain_that_arrives_during_a_drain_is_served_in_it() {
    let Setup { mut driver, mut device, .. } = setup_at(16, 0, true);
    let buffer = driver.allocate(&[0; 4]);
    driver.add(&[], &[buffer]);
    let mut left = 5;
    let serve = |_: &GuestMemoryMmap, _: &Chain| -> Result<u32, QueueError> {
        if left > 0 {
            left -= 1;
            driver.add(&[], &[buffer]);
        }
        Ok(0)
    };
    assert!(!device.drain(16, serve).unwrap());
    assert_eq!(driver.used_idx(), 6);
}

#[test]
fn v1_2_7_10_kicks_are_asked_for_the_next_chain_to_take() {
    let Setup { mut driver, mut device, .. } = setup_at(16, 0, true);
    let buffer = driver.allocate(&[0; 4]);
    driver.add(&[], &[buffer]);
    driver.add(&[], &[buffer]);
    let chain = device.pop().unwrap().unwrap();
    assert!(device.enable_kicks().unwrap(), "one came before the driver could know that it should kick");
    assert_eq!(driver.avail_event(), 1);
    device.pop().unwrap().unwrap();
    assert!(!device.enable_kicks().unwrap());
    assert_eq!(driver.avail_event(), 2, "whatever was completed");
    device.complete(&chain, 0).unwrap();
}

#[test]
fn a_limit_ends_a_drain_and_the_next_goes_on() {
    let mut setup = setup();
    let buffer = setup.driver.allocate(&[0; 4]);
    let heads: Vec<u16> = (0..8).map(|_| setup.driver.add(&[], &[buffer])).collect();
    assert_eq!(drain(&mut setup.device, 5), (heads[..5].to_vec(), true));
    assert_eq!(interrupts(&setup), 1, "what was served is told before others have their turn");
    assert_eq!(setup.driver.used_flags(), 1, "no kick is needed: the device comes back by itself");
    assert_eq!(drain(&mut setup.device, 5), (heads[5..].to_vec(), false));
}

#[test]
fn an_error_of_the_device_ends_a_drain_before_the_chain_is_completed() {
    let Setup { mut driver, mut device, .. } = setup();
    let buffer = driver.allocate(&[0; 4]);
    driver.add(&[], &[buffer]);
    driver.add(&[], &[buffer]);
    let refuse = |_: &GuestMemoryMmap, chain: &Chain| -> Result<u32, QueueError> {
        Err(QueueError::NoRoom { head: chain.head(), what: "anything" })
    };
    assert!(matches!(device.drain(16, refuse), Err(QueueError::NoRoom { head: 0, .. })));
    assert_eq!(driver.take_used(), None);
}

#[test]
fn v1_2_7_1_parts_of_a_queue_lie_in_guest_memory() {
    let memory = guest_memory();
    let good = DriverQueue::new(&memory, BASE, 16).registers(false);
    assert!(Virtqueue::check(&good, &memory).is_ok());
    let with = |change: &dyn Fn(&mut Queue)| {
        let mut queue = DriverQueue::new(&memory, BASE, 16).registers(false);
        change(&mut queue);
        Virtqueue::check(&queue, &memory).is_ok()
    };
    let hole = vm_memory::GuestAddress(4 << 20);
    let before = |n| vm_memory::GuestAddress(hole.0 - n);
    assert!(!with(&|q| q.set_ready(false)));
    assert!(!with(&|q| q.try_set_desc_table_address(hole).unwrap()));
    assert!(with(&|q| q.try_set_desc_table_address(before(256)).unwrap()));
    assert!(!with(&|q| q.try_set_desc_table_address(before(240)).unwrap()));
    assert!(with(&|q| q.try_set_avail_ring_address(before(38)).unwrap()));
    assert!(!with(&|q| q.try_set_avail_ring_address(before(36)).unwrap()));
    assert!(with(&|q| q.try_set_used_ring_address(before(136)).unwrap()));
    assert!(!with(&|q| q.try_set_used_ring_address(before(132)).unwrap()));
    assert!(!with(&|q| q.try_set_used_ring_address(vm_memory::GuestAddress(u64::MAX - 3)).unwrap()));
}
