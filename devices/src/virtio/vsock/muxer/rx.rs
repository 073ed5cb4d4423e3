//! Towards the guest: whose turn it is, and how its bytes get into the guest's buffers.

use vm_memory::{GuestMemoryMmap, Permissions};
use zerocopy::IntoBytes;

use super::{Muxer, State};
use crate::virtio::queue::{self, Chain, QueueError, Virtqueue};
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
    pub fn fill(
        &mut self,
        rx: &mut Virtqueue,
        mem: &GuestMemoryMmap,
        budget: &mut usize,
    ) -> Result<Filled, QueueError> {
        while self.has_packets() {
            if *budget == 0 {
                return Ok(Filled::More);
            }
            if let Some(reset) = self.resets.front() {
                if send_header(rx, mem, reset, budget)? {
                    self.resets.pop_front();
                    continue;
                }
                return Ok(if *budget == 0 { Filled::More } else { Filled::Starved });
            }
            let Some(index) = self.ready.pop_front() else { break };
            let starved = !self.turn(index, rx, mem, budget)?;
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
    fn turn(
        &mut self,
        index: usize,
        rx: &mut Virtqueue,
        mem: &GuestMemoryMmap,
        budget: &mut usize,
    ) -> Result<bool, QueueError> {
        let State::Conn(conn) = &mut self.slots[index].state else { return Ok(true) };
        while conn.has_control() {
            let Some(chain) = next_chain(rx, budget)? else { return Ok(false) };
            if let Some(header) = conn.next_control(self.guest_cid) {
                chain.write_at(mem, 0, header.as_bytes())?;
                rx.complete(&chain, HEADER_LEN)?;
            }
        }
        if !conn.has_data() {
            return Ok(true);
        }
        let mut sender = Sender { conn, guest_cid: self.guest_cid, rx, mem, budget };
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

/// The next rx chain that can hold a header; the others go back empty.
fn next_chain(rx: &mut Virtqueue, budget: &mut usize) -> Result<Option<Chain>, QueueError> {
    while *budget > 0 {
        let Some(chain) = rx.pop()? else { return Ok(None) };
        *budget -= 1;
        if chain.writable_len() >= u64::from(HEADER_LEN) {
            return Ok(Some(chain));
        }
        rx.complete(&chain, 0)?;
    }
    Ok(None)
}

/// Sends a packet of a header alone. False without buffers.
fn send_header(
    rx: &mut Virtqueue,
    mem: &GuestMemoryMmap,
    header: &Header,
    budget: &mut usize,
) -> Result<bool, QueueError> {
    let Some(chain) = next_chain(rx, budget)? else { return Ok(false) };
    chain.write_at(mem, 0, header.as_bytes())?;
    rx.complete(&chain, HEADER_LEN)?;
    Ok(true)
}

/// One connection with something for the guest, and the guest's buffers.
struct Sender<'a> {
    conn: &'a mut Conn,
    guest_cid: u64,
    rx: &'a mut Virtqueue,
    mem: &'a GuestMemoryMmap,
    budget: &'a mut usize,
}

/// Chains with room for payload, and how much of it is to be used.
type Room = Vec<(Chain, usize)>;

impl<'a> Sender<'a> {
    /// Takes chains with room for `room` bytes, at most `most` of them.
    fn gather(&mut self, room: usize, most: usize) -> Result<(Room, Pieces<'a>), QueueError> {
        let mut pieces = Pieces::default();
        let mut chains: Room = Vec::new();
        while chains.len() < most && pieces.total() < room && !pieces.is_full() && *self.budget > 0 {
            let Some(chain) = self.rx.pop()? else { break };
            if chain.writable_len() <= u64::from(HEADER_LEN) {
                // Only the last popped chain can be taken back, so this one waits until it is the first.
                if !chains.is_empty() {
                    self.rx.unpop(chain);
                    break;
                }
                *self.budget -= 1;
                self.rx.complete(&chain, 0)?;
                continue;
            }
            *self.budget -= 1;
            let len = (room - pieces.total()).min(MAX_PAYLOAD as usize);
            let buffers = queue::slices(chain.writable(), u64::from(HEADER_LEN), len);
            let len = pieces.append(self.mem, buffers, Permissions::Write)?;
            chains.push((chain, len));
        }
        Ok((chains, pieces))
    }

    /// Gives a chain with payload to the guest.
    fn complete(&mut self, chain: &Chain, len: usize, flags: u32) -> Result<(), QueueError> {
        let len = u32::try_from(len).expect("at most MAX_PAYLOAD");
        let header = self.conn.data_header(self.guest_cid, len, flags);
        chain.write_at(self.mem, 0, header.as_bytes())?;
        self.rx.complete(chain, HEADER_LEN + len)
    }

    fn give_back(&mut self, chains: Room) {
        for (chain, _) in chains.into_iter().rev() {
            *self.budget += 1;
            self.rx.unpop(chain);
        }
    }

    /// Reads from a stream straight into the guest's buffers, several packets with one call. None without
    /// buffers, else whether the connection is broken.
    fn stream(&mut self) -> Result<Option<bool>, QueueError> {
        let room = MAX_TURN.min(self.conn.credit() as usize);
        let (mut chains, pieces) = self.gather(room, self.conn.burst())?;
        if chains.is_empty() {
            return Ok(None);
        }
        let read = self.conn.read(&pieces);
        let mut left = read.unwrap_or(0);
        let mut filled = 0;
        while let Some((chain, room)) = chains.get(filled).filter(|_| left > 0) {
            let len = left.min(*room);
            self.complete(chain, len, 0)?;
            left -= len;
            filled += 1;
        }
        self.give_back(chains.split_off(filled));
        self.conn.filled(filled);
        Ok(Some(read.is_none()))
    }

    /// Sends one message, or part of it. None without buffers, else whether the connection is broken.
    fn message(&mut self) -> Result<Option<bool>, QueueError> {
        let left = match self.conn.next_message() {
            Next::Message(len) => len,
            Next::Broken => return Ok(Some(true)),
            Next::Nothing => {
                // A client that sends nothing but empty messages is no reason to go on for ever.
                *self.budget -= 1;
                return Ok(Some(false));
            }
        };
        let (chains, pieces) = self.gather(left, usize::MAX)?;
        if chains.is_empty() {
            return Ok(None);
        }
        // Straight into the guest's buffers if they hold all of it: a socket gives a message once.
        let in_parts = pieces.total() < left || self.conn.has_partial_message();
        let whole = if in_parts { self.conn.take_message() } else { self.conn.read_message(&pieces) };
        if !whole {
            self.give_back(chains);
            return Ok(Some(true));
        }
        let mut left = left;
        for (chain, room) in &chains {
            if in_parts {
                chain.write_at(self.mem, u64::from(HEADER_LEN), self.conn.part_of_message(*room))?;
                self.conn.pass_part(*room);
            }
            left -= room;
            self.complete(chain, *room, if left == 0 { seqpacket::EOM | seqpacket::EOR } else { 0 })?;
        }
        Ok(Some(false))
    }
}
