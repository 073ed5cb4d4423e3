//! One connection: what each end may still send, how much, and what the guest has yet to be told.
//!
//! ```text
//!   guest ──RW──> [backlog, at most `window` bytes] ──send──> host socket        credit: window, forwarded
//!   guest <──RW── rx buffers of the guest <────────recv────── host socket        credit: peer_alloc, peer_forwarded
//! ```
//!
//! Bytes towards the guest are never held here: they go from the socket into the guest's buffers, and only
//! when it has both buffers and credit. Bytes towards the host are held only as long as its socket is full.
//!
//! Each direction ends for itself. The guest's SHUTDOWN(send) becomes a `shutdown(Write)` of the socket once
//! the backlog is gone; the socket's end of file becomes SHUTDOWN(send) once everything before it is
//! delivered; a host that stops reading becomes SHUTDOWN(receive), when the next send to it fails: no event of
//! a Unix socket stands for that (`host::tests`), as none of TCP does. The guest ends the whole with SHUTDOWN(both), which an RST answers, or with an RST.
//!
//! A seqpacket connection differs in what is passed on at a time, a whole message: the guest's is gathered in the
//! backlog until its end; the host's is taken out of its socket once the guest has credit for all of it, and
//! should the guest's buffers not hold it at once, the rest of it is the one thing that is held here.

mod backlog;
mod incoming;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::net::Shutdown;

use vm_memory::{GuestMemoryMmap, Permissions};
use vmm_sys_util::epoll::EventSet;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

pub use self::backlog::Backlog;
use self::incoming::Incoming;
pub use self::incoming::Next;
use super::host::HostSocket;
use super::packet::{HOST_CID, Header, Key, Kind, Packet, Pieces, op, seqpacket, shutdown};
use crate::virtio::queue::QueueError;

/// The most chains that one read from the host fills.
const MAX_BURST: usize = 32;

/// What becomes of a connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// The guest closed it: answer with an RST; its backlog still goes to the host.
    Closed,
    /// The guest reset it: answer nothing; its backlog still goes to the host.
    Gone,
    /// One end broke the rules or vanished: tell the guest with an RST.
    Broken,
}

/// Control packets that the guest is to be sent.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit_update: bool,
}

/// One connection between a guest port and a stream of the host.
#[derive(Debug)]
pub struct Conn {
    key: Key,
    kind: Kind,
    /// None once the host's end is of no more use.
    socket: Option<HostSocket>,
    /// The host asked for the connection and the guest has not answered yet.
    connecting: bool,
    owed: Owed,
    /// Shutdown flags that the guest sent, that the host's end amounts to, and that the guest was told.
    guest_shut: u32,
    host_shut: u32,
    told_shut: u32,

    window: u32,
    backlog: Backlog,
    forwarded: u32,
    told_forwarded: u32,

    peer_alloc: u32,
    peer_forwarded: u32,
    sent: u32,
    /// Credit was asked for since it last ran out.
    asked: bool,
    /// The socket has, or may have, something to read.
    readable: bool,
    burst: usize,
    /// What is known of the next message of the host.
    incoming: Incoming,
    /// What the socket is watched for.
    pub watched: EventSet,
}

impl Conn {
    /// A connection that the guest asked for with `request`; the answer is owed.
    pub fn accepted(request: &Header, socket: HostSocket, window: u32) -> Self {
        let mut conn = Self::new(request.key(), socket, window);
        conn.owed.response = true;
        conn.credit_from(request);
        conn
    }

    /// A connection that the host asks for; the request is owed.
    pub fn requested(key: Key, socket: HostSocket, window: u32) -> Self {
        let mut conn = Self::new(key, socket, window);
        conn.owed.request = true;
        conn.connecting = true;
        conn
    }

    fn new(key: Key, socket: HostSocket, window: u32) -> Self {
        let window = match socket.kind() {
            Kind::Stream => window,
            // A message that fits the window must fit the socket.
            Kind::Seqpacket => window.min(socket.longest_message().unwrap_or(0)),
        };
        Self {
            key,
            kind: socket.kind(),
            socket: Some(socket),
            connecting: false,
            owed: Owed::default(),
            guest_shut: 0,
            host_shut: 0,
            told_shut: 0,
            window,
            backlog: Backlog::default(),
            forwarded: 0,
            told_forwarded: 0,
            peer_alloc: 0,
            peer_forwarded: 0,
            sent: 0,
            asked: false,
            readable: false,
            burst: 1,
            incoming: Incoming::default(),
            watched: EventSet::empty(),
        }
    }

