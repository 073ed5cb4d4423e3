//! Runs of a disk's bytes, by where they come from.

use std::path::PathBuf;
use std::sync::Arc;

/// A run of bytes of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte on the disk. Not a multiple of anything: a file may end in the middle of a sector.
    pub start: u64,
    /// Bytes, at least one.
    pub len: u64,
    /// What they are.
    pub content: Content,
}

/// Where the bytes of an [`Extent`] come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes, exactly as many as the extent is long.
    Bytes(Arc<[u8]>),
    /// A range of a file, from `offset` on.
    File {
        /// Path as it was given.
        path: PathBuf,
        /// First byte in the file.
        offset: u64,
        /// Whether the guest's writes go to the file.
        writable: bool,
    },
    /// Zeros.
    Zeros,
}

/// Extents in the making, each right behind the one before.
#[derive(Debug)]
pub(super) struct Builder {
    extents: Vec<Extent>,
    len: u64,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { extents: Vec::new(), len: 0 }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn bytes(&mut self, bytes: Arc<[u8]>) {
        self.push(bytes.len() as u64, Content::Bytes(bytes));
    }

    pub(super) fn file(&mut self, path: PathBuf, len: u64, writable: bool) {
        self.push(len, Content::File { path, offset: 0, writable });
    }

    pub(super) fn zeros(&mut self, len: u64) {
        self.push(len, Content::Zeros);
    }

    pub(super) fn finish(self) -> Vec<Extent> {
        self.extents
    }

    /// The lengths' sum was checked when the partitions were laid out.
    fn push(&mut self, len: u64, content: Content) {
        if len == 0 {
            return;
        }
        self.extents.push(Extent { start: self.len, len, content });
        self.len += len;
    }
}
