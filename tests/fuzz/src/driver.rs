//! A virtio driver that does what the input says, hostile or not.
//!
//! ```text
//!   input:  features u8 | log2 of the queues' size u8 | image, IMAGE bytes from guest address 0 | operations ..
//!   image:  queue n: descriptors at n * 0x400, available ring 0x200 behind, used ring 0x300 behind; then free
//!   operation: u8, its lower two bits say what:
//!     0  kick the queue in the upper bits        2  make one more buffer of that queue available, and kick it
//!     1  u16 address | u8: write memory          3  u32: write to the register 4 * the upper bits
//! ```

use std::sync::{Arc, Mutex};

use devices::bus::BusDevice;
use devices::virtio::{MmioTransport, VirtioDevice};
use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes of guest memory that the input begins with.
pub const IMAGE: usize = 0x1000;
/// Distance between queues.
pub const QUEUE: u64 = 0x400;
/// Where in a queue's part its available ring is.
pub const AVAILABLE: u64 = 0x200;
/// Where in a queue's part its used ring is.
pub const USED: u64 = 0x300;
/// Operations that one input may have.
const OPERATIONS: usize = 64;

type Subscriber = Arc<Mutex<dyn MutEventSubscriber>>;

/// A device with its transport, its event loop and the guest's memory.
pub struct Machine {
    memory: GuestMemoryMmap,
    transport: Arc<MmioTransport>,
    events: EventManager<Subscriber>,
    queues: u64,
    always: u32,
}

impl Machine {
    /// Puts `device`, which has `queues` queues, into a machine with two pieces of memory.
    pub fn new<D: VirtioDevice + MutEventSubscriber + 'static>(device: D, queues: u64) -> Self {
        Self::sharing(Arc::new(Mutex::new(device)), queues)
    }

    /// The same with a device to which somebody else has access too.
    pub fn sharing<D>(device: Arc<Mutex<D>>, queues: u64) -> Self
    where
        D: VirtioDevice + MutEventSubscriber + 'static,
    {
        let ranges = [(GuestAddress(0), 0x1_0000), (GuestAddress(0x2_0000), 0x1_0000)];
        let memory = GuestMemoryMmap::from_ranges(&ranges).expect("a little memory");
        let transport = MmioTransport::new(memory.clone(), device.clone()).expect("descriptors");
        let mut events: EventManager<Subscriber> = EventManager::new().expect("an epoll descriptor");
        events.add_subscriber(device);
        Self { memory, transport, events, queues, always: 0 }
    }

    /// Lets the driver accept these of the first 32 features whatever the input says.
    #[must_use]
    pub fn with_features(mut self, features: u32) -> Self {
        self.always = features;
        self
    }

    /// Does what `input` says; `between` is called after every kick.
    pub fn run(&mut self, input: &[u8], mut between: impl FnMut()) {
        let [features, size, rest @ ..] = input else { return };
        let (image, mut operations) = rest.split_at(rest.len().min(IMAGE));
        self.memory.write_slice(image, GuestAddress(0)).expect("the image is within memory");
        self.start(*features, 1 << (size % 5));
        for _ in 0..OPERATIONS {
            let [operation, rest @ ..] = operations else { break };
            let (kind, upper) = (operation & 3, u64::from(operation >> 2));
            operations = match (kind, rest) {
                (0, rest) => {
                    self.kick(upper % self.queues);
                    rest
                }
                (1, [low, high, value, rest @ ..]) => {
                    let at = GuestAddress(u64::from(u16::from_le_bytes([*low, *high])));
                    self.memory.write_obj(*value, at).expect("64 KiB are memory");
                    rest
                }
                (2, rest) => {
                    self.offer(upper % self.queues);
                    rest
                }
                (3, [a, b, c, d, rest @ ..]) => {
                    self.transport.write(4 * upper, &[*a, *b, *c, *d]);
                    rest
                }
                _ => break,
            };
            between();
            let mut value = [0; 4];
            self.transport.read(4 * upper, &mut value);
        }
        self.transport.reset();
    }

    fn register(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Brings the device up as a driver does (virtio 1.2, 3.1.1).
    fn start(&self, features: u8, size: u32) {
        self.register(0x70, 0);
        self.register(0x70, 1);
        self.register(0x70, 3);
        self.register(0x24, 0);
        // Bits that devices have of their own (13 and 14 are discard and write zeroes of a disk), then EVENT_IDX and
        // INDIRECT_DESC; of all of them those that are offered, or the device would not start.
        let own = u32::from(features & 0x3f) << 5
            | u32::from(features & 0x10) << 9
            | u32::from(features & 0x10) << 10;
        let mut offered = [0; 4];
        self.transport.read(0x10, &mut offered);
        self.register(
            0x20,
            (self.always | own | u32::from(features >> 6) << 28) & u32::from_le_bytes(offered),
        );
        self.register(0x24, 1);
        self.register(0x20, 1);
        self.register(0x70, 0xb);
        for (queue, base) in (0..self.queues).map(|n| n * QUEUE).enumerate() {
            let low = |address: u64| u32::try_from(address).expect("below 64 KiB");
            self.register(0x30, u32::try_from(queue).expect("few queues"));
            self.register(0x38, size);
            self.register(0x80, low(base));
            self.register(0x90, low(base + AVAILABLE));
            self.register(0xa0, low(base + USED));
            self.register(0x44, 1);
        }
        self.register(0x70, 0xf);
    }

    fn offer(&mut self, queue: u64) {
        let index = GuestAddress(queue * QUEUE + AVAILABLE + 2);
        let value: u16 = self.memory.read_obj(index).expect("within memory");
        self.memory.write_obj(value.wrapping_add(1), index).expect("within memory");
        self.kick(queue);
    }

    fn kick(&mut self, queue: u64) {
        self.register(0x50, u32::try_from(queue).expect("few queues"));
        self.settle();
    }

    /// Lets the device do what it has to, a bounded number of times: hostile rings may keep it busy for ever.
    fn settle(&mut self) {
        for _ in 0..4 {
            if self.events.run_with_timeout(0).unwrap_or(0) == 0 {
                break;
            }
        }
    }
}