    /// Its ports.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The host's end, while it is of use.
    pub fn socket(&self) -> Option<&HostSocket> {
        self.socket.as_ref()
    }

    /// Bytes of memory that its backlog holds.
    #[cfg(test)]
    pub fn backlog_capacity(&self) -> usize {
        self.backlog.capacity()
    }

    /// Whether the guest has heard of the connection.
    pub fn is_known(&self) -> bool {
        !self.owed.request
    }

    /// Whether both directions are over and only the guest's last word is missing.
    pub fn is_over(&self) -> bool {
        self.socket.is_none()
    }

    /// The host's end and the bytes that it has yet to be given.
    pub fn into_rest(self) -> Option<(HostSocket, Backlog)> {
        self.socket.map(|socket| (socket, self.backlog))
    }

    /// What the socket should be watched for. Only with nothing else to wait for is the end of both
    /// directions, which cannot be masked, taken as an edge: level-triggered it would never be quiet.
    pub fn wanted(&self) -> EventSet {
        let mut wanted = EventSet::empty();
        if self.may_read() && !self.readable {
            wanted |= EventSet::IN | EventSet::READ_HANG_UP;
        }
        if !self.backlog.is_idle() {
            wanted |= EventSet::OUT;
        }
        if wanted.is_empty() { EventSet::EDGE_TRIGGERED } else { wanted }
    }

    fn may_read(&self) -> bool {
        !self.connecting
            && self.socket.is_some()
            && self.guest_shut & shutdown::RECEIVE == 0
            && self.host_shut & shutdown::SEND == 0
    }

    /// Bytes that the guest has room for.
    pub fn credit(&self) -> u32 {
        // A guest that claims to have taken more than it was sent has no room at all.
        self.peer_alloc.saturating_sub(self.sent.wrapping_sub(self.peer_forwarded))
    }

    fn credit_from(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc.get();
        self.peer_forwarded = header.fwd_cnt.get();
        self.asked &= self.credit() < self.needed_credit();
    }

    /// Credit without which nothing can be read: a byte's, a message's.
    fn needed_credit(&self) -> u32 {
        self.incoming.len().max(1)
    }

    /// Whether there is something to read and room for it.
    pub fn has_data(&self) -> bool {
        let ready = self.readable && self.credit() >= self.needed_credit();
        self.may_read() && (ready || self.has_partial_message())
    }

    /// Whether the guest was sent the beginning of a message: the rest comes before anything else.
    pub fn has_partial_message(&self) -> bool {
        self.incoming.is_taken()
    }

    /// How many chains the next read should offer.
    pub fn burst(&self) -> usize {
        self.burst
    }

    /// The last read filled so many of the chains that it was offered: the next one offers twice as many if it could have
    /// filled more, so that a stream uses the most at once, else hardly more: to look at chains in vain costs half as much
    /// as to fill them.
    pub fn filled(&mut self, chains: usize) {
        let all = chains >= self.burst;
        self.burst = if all { 2 * chains } else { chains + 1 }.clamp(1, MAX_BURST);
    }

    fn wants_credit(&self) -> bool {
        let starved = self.credit() < self.needed_credit() && !self.has_partial_message();
        self.readable && self.may_read() && starved && !self.asked
    }

    fn news_of_shutdown(&self) -> u32 {
        let news = self.host_shut & !self.told_shut;
        // A guest that sends nothing more need not hear alone that nothing is received.
        let moot = news == shutdown::RECEIVE && self.guest_shut & shutdown::SEND != 0;
        if moot { 0 } else { news }
    }

    /// Whether the guest is to be sent a control packet.
    pub fn has_control(&self) -> bool {
        self.owed.request
            || self.owed.response
            || self.owed.credit_update
            || (!self.connecting && self.news_of_shutdown() != 0)
            || self.wants_credit()
    }

