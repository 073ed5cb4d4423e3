//! Bytes of the guest that the host's socket did not take yet.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use crate::virtio::vsock::host::HostSocket;
use crate::virtio::vsock::packet::Kind;

/// What waits to be sent, and how it is cut into messages. The bytes are at most a window; the lengths of
/// messages take at most as much again, for messages of one byte take one byte each.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    start: usize,
    /// Lengths of the whole messages, in groups of 7 bits, lowest first, all but a length's last with the
    /// highest bit set.
    lengths: VecDeque<u8>,
    /// Bytes at the end that belong to a message without its end.
    open: usize,
}

impl Backlog {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing is there to be sent. The beginning of a message is not.
    pub fn is_idle(&self) -> bool {
        self.len() == self.open
    }

    /// Whether it holds nothing at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory it holds.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() + self.lengths.capacity()
    }

    /// Room for `len` more bytes at the end.
    pub fn extend(&mut self, len: usize) -> &mut [u8] {
        // Moving what is left to the front costs at most as much as what was sent since the last time.
        if self.start >= self.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let end = self.bytes.len();
        self.bytes.resize(end + len, 0);
        &mut self.bytes[end..]
    }

    /// Counts the last `len` bytes to a message that may go on.
    pub fn add_to_message(&mut self, len: usize) {
        self.open += len;
    }

    /// Ends the message. An empty one is none: a Unix socket cannot tell it from the end.
    pub fn end_message(&mut self) {
        let mut len = std::mem::take(&mut self.open);
        if len == 0 {
            return;
        }
        while len > 0 {
            let [group, ..] = (len & 0x7f).to_le_bytes();
            len >>= 7;
            self.lengths.push_back(if len > 0 { 0x80 | group } else { group });
        }
    }

    /// The first message's length, and how many bytes it takes to say so.
    fn next_message(&self) -> (usize, usize) {
        let (mut len, mut groups) = (0, 0);
        for byte in &self.lengths {
            len |= usize::from(byte & 0x7f) << (7 * groups);
            groups += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        (len, groups)
    }

    /// Forgets everything. A connection that is quiet again gives its memory back.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Sends until nothing is left to send or the socket is full; gives the number of bytes sent.
    ///
    /// # Errors
    /// When the host will never take the rest.
    pub fn flush(&mut self, socket: &HostSocket) -> io::Result<usize> {
        let mut sent = 0;
        while !self.is_idle() {
            let (len, groups) = match socket.kind() {
                Kind::Stream => (self.len(), 0),
                Kind::Seqpacket => self.next_message(),
            };
            match socket.send(&self.bytes[self.start..self.start + len]) {
                Ok(taken) => {
                    self.start += taken;
                    self.lengths.drain(..groups);
                    sent += taken;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(sent),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if self.is_empty() {
            self.clear();
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Lengths are kept, in order, at no more than a byte for each byte of the messages.
        #[test]
        fn messages_keep_their_lengths(lens in prop::collection::vec(0usize..300_000, 0..40)) {
            let mut backlog = Backlog::default();
            for &len in &lens {
                backlog.add_to_message(len);
                backlog.end_message();
            }
            prop_assert!(backlog.lengths.len() <= lens.iter().sum());
            for &len in lens.iter().filter(|len| **len > 0) {
                let (found, groups) = backlog.next_message();
                prop_assert_eq!(found, len);
                backlog.lengths.drain(..groups);
            }
            prop_assert!(backlog.lengths.is_empty());
        }
    }
}
