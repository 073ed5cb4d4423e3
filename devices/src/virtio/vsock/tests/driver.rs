//! The driver's side of a socket device: rings in guest memory, and a guest socket that keeps to its credit.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, SubscriberOps};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::irq::Interrupt;
use crate::virtio::vsock::packet::{Header, Key, op, shutdown, socket_type};
use crate::virtio::vsock::{Vsock, VsockConfig};
use crate::virtio::{Activation, VirtioDevice, Virtqueue};

pub const CID: u64 = 42;
pub const RING_SIZE: u16 = 256;
const RX_RING: u64 = 0x1_0000;
const TX_RING: u64 = 0x2_0000;
const RX_BUFFERS: u64 = 0x10_0000;
const RX_STRIDE: u64 = 0x2000;
/// Payload of the first tx slots crosses the border of the two regions of guest memory.
const TX_BUFFERS: u64 = BORDER - TX_STRIDE / 2;
const TX_STRIDE: u64 = 0x2_0000;
const TX_SLOTS: u64 = 160;
const BORDER: u64 = 0x40_0000;
const MEMORY: u64 = 0x200_0000;

/// A split ring, driven by hand.
pub struct Ring {
    base: u64,
    avail: u16,
    seen: u16,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
}

impl Ring {
    fn new(base: u64) -> Self {
        let chains = vec![Vec::new(); RING_SIZE.into()];
        Self { base, avail: 0, seen: 0, free: (0..RING_SIZE).rev().collect(), chains }
    }

    fn avail_ring(&self) -> u64 {
        self.base + 0x2000
    }

    fn used_ring(&self) -> u64 {
        self.base + 0x4000
    }

    fn queue(&self, event_idx: bool) -> Queue {
        let mut queue = Queue::new(RING_SIZE).unwrap();
        let low = |addr| Some(u32::try_from(addr).unwrap());
        queue.set_size(RING_SIZE);
        queue.set_desc_table_address(low(self.base), None);
        queue.set_avail_ring_address(low(self.avail_ring()), None);
        queue.set_used_ring_address(low(self.used_ring()), None);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue
    }

    /// Makes a chain of `parts` (address, length) available; false when descriptors lack.
    pub fn offer(&mut self, mem: &GuestMemoryMmap, parts: &[(u64, u32)], writable: bool) -> Option<u16> {
        if self.free.len() < parts.len() {
            return None;
        }
        let taken: Vec<u16> = parts.iter().map(|_| self.free.pop().unwrap()).collect();
        for (index, (addr, len)) in parts.iter().enumerate() {
            let next = taken.get(index + 1);
            let flags = u16::from(next.is_some()) | u16::from(writable) << 1;
            self.describe(mem, taken[index], (*addr, *len), flags, next.copied().unwrap_or(0));
        }
        let head = taken[0];
        self.chains[usize::from(head)] = taken;
        self.make_available(mem, head);
        Some(head)
    }