    /// The next control packet; as good as sent.
    pub fn next_control(&mut self, guest_cid: u64) -> Option<Header> {
        let (op, flags) = if std::mem::take(&mut self.owed.request) {
            (op::REQUEST, 0)
        } else if std::mem::take(&mut self.owed.response) {
            (op::RESPONSE, 0)
        } else if !self.connecting && self.news_of_shutdown() != 0 {
            self.told_shut |= self.host_shut;
            if self.told_shut == shutdown::BOTH {
                self.socket = None;
            }
            (op::SHUTDOWN, self.told_shut)
        } else if self.wants_credit() {
            self.asked = true;
            (op::CREDIT_REQUEST, 0)
        } else if self.owed.credit_update {
            (op::CREDIT_UPDATE, 0)
        } else {
            return None;
        };
        Some(Header { flags: U32::new(flags), ..self.header(guest_cid, op, 0) })
    }

    /// The header of a packet with `len` bytes of payload that were just read from the host, with these
    /// [flags](seqpacket); or, but for the length, those of several packets that `len` bytes are for.
    pub fn data_header(&mut self, guest_cid: u64, len: u32, flags: u32) -> Header {
        self.sent = self.sent.wrapping_add(len);
        Header { flags: U32::new(flags), ..self.header(guest_cid, op::RW, len) }
    }

    /// Every packet tells the guest its credit.
    fn header(&mut self, guest_cid: u64, op: u16, len: u32) -> Header {
        self.owed.credit_update = false;
        self.told_forwarded = self.forwarded;
        Header {
            src_cid: U64::new(HOST_CID),
            dst_cid: U64::new(guest_cid),
            src_port: U32::new(self.key.host),
            dst_port: U32::new(self.key.guest),
            len: U32::new(len),
            kind: U16::new(self.kind.wire()),
            op: U16::new(op),
            buf_alloc: U32::new(self.window),
            fwd_cnt: U32::new(self.forwarded),
            ..Header::new_zeroed()
        }
    }

    /// Takes a packet of the guest.
    ///
    /// # Errors
    /// When its payload is no longer guest memory.
    pub fn on_packet(&mut self, mem: &GuestMemoryMmap, packet: &Packet<'_>) -> Result<Verdict, QueueError> {
        self.credit_from(&packet.header);
        let op = packet.header.op.get();
        Ok(match op {
            op::RST => Verdict::Gone,
            op::RESPONSE if self.connecting && self.is_known() => self.on_response(),
            _ if self.connecting => Verdict::Broken,
            op::RW => self.on_data(mem, packet)?,
            op::SHUTDOWN => self.on_shutdown(packet.header.flags.get()),
            op::CREDIT_UPDATE => Verdict::Keep,
            op::CREDIT_REQUEST => {
                self.owed.credit_update = true;
                Verdict::Keep
            }
            _ => Verdict::Broken,
        })
    }

    fn on_response(&mut self) -> Verdict {
        let line = format!("OK {}\n", self.key.host);
        // The first bytes on this socket: they fit, or its other end is gone.
        match self.socket.as_ref().map(|socket| socket.send(line.as_bytes())) {
            Some(Ok(sent)) if sent == line.len() => {
                self.connecting = false;
                Verdict::Keep
            }
            _ => Verdict::Broken,
        }
    }

