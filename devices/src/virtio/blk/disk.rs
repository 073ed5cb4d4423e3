//! What a block device needs of a disk.

use super::iovec::GuestIovecs;

/// Why a disk did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The part cannot be written.
    #[error("the disk is read-only at {offset:#x}")]
    ReadOnly {
        /// Where, in bytes.
        offset: u64,
    },
    /// The request reaches past the end of the disk.
    #[error("{offset:#x} is past the end of the disk")]
    OutOfRange {
        /// Where, in bytes.
        offset: u64,
    },
    /// The host could not: an I/O error, no space, a file cut short under the VM.
    #[error("host file")]
    Host(#[from] std::io::Error),
}

/// A disk of fixed length. Requests are served whole or fail; a failed write may have written a part.
pub trait Disk: Send {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there is nothing on it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `to` from byte `offset` on.
    ///
    /// # Errors
    /// See [`DiskError`].
    fn read_vectored_at(&self, to: &mut GuestIovecs<'_>, offset: u64) -> Result<(), DiskError>;

    /// Writes all of `from` at byte `offset`; durable only after [`flush`](Self::flush).
    ///
    /// # Errors
    /// See [`DiskError`].
    fn write_vectored_at(&self, from: &mut GuestIovecs<'_>, offset: u64) -> Result<(), DiskError>;

    /// Makes every write that was completed durable.
    ///
    /// # Errors
    /// See [`DiskError`].
    fn flush(&self) -> Result<(), DiskError>;
}
