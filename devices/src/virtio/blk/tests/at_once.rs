//! What is served on the vCPU that notifies.

use super::*;

/// A driver of a disk of 1 MiB in memory.
fn in_memory() -> (Driver<Block>, File) {
    // SAFETY: the name is a string that ends with zero; the call gives a new descriptor, or -1, which is none.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&pattern(1 << 20)).unwrap();
    let disk = CompositeDisk::from_file(Arc::new(file.try_clone().unwrap()), 1 << 20, true).unwrap();
    (start(disk, false, FLUSH), file)
}

/// Offers a request in buffers of its own; gives its data and its status.
fn offer_transfer(driver: &mut Driver<Block>, kind: u32, sector: u64, len: usize) -> (Buffer, Buffer) {
    let queue = driver.queue(0);
    let head = queue.allocate(&header(kind, sector));
    let (data, status) = (queue.allocate(&vec![0x11; len]), queue.allocate(&[NONE]));
    if kind == VIRTIO_BLK_T_IN {
        queue.add(&[head], &[data, status]);
    } else {
        queue.add(&[head, data], &[status]);
    }
    (data, status)
}

#[test]
fn a_file_in_memory_is_served_while_the_driver_notifies() {
    let (mut driver, file) = in_memory();
    let (data, status) = offer_transfer(&mut driver, VIRTIO_BLK_T_IN, 3, 4096);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).take_used(), Some((0, 4097)));
    assert_eq!(driver.queue(0).content(data), pattern(1 << 20)[3 * 512..][..4096]);
    assert_eq!(driver.queue(0).content(status), [OK]);
    offer_transfer(&mut driver, VIRTIO_BLK_T_OUT, 1, 1024);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).take_used(), Some((3, 1)));
    assert_eq!(contents_of(&file)[512..1536], [0x11; 1024]);
    assert_eq!(driver.take_interrupts(), 2);
}

#[test]
fn a_transfer_of_several_calls_has_its_share_once() {
    let (mut driver, file) = in_memory();
    // More than one call writes, and more than half of a moment.
    offer_transfer(&mut driver, VIRTIO_BLK_T_OUT, 0, 192 << 10);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).used_idx(), 1);
    assert!(contents_of(&file)[..192 << 10].iter().all(|byte| *byte == 0x11));
}

#[test]
fn what_takes_long_is_not_done_while_the_driver_notifies() {
    let (mut driver, _) = in_memory();
    // Two fit in a moment, the third does not, and what comes after it waits its turn.
    for len in [128 << 10, 128 << 10, 512, 512] {
        offer_transfer(&mut driver, VIRTIO_BLK_T_IN, 0, len);
    }
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).used_idx(), 2);
    driver.run();
    assert_eq!(driver.queue(0).used_idx(), 4);
    let queue = driver.queue(0);
    let (head, status) = (queue.allocate(&header(VIRTIO_BLK_T_FLUSH, 0)), queue.allocate(&[NONE]));
    queue.add(&[head], &[status]);
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).used_idx(), 4, "a flush may take any time");
    driver.run();
    assert_eq!((driver.queue(0).used_idx(), driver.queue(0).content(status)), (5, vec![OK]));
}

#[test]
fn a_notification_does_not_wait_for_the_thread_that_has_the_device() {
    let (mut driver, _) = in_memory();
    offer_transfer(&mut driver, VIRTIO_BLK_T_IN, 0, 512);
    let device = Arc::clone(driver.device());
    let held = device.lock().unwrap();
    driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(driver.queue(0).used_idx(), 0);
    drop(held);
    driver.run();
    assert_eq!(driver.queue(0).used_idx(), 1);
}

#[test]
fn a_file_on_a_device_is_not_read_by_the_vcpu() {
    // The executable lies in no file system that is memory; where it does, there is nothing to see here.
    let file = Arc::new(File::open(std::env::current_exe().unwrap()).unwrap());
    let disk = CompositeDisk::from_file(file, 4096, false).unwrap();
    let in_memory = disk.files()[0].is_in_memory();
    let block = Block::new(disk, "", true).unwrap();
    assert_eq!(block.serves_at_once(0), in_memory);
}
