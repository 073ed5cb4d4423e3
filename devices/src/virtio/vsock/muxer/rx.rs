//! Towards the guest: whose turn it is, and how its bytes get into the guest's buffers.

use vm_memory::{Bytes, GuestMemoryMmap, Permissions};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::{Muxer, State};
use crate::virtio::queue::{self, Batch, Buffer, Chain, OneBuffer, QueueError};
use crate::virtio::vsock::conn::{Conn, Next, Verdict};
use crate::virtio::vsock::packet::{HEADER_LEN, Header, Kind, MAX_PAYLOAD, Pieces, seqpacket};

/// Bytes that one turn of a connection reads at most.
const MAX_TURN: usize = 128 * 1024;

/// Why no packet is sent to the guest any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There is nothing to send.
    All,
    /// The guest has no rx buffer left.
    Starved,
    /// The budget is used up.
    More,
}

impl Muxer {
    /// Sends packets to the guest while it has buffers, each connection in its turn; every chain costs one
    /// of `budget`.
    ///
    /// # Errors
    /// When the guest broke a rule of its queue.
    pub fn fill(&mut self, rx: &mut Batch<'_>, budget: &mut usize) -> Result<Filled, QueueError> {
        while self.has_packets() {
            if *budget == 0 {
                return Ok(Filled::More);
            }
            if let Some(reset) = self.resets.front() {
                if send_header(rx, &mut self.taken.chain, reset, budget)? {
                    self.resets.pop_front();
                    continue;
                }
                return Ok(if *budget == 0 { Filled::More } else { Filled::Starved });
            }
            let Some(index) = self.ready.pop_front() else { break };
            let starved = !self.turn(index, rx, budget)?;
            self.slots[index].ready = false;
            // The rest of a message comes before anybody else's turn, so that at most one is held.
            let partial = matches!(&self.slots[index].state, State::Conn(conn) if conn.has_partial_message());
            if starved || partial {
                // It keeps its place.
                self.slots[index].ready = true;
                self.ready.push_front(index);
                if starved {
                    return Ok(if *budget == 0 { Filled::More } else { Filled::Starved });
                }
                continue;
            }
            self.touch(index);
        }
        Ok(Filled::All)
    }

    /// One turn of a connection: its control packets, and one read from the host. False without buffers.
    fn turn(&mut self, index: usize, rx: &mut Batch<'_>, budget: &mut usize) -> Result<bool, QueueError> {
        let Self { slots, taken, guest_cid, .. } = self;
        let State::Conn(conn) = &mut slots[index].state else { return Ok(true) };
        while conn.has_control() {
            if !next_chain(rx, &mut taken.chain, budget)? {
                return Ok(false);
            }
            if let Some(header) = conn.next_control(*guest_cid) {
                taken.chain.write_at(rx.memory(), 0, header.as_bytes())?;
                rx.give_back(taken.chain.head(), HEADER_LEN)?;
            }
        }
        if !conn.has_data() {
            return Ok(true);
        }
        let mut sender = Sender { conn, guest_cid: *guest_cid, rx, taken, budget };
        let read = match sender.conn.kind() {
            Kind::Stream => sender.stream()?,
            Kind::Seqpacket => sender.message()?,
        };
        let Some(broken) = read else { return Ok(false) };
        if broken {
            self.settle(index, Verdict::Broken);
        }
        Ok(true)
    }
}

/// The next rx chain that can hold a header; the others go back empty. False without one.
fn next_chain(rx: &mut Batch<'_>, chain: &mut Chain, budget: &mut usize) -> Result<bool, QueueError> {
    while *budget > 0 {
        if !rx.pop(chain)? {
            return Ok(false);
        }
        *budget -= 1;
        if chain.writable_len() >= u64::from(HEADER_LEN) {
            return Ok(true);
        }
        rx.give_back(chain.head(), 0)?;
    }
    Ok(false)
}

