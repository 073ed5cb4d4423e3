//! The APK Signing Block: records between the entries and the central directory, each with a number.
//!
//! ```text
//!   | size u64 | (len u64 | id u32 | value)* | size u64 | "APK Sig Block 42" |  central directory
//!              \------------------ size (little-endian) ------------------/
//! ```

use std::io;

use super::zip::ZipSections;
use crate::ReadAt;
use crate::fields::Fields;

/// APK Signature Scheme v2.
pub const V2: u32 = 0x7109_871a;
/// APK Signature Scheme v3.
pub const V3: u32 = 0xf053_68c0;
/// APK Signature Scheme v3.1.
pub const V31: u32 = 0x1b93_ad61;
/// What other records are known to hold, none of which says anything about who signed.
const OTHERS: [(u32, &str); 5] = [
    (PADDING, "verity padding"),
    (0x504b_4453, "dependency information"),
    (0x2146_444e, "Play frosting"),
    (0x2b09_189e, "source stamp, version 1"),
    (0x6dff_800d, "source stamp, version 2"),
];
/// Padding, so that the block ends at a multiple of 4 KiB.
pub(super) const PADDING: u32 = 0x4272_6577;

/// Ends every block.
pub(super) const MAGIC: &[u8; 16] = b"APK Sig Block 42";
/// Size and magic behind the records.
pub(super) const FOOTER_LEN: u64 = 24;
/// Largest block read into memory, in bytes.
const MAX_LEN: u64 = 16 << 20;

/// Why there is no signing block to read.
#[derive(Debug, thiserror::Error)]
pub enum SigningBlockError {
    /// The source cannot be read.
    #[error("read the signing block")]
    Read(#[source] io::Error),
    /// The archive was never signed by a scheme from v2 on.
    #[error("No APK Signing Block")]
    Missing,
    /// The size before the records is not that behind them.
    #[error("APK Signing Block sizes in header and footer do not match: {header} and {footer}")]
    SizesDiffer {
        /// Before the records.
        header: u64,
        /// Behind them.
        footer: u64,
    },
    /// A size that no block in front of this central directory has.
    #[error("the APK Signing Block cannot have {0} bytes")]
    Size(u64),
    /// A record that does not end where the block does.
    #[error("a record of the APK Signing Block is cut short")]
    Record,
}

/// A signing block in memory, all its records well-formed.
#[derive(Clone, Debug)]
pub struct SigningBlock {
    /// Where it begins, in bytes from the archive's start: the end of the entries.
    pub start: u64,
    records: Vec<u8>,
}

impl SigningBlock {
    /// Reads the block in front of the central directory.
    ///
    /// # Errors
    /// [`SigningBlockError`]; [`SigningBlockError::Missing`] when there is no magic number in its place.
    pub fn read(reader: &dyn ReadAt, sections: &ZipSections) -> Result<Self, SigningBlockError> {
        let end = sections.central_directory;
        let mut footer = [0; 24];
        let Some(footer_start) = end.checked_sub(FOOTER_LEN) else { return Err(SigningBlockError::Missing) };
        reader.read_exact_at(&mut footer, footer_start).map_err(SigningBlockError::Read)?;
        let Some(size) = footer.strip_suffix(MAGIC).and_then(|bytes| Fields::new(bytes).u64()) else {
            return Err(SigningBlockError::Missing);
        };
        if !(FOOTER_LEN..=MAX_LEN).contains(&size) {
            return Err(SigningBlockError::Size(size));
        }
        let start = end.checked_sub(size + 8).ok_or(SigningBlockError::Size(size))?;
        let mut bytes = vec![0; usize::try_from(size + 8 - FOOTER_LEN).expect("at most 16 MiB")];
        reader.read_exact_at(&mut bytes, start).map_err(SigningBlockError::Read)?;
        let mut fields = Fields::new(&bytes);
        let header = fields.u64().expect("there are at least 8 bytes");
        if header != size {
            return Err(SigningBlockError::SizesDiffer { header, footer: size });
        }
        let records = fields.rest().to_vec();
        let mut left = Fields::new(&records);
        while !left.is_empty() {
            record(&mut left).ok_or(SigningBlockError::Record)?;
        }
        Ok(Self { start, records })
    }