    fn on_data(&mut self, mem: &GuestMemoryMmap, packet: &Packet<'_>) -> Result<Verdict, QueueError> {
        let len = packet.payload_len();
        if self.guest_shut & shutdown::SEND != 0 || len > self.window as usize - self.backlog.len() {
            return Ok(Verdict::Broken);
        }
        let Some(socket) = self.socket.as_ref().filter(|_| self.host_shut & shutdown::RECEIVE == 0) else {
            self.forward(len);
            return Ok(Verdict::Keep);
        };
        let ends = packet.header.flags.get() & seqpacket::EOM != 0;
        // A message that began in the backlog goes on there.
        let whole = self.kind == Kind::Stream || ends;
        let began = !self.backlog.is_empty();
        let mut taken = 0;
        if !began && whole && len > 0 {
            let mut pieces = Pieces::default();
            pieces.append(mem, packet.payload(), Permissions::Read)?;
            // A message in more pieces than the kernel takes goes through the backlog.
            let fits = self.kind == Kind::Stream || pieces.total() == len;
            let sent = if fits { socket.send_pieces(&pieces) } else { Ok(0) };
            taken = match sent {
                Ok(taken) => taken,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
                Err(_) => {
                    self.forward(len);
                    self.host_receives_no_more();
                    return Ok(Verdict::Keep);
                }
            };
        }
        if taken < len {
            packet.copy(mem, taken, self.backlog.extend(len - taken))?;
        }
        if self.kind == Kind::Seqpacket && taken == 0 {
            self.backlog.add_to_message(len);
            if ends {
                self.backlog.end_message();
            }
        }
        self.forward(taken);
        // A socket that is watched for room has none.
        if began && !self.watched.contains(EventSet::OUT) {
            self.flush();
        }
        Ok(Verdict::Keep)
    }

    /// Sends what can be sent of the backlog.
    fn flush(&mut self) {
        if let Some(socket) = &self.socket {
            match self.backlog.flush(socket) {
                Ok(sent) => {
                    self.forward(sent);
                    self.end_writing();
                }
                Err(_) => self.host_receives_no_more(),
            }
        }
    }

    /// Counts bytes that left the window. The guest hears of it when half of the window is at stake, or when it
    /// would else be short of credit: what lies here may be the beginning of a message whose rest waits for it.
    fn forward(&mut self, len: usize) {
        let len = u32::try_from(len).expect("at most a window");
        self.forwarded = self.forwarded.wrapping_add(len);
        let news = self.forwarded.wrapping_sub(self.told_forwarded);
        let held = u32::try_from(self.backlog.len()).expect("at most a window");
        let spent = news.saturating_add(held);
        if news >= self.window / 2 || (news > 0 && spent >= self.window / 4 * 3) {
            self.owed.credit_update = true;
        }
    }

    fn host_receives_no_more(&mut self) {
        let dropped = self.backlog.len();
        self.backlog.clear();
        self.forward(dropped);
        self.host_shut |= shutdown::RECEIVE;
    }

    fn on_shutdown(&mut self, flags: u32) -> Verdict {
        self.guest_shut |= flags & shutdown::BOTH;
        if self.guest_shut == shutdown::BOTH {
            return Verdict::Closed;
        }
        if let Some(socket) = &self.socket
            && self.guest_shut & shutdown::RECEIVE != 0
        {
            socket.shutdown(Shutdown::Read);
            self.incoming = Incoming::default();
        }
        self.end_writing();
        Verdict::Keep
    }

    /// Passes the guest's end of file on, after its last byte.
    fn end_writing(&self) {
        if let Some(socket) = &self.socket
            && self.guest_shut & shutdown::SEND != 0
            && self.backlog.is_idle()
        {
            socket.shutdown(Shutdown::Write);
        }
    }

    /// Takes an event of the host's socket.
    pub fn on_event(&mut self, events: EventSet) -> Verdict {
        if events.contains(EventSet::HANG_UP) {
            if self.connecting {
                return Verdict::Broken;
            }
            self.host_receives_no_more();
            if self.guest_shut & shutdown::RECEIVE != 0 {
                self.host_shut |= shutdown::SEND;
            }
        }
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR) {
            self.readable = true;
        }
        if events.contains(EventSet::OUT) {
            self.flush();
        }
        Verdict::Keep
    }

    /// Reads from the host into the guest's buffers; gives the number of bytes, or none when the connection
    /// is broken.
    pub fn read(&mut self, pieces: &Pieces<'_>) -> Option<usize> {
        match self.socket.as_ref()?.receive_pieces(pieces) {
            Ok(0) => {
                self.readable = false;
                self.host_shut |= shutdown::SEND;
                Some(0)
            }
            Ok(len) if len < pieces.total() => {
                // Whatever else there is makes the watched socket report again.
                self.readable = false;
                Some(len)
            }
            Ok(len) => Some(len),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Some(0)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Some(0),
            Err(_) => None,
        }
    }
}