/// Sends a packet of a header alone. False without buffers.
fn send_header(
    rx: &mut Batch<'_>,
    chain: &mut Chain,
    header: &Header,
    budget: &mut usize,
) -> Result<bool, QueueError> {
    if !next_chain(rx, chain, budget)? {
        return Ok(false);
    }
    chain.write_at(rx.memory(), 0, header.as_bytes())?;
    rx.give_back(chain.head(), HEADER_LEN)?;
    Ok(true)
}

/// The memory for what is known of rx chains, used again and again.
#[derive(Default)]
pub(super) struct Taken {
    /// The chain that is looked at.
    chain: Chain,
    /// The buffers of all chains of several, each with the next one's behind its own.
    buffers: Vec<Buffer>,
}

/// Rx chains with room for payload, taken for one read.
struct Rooms<'q> {
    list: Vec<Room<'q>>,
    /// The room for payload of all of them.
    pieces: Pieces<'q>,
}

/// One of them.
struct Room<'q> {
    place: Place<'q>,
    /// How much of its room for payload is to be used.
    len: u32,
}

/// Where it lies.
enum Place<'q> {
    /// In one buffer, as Linux has it.
    One(OneBuffer<'q>),
    /// In those from `first` to `end` of [`Taken::buffers`].
    Several { head: u16, first: usize, end: usize },
}

impl Room<'_> {
    fn head(&self) -> u16 {
        match &self.place {
            Place::One(one) => one.head(),
            Place::Several { head, .. } => *head,
        }
    }
}

impl Taken {
    /// Writes into a chain, at `offset` of it.
    #[inline(always)]
    fn write(
        &self,
        mem: &GuestMemoryMmap,
        room: &Room<'_>,
        offset: u32,
        data: &[u8],
    ) -> Result<(), QueueError> {
        match &room.place {
            Place::One(one) => {
                one.write_at(offset, data);
                Ok(())
            }
            Place::Several { first, end, .. } => self.scatter(mem, (*first, *end), offset, data),
        }
    }

    #[cold]
    fn scatter(
        &self,
        mem: &GuestMemoryMmap,
        (first, end): (usize, usize),
        offset: u32,
        data: &[u8],
    ) -> Result<(), QueueError> {
        let mut rest = data;
        for piece in queue::slices(&self.buffers[first..end], u64::from(offset), data.len()) {
            let (now, later) = rest.split_at(piece.len as usize);
            mem.write_slice(now, piece.addr)
                .map_err(|_| QueueError::Buffer { addr: piece.addr.0, len: u64::from(piece.len) })?;
            rest = later;
        }
        Ok(())
    }
}

/// One connection with something for the guest, and the guest's buffers.
struct Sender<'a, 'q> {
    conn: &'a mut Conn,
    guest_cid: u64,
    rx: &'a mut Batch<'q>,
    taken: &'a mut Taken,
    budget: &'a mut usize,
}

