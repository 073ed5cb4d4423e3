//! A guest with a socket device: its memory, its rings, its packets.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_manager::{EventManager, SubscriberOps};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::ring::{RING_SIZE, Ring};
use super::socket::Socket;
use crate::irq::Interrupt;
use crate::virtio::vsock::packet::{Header, Key, Kind, op};
use crate::virtio::vsock::{F_SEQPACKET, Vsock, VsockConfig};
use crate::virtio::{Activation, VirtioDevice, Virtqueue};

pub const CID: u64 = 42;
const RX_RING: u64 = 0x1_0000;
const TX_RING: u64 = 0x2_0000;
const EVENT_RING: u64 = 0x3_0000;
const EVENT_BUFFER: u64 = 0x3_f000;
const RX_BUFFERS: u64 = 0x10_0000;
const RX_STRIDE: u64 = 0x2000;
/// Payload of the first tx slots crosses the border of the two regions of guest memory.
const TX_BUFFERS: u64 = BORDER - TX_STRIDE / 2;
const TX_STRIDE: u64 = 0x2_0000;
const TX_SLOTS: u64 = 160;
const BORDER: u64 = 0x40_0000;
const MEMORY: u64 = 0x200_0000;

/// A guest with a socket device of its own, stepped by hand.
pub struct Guest {
    pub mem: GuestMemoryMmap,
    pub device: Arc<Mutex<Vsock>>,
    pub interrupt: Arc<Interrupt>,
    pub rx: Ring,
    pub tx: Ring,
    event: Ring,
    /// Packets received, oldest first.
    pub inbox: VecDeque<(Header, Vec<u8>)>,
    /// Lengths of the descriptors of each rx buffer.
    pub rx_shape: Vec<u32>,
    /// Lengths into which tx packets are cut; the last one is repeated.
    pub tx_cuts: Vec<usize>,
    /// How many rx buffers to offer.
    pub rx_buffers: u16,
    /// Whether the driver has an event queue.
    pub has_events: bool,
    /// Each so-many-th rx buffer has room for a header only; 0 for none.
    pub rx_runts: usize,
    pub event_idx: bool,
    /// What the driver negotiated.
    pub features: u64,
    rx_offered: usize,
    rx_free: Vec<u64>,
    rx_slots: Vec<u64>,
    tx_slot: u64,
    manager: EventManager<Arc<Mutex<Vsock>>>,
    pub dir: tempfile::TempDir,
}

impl Guest {
    pub fn new() -> Self {
        Self::with(|vsock| vsock)
    }

    /// A guest whose device was changed by `build` before the event loop got it.
    pub fn with(build: impl FnOnce(Vsock) -> Vsock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = Some(dir.path().join("v"));
        let mut device = build(Vsock::new(VsockConfig { guest_cid: CID, socket }).unwrap());
        // Longer than any test takes, so that what a test sees does not depend on the machine's speed.
        device.untold.period = Duration::from_secs(3600);
        let device = Arc::new(Mutex::new(device));
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(device.clone());
        let border = usize::try_from(BORDER).unwrap();
        let rest = usize::try_from(MEMORY - BORDER).unwrap();
        let ranges = [(GuestAddress(0), border), (GuestAddress(BORDER), rest)];
        let mut guest = Self {
            mem: GuestMemoryMmap::from_ranges(&ranges).unwrap(),
            device,
            interrupt: Arc::new(Interrupt::new().unwrap()),
            rx: Ring::new(RX_RING),
            tx: Ring::new(TX_RING),
            event: Ring::new(EVENT_RING),
            inbox: VecDeque::new(),
            rx_shape: vec![4096],
            tx_cuts: vec![size_of::<Header>(), 1 << 20],
            rx_buffers: 64,
            has_events: true,
            rx_runts: 0,
            event_idx: false,
            features: F_SEQPACKET,
            rx_offered: 0,
            rx_free: Vec::new(),
            rx_slots: vec![0; RING_SIZE.into()],
            tx_slot: 0,
            manager,
            dir,
        };
        guest.activate();
        guest
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("v")
    }

    pub fn service_path(&self, port: u32) -> PathBuf {
        self.dir.path().join(format!("v_{port}"))
    }

