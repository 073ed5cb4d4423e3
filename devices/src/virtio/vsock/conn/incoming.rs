//! The next message of the host, on its way to the guest's buffers.

use super::{Conn, shutdown};
use crate::virtio::vsock::host::socket::Peeked;
use crate::virtio::vsock::packet::Pieces;

/// The longest message that the guest is sent, in bytes, whatever room it says it has.
const MAX_MESSAGE: usize = 1 << 20;

/// How far the next message has come.
#[derive(Debug, Default)]
pub(super) enum Incoming {
    /// Nothing is known of it.
    #[default]
    Unknown,
    /// It is in its socket, of this length.
    Known(u32),
    /// It was taken out of the socket, and the guest has it up to `start`.
    Taken { bytes: Vec<u8>, start: usize },
}

impl Incoming {
    /// Bytes that it still needs credit for, as far as is known.
    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Known(len) => *len,
            Self::Unknown | Self::Taken { .. } => 0,
        }
    }

    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }
}

/// What there is to send of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing now.
    Nothing,
    /// So many bytes of one message, for which the guest has credit.
    Message(usize),
    /// The connection cannot go on.
    Broken,
}

impl Conn {
    /// What comes next of the host's messages. Each call looks at one.
    pub fn next_message(&mut self) -> Next {
        match &self.incoming {
            Incoming::Taken { bytes, start } => return Next::Message(bytes.len() - start),
            Incoming::Known(_) => {}
            Incoming::Unknown => {
                let Some(socket) = &self.socket else { return Next::Nothing };
                match socket.peek() {
                    Ok(Peeked::Message(len)) => match u32::try_from(len) {
                        Ok(known) if len <= MAX_MESSAGE => self.incoming = Incoming::Known(known),
                        _ => return Next::Broken,
                    },
                    Ok(Peeked::Nothing) => self.readable = false,
                    Ok(Peeked::Empty) => drop(socket.receive(&mut [], 0)),
                    Ok(Peeked::End) => {
                        self.readable = false;
                        self.host_shut |= shutdown::SEND;
                    }
                    Err(_) => return Next::Broken,
                }
            }
        }
        match self.incoming {
            // It never will have room; for a sender in Linux that is EMSGSIZE, but this one has sent.
            Incoming::Known(len) if len > self.peer_alloc => Next::Broken,
            Incoming::Known(len) if len <= self.credit() => Next::Message(len as usize),
            _ => Next::Nothing,
        }
    }

    /// Reads the known message into the guest's buffers, which hold just it. False when the socket does not
    /// give what it showed.
    pub fn read_message(&mut self, pieces: &Pieces<'_>) -> bool {
        self.incoming = Incoming::Unknown;
        let read = self.socket.as_ref().map(|socket| socket.receive_pieces(pieces));
        matches!(read, Some(Ok(len)) if len == pieces.total())
    }

    /// Takes the known message out of the socket, if it was not yet: it comes to the guest in parts. False when
    /// the socket does not give what it showed.
    pub fn take_message(&mut self) -> bool {
        let Incoming::Known(len) = self.incoming else { return self.has_partial_message() };
        let mut bytes = vec![0; len as usize];
        let read = self.socket.as_ref().map(|socket| socket.receive(&mut bytes, 0));
        let whole = matches!(read, Some(Ok(len)) if len == bytes.len());
        self.incoming = if whole { Incoming::Taken { bytes, start: 0 } } else { Incoming::Unknown };
        whole
    }

    /// The next `len` bytes of the message that was taken, or what is left of it.
    pub fn part_of_message(&self, len: usize) -> &[u8] {
        match &self.incoming {
            Incoming::Taken { bytes, start } => &bytes[*start..bytes.len().min(start + len)],
            Incoming::Unknown | Incoming::Known(_) => &[],
        }
    }

    /// The guest has the next `len` bytes of the message that was taken.
    pub fn pass_part(&mut self, len: usize) {
        if let Incoming::Taken { bytes, start } = &mut self.incoming {
            *start += len;
            if *start >= bytes.len() {
                self.incoming = Incoming::Unknown;
            }
        }
    }
}
