//! Which connection a packet belongs to, and whose turn it is to send one.
//!
//! ```text
//!   tx queue ──> on_chain ──key──> slot ──> Conn ──> host socket
//!   rx queue <── fill <── resets, then ready slots in turn <── poll (one epoll of all host sockets)
//! ```
//!
//! Everything that a guest can make this keep is bounded: slots by `limit`, of which the guest and the host
//! have as many each, resets by back pressure (the tx queue waits while too many are unsent), and each slot
//! stands in the ready list at most once, by its number, whatever comes and goes in it.

mod clients;
mod rx;
mod slots;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use log::debug;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

pub use self::rx::Filled;
use self::rx::Taken;
use self::slots::{Side, Slots, State};
use super::conn::{Conn, Verdict};
use super::host::{self, Greeting, HostError, HostSocket, Listener};
use super::packet::{HOST_CID, Header, Key, Kind, Packet, PacketError, op};
use super::{Accept, GuestPort};
use crate::virtio::queue::{Chain, QueueError};

/// Unsent resets at which the tx queue waits.
const MAX_RESETS: usize = 256;
/// Events taken from the sockets at a time, and clients accepted at a time.
const BATCH: usize = 64;
/// The events of the listeners are this one and those above, in their order.
const LISTENER: u64 = u64::MAX - 1;

/// All connections of one guest.
pub struct Muxer {
    guest_cid: u64,
    /// None without Unix sockets: the guest reaches claimed ports only.
    path: Option<PathBuf>,
    listeners: Vec<Listener>,
    claims: HashMap<u32, (Kind, Accept)>,
    limit: usize,
    epoll: Epoll,
    /// A listener could not accept, and is watched for edges only until a slot is free again.
    parked: bool,
    listening: bool,
    /// The driver knows seqpacket connections.
    seqpacket: bool,
    slots: Slots,
    keys: HashMap<Key, usize>,
    ready: VecDeque<usize>,
    unsettled: Vec<usize>,
    resets: VecDeque<Header>,
    next_port: u32,
    taken: Taken,
}

impl Muxer {
    /// No connection yet; `limit` is how many each side may have asked for.
    pub fn new(guest_cid: u64, limit: usize) -> io::Result<Self> {
        Ok(Self {
            guest_cid,
            path: None,
            listeners: Vec::new(),
            claims: HashMap::new(),
            limit,
            epoll: Epoll::new()?,
            parked: false,
            listening: false,
            seqpacket: false,
            slots: Slots::default(),
            keys: HashMap::new(),
            ready: VecDeque::new(),
            unsettled: Vec::new(),
            resets: VecDeque::new(),
            next_port: clients::FIRST_PORT,
            taken: Taken::default(),
        })
    }

    /// Readable when a host socket has news.
    pub fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// At most this many connections that either side asked for from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Lets `accept` decide about connections of this kind to `port`.
    pub fn claim(&mut self, port: u32, kind: Kind, accept: Accept) {
        self.claims.insert(port, (kind, accept));
    }

    /// Listens for clients of the host on `path` and beside it.
    pub fn listen(&mut self, path: &Path) -> Result<(), HostError> {
        for kind in [Kind::Stream, Kind::Seqpacket] {
            self.listeners.push(Listener::bind(&host::clients_path(path, kind), kind)?);
        }
        self.path = Some(path.to_owned());
        Ok(())
    }

    /// Starts to take clients of the host; those that want messages are refused unless the driver knows
    /// `seqpacket`.
    pub fn start(&mut self, seqpacket: bool) -> io::Result<()> {
        self.seqpacket = seqpacket;
        self.listening = true;
        for (token, listener) in (LISTENER..=u64::MAX).zip(&self.listeners) {
            let event = EpollEvent::new(EventSet::IN, token);
            self.epoll.ctl(ControlOperation::Add, listener.fd(), event)?;
        }
        Ok(())
    }

    /// Removes the Unix sockets; no client finds the device any more. To be called when it has stopped.
    pub fn close(&mut self) {
        self.listeners.clear();
        self.path = None;
    }

    /// Drops every connection and takes no clients any more.
    pub fn stop(&mut self) {
        if std::mem::take(&mut self.listening) {
            for listener in &self.listeners {
                // Fails only when it is not there, which is what is wanted.
                let _ = self.epoll.ctl(ControlOperation::Delete, listener.fd(), EpollEvent::default());
            }
        }
        self.parked = false;
        self.drop_connections();
    }

    /// Drops every connection, and what the guest was to be sent of it.
    pub fn drop_connections(&mut self) {
        // Closing a socket takes it out of the epoll. Slots stay, so that an event already under way is
        // known by its generation to be late.
        for index in 0..self.slots.len() {
            self.release(index);
        }
        self.ready.clear();
        self.unsettled.clear();
        for slot in self.slots.iter_mut() {
            (slot.ready, slot.unsettled) = (false, false);
        }
        self.resets.clear();
    }

