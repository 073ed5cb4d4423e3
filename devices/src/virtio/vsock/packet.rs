//! The packet of virtio-vsock: a fixed header, then payload (virtio 1.2, 5.10.6).
//!
//! ```text
//!   0        8        16       20       24    28     30   32     36         40       44
//!   | src cid| dst cid|src port|dst port| len | type | op | flags|buf_alloc |fwd_cnt | payload ..
//! ```
//!
//! All fields are little-endian. The header is read out of guest memory once, so what was checked is what
//! is used; the payload stays where it is and may be cut into any number of buffers.

use vm_memory::{GuestMemory, GuestMemoryBackend, GuestMemoryMmap, Permissions, VolatileSlice};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::virtio::queue::{self, Buffer, Chain, OneBuffer, QueueError};

/// The host's context id (virtio 1.2, 5.10.4).
pub const HOST_CID: u64 = 2;
/// Bytes of a header.
pub const HEADER_LEN: u32 = 44;
/// The most payload bytes of one packet: what Linux drivers send at most.
pub const MAX_PAYLOAD: u32 = 64 * 1024;
/// The most pieces of one scattered read or write, as the kernel has it (UIO_MAXIOV).
const MAX_PIECES: usize = 1024;

/// Connection types (5.10.6).
pub mod socket_type {
    /// A byte stream.
    pub const STREAM: u16 = 1;
    /// Messages, in order and each whole.
    pub const SEQPACKET: u16 = 2;
}

/// The type of a connection that this device serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A byte stream.
    Stream,
    /// Messages, in order and each whole.
    Seqpacket,
}

impl Kind {
    /// As a header has it, one of [`socket_type`].
    pub fn wire(self) -> u16 {
        match self {
            Self::Stream => socket_type::STREAM,
            Self::Seqpacket => socket_type::SEQPACKET,
        }
    }
}

