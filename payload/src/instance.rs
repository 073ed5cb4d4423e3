//! Instance images: what a VM remembers of itself, kept by a host that it does not trust.
//!
//! ```text
//!   0      "Android-VM-instance" | version 1, u16 LE | zeros to 512
//!   512    record | record | .. | nil header: the list ends
//!
//!   record:  | uuid, 16 | payload bytes, u64 LE | zeros |  payload | zeros to a multiple of 512 |
//!            |<------------ header, 512 --------------->|
//! ```
//!
//! The first record of a uuid counts. The guest's payload-manager has one, sealed with a key that only this instance
//! has:
//!
//! ```text
//!   nonce, 12 | AES-256-GCM of the CBOR of a ManagerRecord | tag, 16      associated data: the record's header
//!   key = HKDF-SHA256(sealing CDI, no salt, "microdroid_manager_key")
//! ```
//!
//! # Replacing a record
//! There is the old record or the new one, whole, after a power cut at any moment, for every reader that takes the
//! first of a uuid, though a disk writes sectors in any order between flushes:
//!
//! 1. the new payload is written where no reader looks: behind the list's end (with the end's new mark behind it), or
//!    inside a retired record; flush;
//! 2. its header is written, one sector; flush. Before the old record it counts from here on, behind it not yet;
//! 3. the old record is retired: one sector, its header, gets the uuid [`RETIRED`] and keeps its size; flush. The first
//!    record of the uuid is the new one in any case.
//!
//! After a power cut between 2 and 3 there are two records. The one that does not count is retired before anything else
//! is written. Retired records are used again, whole or in part; adjacent ones are joined first, again by one sector.
//!
//! The host can put an old image back, of course. What a VM may do with an image that is blank or old is decided by
//! secrets that the host gives only to the identity it knows.

use std::io;

use uuid::Uuid;

mod cbor;
mod change;
mod image;
mod record;
mod seal;
mod storage;

pub use change::{Change, Comparison, Part, compare};
pub use image::{InstanceImage, Record, format};
pub use record::{ApexData, ApkData, ManagerRecord};
pub use seal::{SealingCdi, os_random};
pub use storage::Storage;

/// Bytes of a sector, of the image's first block, and of a record's header.
pub const SECTOR: usize = 512;

/// Bytes that an image has unless told otherwise: 10 MiB.
pub const DEFAULT_LEN: u64 = 10 << 20;

/// Bytes of the smallest image: the first block and the list's end.
pub const MIN_LEN: u64 = 2 * SECTOR as u64;

/// Longest payload that is read or written, in bytes: what is remembered of 128 partitions takes a third.
pub const MAX_PAYLOAD: u64 = 1 << 20;

/// The record of the guest's payload-manager.
pub const MANAGER: Uuid = Uuid::from_u128(0xcf9a_fe9a_0662_11ec_a329_c326_63a0_9d75);

/// A record that counts for nobody; its place is used again.
pub const RETIRED: Uuid = Uuid::from_u128(0x243c_5ad2_1a9a_42ef_9b22_1fe2_640b_64d7);

/// Why an instance image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The storage, or the source of random numbers, failed.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Too small for anything.
    #[error("the instance image has {0} bytes: expected at least {MIN_LEN}")]
    TooSmall(u64),
    /// No instance image.
    #[error("not an instance image: expected \"Android-VM-instance\" in its first bytes")]
    Magic,
    /// Of a later version.
    #[error("the instance image has version {0}, not 1")]
    Version(u16),
    /// A record that does not fit.
    #[error(
        "the instance image's record at byte {offset} says that it has {len} bytes, which pass the image's end"
    )]
    Record {
        /// Where its header is.
        offset: u64,
        /// Bytes of its payload, as told.
        len: u64,
    },
    /// The list of records has no end.
    #[error("the instance image's records end at byte {0} without a free slot behind them")]
    NoEnd(u64),
    /// A record longer than any sensible one.
    #[error("a record of the instance image has {0} bytes, more than {MAX_PAYLOAD}")]
    TooLong(u64),
    /// No room for a record beside the one it replaces.
    #[error(
        "the instance image is full: a record takes {needed} bytes, of which {free} are free in one piece; \
         a new image must be larger (payload create-partition --type instance SIZE)"
    )]
    Full {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        free: u64,
    },
    /// A uuid that means something else than a record of somebody.
    #[error("{0} cannot be the uuid of a record")]
    Reserved(Uuid),
    /// Not sealed with this key, or changed since.
    #[error("the instance's record was changed, or sealed by another VM or in another debug mode")]
    Unseal,
    /// Sealed, and yet not what is expected there.
    #[error("the instance's record is malformed in {0}")]
    Content(&'static str),
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