    pub fn describe(&self, mem: &GuestMemoryMmap, index: u16, part: (u64, u32), flags: u16, next: u16) {
        let at = self.base + 16 * u64::from(index);
        mem.write_obj(part.0, GuestAddress(at)).unwrap();
        mem.write_obj(part.1, GuestAddress(at + 8)).unwrap();
        mem.write_obj(flags, GuestAddress(at + 12)).unwrap();
        mem.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    pub fn make_available(&mut self, mem: &GuestMemoryMmap, head: u16) {
        let slot = self.avail_ring() + 4 + 2 * u64::from(self.avail % RING_SIZE);
        mem.write_obj(head, GuestAddress(slot)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        mem.write_obj(self.avail, GuestAddress(self.avail_ring() + 2)).unwrap();
    }

    /// The next chain that came back: head and bytes written.
    fn used(&mut self, mem: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let used: u16 = mem.read_obj(GuestAddress(self.used_ring() + 2)).unwrap();
        if used == self.seen {
            return None;
        }
        let slot = self.used_ring() + 4 + 8 * u64::from(self.seen % RING_SIZE);
        self.seen = self.seen.wrapping_add(1);
        // With EVENT_IDX: interrupt on the next one.
        mem.write_obj(self.seen, GuestAddress(self.avail_ring() + 4 + 2 * u64::from(RING_SIZE))).unwrap();
        let head: u32 = mem.read_obj(GuestAddress(slot)).unwrap();
        let written = mem.read_obj(GuestAddress(slot + 4)).unwrap();
        let head = u16::try_from(head).unwrap();
        let parts = std::mem::take(&mut self.chains[usize::from(head)]);
        assert!(!parts.is_empty(), "chain {head} was given back twice");
        self.free.extend(parts);
        Some((head, written))
    }
}

/// A guest with a socket device of its own, stepped by hand.
pub struct Guest {
    pub mem: GuestMemoryMmap,
    pub device: Arc<Mutex<Vsock>>,
    pub interrupt: Arc<Interrupt>,
    pub rx: Ring,
    pub tx: Ring,
    /// Packets received, oldest first.
    pub inbox: VecDeque<(Header, Vec<u8>)>,
    /// Lengths of the descriptors of each rx buffer.
    pub rx_shape: Vec<u32>,
    /// Lengths into which tx packets are cut; the last one is repeated.
    pub tx_cuts: Vec<usize>,
    /// How many rx buffers to offer.
    pub rx_buffers: u16,
    /// Each so-many-th rx buffer has room for a header only; 0 for none.
    pub rx_runts: usize,
    pub event_idx: bool,
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
        let device = build(Vsock::new(VsockConfig { guest_cid: CID, socket }).unwrap());
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
            inbox: VecDeque::new(),
            rx_shape: vec![4096],
            tx_cuts: vec![size_of::<Header>(), 1 << 20],
            rx_buffers: 64,
            rx_runts: 0,
            event_idx: false,
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
        (self.rx, self.tx) = (Ring::new(RX_RING), Ring::new(TX_RING));
        for ring in [&self.rx, &self.tx] {
            self.mem.write_slice(&[0; 0x8000], GuestAddress(ring.base)).unwrap();
        }
        self.rx_free = (0..u64::from(RING_SIZE)).map(|i| RX_BUFFERS + i * RX_STRIDE).collect();
        self.inbox.clear();
        let queue = |ring: &Ring| {
            Virtqueue::new(ring.queue(self.event_idx), self.mem.clone(), self.interrupt.clone())
        };
        let queues = vec![Some(queue(&self.rx)), Some(queue(&self.tx)), None];
        let activation = Activation {
            memory: self.mem.clone(),
            queues,
            interrupt: self.interrupt.clone(),
            features: 1 << 32,
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
        let mut socket = Socket::new(Key { host: port, guest: from });
        self.send(&socket.header(op::REQUEST), &[]);
        socket.absorb(self);
        assert!(socket.open, "refused");
        socket
    }

    /// The connection that a client of the host asked for, open.
    pub fn accept(&mut self) -> Socket {
        let (header, _) = self.receive();
        assert_eq!(header.op.get(), op::REQUEST);
        let mut socket = Socket::new(Key { host: header.src_port.get(), guest: header.dst_port.get() });
        socket.note(&header);
        socket.open = true;
        self.send(&socket.header(op::RESPONSE), &[]);
        socket
    }
}

/// A packet of the guest without payload.
pub fn packet(key: Key, op: u16) -> Header {
    Header {
        src_cid: U64::new(CID),
        dst_cid: U64::new(2),
        src_port: U32::new(key.guest),
        dst_port: U32::new(key.host),
        kind: U16::new(socket_type::STREAM),
        op: U16::new(op),
        buf_alloc: U32::new(256 * 1024),
        ..Header::new_zeroed()
    }
}

/// A socket of the guest.
pub struct Socket {
    pub key: Key,
    pub open: bool,
    pub reset: bool,
    pub shut: u32,
    pub received: Vec<u8>,
    pub buf_alloc: u32,
    /// Whether the application takes what arrives.
    pub reading: bool,
    pub sent: u32,
    pub peer_alloc: u32,
    pub peer_forwarded: u32,
    forwarded: u32,
    told: u32,
}

impl Socket {
    pub fn new(key: Key) -> Self {
        Self {
            key,
            open: false,
            reset: false,
            shut: 0,
            received: Vec::new(),
            buf_alloc: 256 * 1024,
            reading: true,
            sent: 0,
            peer_alloc: 0,
            peer_forwarded: 0,
            forwarded: 0,
            told: 0,
        }
    }

    pub fn header(&mut self, op: u16) -> Header {
        self.told = self.forwarded;
        Header {
            buf_alloc: U32::new(self.buf_alloc),
            fwd_cnt: U32::new(self.forwarded),
            ..packet(self.key, op)
        }
    }

    pub fn credit(&self) -> u32 {
        self.peer_alloc - self.sent.wrapping_sub(self.peer_forwarded)
    }

    fn note(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc.get();
        self.peer_forwarded = header.fwd_cnt.get();
    }

    /// Takes the packets of this connection out of the inbox and answers as a guest does.
    pub fn absorb(&mut self, guest: &mut Guest) {
        let (mine, others) = std::mem::take(&mut guest.inbox).into_iter().partition(|(header, _)| {
            (header.src_port.get(), header.dst_port.get()) == (self.key.host, self.key.guest)
        });
        guest.inbox = others;
        let mine: VecDeque<(Header, Vec<u8>)> = mine;
        for (header, payload) in mine {
            assert_eq!(header.src_cid.get(), 2);
            if header.op.get() != op::RST {
                self.note(&header);
            }
            match header.op.get() {
                op::RESPONSE => self.open = true,
                op::RST => self.reset = true,
                op::SHUTDOWN => {
                    assert_eq!(header.flags.get() & self.shut, self.shut, "a hint was taken back");
                    self.shut = header.flags.get();
                }
                op::RW => {
                    assert_eq!(self.shut & shutdown::SEND, 0, "data after its end");
                    assert!(self.open && !payload.is_empty());
                    self.received.extend_from_slice(&payload);
                    let unread = u32::try_from(self.received.len()).unwrap().wrapping_sub(self.forwarded);
                    assert!(unread <= self.buf_alloc, "credit overrun by the device");
                }
                op::CREDIT_REQUEST => {
                    let update = self.header(op::CREDIT_UPDATE);
                    guest.send_later(&update, &[]);
                }
                op::CREDIT_UPDATE => {}
                other => panic!("operation {other}"),
            }
        }
        if self.reading {
            self.read_all(guest);
        }
    }

    /// The application takes everything received.
    pub fn read_all(&mut self, guest: &mut Guest) {
        self.forwarded = u32::try_from(self.received.len()).unwrap();
        if self.open && !self.reset && self.forwarded.wrapping_sub(self.told) > self.buf_alloc / 2 {
            let update = self.header(op::CREDIT_UPDATE);
            guest.send_later(&update, &[]);
        }
    }

    /// Sends as much of `data` as credit allows, in packets of at most `size` bytes; gives the number sent.
    pub fn send(&mut self, guest: &mut Guest, data: &[u8], size: usize) -> usize {
        let mut done = 0;
        while done < data.len() && self.credit() > 0 && !self.reset {
            let len = size.min(data.len() - done).min(self.credit() as usize);
            let mut header = self.header(op::RW);
            header.len = U32::new(u32::try_from(len).unwrap());
            guest.send(&header, &data[done..done + len]);
            self.sent = self.sent.wrapping_add(u32::try_from(len).unwrap());
            done += len;
            self.absorb(guest);
        }
        done
    }

    pub fn shutdown(&mut self, guest: &mut Guest, flags: u32) {
        let header = Header { flags: U32::new(flags), ..self.header(op::SHUTDOWN) };
        guest.send(&header, &[]);
        self.absorb(guest);
    }
}

/// Bytes in which every position of a long stream looks different from its neighbours.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at ^ at >> 8 ^ at >> 16) & 0xff).unwrap()).collect()
}

/// What a non-blocking stream holds now; true at its end.
pub fn read_now(stream: &mut UnixStream, into: &mut Vec<u8>) -> bool {
    use std::io::{ErrorKind, Read};
    stream.set_nonblocking(true).unwrap();
    let mut chunk = [0; 65536];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(len) => into.extend_from_slice(&chunk[..len]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
            Err(e) => panic!("{e}"),
        }
    }
}