    /// Whether the tx queue has to wait until the guest takes what it is sent.
    pub fn is_clogged(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// Takes one packet of the guest.
    ///
    /// # Errors
    /// When the chain is no longer guest memory.
    pub fn on_chain(&mut self, mem: &GuestMemoryMmap, chain: &Chain) -> Result<(), QueueError> {
        let packet = match Packet::read(mem, chain, self.guest_cid, self.seqpacket)? {
            Ok(packet) => packet,
            Err(error) => {
                debug!("vsock: {error}");
                self.on_malformed(error);
                return Ok(());
            }
        };
        let key = packet.header.key();
        let op = packet.header.op.get();
        let Some(&index) = self.keys.get(&key) else {
            match op {
                op::REQUEST => self.on_request(&packet),
                op::RST => self.forget_resets(key),
                _ => self.resets.push_back(packet.header.reset()),
            }
            return Ok(());
        };
        let State::Conn(conn) = &mut self.slots[index].state else { return Ok(()) };
        if op == op::REQUEST && conn.is_over() {
            // The guest uses the port again: it has forgotten what only waited for its last word.
            self.release(index);
            self.on_request(&packet);
            return Ok(());
        }
        if packet.kind != conn.kind() {
            // Of another connection, which is not there.
            if op != op::RST {
                self.resets.push_back(packet.header.reset());
            }
            return Ok(());
        }
        let verdict = conn.on_packet(mem, &packet)?;
        self.settle(index, verdict);
        Ok(())
    }

    fn on_malformed(&mut self, error: PacketError) {
        match error {
            PacketError::NoHeader { .. } | PacketError::ForeignSource { .. } => {}
            PacketError::Unserved(header) if header.op.get() == op::RST => {}
            PacketError::Unserved(header) => self.resets.push_back(header.reset()),
            PacketError::Length { header, .. } => match self.keys.get(&header.key()) {
                Some(&index) => self.settle(index, Verdict::Broken),
                None => self.resets.push_back(header.reset()),
            },
        }
    }

    /// A reset that the guest's own made moot must not meet the next connection of the same ports.
    fn forget_resets(&mut self, key: Key) {
        self.resets.retain(|reset| {
            (reset.src_cid.get(), reset.src_port.get(), reset.dst_port.get())
                != (HOST_CID, key.host, key.guest)
        });
    }

    fn on_request(&mut self, request: &Packet<'_>) {
        let key = request.header.key();
        self.forget_resets(key);
        let socket = if self.make_room(Side::Guest) { self.open(key, request.kind) } else { None };
        let Some(socket) = socket else {
            self.resets.push_back(request.header.reset());
            return;
        };
        let index = self.slots.take(Side::Guest);
        let conn = Conn::accepted(&request.header, socket, self.slots.window(index));
        if let Err(error) = self.watch_new(index, State::Conn(conn)) {
            debug!("vsock: connection not watched: {error}");
            self.resets.push_back(request.header.reset());
        }
    }

    /// The host's end for a connection that the guest asks for.
    fn open(&mut self, key: Key, kind: Kind) -> Option<HostSocket> {
        if let Some((claimed, accept)) = self.claims.get_mut(&key.host) {
            let socket = if *claimed == kind { accept(GuestPort(key.guest)) } else { None };
            return HostSocket::from_pair(socket?, kind).ok();
        }
        let connected = host::connect_to_service(self.path.as_ref()?, key.host, kind);
        connected.inspect_err(|error| debug!("vsock: host port {} refused: {error}", key.host)).ok()
    }

    /// Whether this side may have another slot, if need be one that somebody has left but for formalities.
    fn make_room(&mut self, side: Side) -> bool {
        if self.slots.used(side) < self.limit {
            return true;
        }
        match self.slots.eldest_leaving(side) {
            Some(index) if matches!(self.slots[index].state, State::Conn(_)) => {
                self.settle(index, Verdict::Broken);
            }
            Some(index) => self.release(index),
            None => {
                debug!("vsock: connection refused: {} of the {side:?}'s are open", self.limit);
                return false;
            }
        }
        true
    }

    /// Puts `state` into a slot that was just taken and watches its socket.
    fn watch_new(&mut self, index: usize, state: State) -> io::Result<()> {
        let token = self.slots.token(index);
        let (fd, events) = match &state {
            State::Handshake(handshake) => (handshake.socket().as_raw_fd(), EventSet::IN),
            State::Conn(conn) => {
                (conn.socket().expect("a new connection has a socket").as_raw_fd(), conn.wanted())
            }
            State::Free | State::Rest { .. } => unreachable!("only what is new is watched anew"),
        };
        if let Err(error) = self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, token)) {
            self.slots.vacate(index);
            return Err(error);
        }
        self.place(index, state, events);
        Ok(())
    }

    /// Gives a slot a new state, whose socket is watched for `events`.
    fn place(&mut self, index: usize, mut state: State, events: EventSet) {
        if let State::Conn(conn) = &mut state {
            conn.watched = events;
            self.keys.insert(conn.key(), index);
        }
        self.slots.place(index, state);
        self.touch(index);
    }

    /// Notes that a slot may have something to send and may want other events than before.
    fn touch(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let State::Conn(conn) = &slot.state else { return };
        if !slot.ready && (conn.has_control() || conn.has_data()) {
            slot.ready = true;
            self.ready.push_back(index);
        }
        if !slot.unsettled && conn.watched != conn.wanted() {
            slot.unsettled = true;
            self.unsettled.push(index);
        }
    }

    /// Empties a slot; the socket in it is closed, which also takes it out of the epoll.
    fn release(&mut self, index: usize) {
        match std::mem::replace(&mut self.slots[index].state, State::Free) {
            State::Free => return,
            State::Handshake(_) | State::Rest { .. } => {}
            State::Conn(conn) => drop(self.keys.remove(&conn.key())),
        }
        self.vacate(index);
    }

    /// Lets somebody else have a slot that is empty now.
    fn vacate(&mut self, index: usize) {
        self.slots.vacate(index);
        self.unpark();
    }

    /// Goes on or ends a connection after an event.
    fn settle(&mut self, index: usize, verdict: Verdict) {
        if verdict == Verdict::Keep {
            return self.touch(index);
        }
        let State::Conn(conn) = &self.slots[index].state else { return };
        let key = conn.key();
        if verdict != Verdict::Gone && conn.is_known() {
            let reset = self.reset(key, conn.kind());
            self.resets.push_back(reset);
        }
        if verdict == Verdict::Broken {
            return self.release(index);
        }
        self.keys.remove(&key);
        let State::Conn(conn) = std::mem::replace(&mut self.slots[index].state, State::Free) else { return };
        if let Some((socket, backlog)) = conn.into_rest()
            && !backlog.is_idle()
        {
            // The guest takes nothing more.
            socket.shutdown(Shutdown::Read);
            let event = EpollEvent::new(EventSet::OUT, self.slots.token(index));
            if self.epoll.ctl(ControlOperation::Modify, socket.as_raw_fd(), event).is_ok() {
                return self.place(index, State::Rest { socket, backlog }, EventSet::OUT);
            }
        }
        self.vacate(index);
    }

    fn reset(&self, key: Key, kind: Kind) -> Header {
        Header {
            src_cid: U64::new(HOST_CID),
            dst_cid: U64::new(self.guest_cid),
            src_port: U32::new(key.host),
            dst_port: U32::new(key.guest),
            kind: U16::new(kind.wire()),
            op: U16::new(op::RST),
            ..Header::new_zeroed()
        }
    }

    /// Takes what the host's sockets have to say.
    pub fn poll(&mut self) {
        let mut events = [EpollEvent::default(); BATCH];
        // Fails only when a signal came in between: the epoll stays readable.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in &events[..count] {
            if let Some(listener) = event.data().checked_sub(LISTENER) {
                self.accept(usize::from(listener > 0));
                continue;
            }
            let index = usize::try_from(event.data() & u64::from(u32::MAX)).expect("32 bits");
            if self.slots.get(index).is_some() && self.slots.token(index) == event.data() {
                self.on_event(index, event.event_set());
            }
        }
    }

    fn on_event(&mut self, index: usize, events: EventSet) {
        match &mut self.slots[index].state {
            State::Free => {}
            State::Handshake(handshake) => match handshake.advance() {
                Greeting::Partial => {}
                Greeting::Connect(port) => self.request(index, port),
                Greeting::Refused => self.release(index),
            },
            State::Conn(conn) => {
                let verdict = conn.on_event(events);
                self.settle(index, verdict);
            }
            State::Rest { socket, backlog } => {
                let failed = backlog.flush(socket).is_err() || events.contains(EventSet::HANG_UP);
                if failed || backlog.is_idle() {
                    self.release(index);
                }
            }
        }
    }

    /// Slots in use, slots in all, unsent resets, length of the ready list, bytes that wait for the host.
    #[cfg(test)]
    pub fn census(&self) -> [usize; 5] {
        let waiting = self.slots.iter().map(|slot| match &slot.state {
            State::Conn(conn) => conn.backlog_capacity(),
            State::Rest { backlog, .. } => backlog.capacity(),
            State::Free | State::Handshake(_) => 0,
        });
        let used = self.slots.used(Side::Guest) + self.slots.used(Side::Host);
        [used, self.slots.len(), self.resets.len(), self.ready.len(), waiting.sum()]
    }

    /// Whether the guest is to be sent something.
    pub fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Watches each socket for what its connection waits for now.
    pub fn settle_watches(&mut self) {
        while let Some(index) = self.unsettled.pop() {
            self.slots[index].unsettled = false;
            let token = self.slots.token(index);
            let State::Conn(conn) = &mut self.slots[index].state else { continue };
            let wanted = conn.wanted();
            let Some(socket) = conn.socket().filter(|_| wanted != conn.watched) else { continue };
            let event = EpollEvent::new(wanted, token);
            match self.epoll.ctl(ControlOperation::Modify, socket.as_raw_fd(), event) {
                Ok(()) => conn.watched = wanted,
                // Only for lack of kernel memory.
                Err(error) => {
                    debug!("vsock: connection given up: {error}");
                    self.settle(index, Verdict::Broken);
                }
            }
        }
    }
}
