//! Where an archive's sections lie, found by rules strict enough that every reader finds the same.
//!
//! ```text
//!   0          signing block?                central directory     end record              len
//!   | entries  | .. APK Sig Block 42 (16)    | entries x header    | PK\5\6 (22) | comment |
//! ```
//!
//! The end record stands right behind the central directory, offsets count from the first byte of the file, there is
//! one disk and no ZIP64. Where two end records would fit, the archive is refused: two readers might disagree.

use std::io;

use crate::ReadAt;
use crate::disk::{ALIGNMENT, Filler, padded_len};

const END_RECORD_LEN: u64 = 22;
const MAX_COMMENT: u64 = 0xffff;
const END_SIGNATURE: [u8; 4] = *b"PK\x05\x06";
const ZIP64_LOCATOR_SIGNATURE: [u8; 4] = *b"PK\x06\x07";
const ZIP64_LOCATOR_LEN: usize = 20;
/// Where the end record has the offset of the central directory.
pub(crate) const END_RECORD_OFFSET_FIELD: usize = 16;

/// Why no archive is found.
#[derive(Debug, thiserror::Error)]
pub enum ZipError {
    /// The source cannot be read.
    #[error("read the archive's end")]
    Read(#[source] io::Error),
    /// Shorter than an empty archive.
    #[error("APK too small: {0} bytes")]
    TooSmall(u64),
    /// No end of central directory record where the archive ends.
    #[error("no end of central directory record at the end of the archive")]
    NoEndRecord,
    /// More than one place could be the archive's end.
    #[error("two end of central directory records fit, at {first} and {second}")]
    Ambiguous {
        /// The later one.
        first: u64,
        /// The earlier one.
        second: u64,
    },
    /// The central directory does not lie right before the end record.
    #[error("the central directory ({offset} + {len}) does not end at its end record ({end})")]
    Layout {
        /// Its offset, as told.
        offset: u64,
        /// Its length, as told.
        len: u64,
        /// Where the end record is.
        end: u64,
    },
    /// ZIP64, or split over disks.
    #[error("ZIP64 and split archives are not supported")]
    Unsupported,
}

/// Where the sections of an archive are, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZipSections {
    /// Start of the central directory.
    pub central_directory: u64,
    /// Start of the end record: the end of the central directory.
    pub end_record: u64,
    /// Length of the archive: the end of the end record's comment.
    pub len: u64,
    /// Entries in the central directory.
    pub entries: u16,
}

impl ZipSections {
    /// Finds the sections of an archive that fills `reader` exactly.
    ///
    /// # Errors
    /// [`ZipError`] unless it keeps to the rules of this module.
    pub fn read(reader: &dyn ReadAt) -> Result<Self, ZipError> {
        let len = reader.len().map_err(ZipError::Read)?;
        let tail = Tail::read(reader, len, 0)?;
        tail.find(|_, end| end == len)
    }
}

/// Length of the archive in a padded partition of `partition_len` bytes (formats: size filler, else zero filler).
///
/// # Errors
/// [`ZipError`] when no archive ends there in one of the two ways, or something other than zeros follows it.
pub fn archive_len(reader: &dyn ReadAt, partition_len: u64) -> Result<u64, ZipError> {
    if let Some(len) = size_filled_len(reader, partition_len)? {
        return Ok(len);
    }
    let tail = Tail::read(reader, partition_len, ALIGNMENT - 1)?;
    let ends_here =
        |_, end| end <= partition_len && partition_len - end < ALIGNMENT && tail.is_zero_from(end);
    Ok(tail.find(ends_here)?.len)
}