/// What a packet asks for or tells (5.10.6).
pub mod op {
    /// Open a connection.
    pub const REQUEST: u16 = 1;
    /// The connection is open.
    pub const RESPONSE: u16 = 2;
    /// The connection is gone, or was never there.
    pub const RST: u16 = 3;
    /// The sender will not receive, or not send, from here on: see [`super::shutdown`].
    pub const SHUTDOWN: u16 = 4;
    /// Payload.
    pub const RW: u16 = 5;
    /// News of the sender's buffer space.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks for a [`CREDIT_UPDATE`].
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`]; permanent once sent (5.10.6.6).
pub mod shutdown {
    /// The sender will not receive any more data.
    pub const RECEIVE: u32 = 1;
    /// The sender will not send any more data.
    pub const SEND: u32 = 2;
    /// Both.
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// Flags of [`op::RW`] of a seqpacket connection (5.10.6.7).
pub mod seqpacket {
    /// The message ends here.
    pub const EOM: u32 = 1;
    /// So does the record: the sender's MSG_EOR.
    pub const EOR: u32 = 2;
}

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Who sends.
    pub src_cid: U64,
    /// Who is meant.
    pub dst_cid: U64,
    /// The sender's port.
    pub src_port: U32,
    /// The receiver's port.
    pub dst_port: U32,
    /// Payload bytes that follow.
    pub len: U32,
    /// One of [`socket_type`].
    pub kind: U16,
    /// One of [`op`].
    pub op: U16,
    /// Flags of the operation.
    pub flags: U32,
    /// Bytes of the sender's receive buffer.
    pub buf_alloc: U32,
    /// Bytes that the sender has taken out of its receive buffer so far, modulo 2^32.
    pub fwd_cnt: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN as usize);

impl Header {
    /// The RST that answers this packet, whoever it was meant for (5.10.6.4).
    pub fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: U16::new(op::RST),
            ..Self::new_zeroed()
        }
    }

    /// The ports of the packet's connection, seen from the device, when the guest sent it.
    pub fn key(&self) -> Key {
        Key { host: self.dst_port.get(), guest: self.src_port.get() }
    }
}

/// What tells one connection from another: the guest and the host have one context id each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Port on the host's side.
    pub host: u32,
    /// Port on the guest's side.
    pub guest: u32,
}

/// What is wrong with a packet of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// No room for a header: nobody to answer.
    #[error("a chain of {len} bytes has no header")]
    NoHeader {
        /// Readable bytes of the chain.
        len: u64,
    },
    /// The source is not the guest: nobody to answer.
    #[error("source context id {cid} is not the guest's")]
    ForeignSource {
        /// The id that the guest gave as its own.
        cid: u64,
    },
    /// Meant for a context id, or of a socket type, that nobody here serves; answered with an RST.
    #[error("context id {} or socket type {} is not served", .0.dst_cid, .0.kind)]
    Unserved(Header),
    /// More payload than allowed, or than the chain holds; the connection is reset.
    #[error("payload of {} bytes is too long for its chain of {chain_len} or for a packet", .header.len)]
    Length {
        /// What the guest sent.
        header: Header,
        /// Readable bytes of the chain.
        chain_len: u64,
    },
}

/// A checked packet of the guest: its payload lies whole in its chain.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The header, checked: from the guest, for the host.
    pub header: Header,
    /// The type of its connection, one that is served.
    pub kind: Kind,
    chain: &'a Chain,
}

impl<'a> Packet<'a> {
    /// Reads and checks the header of a packet that `guest_cid` sent. Streams are always served, since
    /// drivers that negotiate no bit or SEQPACKET alone mean them too (5.10.3); messages if `seqpacket`.
    ///
    /// # Errors
    /// The outer one when the chain is no longer guest memory, the inner one when the packet breaks a rule.
    pub fn read(
        mem: &GuestMemoryMmap,
        chain: &'a Chain,
        guest_cid: u64,
        seqpacket: bool,
    ) -> Result<Result<Self, PacketError>, QueueError> {
        let chain_len = chain.readable_len();
        let mut header = Header::new_zeroed();
        if chain.read_at(mem, 0, header.as_mut_bytes())? < size_of::<Header>() {
            return Ok(Err(PacketError::NoHeader { len: chain_len }));
        }
        Ok(check(header, chain_len, guest_cid, seqpacket).map(|kind| Self { header, kind, chain }))
    }

    /// Payload bytes.
    pub fn payload_len(&self) -> usize {
        self.header.len.get() as usize
    }

    /// Where the payload lies.
    pub fn payload(&self) -> impl Iterator<Item = Buffer> + '_ {
        queue::slices(self.chain.readable(), u64::from(HEADER_LEN), self.payload_len())
    }

    /// Copies the payload from `offset` on into `data`, which must not be longer than the rest.
    ///
    /// # Errors
    /// When the chain is no longer guest memory.
    pub fn copy(&self, mem: &GuestMemoryMmap, offset: usize, data: &mut [u8]) -> Result<(), QueueError> {
        self.chain.read_at(mem, u64::from(HEADER_LEN) + offset as u64, data).map(|_| ())
    }
}

/// The rules of a header; gives the connection's type.
fn check(header: Header, chain_len: u64, guest_cid: u64, seqpacket: bool) -> Result<Kind, PacketError> {
    if header.src_cid.get() != guest_cid {
        return Err(PacketError::ForeignSource { cid: header.src_cid.get() });
    }
    let kind = match header.kind.get() {
        socket_type::STREAM => Kind::Stream,
        socket_type::SEQPACKET if seqpacket => Kind::Seqpacket,
        _ => return Err(PacketError::Unserved(header)),
    };
    if header.dst_cid.get() != HOST_CID {
        return Err(PacketError::Unserved(header));
    }
    let len = header.len.get();
    if len > MAX_PAYLOAD || u64::from(len) > chain_len - u64::from(HEADER_LEN) {
        return Err(PacketError::Length { header, chain_len });
    }
    Ok(kind)
}

/// Pieces of guest memory for one scattered system call.
///
/// The pointers stay valid as long as the guest memory that they were taken from; the list is made, used
/// and dropped under one borrow of it.
#[derive(Default)]
pub struct Pieces<'m> {
    list: Vec<libc::iovec>,
    total: usize,
    memory: std::marker::PhantomData<&'m GuestMemoryMmap>,
}

impl<'m> Pieces<'m> {
    /// None yet; so many need no allocation of their own.
    pub fn with_capacity(count: usize) -> Self {
        Self { list: Vec::with_capacity(count.min(MAX_PIECES)), ..Self::default() }
    }

    /// Appends `buffers` up to the kernel's limit of pieces; gives the number of bytes appended.
    ///
    /// # Errors
    /// When a buffer is not guest memory.
    pub fn append(
        &mut self,
        mem: &'m GuestMemoryMmap,
        buffers: impl Iterator<Item = Buffer>,
        access: Permissions,
    ) -> Result<usize, QueueError> {
        let before = self.total;
        for buffer in buffers {
            // Nearly always in one region of memory.
            if let Ok(slice) = GuestMemoryBackend::get_slice(mem, buffer.addr, buffer.len as usize) {
                if !self.push(&slice) {
                    break;
                }
                continue;
            }
            let bad = |_| QueueError::Buffer { addr: buffer.addr.0, len: u64::from(buffer.len) };
            for slice in
                GuestMemory::get_slices(mem, buffer.addr, buffer.len as usize, access).map_err(bad)?
            {
                if !self.push(&slice.map_err(bad)?) {
                    return Ok(self.total - before);
                }
            }
        }
        Ok(self.total - before)
    }

    /// Appends `one` from `offset` on, at most `len` bytes, unless there are as many pieces as the kernel takes; gives the
    /// number of bytes appended.
    #[inline]
    pub fn append_one(&mut self, one: &OneBuffer<'m>, offset: u32, len: u32) -> u32 {
        if self.is_full() {
            return 0;
        }
        let (base, len) = one.part(offset, len);
        self.list.push(libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len as usize });
        self.total += len as usize;
        len
    }

    /// False when it is full.
    fn push(&mut self, slice: &VolatileSlice<'m>) -> bool {
        let room = self.list.len() < MAX_PIECES;
        if room {
            let guard = slice.ptr_guard_mut();
            self.list.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() });
            self.total += guard.len();
        }
        room
    }

    /// Bytes in all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Whether no piece more fits.
    pub fn is_full(&self) -> bool {
        self.list.len() == MAX_PIECES
    }

    /// The list, for `sendmsg` and `recvmsg`.
    pub fn as_slice(&self) -> &[libc::iovec] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            src_cid: U64::new(3),
            dst_cid: U64::new(HOST_CID),
            src_port: U32::new(1000),
            dst_port: U32::new(7),
            len: U32::new(5),
            kind: U16::new(socket_type::STREAM),
            op: U16::new(op::RW),
            ..Header::new_zeroed()
        }
    }

    #[test]
    fn fields_lie_where_5_10_6_says() {
        let mut bytes = [0u8; HEADER_LEN as usize];
        for (byte, value) in bytes.iter_mut().zip(1u8..) {
            *byte = value;
        }
        let header = Header::read_from_bytes(&bytes).unwrap();
        assert_eq!(header.src_cid.get(), 0x0807_0605_0403_0201);
        assert_eq!(header.dst_cid.get(), 0x100f_0e0d_0c0b_0a09);
        assert_eq!(header.src_port.get(), 0x1413_1211);
        assert_eq!(header.dst_port.get(), 0x1817_1615);
        assert_eq!(header.len.get(), 0x1c1b_1a19);
        assert_eq!(header.kind.get(), 0x1e1d);
        assert_eq!(header.op.get(), 0x201f);
        assert_eq!(header.flags.get(), 0x2423_2221);
        assert_eq!(header.buf_alloc.get(), 0x2827_2625);
        assert_eq!(header.fwd_cnt.get(), 0x2c2b_2a29);
    }

    #[test]
    fn a_packet_must_come_from_the_guest() {
        for cid in [0, 2, 4, 3 | 1 << 32] {
            let header = Header { src_cid: U64::new(cid), ..header() };
            assert_eq!(check(header, 49, 3, true), Err(PacketError::ForeignSource { cid }));
        }
    }

    #[test]
    fn a_packet_must_be_of_a_served_type_and_for_the_host() {
        for header in [
            Header { dst_cid: U64::new(1), ..header() },
            Header { dst_cid: U64::new(2 | 1 << 32), ..header() },
            Header { kind: U16::new(0), ..header() },
            Header { kind: U16::new(3), ..header() },
        ] {
            assert_eq!(check(header, 49, 3, true), Err(PacketError::Unserved(header)));
        }
        let message = Header { kind: U16::new(socket_type::SEQPACKET), ..header() };
        assert_eq!(check(message, 49, 3, true), Ok(Kind::Seqpacket));
        assert_eq!(check(message, 49, 3, false), Err(PacketError::Unserved(message)), "not negotiated");
    }

    #[test]
    fn payload_must_lie_in_the_chain() {
        assert_eq!(check(header(), 49, 3, true), Ok(Kind::Stream));
        assert_eq!(
            check(header(), 48, 3, true),
            Err(PacketError::Length { header: header(), chain_len: 48 })
        );
        let full = Header { len: U32::new(MAX_PAYLOAD), ..header() };
        assert_eq!(check(full, u64::from(MAX_PAYLOAD) + 44, 3, true), Ok(Kind::Stream));
        for len in [MAX_PAYLOAD + 1, u32::MAX] {
            let header = Header { len: U32::new(len), ..header() };
            let chain_len = u64::from(u32::MAX) + 44;
            assert_eq!(check(header, chain_len, 3, true), Err(PacketError::Length { header, chain_len }));
        }
    }

    #[test]
    fn a_reset_goes_back_where_the_packet_came_from() {
        let reset = header().reset();
        assert_eq!((reset.src_cid.get(), reset.dst_cid.get()), (2, 3));
        assert_eq!((reset.src_port.get(), reset.dst_port.get()), (7, 1000));
        assert_eq!((reset.op.get(), reset.len.get(), reset.kind.get()), (op::RST, 0, socket_type::STREAM));
    }
}
