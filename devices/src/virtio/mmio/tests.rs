//! The registers against a driver that follows the spec, and against one that does not.

use super::registers::TRANSPORT_FEATURES;
use super::*;
use crate::irq::{STATUS_CONFIG_CHANGE, STATUS_USED_BUFFER};
use crate::virtio::testing::{Driver, DriverQueue, EVENT_IDX, guest_memory};
use event_manager::{EventOps, Events, MutEventSubscriber};
use proptest::prelude::*;
use virtio_bindings::virtio_mmio::*;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

/// A device that remembers what was done to it: two queues, the second of which it can do without.
struct Probe {
    kicks: [EventFd; 2],
    active: Option<Activation>,
    resets: usize,
    config: [u8; 8],
}

const PROBE_FEATURE: u64 = 1 << 3;

impl Probe {
    fn new() -> Self {
        let kick = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self { kicks: [kick(), kick()], active: None, resets: 0, config: *b"12345678" }
    }
}

impl VirtioDevice for Probe {
    fn device_id(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        PROBE_FEATURE
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &[256, 16]
    }
    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::virtio::blk::copy_config(&self.config, offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        if let Some(part) = self.config.get_mut(offset..offset + data.len()) {
            part.copy_from_slice(data);
        }
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues[0].is_none() {
            return Err(ActivateError::QueueMissing(0));
        }
        self.active = Some(activation);
        Ok(())
    }
    fn reset(&mut self) {
        self.active = None;
        self.resets += 1;
    }
}

impl MutEventSubscriber for Probe {
    fn init(&mut self, _ops: &mut EventOps<'_>) {}
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {}
}

fn driver() -> Driver<Probe> {
    Driver::new(&guest_memory(), Probe::new())
}

fn status(driver: &Driver<Probe>) -> u32 {
    driver.read(VIRTIO_MMIO_STATUS)
}

fn is_active(driver: &Driver<Probe>) -> bool {
    driver.device().lock().unwrap().active.is_some()
}

/// As [`Driver::negotiate`], but without the expectation that the device agrees.
fn offer(driver: &Driver<Probe>, words: &[(u32, u32)]) -> u32 {
    driver.reset();
    driver.write(VIRTIO_MMIO_STATUS, 1);
    driver.write(VIRTIO_MMIO_STATUS, 3);
    for &(select, word) in words {
        driver.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
        driver.write(VIRTIO_MMIO_DRIVER_FEATURES, word);
    }
    driver.write(VIRTIO_MMIO_STATUS, 11);
    status(driver)
}

#[test]
fn v1_2_4_2_2_the_device_says_what_it_is() {
    let driver = driver();
    assert_eq!(driver.read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(driver.read(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_ID), 42);
    assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 0);
    let features = [0, 1, 2, u32::MAX].map(|select| {
        driver.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
        driver.read(VIRTIO_MMIO_DEVICE_FEATURES)
    });
    assert_eq!(features, [1 << 3 | 1 << 28 | 1 << 29, 1, 0, 0]);
    for select in [0, 7] {
        driver.write(VIRTIO_MMIO_SHM_SEL, select);
        assert_eq!(driver.read(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX, "there is no shared memory");
        assert_eq!(driver.read(VIRTIO_MMIO_SHM_LEN_HIGH), u32::MAX);
    }
}

#[test]
fn v1_2_4_2_2_a_queue_that_is_not_there_has_no_size() {
    let driver = driver();
    for (select, max) in [(0, 256), (1, 16), (2, 0), (u32::MAX, 0)] {
        driver.write(VIRTIO_MMIO_QUEUE_SEL, select);
        assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX), max);
        driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
    }
}

#[test]
fn v1_2_3_1_1_a_driver_that_follows_the_steps_gets_its_queues() {
    let mut driver = driver();
    driver.start(PROBE_FEATURE | EVENT_IDX);
    assert_eq!(status(&driver), 15);
    let device = Arc::clone(driver.device());
    let device = device.lock().unwrap();
    let active = device.active.as_ref().unwrap();
    assert_eq!(active.features, PROBE_FEATURE | EVENT_IDX | 1 << 32);
    assert!(active.queues.iter().all(Option::is_some));
    assert_eq!(active.queues.len(), 2);
}

