//! Towards the guest: whose turn it is, and how its bytes get into the guest's buffers.

use vm_memory::{GuestMemoryMmap, Permissions};
use zerocopy::IntoBytes;

use super::{Muxer, State};
use crate::virtio::queue::{self, Chain, QueueError, Virtqueue};
use crate::virtio::vsock::conn::{Conn, Verdict};
use crate::virtio::vsock::packet::{HEADER_LEN, Header, MAX_PAYLOAD, Pieces};

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
            if starved {
                // It keeps its place.
                self.slots[index].ready = true;
                self.ready.push_front(index);
                return Ok(if *budget == 0 { Filled::More } else { Filled::Starved });
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
        let Some(broken) = read_into(conn, self.guest_cid, rx, mem, budget)? else { return Ok(false) };
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

/// Reads from the host straight into the guest's buffers, several packets with one call. None without
/// buffers, else whether the connection is broken.
fn read_into(
    conn: &mut Conn,
    guest_cid: u64,
    rx: &mut Virtqueue,
    mem: &GuestMemoryMmap,
    budget: &mut usize,
) -> Result<Option<bool>, QueueError> {
    let room = MAX_TURN.min(conn.credit() as usize);
    let mut pieces = Pieces::default();
    let mut chains: Vec<(Chain, usize)> = Vec::new();
    while chains.len() < conn.burst() && pieces.total() < room && !pieces.is_full() && *budget > 0 {
        let Some(chain) = rx.pop()? else { break };
        if chain.writable_len() <= u64::from(HEADER_LEN) {
            // Only the last popped chain can be taken back, so this one waits until it is the first.
            if !chains.is_empty() {
                rx.unpop(chain);
                break;
            }
            *budget -= 1;
            rx.complete(&chain, 0)?;
            continue;
        }
        *budget -= 1;
        let len = (room - pieces.total()).min(MAX_PAYLOAD as usize);
        let len = pieces.append(
            mem,
            queue::slices(chain.writable(), u64::from(HEADER_LEN), len),
            Permissions::Write,
        )?;
        chains.push((chain, len));
    }
    if chains.is_empty() {
        return Ok(None);
    }
    let read = conn.read(&pieces);
    let mut left = read.unwrap_or(0);
    let mut filled = 0;
    while let Some((chain, room)) = chains.get(filled).filter(|_| left > 0) {
        let len = u32::try_from(left.min(*room)).expect("at most MAX_PAYLOAD");
        let header = conn.data_header(guest_cid, len);
        chain.write_at(mem, 0, header.as_bytes())?;
        rx.complete(chain, HEADER_LEN + len)?;
        left -= len as usize;
        filled += 1;
    }
    for (chain, _) in chains.drain(filled..).rev() {
        *budget += 1;
        rx.unpop(chain);
    }
    Ok(Some(read.is_none()))
}
