//! A block request, read from its chain once (virtio 1.2, 5.2.6):
//!
//! ```text
//!   readable: type u32 | reserved u32 | sector u64 | data of a write ..
//!   writable: data of a read ..                    | status u8
//! ```

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use vm_memory::GuestMemoryMmap;

use crate::virtio::queue::{Buffer, Chain, QueueError, slices};

/// Bytes of a sector, whatever the block size (5.2.6).
pub const SECTOR_SIZE: u64 = 512;
const HEADER_SIZE: usize = 16;

/// What the driver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the data from the disk at this byte.
    Read(u64),
    /// Write the data to the disk at this byte.
    Write(u64),
    /// Make completed writes durable.
    Flush,
    /// Tell the disk's name.
    GetId,
    /// A sector, or an amount of data, that no disk of this length has.
    OutOfRange,
    /// A type that was not offered.
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
    fn byte(self) -> u8 {
        let code = match self {
            Self::Ok => VIRTIO_BLK_S_OK,
            Self::IoError => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        u8::try_from(code).expect("a status is a byte")
    }
}

/// A request whose header was read and checked against the disk's length.
#[derive(Debug)]
pub struct Request<'c> {
    chain: &'c Chain,
    operation: Operation,
    /// Bytes of data that the operation moves.
    data_len: u64,
}

impl<'c> Request<'c> {
    /// Reads the header of `chain`, for a disk of `capacity` bytes.
    ///
    /// # Errors
    /// When the chain has no room for a status, so that it cannot be answered, or no whole header.
    pub fn parse(chain: &'c Chain, memory: &GuestMemoryMmap, capacity: u64) -> Result<Self, QueueError> {
        let head = chain.head();
        if chain.writable_len() == 0 {
            return Err(QueueError::NoRoom { head, what: "a status" });
        }
        let mut header = [0; HEADER_SIZE];
        if chain.read_at(memory, 0, &mut header)? != HEADER_SIZE {
            return Err(QueueError::NoRoom { head, what: "a request header" });
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let (kind, sector) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(sector));
        let data_in = chain.writable_len() - 1;
        let data_out = chain.readable_len() - HEADER_SIZE as u64;
        let place = |len: u64| {
            let offset = sector.checked_mul(SECTOR_SIZE)?;
            let end = offset.checked_add(len)?;
            (len.is_multiple_of(SECTOR_SIZE) && end <= capacity).then_some(offset)
        };
        let (operation, data_len) = match kind {
            VIRTIO_BLK_T_IN => (place(data_in).map_or(Operation::OutOfRange, Operation::Read), data_in),
            VIRTIO_BLK_T_OUT => (place(data_out).map_or(Operation::OutOfRange, Operation::Write), data_out),
            VIRTIO_BLK_T_FLUSH => (Operation::Flush, 0),
            VIRTIO_BLK_T_GET_ID => (Operation::GetId, data_in),
            other => (Operation::Unsupported(other), 0),
        };
        Ok(Self { chain, operation, data_len })
    }

    /// What to do.
    pub fn operation(&self) -> Operation {
        self.operation
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
    pub fn answer(&self, memory: &GuestMemoryMmap, bytes: &[u8]) -> Result<u64, QueueError> {
        let len = bytes.len().min(self.data_size());
        self.chain.write_at(memory, 0, &bytes[..len]).map(|n| n as u64)
    }

    /// Ends the request: writes the status, which is the last writable byte, and gives the used length, that
    /// is how many bytes from the front were written (2.7.8.2); `filled` bytes of data were.
    ///
    /// # Errors
    /// When guest memory is gone.
    pub fn complete(self, memory: &GuestMemoryMmap, status: Status, filled: u64) -> Result<u32, QueueError> {
        let at = self.chain.writable_len() - 1;
        self.chain.write_at(memory, at, &[status.byte()])?;
        // Without all of the data the status is not part of what was written from the front.
        let written = if filled >= at { at + 1 } else { filled };
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }

    /// Bytes of data that the request moves.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }
}