#[test]
fn v1_2_3_1_1_a_queue_that_was_not_enabled_is_not_there() {
    let mut driver = driver();
    driver.negotiate(0);
    driver.set_up_queue(0);
    driver.write(VIRTIO_MMIO_STATUS, 15);
    let device = driver.device().lock().unwrap();
    let enabled: Vec<bool> = device.active.as_ref().unwrap().queues.iter().map(Option::is_some).collect();
    assert_eq!(enabled, [true, false]);
}

#[test]
fn v1_2_2_1_2_a_device_that_cannot_start_needs_a_reset() {
    let mut driver = driver();
    driver.negotiate(0);
    driver.set_up_queue(1);
    driver.write(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(status(&driver), 15 | 64);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), STATUS_CONFIG_CHANGE);
    assert_eq!(driver.take_interrupts(), 1);
    assert!(!is_active(&driver));
    // A driver that adds a bit to what it read must not be able to clear the device's.
    driver.write(VIRTIO_MMIO_STATUS, 15 | 64 | 128);
    assert_eq!(status(&driver), 15 | 64 | 128);
    driver.reset();
    assert_eq!(status(&driver), 0);
    driver.start(0);
    assert_eq!(status(&driver), 15);
    assert!(is_active(&driver));
}

#[test]
fn v1_2_2_2_features_that_were_not_offered_are_not_accepted() {
    let driver = driver();
    assert_eq!(offer(&driver, &[(0, 1 << 3), (1, 1)]), 11);
    assert_eq!(offer(&driver, &[(0, 1 << 3)]), 3, "VERSION_1 is required (6.1)");
    assert_eq!(offer(&driver, &[(0, 1 << 4), (1, 1)]), 3);
    assert_eq!(offer(&driver, &[(1, 1 | 1 << 2)]), 3, "a packed ring was not offered");
    assert_eq!(offer(&driver, &[(1, 1), (2, 1)]), 3, "there are 64 bits");
    assert_eq!(offer(&driver, &[(1, 1), (2, 0)]), 11);
    driver.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    driver.write(VIRTIO_MMIO_DRIVER_FEATURES, 1 << 4);
    driver.write(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(status(&driver), 15 | 64, "no queue");
    assert_eq!(lock(&driver.transport().registers).features(), 1 << 32, "features are fixed by then");
}

#[test]
fn v1_2_3_1_1_status_bits_are_accepted_in_their_turn_only() {
    let driver = driver();
    driver.reset();
    driver.write(VIRTIO_MMIO_STATUS, 8);
    assert_eq!(status(&driver), 0, "FEATURES_OK before DRIVER");
    driver.write(VIRTIO_MMIO_STATUS, 3 | 4);
    assert_eq!(status(&driver), 3, "DRIVER_OK before FEATURES_OK");
    assert!(!is_active(&driver));
    driver.write(VIRTIO_MMIO_STATUS, 3 | 16 | 32 | 64 | 0x100);
    assert_eq!(status(&driver), 3, "bits that a driver does not have");
    driver.write(VIRTIO_MMIO_STATUS, 1);
    assert_eq!(status(&driver), 3, "a bit cannot be cleared (2.1.1)");
    driver.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    driver.write(VIRTIO_MMIO_STATUS, 8 | 2);
    assert_eq!(status(&driver), 3, "nor left out while another is added");
    driver.write(VIRTIO_MMIO_STATUS, 128 | 3);
    assert_eq!(status(&driver), 131);
}

#[test]
fn v1_2_4_2_2_2_a_queue_is_ready_only_when_it_can_be_used() {
    let with = |changes: &[(u32, u32)]| {
        let mut driver = driver();
        driver.negotiate(0);
        driver.set_up_queue(0);
        driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
        assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
        for &(register, value) in changes {
            driver.write(register, value);
        }
        driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        driver.read(VIRTIO_MMIO_QUEUE_READY)
    };
    assert_eq!(with(&[]), 1);
    for size in [1, 2, 128, 256] {
        assert_eq!(with(&[(VIRTIO_MMIO_QUEUE_NUM, size)]), 1, "{size}");
    }
    for size in [0, 3, 255, 257, 512, 0x1_0000, 0x1_0100, u32::MAX] {
        assert_eq!(with(&[(VIRTIO_MMIO_QUEUE_NUM, size)]), 0, "{size}");
    }
    let areas = [
        (VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH, 16),
        (VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 2),
        (VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_QUEUE_USED_HIGH, 4),
    ];
    for (low, high, align) in areas {
        assert_eq!(with(&[(low, align)]), 1);
        assert_eq!(with(&[(low, align / 2)]), 0, "unaligned");
        assert_eq!(with(&[(low, 4 << 20)]), 0, "in the hole");
        assert_eq!(with(&[(low, (4 << 20) - align)]), 0, "reaching into the hole");
        assert_eq!(with(&[(low, 16 << 20)]), 1);
        assert_eq!(with(&[(high, 1)]), 0, "past the end");
        assert_eq!(with(&[(high, u32::MAX), (low, u32::MAX - align + 1)]), 0, "wrapping around");
    }
}

#[test]
fn v1_2_3_1_1_queues_are_set_up_between_features_ok_and_driver_ok() {
    let mut driver = driver();
    let queue = DriverQueue::new(&guest_memory(), 0x20_0000, 16);
    let move_queue = |driver: &Driver<Probe>| {
        driver.write(VIRTIO_MMIO_QUEUE_SEL, 1);
        driver.write(VIRTIO_MMIO_QUEUE_NUM, 8);
        driver.write(VIRTIO_MMIO_QUEUE_DESC_LOW, u32::try_from(queue.descriptor_area()).unwrap());
        driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        let memory = guest_memory();
        let registers = lock(&driver.transport().registers);
        use virtio_queue::QueueT;
        registers.queues(&memory).nth(1).unwrap().map(|q| (q.size(), q.desc_table()))
    };
    driver.reset();
    driver.write(VIRTIO_MMIO_STATUS, 3);
    assert_eq!(move_queue(&driver), None, "too early");
    driver.start(0);
    let before = (16, driver.queue(1).descriptor_area());
    assert_eq!(move_queue(&driver), Some(before), "too late");
    driver.negotiate(0);
    driver.set_up_queue(0);
    driver.write(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(move_queue(&driver), None, "too late for a queue that was not enabled");
    driver.negotiate(0);
    driver.set_up_queue(1);
    assert_eq!(move_queue(&driver), Some(before), "a queue that is ready stays where it is");
    driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(move_queue(&driver), Some((8, queue.descriptor_area())));
}

#[test]
fn v1_2_4_2_2_a_queue_taken_away_in_use_stops_the_device() {
    let mut driver = driver();
    driver.start(0);
    driver.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    driver.write(VIRTIO_MMIO_QUEUE_READY, 2);
    assert!(is_active(&driver), "only 0 and 1 mean something");
    driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
    assert!(!is_active(&driver));
    assert_eq!(status(&driver), 15 | 64);
}

#[test]
fn v1_2_2_1_a_reset_at_any_time_starts_over() {
    type Step<'a> = &'a dyn Fn(&mut Driver<Probe>);
    let steps: [Step<'_>; 5] = [
        &|_| {},
        &|d| d.write(VIRTIO_MMIO_STATUS, 1),
        &|d| d.negotiate(PROBE_FEATURE),
        &|d| {
            d.negotiate(PROBE_FEATURE);
            d.set_up_queue(0);
        },
        &|d| {
            d.start(PROBE_FEATURE);
            d.transport().interrupt().used_buffer();
            d.transport().interrupt().needs_reset();
        },
    ];
    for step in steps {
        let mut driver = driver();
        step(&mut driver);
        driver.reset();
        assert_eq!(status(&driver), 0);
        assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
        assert!(!is_active(&driver));
        assert_eq!(lock(&driver.transport().registers).features(), 0);
        for select in 0..2 {
            driver.write(VIRTIO_MMIO_QUEUE_SEL, select);
            assert_eq!(driver.read(VIRTIO_MMIO_QUEUE_READY), 0);
        }
        driver.start(0);
        assert!(is_active(&driver));
    }
    let mut driver = driver();
    driver.start(0);
    driver.transport().reset();
    assert!(!is_active(&driver));
    assert_eq!(status(&driver), 0);
}

#[test]
fn v1_2_4_2_2_interrupts_are_shown_and_acknowledged_without_the_registers_lock() {
    let driver = driver();
    let _held = lock(&driver.transport().registers);
    driver.transport().interrupt().used_buffer();
    driver.transport().interrupt().config_change();
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), STATUS_USED_BUFFER | STATUS_CONFIG_CHANGE);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, STATUS_USED_BUFFER);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), STATUS_CONFIG_CHANGE);
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, STATUS_CONFIG_CHANGE);
    assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    assert_eq!(driver.transport().kicks()[1].read().unwrap(), 1);
}