    /// All records in their order: number and value.
    pub fn records(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut left = Fields::new(&self.records);
        std::iter::from_fn(move || record(&mut left))
    }

    /// The value of the first record numbered `id`: the one that counts, as everywhere.
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        self.records().find(|(found, _)| *found == id).map(|(_, value)| value)
    }
}

/// What the record numbered `id` holds, when it is known and no signature.
pub fn record_name(id: u32) -> Option<&'static str> {
    OTHERS.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}

fn record<'a>(fields: &mut Fields<'a>) -> Option<(u32, &'a [u8])> {
    let len = usize::try_from(fields.u64()?).ok()?;
    let mut record = Fields::new(fields.bytes(len)?);
    Some((record.u32()?, record.rest()))
}

/// A block of these records, padded with one more to a multiple of 4 KiB in all.
pub(super) fn encode(records: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut push = |id: u32, value: &[u8]| {
        body.extend_from_slice(&(value.len() as u64 + 4).to_le_bytes());
        body.extend_from_slice(&id.to_le_bytes());
        body.extend_from_slice(value);
    };
    let mut len: usize = 32 + 12; // sizes and magic, and the padding record's own header
    for (id, value) in records {
        push(*id, value);
        len += 12 + value.len();
    }
    push(PADDING, &vec![0; len.next_multiple_of(4096) - len]);
    let size = (body.len() as u64 + FOOTER_LEN).to_le_bytes();
    [&size[..], &body, &size, MAGIC].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(block: &[u8]) -> Result<SigningBlock, SigningBlockError> {
        let central_directory = block.len() as u64;
        let sections = ZipSections {
            central_directory,
            end_record: central_directory,
            len: central_directory,
            entries: 0,
        };
        SigningBlock::read(&block.to_vec(), &sections)
    }

    #[test]
    fn records_are_found_by_number() {
        let block = encode(&[(V3, b"three".to_vec()), (V2, Vec::new())]);
        assert_eq!(block.len(), 4096);
        let found = read(&[b"entries", &block[..]].concat()).unwrap();
        assert_eq!(found.start, 7);
        assert_eq!(found.get(V3), Some(b"three".as_slice()));
        assert_eq!(found.get(V2), Some(b"".as_slice()));
        assert_eq!(found.get(V31), None);
        let ids: Vec<u32> = found.records().map(|(id, _)| id).collect();
        assert_eq!(ids, [V3, V2, PADDING]);
        assert_eq!((record_name(PADDING), record_name(V3)), (Some("verity padding"), None));
    }

    #[test]
    fn the_first_of_two_records_counts() {
        let block = encode(&[(V3, b"first".to_vec()), (V3, b"second".to_vec())]);
        let found = read(&block).unwrap();
        assert_eq!(found.get(V3), Some(b"first".as_slice()));
        assert_eq!(found.records().filter(|(id, _)| *id == V3).count(), 2);
    }

    #[test]
    fn broken_blocks_are_refused() {
        let block = encode(&[(V3, b"three".to_vec())]);
        let end = block.len();
        let patched = |at: usize, bytes: &[u8]| {
            let mut block = block.clone();
            block[at..at + bytes.len()].copy_from_slice(bytes);
            read(&block)
        };
        assert!(matches!(read(b""), Err(SigningBlockError::Missing)));
        assert!(matches!(patched(end - 1, b"3"), Err(SigningBlockError::Missing)));
        assert!(matches!(patched(0, &[0]), Err(SigningBlockError::SizesDiffer { .. })));
        for size in [0, 23, 4096, u64::from(u32::MAX), u64::MAX - 7, u64::MAX] {
            let refused = patched(end - 24, &size.to_le_bytes());
            assert!(matches!(refused, Err(SigningBlockError::Size(s)) if s == size), "{size}");
        }
        for len in [0, 3, 10_000, u64::from(u32::MAX), u64::MAX] {
            assert!(matches!(patched(8, &len.to_le_bytes()), Err(SigningBlockError::Record)), "{len}");
        }
    }
}
