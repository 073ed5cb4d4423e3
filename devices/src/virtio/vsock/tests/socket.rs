//! A socket of the guest that keeps to its credit, and what a test has at the host's end.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;

use zerocopy::little_endian::U32;

use super::guest::{Guest, packet_of};
use crate::virtio::vsock::packet::{Header, Key, Kind, op, seqpacket, shutdown};

/// A socket of the guest.
pub struct Socket {
    pub kind: Kind,
    pub key: Key,
    pub open: bool,
    pub reset: bool,
    pub shut: u32,
    pub received: Vec<u8>,
    /// Where in `received` messages end.
    pub ends: Vec<usize>,
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
    pub fn new(kind: Kind, key: Key) -> Self {
        Self {
            kind,
            key,
            open: false,
            reset: false,
            shut: 0,
            received: Vec::new(),
            ends: Vec::new(),
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
            ..packet_of(self.kind, self.key, op)
        }
    }

    pub fn credit(&self) -> u32 {
        self.peer_alloc - self.sent.wrapping_sub(self.peer_forwarded)
    }

    pub fn note(&mut self, header: &Header) {
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
            assert_eq!((header.src_cid.get(), header.kind.get()), (2, self.kind.wire()));
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
                    if header.flags.get() != 0 {
                        assert_eq!(
                            (self.kind, header.flags.get()),
                            (Kind::Seqpacket, seqpacket::EOM | seqpacket::EOR)
                        );
                        self.ends.push(self.received.len());
                    }
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

    /// The messages received whole.
    pub fn messages(&self) -> Vec<&[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.received[start..*end]).collect()
    }

    /// The application takes everything received, or every whole message.
    pub fn read_all(&mut self, guest: &mut Guest) {
        let taken = match self.kind {
            Kind::Stream => self.received.len(),
            Kind::Seqpacket => self.ends.last().copied().unwrap_or(0),
        };
        self.forwarded = u32::try_from(taken).unwrap();
        let news = self.forwarded.wrapping_sub(self.told);
        // Linux tells of every message: the next one may need all of the room.
        let worth = if self.kind == Kind::Stream { news > self.buf_alloc / 2 } else { news > 0 };
        if self.open && !self.reset && worth {
            let update = self.header(op::CREDIT_UPDATE);
            guest.send_later(&update, &[]);
        }
    }

    /// Sends as much of `data`, of messages one, as credit allows, in packets of at most `size` bytes; gives the number sent.
    pub fn send(&mut self, guest: &mut Guest, data: &[u8], size: usize) -> usize {
        let mut done = 0;
        while done < data.len() && self.credit() > 0 && !self.reset {
            let len = size.min(data.len() - done).min(self.credit() as usize);
            let mut header = self.header(op::RW);
            header.len = U32::new(u32::try_from(len).unwrap());
            if self.kind == Kind::Seqpacket && done + len == data.len() {
                header.flags = U32::new(seqpacket::EOM);
            }
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