#[test]
fn v1_2_2_5_3_the_generation_counts_configuration_changes() {
    let driver = driver();
    let before = driver.read(VIRTIO_MMIO_CONFIG_GENERATION);
    driver.transport().interrupt().used_buffer();
    assert_eq!(driver.read(VIRTIO_MMIO_CONFIG_GENERATION), before);
    driver.transport().interrupt().config_change();
    assert_ne!(driver.read(VIRTIO_MMIO_CONFIG_GENERATION), before);
}

#[test]
fn a_notification_by_register_kicks_the_queue_it_names() {
    let driver = driver();
    for (value, expected) in [(0, [true, false]), (1, [false, true]), (2, [false; 2]), (u32::MAX, [false; 2])]
    {
        driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, value);
        let device = driver.device().lock().unwrap();
        assert_eq!([0, 1].map(|i: usize| device.kicks[i].read().is_ok()), expected, "{value}");
    }
}

#[test]
fn v1_2_4_2_2_2_registers_are_32_bits_wide_and_configuration_is_not() {
    let driver = driver();
    let transport = driver.transport();
    for width in [1, 2, 8] {
        let mut data = vec![0xaa; width];
        transport.read(0, &mut data);
        assert_eq!(data, vec![0; width]);
        driver.write(VIRTIO_MMIO_STATUS, 1);
        transport.write(u64::from(VIRTIO_MMIO_STATUS), &vec![0; width]);
        assert_eq!(status(&driver), 1, "a write of {width} bytes is no write");
        let mut data = vec![0xaa; width];
        transport.read(0x102, &mut data);
        assert_eq!(data, b"345678\0\0"[..width]);
        let mut data = vec![0xaa; width];
        transport.read(0x1f8, &mut data);
        assert_eq!(data, vec![0; width], "past the configuration");
    }
    let mut data = [0xaa; 4];
    transport.read(2, &mut data);
    assert_eq!(data, [0; 4], "unaligned");
    transport.write(0x101, b"x");
    let mut data = [0; 4];
    transport.read(0x100, &mut data);
    assert_eq!(&data, b"1x34");
}

