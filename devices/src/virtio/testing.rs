//! The driver's side of a device, for tests: rings written as a driver writes them, registers set as a
//! driver sets them. Nothing here uses the queue walker, so that the two check each other.
//!
//! ```
//! # use devices::virtio::{Rng, testing::{Driver, guest_memory}};
//! let memory = guest_memory();
//! let mut driver = Driver::new(&memory, Rng::new()?);
//! driver.start(0);
//! let buffer = driver.queue(0).allocate(&[0; 16]);
//! driver.queue(0).add(&[], &[buffer]);
//! driver.kick(0);
//! assert_eq!(driver.queue(0).take_used(), Some((0, 16)));
//! # Ok::<(), std::io::Error>(())
//! ```

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
    VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW,
    VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL,
    VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_STATUS,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::queue::{Buffer, Virtqueue};
use super::{MmioTransport, VirtioDevice};
use crate::bus::BusDevice;
use crate::irq::Interrupt;

/// Descriptor flag: the chain goes on with `next`.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub const WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors.
pub const INDIRECT: u16 = 4;
/// Feature bit VIRTIO_F_EVENT_IDX.
pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

/// Bytes of guest address space that each queue of the fixture uses for its parts and buffers.
const ARENA: u64 = 1 << 20;
const FIRST_ARENA: u64 = 1 << 16;

/// 8 MiB of guest memory in two regions with a hole between them: 4 MiB from 0, and from 16 MiB.
pub fn guest_memory() -> GuestMemoryMmap {
    let half = 4 << 20;
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), half), (GuestAddress(16 << 20), half)]).unwrap()
}

/// A descriptor as a driver writes it.
#[derive(Clone, Copy, Debug)]
pub struct RawDescriptor {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// The next descriptor's index.
    pub next: u16,
}

impl RawDescriptor {
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// One virtqueue, as its driver holds it.
pub struct DriverQueue {
    memory: GuestMemoryMmap,
    size: u16,
    max_size: u16,
    base: u64,
    next_descriptor: u16,
    avail: u16,
    used: u16,
    next_buffer: u64,
}

impl DriverQueue {
    /// A queue of `size` entries, with its parts and buffers in 1 MiB of guest memory from `base`.
    pub fn new(memory: &GuestMemoryMmap, base: u64, size: u16) -> Self {
        let memory = memory.clone();
        let next_buffer = base + ARENA / 4;
        let queue =
            Self { memory, size, max_size: size, base, next_descriptor: 0, avail: 0, used: 0, next_buffer };
        // Each entry is 16, 2 or 8 bytes of a part.
        for area in [queue.descriptor_area(), queue.driver_area(), queue.device_area()] {
            let zeros = vec![0; 16 * usize::from(size) + 6];
            queue.memory.write_slice(&zeros, GuestAddress(area)).unwrap();
        }
        queue
    }

    /// Lets the device offer a larger maximum than the driver's size.
    pub fn with_max_size(self, max_size: u16) -> Self {
        Self { max_size, ..self }
    }

    /// Where the descriptor area is.
    pub fn descriptor_area(&self) -> u64 {
        self.base
    }

    /// Where the driver area (the available ring) is.
    pub fn driver_area(&self) -> u64 {
        self.base + ARENA / 16
    }

    /// Where the device area (the used ring) is.
    pub fn device_area(&self) -> u64 {
        self.base + ARENA / 8
    }

