//! One partition: its content, and how a reader finds where that ends.

use std::path::PathBuf;
use std::sync::Arc;

use super::{DiskError, Partition, extent};

/// Partitions begin and end at multiples of this many bytes.
pub const ALIGNMENT: u64 = 4096;

/// How a reader of the partition learns where the content ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Filler {
    /// It knows from elsewhere; the tail is zeros nevertheless.
    #[default]
    None,
    /// Zeros up to the end: the content must tell its own end, as a ZIP archive does.
    Zero,
    /// Zeros, and in the last four bytes the content's size as a big-endian i32; there even where the size is aligned.
    Size,
}

/// A piece of a partition's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A file of `len` bytes; it is opened, and found to be shorter, only when the disk is.
    File {
        /// Path of the file.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// Bytes made by the host.
    Bytes(Arc<[u8]>),
}

impl Part {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a partition is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSpec {
    /// Its name in the partition table: 1 to 36 UTF-16 code units, unlike any other's.
    pub label: String,
    /// Whether the guest may write it; then its content is files, a multiple of [`ALIGNMENT`] in all.
    pub writable: bool,
    /// How the content's end is told.
    pub filler: Filler,
    /// The content, in order.
    pub parts: Vec<Part>,
}

impl PartitionSpec {
    /// A partition that the guest only reads.
    pub fn read_only(label: impl Into<String>, filler: Filler, part: Part) -> Self {
        Self { label: label.into(), writable: false, filler, parts: vec![part] }
    }
}

/// A partition at its place, with what is in it.
#[derive(Debug)]
pub(super) struct Laid<'a> {
    pub(super) partition: Partition,
    parts: &'a [Part],
}

impl<'a> Laid<'a> {
    pub(super) fn new(spec: &'a PartitionSpec, start: u64) -> Result<Self, DiskError> {
        let content_len = spec
            .parts
            .iter()
            .try_fold(0u64, |sum, part| sum.checked_add(part.len()))
            .ok_or(DiskError::TooLong)?;
        let label = || spec.label.clone();
        if content_len == 0 {
            return Err(DiskError::Empty(label()));
        }
        if spec.writable {
            if spec.filler == Filler::Size || spec.parts.iter().any(|part| matches!(part, Part::Bytes(_))) {
                return Err(DiskError::WritableBytes(label()));
            }
            if !content_len.is_multiple_of(ALIGNMENT) {
                return Err(DiskError::WritableSize { label: label(), len: content_len });
            }
        }
        if spec.filler == Filler::Size && i32::try_from(content_len).is_err() {
            return Err(DiskError::SizeFiller { label: label(), len: content_len });
        }
        let len = padded_len(content_len, spec.filler).ok_or(DiskError::TooLong)?;
        let partition = Partition {
            label: label(),
            start,
            len,
            content_len,
            filler: spec.filler,
            writable: spec.writable,
        };
        Ok(Self { partition, parts: &spec.parts })
    }

    /// First byte after the partition.
    pub(super) fn end(&self) -> Result<u64, DiskError> {
        self.partition.start.checked_add(self.partition.len).ok_or(DiskError::TooLong)
    }

    pub(super) fn push_extents(&self, extents: &mut extent::Builder) {
        for part in self.parts {
            match part {
                Part::File { path, len } => extents.file(path.clone(), *len, self.partition.writable),
                Part::Bytes(bytes) => extents.bytes(Arc::clone(bytes)),
            }
        }
        let tail = self.partition.len - self.partition.content_len;
        match self.partition.filler {
            Filler::None | Filler::Zero => extents.zeros(tail),
            Filler::Size => {
                extents.zeros(tail - 4);
                let size = i32::try_from(self.partition.content_len).expect("checked when it was laid out");
                extents.bytes(Arc::from(size.to_be_bytes()));
            }
        }
    }
}

/// Bytes a partition takes for `content_len` bytes of content (section 1's two fillers); nothing on overflow.
pub(crate) fn padded_len(content_len: u64, filler: Filler) -> Option<u64> {
    let told = match filler {
        Filler::None | Filler::Zero => content_len,
        Filler::Size => content_len.checked_add(4)?,
    };
    told.checked_next_multiple_of(ALIGNMENT)
}
