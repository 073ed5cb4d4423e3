//! The line with which a client of the host says where it wants to go.

use std::io::ErrorKind;

use super::HostSocket;
use crate::virtio::vsock::packet::Kind;

/// Longest line that a client may send, its newline included: `CONNECT 4294967295` and some white space.
pub(super) const MAX_LINE: usize = 32;

/// What a client's line amounts to so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting {
    /// There is more to come.
    Partial,
    /// It wants to talk to this port of the guest.
    Connect(u32),
    /// It left, or speaks something else.
    Refused,
}

/// A client of the host that has not said yet where it wants to go.
#[derive(Debug)]
pub struct Handshake {
    socket: HostSocket,
    line: [u8; MAX_LINE],
    len: usize,
}

impl Handshake {
    /// A client that was just accepted.
    pub fn new(socket: HostSocket) -> Self {
        Self { socket, line: [0; MAX_LINE], len: 0 }
    }

    /// The client's socket.
    pub fn socket(&self) -> &HostSocket {
        &self.socket
    }

    /// The client's socket, everything after the line still in it.
    pub fn into_socket(self) -> HostSocket {
        self.socket
    }

    /// Reads on, up to the newline and not a byte further: what follows is meant for the guest.
    pub fn advance(&mut self) -> Greeting {
        match self.socket.kind() {
            Kind::Stream => self.advance_in_stream(),
            Kind::Seqpacket => self.take_message(),
        }
    }

    /// The first message is the line; its newline is as good as there.
    fn take_message(&mut self) -> Greeting {
        match self.socket.receive(&mut self.line, libc::MSG_TRUNC) {
            Ok(len) if len <= MAX_LINE => {
                parse_line(&self.line[..len]).map_or(Greeting::Refused, Greeting::Connect)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Greeting::Partial,
            Ok(_) | Err(_) => Greeting::Refused,
        }
    }

    fn advance_in_stream(&mut self) -> Greeting {
        loop {
            let seen = match self.socket.receive(&mut self.line[self.len..], libc::MSG_PEEK) {
                Ok(0) => return Greeting::Refused,
                Ok(seen) => &self.line[self.len..self.len + seen],
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Greeting::Partial,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Greeting::Refused,
            };
            let newline = seen.iter().position(|byte| *byte == b'\n');
            let end = self.len + newline.map_or(seen.len(), |at| at + 1);
            // The very bytes that were peeked at: this takes them out of the socket.
            match self.socket.receive(&mut self.line[self.len..end], 0) {
                Ok(taken) if self.len + taken == end => self.len = end,
                _ => return Greeting::Refused,
            }
            if newline.is_some() {
                return parse_line(&self.line[..end]).map_or(Greeting::Refused, Greeting::Connect);
            }
            if self.len == MAX_LINE {
                return Greeting::Refused;
            }
        }
    }
}

/// The port of `CONNECT <port>\n`; the word in any case.
pub(super) fn parse_line(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (word, port) = (words.next()?, words.next()?);
    let known = word.eq_ignore_ascii_case("CONNECT") && words.next().is_none();
    // `parse` would take a sign.
    (known && port.bytes().all(|byte| byte.is_ascii_digit())).then(|| port.parse().ok()).flatten()
}