    /// Sets the rings up anew and the device going.
    pub fn activate(&mut self) {
        (self.rx, self.tx, self.event) = (Ring::new(RX_RING), Ring::new(TX_RING), Ring::new(EVENT_RING));
        for ring in [&self.rx, &self.tx, &self.event] {
            self.mem.write_slice(&[0; 0x8000], GuestAddress(ring.base)).unwrap();
        }
        self.rx_free = (0..u64::from(RING_SIZE)).map(|i| RX_BUFFERS + i * RX_STRIDE).collect();
        self.inbox.clear();
        let queue = |ring: &Ring| {
            Virtqueue::new(ring.queue(self.event_idx), self.mem.clone(), self.interrupt.clone())
        };
        let event = self.has_events.then(|| queue(&self.event));
        let queues = vec![Some(queue(&self.rx)), Some(queue(&self.tx)), event];
        let activation = Activation {
            memory: self.mem.clone(),
            queues,
            interrupt: self.interrupt.clone(),
            features: 1 << 32 | self.features,
        };
        self.device.lock().unwrap().activate(activation).unwrap();
        self.post_rx();
    }

    pub fn reset(&mut self) {
        self.device.lock().unwrap().reset();
    }

    pub fn census(&self) -> [usize; 5] {
        self.device.lock().unwrap().muxer.census()
    }

    /// Offers rx buffers up to `rx_buffers`.
    pub fn post_rx(&mut self) {
        let mut posted = false;
        while self.rx_free.len() > usize::from(RING_SIZE - self.rx_buffers) {
            let base = self.rx_free.pop().unwrap();
            // A gap between the parts, so that none is a continuation of the one before by chance.
            let mut addr = base;
            let mut parts: Vec<_> = self
                .rx_shape
                .iter()
                .map(|len| {
                    let part = (addr, *len);
                    addr += u64::from(*len) + 8;
                    part
                })
                .collect();
            self.rx_offered += 1;
            if self.rx_runts > 0 && self.rx_offered.is_multiple_of(self.rx_runts) {
                parts = vec![(base, 44)];
            }
            let Some(head) = self.rx.offer(&self.mem, &parts, true) else {
                self.rx_free.push(base);
                break;
            };
            self.rx_slots[usize::from(head)] = base;
            posted = true;
        }
        if posted {
            self.kick(0);
        }
    }

    pub fn kick(&self, queue: usize) {
        self.device.lock().unwrap().kicks()[queue].write(1).unwrap();
    }

    /// Runs the event loop until nothing happens any more; fails when it never comes to rest.
    pub fn step(&mut self) {
        for _ in 0..100_000 {
            let events = self.manager.run_with_timeout(0).unwrap();
            let taken = self.take_rx();
            while self.tx.used(&self.mem).is_some() {}
            if events == 0 && taken == 0 {
                return;
            }
            self.post_rx();
        }
        panic!("the event loop spins");
    }

    /// Runs the event loop until the device interrupts, however long that takes; only then looks at the rings.
    pub fn wait_for_interrupt(&mut self) {
        while self.interrupt.line().read().is_err() {
            self.manager.run().unwrap();
        }
        self.step();
    }

    /// Moves what the device sent to the inbox; gives the number of buffers that came back.
    pub fn take_rx(&mut self) -> usize {
        let mut taken = 0;
        while let Some((head, written)) = self.rx.used(&self.mem) {
            taken += 1;
            let base = self.rx_slots[usize::from(head)];
            self.rx_free.push(base);
            let mut bytes = Vec::new();
            let mut addr = base;
            for len in &self.rx_shape {
                let mut part = vec![0; *len as usize];
                self.mem.read_slice(&mut part, GuestAddress(addr)).unwrap();
                bytes.extend(part);
                addr += u64::from(*len) + 8;
            }
            bytes.truncate(written as usize);
            if bytes.is_empty() {
                continue;
            }
            let payload = bytes.split_off(size_of::<Header>());
            let header = Header::read_from_bytes(&bytes).unwrap();
            assert_eq!(header.len.get() as usize, payload.len(), "written length and header disagree");
            assert_eq!(header.dst_cid.get(), CID, "meant for somebody else");
            self.inbox.push_back((header, payload));
        }
        taken
    }