    /// The queue as a transport would hand it to its device.
    pub fn registers(&self, event_idx: bool) -> Queue {
        let mut queue = Queue::new(self.max_size).unwrap();
        queue.try_set_size(self.size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(self.descriptor_area())).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.driver_area())).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.device_area())).unwrap();
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.set_next_avail(self.avail);
        queue.set_next_used(self.used);
        queue
    }

    /// The device's side of the queue.
    pub fn virtqueue(&self, interrupt: &Arc<Interrupt>, event_idx: bool) -> Virtqueue {
        Virtqueue::new(self.registers(event_idx), self.memory.clone(), Arc::clone(interrupt))
    }

    /// Goes on at index `index` of both rings, as after so many requests.
    pub fn start_at(&mut self, index: u16) {
        (self.avail, self.used) = (index, index);
        self.set_avail_idx(index);
        self.store(self.device_area() + 2, index);
    }

    /// A buffer of its own that holds `content`.
    pub fn allocate(&mut self, content: &[u8]) -> Buffer {
        let addr = GuestAddress(self.next_buffer);
        self.memory.write_slice(content, addr).unwrap();
        let len = u32::try_from(content.len()).unwrap();
        self.next_buffer += u64::from(len.next_multiple_of(16));
        assert!(self.next_buffer <= self.base + ARENA, "the queue's arena is used up");
        Buffer { addr, len }
    }

    /// What a buffer holds.
    pub fn content(&self, buffer: Buffer) -> Vec<u8> {
        let mut content = vec![0; buffer.len as usize];
        self.memory.read_slice(&mut content, buffer.addr).unwrap();
        content
    }

    /// Writes descriptor `index` of the table.
    pub fn set_descriptor(&self, index: u16, descriptor: RawDescriptor) {
        self.set_descriptor_at(self.descriptor_area() + 16 * u64::from(index), descriptor);
    }

    /// Writes a descriptor at a guest address, as of an indirect table.
    pub fn set_descriptor_at(&self, addr: u64, descriptor: RawDescriptor) {
        self.memory.write_slice(&descriptor.bytes(), GuestAddress(addr)).unwrap();
    }

    /// Makes a chain of `readable` then `writable` buffers available; gives the index of its head.
    /// Descriptors are taken round robin: the test sees to it that those in flight are fewer than the queue's.
    pub fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        let count = readable.len() + writable.len();
        for (i, buffer) in readable.iter().chain(writable).enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.size;
            let more = if i + 1 < count { NEXT } else { 0 };
            let flags = if i < readable.len() { more } else { WRITE | more };
            let (addr, len, next) = (buffer.addr.0, buffer.len, self.next_descriptor);
            self.set_descriptor(index, RawDescriptor { addr, len, flags, next });
        }
        self.publish(head);
        head
    }

    /// The same through an indirect table of its own.
    pub fn add_indirect(&mut self, readable: &[Buffer], writable: &[Buffer]) -> u16 {
        let count = readable.len() + writable.len();
        let table = self.allocate(&vec![0; 16 * count]);
        for (i, buffer) in readable.iter().chain(writable).enumerate() {
            let more = if i + 1 < count { NEXT } else { 0 };
            let flags = if i < readable.len() { more } else { WRITE | more };
            let next = u16::try_from(i + 1).unwrap();
            let descriptor = RawDescriptor { addr: buffer.addr.0, len: buffer.len, flags, next };
            self.set_descriptor_at(table.addr.0 + 16 * i as u64, descriptor);
        }
        let head = self.next_descriptor;
        self.next_descriptor = (head + 1) % self.size;
        let (addr, len) = (table.addr.0, table.len);
        self.set_descriptor(head, RawDescriptor { addr, len, flags: INDIRECT, next: 0 });
        self.publish(head);
        head
    }

    /// Puts `head` into the available ring and shows it.
    pub fn publish(&mut self, head: u16) {
        self.store(self.driver_area() + 4 + 2 * u64::from(self.avail % self.size), head);
        self.avail = self.avail.wrapping_add(1);
        self.set_avail_idx(self.avail);
    }

    /// Writes the available ring's index, right or wrong.
    pub fn set_avail_idx(&self, index: u16) {
        self.store(self.driver_area() + 2, index);
    }

    /// Writes the available ring's flags: 1 asks for no interrupts.
    pub fn set_avail_flags(&self, flags: u16) {
        self.store(self.driver_area(), flags);
    }

    /// Asks for an interrupt when used index `index` is passed (with EVENT_IDX).
    pub fn set_used_event(&self, index: u16) {
        self.store(self.driver_area() + 4 + 2 * u64::from(self.size), index);
    }

    /// At which available index the device wants a kick (with EVENT_IDX).
    pub fn avail_event(&self) -> u16 {
        self.load(self.device_area() + 4 + 8 * u64::from(self.size))
    }

    /// The used ring's flags: 1 asks for no kicks.
    pub fn used_flags(&self) -> u16 {
        self.load(self.device_area())
    }

    /// The used ring's index.
    pub fn used_idx(&self) -> u16 {
        self.load(self.device_area() + 2)
    }

    /// The next chain that the device gave back: head and used length.
    pub fn take_used(&mut self) -> Option<(u32, u32)> {
        if self.used_idx() == self.used {
            return None;
        }
        let element = self.device_area() + 4 + 8 * u64::from(self.used % self.size);
        self.used = self.used.wrapping_add(1);
        let word = |addr| self.memory.read_obj::<u32>(GuestAddress(addr)).map(u32::from_le).unwrap();
        Some((word(element), word(element + 4)))
    }

    fn store(&self, addr: u64, value: u16) {
        self.memory.store(value.to_le(), GuestAddress(addr), Ordering::SeqCst).unwrap();
    }

    fn load(&self, addr: u64) -> u16 {
        u16::from_le(self.memory.load(GuestAddress(addr), Ordering::SeqCst).unwrap())
    }
}

