//! A disk made of extents: bytes in memory, ranges of files, zeros. It is nowhere stored as a whole.
//!
//! ```text
//!   0        start[1]      start[2]     start[3]           len
//!   | Bytes  | File+offset | Zeros      | File+offset | .. |
//! ```

use std::fs::File;
use std::sync::Arc;

use super::disk::{DiskError, DiskFile, Piece};

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

/// Where the bytes of an extent are.
#[derive(Debug)]
enum Source {
    Bytes(Arc<[u8]>),
    File { file: usize, offset: u64, writable: bool },
    Zeros,
}

/// A disk made of extents.
#[derive(Debug)]
pub struct CompositeDisk {
    /// Where each extent ends; apart from the sources, so that a look-up touches few cache lines.
    ends: Vec<u64>,
    sources: Vec<Source>,
    /// Every file, once.
    files: Vec<DiskFile>,
}

impl CompositeDisk {
    /// A disk of these extents, which follow each other from 0 on.
    ///
    /// # Errors
    /// When they do not, or one of them is impossible.
    pub fn new(extents: Vec<Extent>) -> Result<Self, CompositeError> {
        let mut disk = Self {
            ends: Vec::with_capacity(extents.len()),
            sources: Vec::with_capacity(extents.len()),
            files: Vec::new(),
        };
        let mut expected = 0;
        for (index, Extent { start, len, content }) in extents.into_iter().enumerate() {
            if start != expected {
                return Err(CompositeError::Misplaced { index, start, expected });
            }
            let ends_within = |begin: u64| begin.checked_add(len).is_some_and(|end| end <= i64::MAX as u64);
            let possible = match &content {
                Content::Bytes(bytes) => bytes.len() as u64 == len,
                Content::File { offset, .. } => ends_within(*offset),
                Content::Zeros => true,
            };
            if len == 0 || !ends_within(start) || !possible {
                return Err(CompositeError::Length { index, len });
            }
            expected = start + len;
            disk.ends.push(expected);
            let source = match content {
                Content::Bytes(bytes) => Source::Bytes(bytes),
                Content::Zeros => Source::Zeros,
                Content::File { file, offset, writable } => {
                    Source::File { file: disk.take(&file, writable), offset, writable }
                }
            };
            disk.sources.push(source);
        }
        if disk.ends.is_empty() { Err(CompositeError::Empty) } else { Ok(disk) }
    }

    /// A disk that is the first `len` bytes of one file.
    ///
    /// # Errors
    /// When `len` is zero or more than a file can have.
    pub fn from_file(file: Arc<File>, len: u64, writable: bool) -> Result<Self, CompositeError> {
        Self::new(vec![Extent { start: 0, len, content: Content::File { file, offset: 0, writable } }])
    }

    fn take(&mut self, file: &Arc<File>, writable: bool) -> usize {
        let index = self.files.iter().position(|known| known.is(file)).unwrap_or_else(|| {
            self.files.push(DiskFile::new(file, false));
            self.files.len() - 1
        });
        if writable {
            self.files[index].make_writable();
        }
        index
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Never: a disk has at least one extent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The files that hold parts of it, each once.
    pub fn files(&self) -> &[DiskFile] {
        &self.files
    }

    /// Where the bytes from `offset` on are, at most `len` of them and at least one; to be written if `write`.
    ///
    /// # Errors
    /// When they are past the end, or to be written and cannot be.
    pub fn piece(&self, offset: u64, len: u64, write: bool) -> Result<Piece<'_>, DiskError> {
        let index = self.ends.partition_point(|&end| end <= offset);
        let (Some(source), Some(end)) = (self.sources.get(index), self.ends.get(index)) else {
            return Err(DiskError::OutOfRange { offset });
        };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let within = offset - start;
        let len = len.min(end - offset);
        match source {
            Source::File { writable: false, .. } | Source::Bytes(_) | Source::Zeros if write => {
                Err(DiskError::ReadOnly { offset })
            }
            Source::File { file, offset, .. } => {
                Ok(Piece::File { file: *file, offset: offset + within, len })
            }
            Source::Bytes(bytes) => {
                // The extent is as long as its bytes, and the piece lies within it.
                let [from, to] = [within, within + len].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
                Ok(Piece::Bytes(&bytes[from..to]))
            }
            Source::Zeros => Ok(Piece::Zeros(len)),
        }
    }

    /// Makes every completed write durable, waiting for it.
    ///
    /// # Errors
    /// When the host cannot.
    pub fn flush(&self) -> Result<(), DiskError> {
        for file in self.files.iter().filter(|file| file.is_writable()) {
            file.sync()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