    /// Offers a buffer for an event; gives how many came back.
    pub fn events(&mut self) -> usize {
        self.event.offer(&self.mem, &[(EVENT_BUFFER, 4)], true).unwrap();
        self.kick(2);
        self.step();
        std::iter::from_fn(|| self.event.used(&self.mem)).count()
    }

    /// Rx buffers that the device has.
    pub fn rx_posted(&self) -> usize {
        usize::from(RING_SIZE) - self.rx_free.len()
    }

    /// Whether a packet of any cut fits the tx ring.
    pub fn tx_has_room(&self) -> bool {
        self.tx.free.len() >= 100
    }

    /// Sends a packet, cut as `tx_cuts` says, without running the loop.
    pub fn send_later(&mut self, header: &Header, payload: &[u8]) {
        let bytes = [header.as_bytes(), payload].concat();
        let base = TX_BUFFERS + self.tx_slot * TX_STRIDE;
        self.tx_slot = (self.tx_slot + 1) % TX_SLOTS;
        let mut parts = Vec::new();
        let (mut addr, mut done, mut cuts) = (base, 0, self.tx_cuts.iter().copied());
        while done < bytes.len() {
            let len = cuts.next().unwrap_or(*self.tx_cuts.last().unwrap()).min(bytes.len() - done);
            self.mem.write_slice(&bytes[done..done + len], GuestAddress(addr)).unwrap();
            parts.push((addr, u32::try_from(len).unwrap()));
            addr += len as u64 + 4;
            done += len;
        }
        self.tx.offer(&self.mem, &parts, false).expect("tx ring is full");
        self.kick(1);
    }

    /// Sends a packet and lets the device answer.
    pub fn send(&mut self, header: &Header, payload: &[u8]) {
        self.send_later(header, payload);
        self.step();
    }

    /// A raw chain of device-readable bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(TX_BUFFERS)).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        self.tx.offer(&self.mem, &[(TX_BUFFERS, len)], false).unwrap();
        self.kick(1);
        self.step();
    }

    /// The oldest packet received, which must be there.
    pub fn receive(&mut self) -> (Header, Vec<u8>) {
        self.step();
        self.inbox.pop_front().expect("no packet came")
    }

    /// The operation of the oldest packet received.
    pub fn receive_op(&mut self) -> u16 {
        self.receive().0.op.get()
    }

    /// A connection to host port `port` from guest port `from`, open.
    pub fn connect(&mut self, from: u32, port: u32) -> Socket {
        self.connect_as(Kind::Stream, from, port)
    }

    /// The same of any type.
    pub fn connect_as(&mut self, kind: Kind, from: u32, port: u32) -> Socket {
        let mut socket = Socket::new(kind, Key { host: port, guest: from });
        self.send(&socket.header(op::REQUEST), &[]);
        socket.absorb(self);
        assert!(socket.open, "refused");
        socket
    }

    /// The connection that a client of the host asked for, open.
    pub fn accept(&mut self) -> Socket {
        let (header, _) = self.receive();
        assert_eq!(header.op.get(), op::REQUEST);
        let key = Key { host: header.src_port.get(), guest: header.dst_port.get() };
        let kind = if header.kind.get() == Kind::Stream.wire() { Kind::Stream } else { Kind::Seqpacket };
        let mut socket = Socket::new(kind, key);
        socket.note(&header);
        socket.open = true;
        self.send(&socket.header(op::RESPONSE), &[]);
        socket
    }
}

/// A packet of the guest's stream without payload.
pub fn packet(key: Key, op: u16) -> Header {
    packet_of(Kind::Stream, key, op)
}

/// A packet of the guest without payload.
pub fn packet_of(kind: Kind, key: Key, op: u16) -> Header {
    Header {
        src_cid: U64::new(CID),
        dst_cid: U64::new(2),
        src_port: U32::new(key.guest),
        dst_port: U32::new(key.host),
        kind: U16::new(kind.wire()),
        op: U16::new(op),
        buf_alloc: U32::new(256 * 1024),
        ..Header::new_zeroed()
    }
}