proptest! {
    /// A driver that writes anything anywhere: no panic, and what the device is given was checked.
    #[test]
    fn v1_2_4_2_2_any_writes_leave_the_device_with_checked_queues(
        writes in prop::collection::vec((0u32..0x48, prop_oneof![0u32..17, any::<u32>()]), 0..200),
    ) {
        let driver = driver();
        driver.negotiate(0);
        for (register, value) in writes {
            driver.write(register * 4, value);
            driver.read(register * 4);
            let registers = lock(&driver.transport().registers);
            let memory = guest_memory();
            for queue in registers.queues(&memory).flatten() {
                prop_assert!(Virtqueue::check(&queue, &memory).is_ok());
            }
            let fine = registers.features() & !(TRANSPORT_FEATURES | PROBE_FEATURE) == 0;
            prop_assert!(fine || registers.status(false) & 8 == 0);
        }
    }
}

fn shown() -> (Arc<vm_memory::MmapRegion>, Arc<MmioTransport>) {
    let region = Arc::new(vm_memory::MmapRegion::new(0x1000).unwrap());
    let page = RegisterPage::new(Arc::clone(&region), 0x200).unwrap();
    let device: Arc<Mutex<dyn VirtioDevice>> = Arc::new(Mutex::new(Probe::new()));
    (
        region,
        MmioTransport::placed(Placement { page: Some(page), ..Placement::default() }, guest_memory(), device)
            .unwrap(),
    )
}

