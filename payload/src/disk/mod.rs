//! Disks planned from sizes alone: a GUID partition table around partitions that stay where they are.
//!
//! [`plan()`] turns a list of [`PartitionSpec`]s into a [`DiskPlan`]: a sorted list of [`Extent`]s that covers every byte
//! of the disk once. Only the table and the fillers are bytes of the plan; payloads are ranges of files that nobody
//! has opened yet, so that planning costs the same for a kilobyte and for a terabyte.
//!
//! ```text
//! LBA 0      protective MBR              \
//!     1      GPT header                   | one extent of bytes
//!     2..33  128 entries                  |
//!     34..39 zeros                       /
//!     40     partition 0   content | filler or zeros to 4 KiB
//!     ..     partition 1   content | filler or zeros to 4 KiB
//!     ..     zeros to the end, which is a multiple of 64 KiB
//!     -33    128 entries                 \  one extent of bytes
//!     -1     backup GPT header           /
//! ```

pub mod composite;
pub mod config;
pub mod contents;
mod extent;
mod flat;
mod gpt;
mod layout;
mod microdroid;
mod partition;
mod reader;
pub mod table;

pub use composite::{Component, CompositeSpec};
pub use contents::Contents;
pub use extent::{Content, Extent};
pub use flat::{FlatError, write as write_flat};
pub use gpt::{GuidSource, SECTOR_SIZE};
pub use layout::{Layout, UnknownLayout};
pub use microdroid::{Apex, Application, ExtraApk, PayloadDisk};
pub(crate) use partition::padded_len;
pub use partition::{ALIGNMENT, Filler, Part, PartitionSpec};
pub use reader::{DiskReader, OpenError, open, open_file};
pub use table::PartitionTable;

use crate::labels::MAX_PARTITIONS;
use partition::Laid;

/// Why a disk cannot be planned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// More partitions than table entries.
    #[error("{0} partitions, and a disk holds at most {MAX_PARTITIONS}")]
    TooManyPartitions(usize),
    /// Two partitions of one name.
    #[error("two partitions are labelled {0:?}")]
    DuplicateLabel(String),
    /// A name that its table entry cannot hold.
    #[error("partition label {label:?} is not of 1 to {} UTF-16 code units", gpt::MAX_NAME)]
    BadLabel {
        /// The name.
        label: String,
    },
    /// A partition of no bytes.
    #[error("partition {0:?} is empty")]
    Empty(String),
    /// A partition the guest may write whose last block would not be its own.
    #[error("writable partition {label:?} has {len} bytes, not a multiple of {ALIGNMENT}")]
    WritableSize {
        /// Its label.
        label: String,
        /// Bytes of its content.
        len: u64,
    },
    /// A partition the guest may write with something in it that no file keeps.
    #[error("writable partition {0:?} is not made of files alone")]
    WritableBytes(String),
    /// A size filler ends with the size as an i32.
    #[error("partition {label:?} has {len} bytes, more than a size filler can tell")]
    SizeFiller {
        /// Its label.
        label: String,
        /// Bytes of its content.
        len: u64,
    },
    /// More bytes than a disk has addresses for.
    #[error("the disk would be longer than {} bytes", i64::MAX)]
    TooLong,
}

/// One partition of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name in the partition table.
    pub label: String,
    /// First byte on the disk, a multiple of [`ALIGNMENT`].
    pub start: u64,
    /// Bytes on the disk, a multiple of [`ALIGNMENT`].
    pub len: u64,
    /// Bytes of its content; what follows is filler and padding.
    pub content_len: u64,
    /// How the content's end is told.
    pub filler: Filler,
    /// Whether the guest may write it.
    pub writable: bool,
}

/// A disk that can be shown to a guest, or written out, without further decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// Length in bytes, a multiple of 64 KiB.
    pub len: u64,
    /// The partitions in the order of the table.
    pub partitions: Vec<Partition>,
    /// What each byte of the disk is: sorted, without gaps, from 0 to `len`.
    pub extents: Vec<Extent>,
}

/// Lays `specs` out behind a GUID partition table, in their order.
///
/// Cost and memory depend on the number of partitions only; no file is opened.
///
/// # Errors
/// [`DiskError`] when the table cannot describe the partitions.
pub fn plan(specs: &[PartitionSpec], guids: GuidSource<'_>) -> Result<DiskPlan, DiskError> {
    check_labels(specs)?;
    let mut at = gpt::FIRST_PARTITION;
    let laid = specs
        .iter()
        .map(|spec| {
            let laid = Laid::new(spec, at)?;
            at = laid.end()?;
            Ok(laid)
        })
        .collect::<Result<Vec<_>, DiskError>>()?;
    let len = gpt::disk_len(at).ok_or(DiskError::TooLong)?;
    let partitions: Vec<Partition> = laid.iter().map(|laid| laid.partition.clone()).collect();
    let table = gpt::Table::new(&partitions, len, guids);

    let mut extents = extent::Builder::new();
    extents.bytes(table.head());
    for laid in &laid {
        laid.push_extents(&mut extents);
    }
    let tail = table.tail();
    extents.zeros(len - extents.len() - gpt::TAIL_LEN);
    extents.bytes(tail);
    Ok(DiskPlan { len, partitions, extents: extents.finish() })
}

fn check_labels(specs: &[PartitionSpec]) -> Result<(), DiskError> {
    if specs.len() > MAX_PARTITIONS {
        return Err(DiskError::TooManyPartitions(specs.len()));
    }
    let mut seen = std::collections::HashSet::new();
    for spec in specs {
        let units = spec.label.encode_utf16().take(gpt::MAX_NAME + 1).count();
        if !(1..=gpt::MAX_NAME).contains(&units) || spec.label.contains('\0') {
            return Err(DiskError::BadLabel { label: spec.label.clone() });
        }
        if !seen.insert(spec.label.as_str()) {
            return Err(DiskError::DuplicateLabel(spec.label.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
