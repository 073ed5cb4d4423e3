//! A block request, read from its chain once (virtio 1.2, 5.2.6):
//!
//! ```text
//!   readable: type u32 | reserved u32 | sector u64 | data of a write, or ranges { sector u64, count u32, flags u32 } ..
//!   writable: data of a read ..                    | status u8
//! ```

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::virtio::last_region::LastRegion;
use crate::virtio::queue::{Buffer, Chain, QueueError, slices};

/// Bytes of a sector, whatever the block size (5.2.6).
pub const SECTOR_SIZE: u64 = 512;
/// Ranges that one request may discard or zero.
pub const MAX_RANGES: u32 = 16;
/// Sectors of one range to discard: 1 GiB, which file systems do at once.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Sectors of one range to zero: 64 MiB, which may have to be written.
pub const MAX_ZEROES_SECTORS: u32 = 1 << 17;
pub(super) const HEADER_SIZE: usize = 16;
const RANGE_SIZE: usize = 16;

/// A range of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
    /// Whether it may be deallocated rather than written.
    pub unmap: bool,
}

/// What the driver wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the data from the disk at this byte.
    Read(u64),
    /// Write the data to the disk at this byte.
    Write(u64),
    /// Make completed writes durable.
    Flush,
    /// Tell the disk's name.
    GetId,
    /// Forget what is in these ranges.
    Discard(Vec<Range>),
    /// Make these ranges zeros.
    WriteZeroes(Vec<Range>),
    /// A sector, or an amount of data, that no disk of this length has.
    OutOfRange,
    /// A type, or a flag, that was not offered.
    Unsupported(u32),
}

/// How a request ended, as the status byte says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Not done, for a reason of the device or the driver.
    IoError,
    /// Not a request that the device knows.
    Unsupported,
}

impl Status {
    pub(super) fn byte(self) -> u8 {
        let code = match self {
            Self::Ok => VIRTIO_BLK_S_OK,
            Self::IoError => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        u8::try_from(code).expect("a status is a byte")
    }
}

/// The header of a request (5.2.6), as it was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type of the request.
    pub kind: u32,
    /// Where a transfer begins, in sectors.
    pub sector: u64,
}

impl Header {
    /// The header in two little-endian words; the reserved half of the first says nothing.
    #[inline]
    fn of([first, sector]: [u64; 2]) -> Self {
        let [a, b, c, d, ..] = first.to_le_bytes();
        Self { kind: u32::from_le_bytes([a, b, c, d]), sector }
    }
}

/// The memory of the guest that a request came from.
#[derive(Debug)]
pub struct Guest {
    pub(super) memory: Arc<GuestMemoryMmap>,
    region: LastRegion,
}

impl Guest {
    /// A guest with this memory.
    pub fn new(memory: GuestMemoryMmap) -> Self {
        Self { memory: Arc::new(memory), region: LastRegion::default() }
    }

    /// Where the host has a buffer, if that is in one piece; the memory stays there as long as this does.
    #[inline]
    pub(super) fn find(&mut self, buffer: Buffer) -> Option<NonNull<u8>> {
        self.region.find(&self.memory, buffer.addr, buffer.len)
    }

    /// The first 16 bytes of a buffer, if they are aligned and in one piece.
    #[inline]
    fn words(&mut self, buffer: Buffer) -> Option<[u64; 2]> {
        let place = self.find(buffer).filter(|_| buffer.len as usize >= HEADER_SIZE)?.cast::<AtomicU64>();
        // SAFETY: 16 bytes of guest memory, aligned, which stays mapped; the guest may write to it meanwhile.
        let words = place.is_aligned().then(|| unsafe { [place.as_ref(), place.add(1).as_ref()] })?;
        Some(words.map(|word| u64::from_le(word.load(Ordering::Relaxed))))
    }

