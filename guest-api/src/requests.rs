//! The requests of a payload's process to PID 1, over [`PAYLOAD_SOCKET`](crate::paths::PAYLOAD_SOCKET).
//!
//! ```text
//!   request packet   u8 number | body          one SOCK_SEQPACKET packet of at most 4096 bytes
//!   answer packet    u8 status | body          one for each request, in order
//!
//!   1 NotifyReady    body empty                answer body empty
//! ```
//!
//! Trust: PID 1 takes connections only from the payload's user, which the kernel vouches for (SO_PEERCRED), and closes one
//! that sends anything else than the above. The payload's side needs no trust: PID 1 is what verified it.

use std::fmt;

/// The largest packet, in bytes.
pub const MAX_PACKET: usize = 4096;

/// What a payload can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Request {
    /// Tell the host that the payload is ready.
    NotifyReady = 1,
}

/// The first byte of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Known, but not possible.
    Failed = 1,
}

/// A packet that is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARequest;

impl fmt::Display for NotARequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the packet is not a request")
    }
}

impl std::error::Error for NotARequest {}

impl Request {
    /// The packet.
    #[must_use]
    pub const fn packet(self) -> [u8; 1] {
        [self as u8]
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// [`NotARequest`] when it is empty, has an unknown number or more bytes than that request.
    pub fn parse(packet: &[u8]) -> Result<Self, NotARequest> {
        match packet {
            [1] => Ok(Self::NotifyReady),
            _ => Err(NotARequest),
        }
    }
}

impl Status {
    /// The packet of an answer without a body.
    #[must_use]
    pub const fn packet(self) -> [u8; 1] {
        [self as u8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_known_requests_are_taken() {
        assert_eq!(Request::parse(&Request::NotifyReady.packet()), Ok(Request::NotifyReady));
        for packet in [&[][..], &[0], &[2], &[1, 0], &[0xff; MAX_PACKET]] {
            assert_eq!(Request::parse(packet), Err(NotARequest));
        }
    }
}