/// The size that a size filler tells, when all of the filler is as it must be and an archive ends there.
fn size_filled_len(reader: &dyn ReadAt, partition_len: u64) -> Result<Option<u64>, ZipError> {
    let Some(last) = partition_len.checked_sub(4) else { return Ok(None) };
    let mut told = [0; 4];
    reader.read_exact_at(&mut told, last).map_err(ZipError::Read)?;
    let Some(len) = u64::try_from(i32::from_be_bytes(told)).ok().filter(|len| *len > 0) else {
        return Ok(None);
    };
    if padded_len(len, Filler::Size) != Some(partition_len) {
        return Ok(None);
    }
    // Less than 4 KiB + 4 bytes, because the padded length fits.
    let filler = usize::try_from(last - len).expect("a filler is short");
    let mut zeros = vec![0; filler];
    reader.read_exact_at(&mut zeros, len).map_err(ZipError::Read)?;
    if zeros.iter().any(|byte| *byte != 0) {
        return Ok(None);
    }
    match Tail::read(reader, len, 0).and_then(|tail| tail.find(|_, end| end == len)) {
        Ok(_) => Ok(Some(len)),
        Err(error @ ZipError::Read(_)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The last bytes of a source: all in which an end record that matters can be.
struct Tail {
    start: u64,
    bytes: Vec<u8>,
}

impl Tail {
    /// The tail of the first `len` bytes of `reader`, of which up to `padding` follow the archive.
    fn read(reader: &dyn ReadAt, len: u64, padding: u64) -> Result<Self, ZipError> {
        if len < END_RECORD_LEN {
            return Err(ZipError::TooSmall(len));
        }
        let start = len.saturating_sub(ZIP64_LOCATOR_LEN as u64 + END_RECORD_LEN + MAX_COMMENT + padding);
        let mut bytes = vec![0; usize::try_from(len - start).expect("a tail is short")];
        reader.read_exact_at(&mut bytes, start).map_err(ZipError::Read)?;
        Ok(Self { start, bytes })
    }

    fn is_zero_from(&self, offset: u64) -> bool {
        usize::try_from(offset - self.start)
            .ok()
            .and_then(|at| self.bytes.get(at..))
            .is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
    }

    /// The one end record that `fits(its position, the archive's end)` and lies right behind its directory.
    fn find(&self, fits: impl Fn(u64, u64) -> bool) -> Result<ZipSections, ZipError> {
        let mut found: Option<ZipSections> = None;
        let mut refusal = None;
        for at in (0..=self.bytes.len() - 22).rev() {
            let record = &self.bytes[at..];
            let Some(record) = EndRecord::parse(record) else { continue };
            let position = self.start + at as u64;
            let end = position + END_RECORD_LEN + u64::from(record.comment_len);
            if !fits(position, end) {
                continue;
            }
            match self.sections(&record, at, end) {
                Ok(sections) => match found {
                    Some(first) => {
                        return Err(ZipError::Ambiguous { first: first.end_record, second: position });
                    }
                    None => found = Some(sections),
                },
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        found.ok_or_else(|| refusal.unwrap_or(ZipError::NoEndRecord))
    }

    fn sections(&self, record: &EndRecord, at: usize, end: u64) -> Result<ZipSections, ZipError> {
        let position = self.start + at as u64;
        let locator = at.checked_sub(ZIP64_LOCATOR_LEN).map(|start| &self.bytes[start..at]);
        if record.is_zip64_or_split() || locator.is_some_and(|it| it.starts_with(&ZIP64_LOCATOR_SIGNATURE)) {
            return Err(ZipError::Unsupported);
        }
        let (offset, len) = (u64::from(record.directory_offset), u64::from(record.directory_len));
        if offset + len != position {
            return Err(ZipError::Layout { offset, len, end: position });
        }
        let entries = record.entries;
        Ok(ZipSections { central_directory: offset, end_record: position, len: end, entries })
    }
}

/// The fields of an end of central directory record (APPNOTE 4.3.16).
struct EndRecord {
    disks: [u16; 2],
    entries_here: u16,
    entries: u16,
    directory_len: u32,
    directory_offset: u32,
    comment_len: u16,
}

impl EndRecord {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let record = bytes.first_chunk::<22>()?;
        let half = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
        let word =
            |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        record.starts_with(&END_SIGNATURE).then(|| Self {
            disks: [half(4), half(6)],
            entries_here: half(8),
            entries: half(10),
            directory_len: word(12),
            directory_offset: word(END_RECORD_OFFSET_FIELD),
            comment_len: half(20),
        })
    }

    fn is_zip64_or_split(&self) -> bool {
        self.disks != [0, 0]
            || self.entries_here != self.entries
            || self.entries == u16::MAX
            || self.directory_len == u32::MAX
            || self.directory_offset == u32::MAX
    }
}

#[cfg(test)]
mod tests;
