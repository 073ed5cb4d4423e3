//! Which connection a packet belongs to, and whose turn it is to send one.
//!
//! ```text
//!   tx queue ──> on_chain ──key──> slot ──> Conn ──> host socket
//!   rx queue <── fill <── resets, then ready slots in turn <── poll (one epoll of all host sockets)
//! ```
//!
//! Everything that a guest can make this keep is bounded: slots by `limit`, resets by back pressure (the tx
//! queue waits while too many are unsent), and each slot stands in the ready list at most once, by its
//! number, whatever comes and goes in it.

mod clients;
mod rx;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use log::debug;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

pub use self::rx::Filled;
use super::conn::{Backlog, Conn, Verdict};
use super::host::{Greeting, Handshake, Listener};
use super::packet::{HOST_CID, Header, Key, Packet, PacketError};
use super::packet::{op, socket_type};
use super::{Accept, GuestPort};
use crate::virtio::queue::{Chain, QueueError};

/// Unsent resets at which the tx queue waits.
const MAX_RESETS: usize = 256;
/// Events taken from the sockets at a time, and clients accepted at a time.
const BATCH: usize = 64;
/// Bytes that a guest may have under way to one host socket; at most `WIDE` connections have this many.
const WIDE_WINDOW: u32 = 256 * 1024;
/// Connections of the wide window, so that the backlogs of all stay within tens of megabytes.
const WIDE: usize = 64;
/// Bytes that a guest may have under way on each of the others.
const NARROW_WINDOW: u32 = 32 * 1024;
/// The listener's event.
const LISTENER: u64 = u64::MAX;

/// What a slot holds.
enum State {
    Free,
    /// A client of the host, before its line.
    Handshake(Handshake),
    Conn(Conn),
    /// What the guest sent before it closed, on its way to the host.
    Rest {
        stream: UnixStream,
        backlog: Backlog,
        window: u32,
    },
}

struct Slot {
    state: State,
    /// Tells an event for what was here before from one for what is here now.
    generation: u32,
    /// When it came to its state, for the choice of what to give up when slots run out.
    since: u64,
    /// It stands in the ready list.
    ready: bool,
    /// It stands in the list of slots whose watched events may have to change.
    unsettled: bool,
}

/// All connections of one guest.
pub struct Muxer {
    guest_cid: u64,
    listener: Option<Listener>,
    claims: HashMap<u32, Accept>,
    limit: usize,
    epoll: Epoll,
    /// The listener could not accept, and is watched for edges only until a slot is free again.
    parked: bool,
    listening: bool,
    slots: Vec<Slot>,
    free: Vec<usize>,
    keys: HashMap<Key, usize>,
    ready: VecDeque<usize>,
    unsettled: Vec<usize>,
    resets: VecDeque<Header>,
    wide: usize,
    next_port: u32,
    clock: u64,
}

impl Muxer {
    /// No connection yet; `limit` is how many there may be.
    pub fn new(guest_cid: u64, listener: Option<Listener>, limit: usize) -> io::Result<Self> {
        Ok(Self {
            guest_cid,
            listener,
            claims: HashMap::new(),
            limit,
            epoll: Epoll::new()?,
            parked: false,
            listening: false,
            slots: Vec::new(),
            free: Vec::new(),
            keys: HashMap::new(),
            ready: VecDeque::new(),
            unsettled: Vec::new(),
            resets: VecDeque::new(),
            wide: 0,
            next_port: clients::FIRST_PORT,
            clock: 0,
        })
    }

    /// Readable when a host socket has news.
    pub fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// At most this many slots from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Lets `accept` decide about connections to `port`.
    pub fn claim(&mut self, port: u32, accept: Accept) {
        self.claims.insert(port, accept);
    }

    /// Starts to take clients of the host.
    pub fn start(&mut self) -> io::Result<()> {
        if let Some(listener) = &self.listener {
            let event = EpollEvent::new(EventSet::IN, LISTENER);
            self.epoll.ctl(ControlOperation::Add, listener.fd(), event)?;
            self.listening = true;
        }
        Ok(())
    }

