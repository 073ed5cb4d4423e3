use vm_memory::Bytes;

use super::*;
use crate::virtio::chain::Buffer;
use crate::virtio::testing::{Driver, guest_memory};

/// Pages that the tests give back: beyond the rings and buffers of the fixture.
const PAGE: u64 = 40;
const PAGE_LEN: usize = 4096;

fn balloon(memory: &GuestMemoryMmap) -> Driver<Balloon> {
    let mut driver = Driver::new(memory, Balloon::new().unwrap());
    driver.start(REPORTING);
    driver
}

/// A memory whose byte at each place tells the page, so that a page given back shows.
fn marked() -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
    let base = 32 << 20;
    for page in 0..64 {
        memory.write_slice(&[0xaa; PAGE_LEN], GuestAddress(base + page * PAGE_SIZE)).unwrap();
    }
    memory
}

fn is_zero(memory: &GuestMemoryMmap, page: u64) -> bool {
    let mut bytes = [0; PAGE_LEN];
    memory.read_slice(&mut bytes, GuestAddress((32 << 20) + page * PAGE_SIZE)).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "pages go as a whole");
    bytes[0] == 0
}

fn numbers(pages: &[u64]) -> Vec<u8> {
    pages
        .iter()
        .flat_map(|page| u32::try_from((32 << 20) / PAGE_SIZE + page).unwrap().to_le_bytes())
        .collect()
}

#[test]
fn v1_2_5_5_6_2_inflated_pages_are_given_back_and_no_others() {
    let memory = marked();
    let mut driver = balloon(&memory);
    // In both orders, twice, and apart.
    let pages = [3, 4, 5, 20, 19, 18, PAGE, 18, 3];
    let buffer = driver.queue(INFLATE).allocate(&numbers(&pages));
    driver.queue(INFLATE).add(&[buffer], &[]);
    driver.kick(INFLATE);
    assert_eq!(driver.queue(INFLATE).take_used(), Some((0, 0)));
    for page in 0..64 {
        assert_eq!(is_zero(&memory, page), pages.contains(&page), "page {page}");
    }
    // Deflated pages are just touched again.
    driver.queue(DEFLATE).add(&[buffer], &[]);
    driver.kick(DEFLATE);
    assert_eq!(driver.queue(DEFLATE).take_used(), Some((0, 0)));
    memory.write_slice(&[0xaa; PAGE_LEN], GuestAddress((32 << 20) + 3 * PAGE_SIZE)).unwrap();
    assert!(!is_zero(&memory, 3));
}

#[test]
fn v1_2_5_5_6_7_reported_ranges_are_given_back_in_whole_pages() {
    let memory = marked();
    let mut driver = balloon(&memory);
    let base = 32 << 20;
    let ranges = [
        Buffer { addr: GuestAddress(base + 8 * PAGE_SIZE), len: 8 * 4096 },
        Buffer { addr: GuestAddress(base + 30 * PAGE_SIZE + 1), len: 3 * 4096 },
    ];
    driver.queue(FREE).add(&[], &ranges);
    driver.kick(FREE);
    assert_eq!(driver.queue(FREE).take_used(), Some((0, 0)));
    for page in 0..64 {
        assert_eq!(
            is_zero(&memory, page),
            (8..16).contains(&page) || (31..33).contains(&page),
            "page {page}"
        );
    }
}

#[test]
fn what_is_no_ram_is_passed_over() {
    let memory = marked();
    let mut driver = balloon(&memory);
    let wild: Vec<u8> = [u32::MAX, u32::MAX - 1, 0x8000_0000, (64 << 20) / 4096]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .chain([1, 2, 3])
        .collect();
    let buffer = driver.queue(INFLATE).allocate(&wild);
    driver.queue(INFLATE).add(&[buffer], &[]);
    driver.kick(INFLATE);
    assert_eq!(driver.queue(INFLATE).take_used(), Some((0, 0)));
    assert!((0..64).all(|page| !is_zero(&memory, page)));
    give_back(&memory, u64::MAX - 1, 4096);
    give_back(&memory, 0, u64::MAX);
    assert!((0..64).all(|page| is_zero(&memory, page)));
}

#[test]
fn v1_2_5_5_4_the_target_is_the_hosts_and_the_actual_size_the_drivers() {
    let driver = balloon(&guest_memory());
    let config = |driver: &Driver<Balloon>| {
        let mut space = [0xff; 12];
        driver.device().lock().unwrap().read_config(0, &mut space);
        space
    };
    driver.take_interrupts();
    driver.device().lock().unwrap().set_target(0x1234);
    assert_eq!(driver.take_interrupts(), 1);
    assert_eq!(config(&driver), [0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut device = driver.device().lock().unwrap();
    device.write_config(0, &[9; 4]);
    device.write_config(ACTUAL, &[1, 2]);
    assert_eq!((device.target, device.actual()), (0x1234, 0));
    device.write_config(ACTUAL, &[0x10, 0, 0, 0]);
    assert_eq!(device.actual(), 16);
    drop(device);
    driver.reset();
    assert_eq!(driver.device().lock().unwrap().actual(), 0);
}