impl<'q> Sender<'_, 'q> {
    /// Takes chains with room for `room` bytes, at most `most` of them.
    fn gather(&mut self, room: usize, most: usize) -> Result<Rooms<'q>, QueueError> {
        self.taken.buffers.clear();
        let likely = most.min(*self.budget);
        let (mut list, mut pieces) = (Vec::with_capacity(likely), Pieces::with_capacity(likely));
        while list.len() < most && pieces.total() < room && !pieces.is_full() && *self.budget > 0 {
            let left = u32::try_from(room - pieces.total()).unwrap_or(MAX_PAYLOAD).min(MAX_PAYLOAD);
            let taken = match self.rx.pop_one_buffer()? {
                Some(one) if one.writable_len() > HEADER_LEN => {
                    *self.budget -= 1;
                    let len = pieces.append_one(&one, HEADER_LEN, left);
                    Some(Room { place: Place::One(one), len })
                }
                other => {
                    if other.is_some() {
                        self.rx.unpop();
                    }
                    self.take(&mut pieces, left, list.is_empty())?
                }
            };
            let Some(room) = taken else { break };
            list.push(room);
        }
        Ok(Rooms { list, pieces })
    }

    /// Takes the next chain, whatever it is made of, with `len` bytes of room for payload if it has them. Those without any
    /// go back empty. None when there is no other.
    #[cold]
    fn take(
        &mut self,
        pieces: &mut Pieces<'q>,
        len: u32,
        is_first: bool,
    ) -> Result<Option<Room<'q>>, QueueError> {
        let Taken { chain, buffers } = &mut *self.taken;
        while *self.budget > 0 && self.rx.pop(chain)? {
            if chain.writable_len() > u64::from(HEADER_LEN) {
                *self.budget -= 1;
                let payload = queue::slices(chain.writable(), u64::from(HEADER_LEN), len as usize);
                let len = pieces.append(self.rx.memory(), payload, Permissions::Write)?;
                let first = buffers.len();
                buffers.extend_from_slice(chain.writable());
                let place = Place::Several { head: chain.head(), first, end: buffers.len() };
                let len = u32::try_from(len).expect("at most MAX_PAYLOAD");
                return Ok(Some(Room { place, len }));
            }
            // Only the last popped chain can be taken back, so this one waits until it is the first.
            if !is_first {
                self.rx.unpop();
                break;
            }
            *self.budget -= 1;
            self.rx.give_back(chain.head(), 0)?;
        }
        Ok(None)
    }

    /// Gives one of the chains taken to the guest, with as many bytes of payload as the header says.
    #[inline(always)]
    fn complete(&mut self, room: &Room<'_>, header: &Header) -> Result<(), QueueError> {
        self.taken.write(self.rx.memory(), room, 0, header.as_bytes())?;
        self.rx.give_back(room.head(), HEADER_LEN + header.len.get())
    }

    /// Takes back the last `count` chains.
    fn take_back(&mut self, count: usize) {
        for _ in 0..count {
            *self.budget += 1;
            self.rx.unpop();
        }
    }

    /// Reads from a stream straight into the guest's buffers, several packets with one call. None without
    /// buffers, else whether the connection is broken.
    fn stream(&mut self) -> Result<Option<bool>, QueueError> {
        let room = MAX_TURN.min(self.conn.credit() as usize);
        let Rooms { list, pieces } = self.gather(room, self.conn.burst())?;
        if list.is_empty() {
            return Ok(None);
        }
        let read = self.conn.read(&pieces);
        let mut filled = 0;
        if let Some(mut left) = read.and_then(|len| u32::try_from(len).ok()).filter(|&len| len > 0) {
            // The packets of one read differ in their lengths only.
            let mut header = self.conn.data_header(self.guest_cid, left, 0);
            for room in &list {
                if left == 0 {
                    break;
                }
                let len = left.min(room.len);
                header.len = U32::new(len);
                self.complete(room, &header)?;
                left -= len;
                filled += 1;
            }
        }
        self.take_back(list.len() - filled);
        self.conn.filled(filled);
        Ok(Some(read.is_none()))
    }

    /// Sends one message, or part of it. None without buffers, else whether the connection is broken.
    fn message(&mut self) -> Result<Option<bool>, QueueError> {
        let mut left = match self.conn.next_message() {
            Next::Message(len) => len,
            Next::Broken => return Ok(Some(true)),
            Next::Nothing => {
                // A client that sends nothing but empty messages is no reason to go on for ever.
                *self.budget -= 1;
                return Ok(Some(false));
            }
        };
        let Rooms { list, pieces } = self.gather(left, usize::MAX)?;
        if list.is_empty() {
            return Ok(None);
        }
        // Straight into the guest's buffers if they hold all of it: a socket gives a message once.
        let in_parts = pieces.total() < left || self.conn.has_partial_message();
        let whole = if in_parts { self.conn.take_message() } else { self.conn.read_message(&pieces) };
        if !whole {
            self.take_back(list.len());
            return Ok(Some(true));
        }
        for room in &list {
            let len = room.len as usize;
            if in_parts {
                self.taken.write(self.rx.memory(), room, HEADER_LEN, self.conn.part_of_message(len))?;
                self.conn.pass_part(len);
            }
            left -= len;
            let flags = if left == 0 { seqpacket::EOM | seqpacket::EOR } else { 0 };
            let header = self.conn.data_header(self.guest_cid, room.len, flags);
            self.complete(room, &header)?;
        }
        Ok(Some(false))
    }
}