    /// Removes the Unix socket; no client finds the device any more. To be called when it has stopped.
    pub fn close(&mut self) {
        self.listener = None;
    }

    /// Drops every connection and takes no clients any more.
    pub fn stop(&mut self) {
        if let Some(listener) = &self.listener
            && std::mem::take(&mut self.listening)
        {
            // Fails only when it is not there, which is what is wanted.
            let _ = self.epoll.ctl(ControlOperation::Delete, listener.fd(), EpollEvent::default());
        }
        self.parked = false;
        // Closing a socket takes it out of the epoll. Slots stay, so that an event already under way is
        // known by its generation to be late.
        for index in 0..self.slots.len() {
            self.release(index);
        }
        self.ready.clear();
        self.unsettled.clear();
        for slot in &mut self.slots {
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
        let packet = match Packet::read(mem, chain, self.guest_cid)? {
            Ok(packet) => packet,
            Err(error) => {
                debug!("vsock: {error}");
                self.on_malformed(error);
                return Ok(());
            }
        };
        let key = packet.header.key();
        let Some(&index) = self.keys.get(&key) else {
            match packet.header.op.get() {
                op::REQUEST => self.on_request(&packet.header),
                op::RST => self.forget_resets(key),
                _ => self.resets.push_back(packet.header.reset()),
            }
            return Ok(());
        };
        let State::Conn(conn) = &mut self.slots[index].state else { return Ok(()) };
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

    fn on_request(&mut self, request: &Header) {
        let key = request.key();
        self.forget_resets(key);
        let stream = if self.make_room() { self.open(key) } else { None };
        let Some(stream) = stream else {
            self.resets.push_back(request.reset());
            return;
        };
        let window = self.take_window();
        let conn = Conn::accepted(request, stream, window);
        if self.insert(State::Conn(conn)).is_err() {
            self.give_window_back(window);
            self.resets.push_back(request.reset());
        }
    }

    /// The host's end for a connection that the guest asks for.
    fn open(&mut self, key: Key) -> Option<UnixStream> {
        if let Some(accept) = self.claims.get_mut(&key.host) {
            let stream = accept(GuestPort(key.guest))?;
            return stream.set_nonblocking(true).is_ok().then_some(stream);
        }
        let connected = self.listener.as_ref()?.connect(key.host);
        connected.inspect_err(|error| debug!("vsock: host port {} refused: {error}", key.host)).ok()
    }

    fn take_window(&mut self) -> u32 {
        if self.wide == WIDE {
            return NARROW_WINDOW;
        }
        self.wide += 1;
        WIDE_WINDOW
    }

    fn give_window_back(&mut self, window: u32) {
        self.wide -= usize::from(window == WIDE_WINDOW);
    }

    /// Whether a slot is left, if need be one that somebody has left but for formalities.
    fn make_room(&mut self) -> bool {
        if self.slots.len() - self.free.len() < self.limit {
            return true;
        }
        let leaving = |slot: &Slot| match &slot.state {
            State::Free => false,
            State::Conn(conn) => conn.is_over(),
            State::Handshake(_) | State::Rest { .. } => true,
        };
        let eldest = (0..self.slots.len())
            .filter(|index| leaving(&self.slots[*index]))
            .min_by_key(|index| self.slots[*index].since);
        match eldest {
            Some(index) if matches!(self.slots[index].state, State::Conn(_)) => {
                self.settle(index, Verdict::Broken);
            }
            Some(index) => self.release(index),
            None => return false,
        }
        true
    }

    /// Puts `state` into a slot and watches its socket.
    fn insert(&mut self, state: State) -> io::Result<usize> {
        let index = self.free.pop().unwrap_or_else(|| {
            let slot = Slot { state: State::Free, generation: 0, since: 0, ready: false, unsettled: false };
            self.slots.push(slot);
            self.slots.len() - 1
        });
        self.slots[index].generation = self.slots[index].generation.wrapping_add(1);
        let token = self.token(index);
        let (fd, events) = match &state {
            State::Handshake(handshake) => (handshake.stream().as_raw_fd(), EventSet::IN),
            State::Conn(conn) => {
                (conn.stream().expect("a new connection has a stream").as_raw_fd(), conn.wanted())
            }
            State::Free | State::Rest { .. } => unreachable!("only what is new is inserted"),
        };
        if let Err(error) = self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, token)) {
            self.free.push(index);
            return Err(error);
        }
        self.place(index, state, events);
        Ok(index)
    }