    /// The header of a chain. It is read once for each request: the guest may change it at any time.
    ///
    /// # Errors
    /// When the chain is too short to have one.
    #[inline]
    pub fn header(&mut self, chain: &Chain) -> Result<Header, QueueError> {
        if let Some(words) = chain.readable().first().and_then(|first| self.words(*first)) {
            return Ok(Header::of(words));
        }
        let mut bytes = [0; HEADER_SIZE];
        if chain.read_at(&self.memory, 0, &mut bytes)? < HEADER_SIZE {
            return Err(QueueError::NoRoom { head: chain.head(), what: "a request header" });
        }
        let [a, b, c, d, e, f, g, h, sector @ ..] = bytes;
        Ok(Header::of([u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(sector)]))
    }

    /// Writes one byte.
    #[inline]
    pub(super) fn put(&mut self, addr: GuestAddress, byte: u8) -> Result<(), QueueError> {
        let gone = || QueueError::Buffer { addr: addr.0, len: 1 };
        let place = self.find(Buffer { addr, len: 1 }).ok_or_else(gone)?.cast::<AtomicU8>();
        // SAFETY: a byte of guest memory, which stays mapped; the guest may use it meanwhile.
        unsafe { place.as_ref() }.store(byte, Ordering::Relaxed);
        Ok(())
    }
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the disk, whole sectors.
    pub capacity: u64,
    /// Whether DISCARD was negotiated.
    pub discard: bool,
    /// Whether WRITE_ZEROES was negotiated.
    pub write_zeroes: bool,
}

impl Limits {
    /// The first byte of `len` bytes from `sector` on, if they are whole sectors of the disk.
    pub(super) fn place(&self, sector: u64, len: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR_SIZE)?;
        let end = offset.checked_add(len)?;
        (len.is_multiple_of(SECTOR_SIZE) && end <= self.capacity).then_some(offset)
    }
}

/// How to answer a request, whatever becomes of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    head: u16,
    status_at: GuestAddress,
    /// Writable bytes before the status.
    room: u32,
}

impl Answer {
    /// Index of the chain's first descriptor.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Writes the status, which is the last writable byte, and gives the used length, that is how many bytes from the
    /// front were written (2.7.8.2); `filled` bytes of data were.
    ///
    /// # Errors
    /// When guest memory is gone.
    pub fn give(self, guest: &mut Guest, status: Status, filled: u64) -> Result<u32, QueueError> {
        guest.put(self.status_at, status.byte())?;
        // Without all of the data the status is not part of what was written from the front.
        let room = u64::from(self.room);
        let written = if filled >= room { room + 1 } else { filled };
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }
}

/// A request whose header was read and checked against the disk's length.
#[derive(Debug)]
pub struct Request<'c> {
    chain: &'c Chain,
    /// What to do.
    pub operation: Operation,
    /// Bytes of data that the operation moves.
    pub data_len: u64,
    /// How to answer.
    pub answer: Answer,
}

impl<'c> Request<'c> {
    /// The request of `chain`, which begins with `header`.
    ///
    /// # Errors
    /// When the chain has no room for a status, so that it cannot be answered.
    pub fn parse(
        header: Header,
        chain: &'c Chain,
        guest: &Guest,
        limits: &Limits,
    ) -> Result<Self, QueueError> {
        let (head, Header { kind, sector }) = (chain.head(), header);
        let Some(data_in) = chain.writable_len().checked_sub(1) else {
            return Err(QueueError::NoRoom { head, what: "a status" });
        };
        let memory = guest.memory.as_ref();
        let data_out = chain.readable_len() - HEADER_SIZE as u64;
        let place = |len| limits.place(sector, len);
        let (operation, data_len) = match kind {
            VIRTIO_BLK_T_IN => (place(data_in).map_or(Operation::OutOfRange, Operation::Read), data_in),
            VIRTIO_BLK_T_OUT => (place(data_out).map_or(Operation::OutOfRange, Operation::Write), data_out),
            VIRTIO_BLK_T_FLUSH => (Operation::Flush, 0),
            VIRTIO_BLK_T_GET_ID => (Operation::GetId, data_in),
            VIRTIO_BLK_T_DISCARD if limits.discard => (ranges(chain, memory, limits, kind)?, 0),
            VIRTIO_BLK_T_WRITE_ZEROES if limits.write_zeroes => (ranges(chain, memory, limits, kind)?, 0),
            other => (Operation::Unsupported(other), 0),
        };
        // A chain is less than 4 GiB, and each of its buffers lies in guest memory.
        let last = chain.writable().last().copied().unwrap_or_default();
        let answer = Answer {
            head,
            status_at: GuestAddress(last.addr.0 + u64::from(last.len) - 1),
            room: u32::try_from(data_in).unwrap_or(u32::MAX),
        };
        Ok(Self { chain, operation, data_len, answer })
    }

