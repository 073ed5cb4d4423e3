//! A disk made of extents: bytes in memory, ranges of files, zeros. It is nowhere stored as a whole.
//!
//! ```text
//!   0        start[1]      start[2]     start[3]           len
//!   | Bytes  | File+offset | Zeros      | File+offset | .. |
//! ```

use std::fs::File;
use std::sync::Arc;

use super::disk::{Disk, DiskError};
use super::iovec::GuestIovecs;

/// Where an extent's bytes come from.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes in memory, never written.
    Bytes(Arc<[u8]>),
    /// A range of a file.
    File {
        /// The file, open for what the extent needs.
        file: Arc<File>,
        /// Where in the file the extent begins, in bytes.
        offset: u64,
        /// Whether the guest may write here.
        writable: bool,
    },
    /// Zeros, never written.
    Zeros,
}

/// A part of the disk.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Where on the disk it begins, in bytes.
    pub start: u64,
    /// Its length in bytes, not zero.
    pub len: u64,
    /// What is there.
    pub content: Content,
}

/// A list of extents that is not a disk.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompositeError {
    /// There is no extent.
    #[error("a disk needs at least one extent")]
    Empty,
    /// Extents are not in order and without gaps.
    #[error("extent {index} begins at {start:#x} where {expected:#x} is due")]
    Misplaced {
        /// Position in the list.
        index: usize,
        /// Where it begins.
        start: u64,
        /// Where the one before it ends.
        expected: u64,
    },
    /// An extent is empty, or is not as long as its bytes, or ends past what a file offset can say.
    #[error("extent {index} has an impossible length of {len:#x}")]
    Length {
        /// Position in the list.
        index: usize,
        /// Its length.
        len: u64,
    },
}

/// A disk made of extents.
pub struct CompositeDisk {
    /// Where each extent ends; apart from the extents, so that a look-up touches few cache lines.
    ends: Vec<u64>,
    extents: Vec<Extent>,
    /// Every file that can be written, once.
    writable_files: Vec<Arc<File>>,
}

impl CompositeDisk {
    /// A disk of these extents, which follow each other from 0 on.
    ///
    /// # Errors
    /// When they do not, or one of them is impossible.
    pub fn new(extents: Vec<Extent>) -> Result<Self, CompositeError> {
        let mut ends = Vec::with_capacity(extents.len());
        let mut writable_files: Vec<Arc<File>> = Vec::new();
        let mut expected = 0;
        for (index, extent) in extents.iter().enumerate() {
            let Extent { start, len, ref content } = *extent;
            if start != expected {
                return Err(CompositeError::Misplaced { index, start, expected });
            }
            let ends_within = |begin: u64| begin.checked_add(len).is_some_and(|end| end <= i64::MAX as u64);
            let possible = match content {
                Content::Bytes(bytes) => bytes.len() as u64 == len,
                Content::File { offset, .. } => ends_within(*offset),
                Content::Zeros => true,
            };
            if len == 0 || !ends_within(start) || !possible {
                return Err(CompositeError::Length { index, len });
            }
            if let Content::File { file, writable: true, .. } = content
                && !writable_files.iter().any(|f| Arc::ptr_eq(f, file))
            {
                writable_files.push(Arc::clone(file));
            }
            expected = start + len;
            ends.push(expected);
        }
        if extents.is_empty() {
            Err(CompositeError::Empty)
        } else {
            Ok(Self { ends, extents, writable_files })
        }
    }

    /// A disk that is the first `len` bytes of one file.
    ///
    /// # Errors
    /// When `len` is zero or more than a file can have.
    pub fn from_file(file: Arc<File>, len: u64, writable: bool) -> Result<Self, CompositeError> {
        Self::new(vec![Extent { start: 0, len, content: Content::File { file, offset: 0, writable } }])
    }

    /// The extent that holds byte `offset`; the number of extents when it is past the end.
    fn find(&self, offset: u64) -> usize {
        self.ends.partition_point(|&end| end <= offset)
    }

    /// Gives each extent its share of a request: the content, where in it, and how many bytes.
    fn split(
        &self,
        buffers: &mut GuestIovecs<'_>,
        offset: u64,
        mut serve: impl FnMut(&mut GuestIovecs<'_>, &Content, u64, u64) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let mut at = offset;
        let mut index = self.find(offset);
        while !buffers.is_empty() {
            let extent = self.extents.get(index).ok_or(DiskError::OutOfRange { offset: at })?;
            let within = at - extent.start;
            let share = buffers.len().min(extent.len - within);
            serve(buffers, &extent.content, within, share)?;
            at += share;
            index += 1;
        }
        Ok(())
    }
}

impl Disk for CompositeDisk {
    fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn read_vectored_at(&self, to: &mut GuestIovecs<'_>, offset: u64) -> Result<(), DiskError> {
        self.split(to, offset, |to, content, within, share| {
            match content {
                Content::File { file, offset, .. } => to.read_from(file, offset + within, share)?,
                Content::Zeros => to.zero(share)?,
                Content::Bytes(bytes) => {
                    // The extent is as long as its bytes, and the share lies within it.
                    let [within, share] = [within, share].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
                    to.copy_from(&bytes[within..within + share])?;
                }
            }
            Ok(())
        })
    }

    fn write_vectored_at(&self, from: &mut GuestIovecs<'_>, offset: u64) -> Result<(), DiskError> {
        let mut at = offset;
        self.split(from, offset, |from, content, within, share| {
            let Content::File { file, offset, writable: true } = content else {
                return Err(DiskError::ReadOnly { offset: at });
            };
            from.write_to(file, offset + within, share)?;
            at += share;
            Ok(())
        })
    }

    fn flush(&self) -> Result<(), DiskError> {
        for file in &self.writable_files {
            file.sync_data()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