    /// Gives a slot a new state, whose socket is watched for `events`.
    fn place(&mut self, index: usize, mut state: State, events: EventSet) {
        if let State::Conn(conn) = &mut state {
            conn.watched = events;
            self.keys.insert(conn.key(), index);
        }
        self.clock += 1;
        self.slots[index].since = self.clock;
        self.slots[index].state = state;
        self.touch(index);
    }

    fn token(&self, index: usize) -> u64 {
        u64::from(self.slots[index].generation) << 32 | index as u64
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
        let window = match std::mem::replace(&mut self.slots[index].state, State::Free) {
            State::Free => return,
            State::Handshake(_) => 0,
            State::Rest { window, .. } => window,
            State::Conn(conn) => {
                self.keys.remove(&conn.key());
                conn.window()
            }
        };
        self.vacate(index, window);
    }

    /// Lets somebody else have a slot that is empty now.
    fn vacate(&mut self, index: usize, window: u32) {
        self.give_window_back(window);
        self.free.push(index);
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
            self.resets.push_back(self.reset(key));
        }
        if verdict == Verdict::Broken {
            return self.release(index);
        }
        self.keys.remove(&key);
        let State::Conn(conn) = std::mem::replace(&mut self.slots[index].state, State::Free) else { return };
        let window = conn.window();
        if let Some((stream, backlog)) = conn.into_rest()
            && !backlog.is_empty()
        {
            // The guest takes nothing more. Fails only when the other end is gone.
            let _ = stream.shutdown(Shutdown::Read);
            let event = EpollEvent::new(EventSet::OUT, self.token(index));
            if self.epoll.ctl(ControlOperation::Modify, stream.as_raw_fd(), event).is_ok() {
                return self.place(index, State::Rest { stream, backlog, window }, EventSet::OUT);
            }
        }
        self.vacate(index, window);
    }

    fn reset(&self, key: Key) -> Header {
        Header {
            src_cid: U64::new(HOST_CID),
            dst_cid: U64::new(self.guest_cid),
            src_port: U32::new(key.host),
            dst_port: U32::new(key.guest),
            kind: U16::new(socket_type::STREAM),
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
            if event.data() == LISTENER {
                self.accept();
                continue;
            }
            let index = usize::try_from(event.data() & u64::from(u32::MAX)).expect("32 bits");
            if self.slots.get(index).is_some() && self.token(index) == event.data() {
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
            State::Rest { stream, backlog, .. } => {
                let failed = backlog.flush(stream).is_err() || events.contains(EventSet::HANG_UP);
                if failed || backlog.is_empty() {
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
        let (slots, free) = (self.slots.len(), self.free.len());
        [slots - free, slots, self.resets.len(), self.ready.len(), waiting.sum()]
    }

    /// Whether the guest is to be sent something.
    pub fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Watches each socket for what its connection waits for now.
    pub fn settle_watches(&mut self) {
        while let Some(index) = self.unsettled.pop() {
            self.slots[index].unsettled = false;
            let token = self.token(index);
            let State::Conn(conn) = &mut self.slots[index].state else { continue };
            let wanted = conn.wanted();
            let Some(stream) = conn.stream().filter(|_| wanted != conn.watched) else { continue };
            let event = EpollEvent::new(wanted, token);
            match self.epoll.ctl(ControlOperation::Modify, stream.as_raw_fd(), event) {
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