    /// The guest's buffers that a read fills.
    pub fn data_in(&self) -> impl Iterator<Item = Buffer> + 'c {
        slices(self.chain.writable(), 0, self.data_size())
    }

    /// The guest's buffers that a write takes its data from.
    pub fn data_out(&self) -> impl Iterator<Item = Buffer> + 'c {
        slices(self.chain.readable(), HEADER_SIZE as u64, self.data_size())
    }

    fn data_size(&self) -> usize {
        // A chain is less than 4 GiB.
        usize::try_from(self.data_len).unwrap_or(usize::MAX)
    }

    /// Puts `bytes` at the front of the data, as far as they fit; gives how many did.
    ///
    /// # Errors
    /// When guest memory is gone.
    pub fn fill(&self, guest: &Guest, bytes: &[u8]) -> Result<u64, QueueError> {
        let len = bytes.len().min(self.data_size());
        self.chain.write_at(&guest.memory, 0, &bytes[..len]).map(|n| n as u64)
    }
}

/// The ranges of a request to discard or to write zeros (5.2.6.2): an unknown flag, and unmap for a discard, are not
/// supported; too many ranges, or one that is too long or not on the disk, are an error.
fn ranges(
    chain: &Chain,
    memory: &GuestMemoryMmap,
    limits: &Limits,
    kind: u32,
) -> Result<Operation, QueueError> {
    let mut data = [0; MAX_RANGES as usize * RANGE_SIZE];
    let len = chain.readable_len() - HEADER_SIZE as u64;
    let whole = usize::try_from(len).ok().filter(|&len| len > 0 && len.is_multiple_of(RANGE_SIZE));
    let Some(data) = whole.and_then(|len| data.get_mut(..len)) else { return Ok(Operation::OutOfRange) };
    chain.read_at(memory, HEADER_SIZE as u64, data)?;
    let (known, max) = match kind {
        VIRTIO_BLK_T_DISCARD => (0, MAX_DISCARD_SECTORS),
        _ => (VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, MAX_ZEROES_SECTORS),
    };
    let mut ranges = Vec::with_capacity(data.len() / RANGE_SIZE);
    let mut on_disk = true;
    for range in data.as_chunks::<RANGE_SIZE>().0 {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = *range;
        let (sector, count) =
            (u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]), u32::from_le_bytes([n0, n1, n2, n3]));
        let flags = u32::from_le_bytes(flags);
        if flags & !known != 0 {
            return Ok(Operation::Unsupported(kind));
        }
        let len = u64::from(count) * SECTOR_SIZE;
        match limits.place(sector, len).filter(|_| count <= max) {
            Some(_) if len == 0 => {}
            Some(offset) => ranges.push(Range { offset, len, unmap: flags != 0 }),
            None => on_disk = false,
        }
    }
    Ok(match kind {
        _ if !on_disk => Operation::OutOfRange,
        VIRTIO_BLK_T_DISCARD => Operation::Discard(ranges),
        _ => Operation::WriteZeroes(ranges),
    })
}