fn in_page(region: &vm_memory::MmapRegion, offset: u32) -> u32 {
    use vm_memory::VolatileMemory;
    u32::from_le(region.get_ref(0x200 + offset as usize).unwrap().load())
}

#[test]
fn a_page_of_registers_lies_in_its_region() {
    let region = Arc::new(vm_memory::MmapRegion::new(0x1000).unwrap());
    for (offset, fits) in
        [(0, true), (0xe00, true), (0xe04, false), (0x1000, false), (0x100, false), (usize::MAX, false)]
    {
        assert_eq!(RegisterPage::new(Arc::clone(&region), offset).is_some(), fits, "{offset:#x}");
    }
}

#[test]
fn v1_2_4_2_2_interrupts_are_shown_in_the_page_before_the_line_rises() {
    let (region, transport) = shown();
    let status = |offset| in_page(&region, offset);
    transport.interrupt().used_buffer();
    assert_eq!(status(VIRTIO_MMIO_INTERRUPT_STATUS), STATUS_USED_BUFFER);
    transport.interrupt().config_change();
    assert_eq!(status(VIRTIO_MMIO_INTERRUPT_STATUS), STATUS_USED_BUFFER | STATUS_CONFIG_CHANGE);
    assert_eq!(status(VIRTIO_MMIO_CONFIG_GENERATION), 1);
    transport.write(INTERRUPT_ACK, &1_u32.to_le_bytes());
    assert_eq!(status(VIRTIO_MMIO_INTERRUPT_STATUS), STATUS_CONFIG_CHANGE);
    transport.interrupt().needs_reset();
    assert_eq!(status(VIRTIO_MMIO_STATUS), 64);
    transport.write(u64::from(VIRTIO_MMIO_STATUS), &1_u32.to_le_bytes());
    assert_eq!(status(VIRTIO_MMIO_STATUS), 64 | 1, "a need outlives the driver's writes");
    transport.reset();
    assert_eq!([VIRTIO_MMIO_STATUS, VIRTIO_MMIO_INTERRUPT_STATUS].map(status), [0, 0]);
}

proptest! {
    /// What the guest reads from its page is what an exit would give it, whatever was written before.
    #[test]
    fn v1_2_4_2_2_the_page_shows_what_the_registers_are(
        writes in prop::collection::vec((0u32..0x48, prop_oneof![0u32..17, any::<u32>()]), 0..100),
    ) {
        let (region, transport) = shown();
        let steps = [(0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)];
        let steps = steps.into_iter().chain(writes.into_iter().map(|(register, value)| (register * 4, value)));
        for (offset, value) in steps {
            transport.write(u64::from(offset), &value.to_le_bytes());
            for offset in (0..0x200).step_by(4) {
                let mut data = [0; 4];
                transport.read(u64::from(offset), &mut data);
                prop_assert_eq!(u32::from_le_bytes(data), in_page(&region, offset), "register {:#x}", offset);
            }
        }
    }
}

#[test]
fn v1_2_6_2_a_driver_must_accept_that_it_is_not_given_all_memory() {
    let bring_up = |access_platform, accepted: u32| {
        let device: Arc<Mutex<dyn VirtioDevice>> = Arc::new(Mutex::new(Probe::new()));
        let placement = Placement { page: None, access_platform };
        let transport = MmioTransport::placed(placement, guest_memory(), device).unwrap();
        let write = |offset: u32, value: u32| transport.write(u64::from(offset), &value.to_le_bytes());
        for (offset, value) in [(0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1 | accepted), (0x70, 11)] {
            write(offset, value);
        }
        let mut status = [0; 4];
        transport.read(u64::from(VIRTIO_MMIO_STATUS), &mut status);
        u32::from_le_bytes(status)
    };
    let bit = 1 << (33 - 32);
    assert_eq!(bring_up(true, bit), 11);
    assert_eq!(bring_up(true, 0), 3);
    assert_eq!(bring_up(false, bit), 3, "not offered");
    assert_eq!(bring_up(false, 0), 11);
}