/// A device behind a transport and in an event loop, and its driver.
pub struct Driver<D> {
    device: Arc<Mutex<D>>,
    transport: Arc<MmioTransport>,
    queues: Vec<DriverQueue>,
    events: EventManager<Arc<Mutex<dyn MutEventSubscriber + Send>>>,
}

impl<D: VirtioDevice + MutEventSubscriber + Send + 'static> Driver<D> {
    /// Puts `device` behind a transport; its queues get the largest size, at most 256.
    pub fn new(memory: &GuestMemoryMmap, device: D) -> Self {
        let sizes: Vec<u16> = device.queue_max_sizes().iter().map(|&s| s.min(256)).collect();
        let bases = (0..).map(|i| FIRST_ARENA + i * ARENA);
        let queues =
            sizes.iter().zip(bases).map(|(&size, base)| DriverQueue::new(memory, base, size)).collect();
        let device = Arc::new(Mutex::new(device));
        let transport = MmioTransport::new(memory.clone(), device.clone()).unwrap();
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(device.clone() as Arc<Mutex<dyn MutEventSubscriber + Send>>);
        Self { device, transport, queues, events }
    }

    /// The device.
    pub fn device(&self) -> &Arc<Mutex<D>> {
        &self.device
    }

    /// The transport.
    pub fn transport(&self) -> &Arc<MmioTransport> {
        &self.transport
    }

    /// A queue.
    pub fn queue(&mut self, index: usize) -> &mut DriverQueue {
        &mut self.queues[index]
    }

    /// Reads a register.
    pub fn read(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(u64::from(offset), &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn write(&self, offset: u32, value: u32) {
        self.transport.write(u64::from(offset), &value.to_le_bytes());
    }

    /// Writes Status 0: the device is idle afterwards.
    pub fn reset(&self) {
        self.write(VIRTIO_MMIO_STATUS, 0);
    }

    /// Initialises the device as of virtio 1.2, 3.1.1, with VERSION_1 and `features`.
    pub fn start(&mut self, features: u64) {
        self.negotiate(features);
        for index in 0..self.queues.len() {
            self.set_up_queue(index);
        }
        self.write(VIRTIO_MMIO_STATUS, 15);
    }

    /// The steps before the queues: reset, acknowledge, features.
    pub fn negotiate(&self, features: u64) {
        self.reset();
        self.write(VIRTIO_MMIO_STATUS, 1);
        self.write(VIRTIO_MMIO_STATUS, 3);
        let features = features | 1 << VIRTIO_F_VERSION_1;
        for (half, word) in features.to_le_bytes().chunks(4).enumerate() {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, u32::try_from(half).unwrap());
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, u32::from_le_bytes(word.try_into().unwrap()));
        }
        self.write(VIRTIO_MMIO_STATUS, 11);
        assert_eq!(self.read(VIRTIO_MMIO_STATUS), 11, "the device must accept what it offers");
    }

    /// Tells the device where a queue is, and enables it.
    pub fn set_up_queue(&mut self, index: usize) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, u32::try_from(index).unwrap());
        assert!(self.read(VIRTIO_MMIO_QUEUE_NUM_MAX) >= u32::from(self.queues[index].size));
        let queue = &self.queues[index];
        self.write(VIRTIO_MMIO_QUEUE_NUM, u32::from(queue.size));
        let areas = [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH, queue.descriptor_area()),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, queue.driver_area()),
            (VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_QUEUE_USED_HIGH, queue.device_area()),
        ];
        for (low, high, area) in areas {
            self.write(low, u32::try_from(area & 0xffff_ffff).unwrap());
            self.write(high, u32::try_from(area >> 32).unwrap());
        }
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(self.read(VIRTIO_MMIO_QUEUE_READY), 1);
    }

    /// Kicks a queue and lets the device work until it is done.
    pub fn kick(&mut self, queue: usize) {
        self.transport.kicks()[queue].write(1).unwrap();
        self.run();
    }

    /// Lets the device work on the kicks it has until it is done.
    pub fn run(&mut self) {
        while self.events.run_with_timeout(0).unwrap() > 0 {}
    }

    /// Waits until the device has something to do of its own accord, and lets it.
    pub fn wait(&mut self) {
        self.events.run().unwrap();
        self.run();
    }

    /// How many times the interrupt was raised since this was last asked.
    pub fn take_interrupts(&self) -> u64 {
        self.transport.interrupt().line().read().unwrap_or(0)
    }
}
