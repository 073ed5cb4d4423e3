//! The central directory's shape: as many records as the end record tells, up to its last byte.
//!
//! A signature says nothing about it: whoever signs may sign a broken archive, and two readers of one might find
//! different entries.

use std::io::{self, BufReader, Read, Seek};

use super::zip::ZipSections;
use crate::read_at::adapters::Cursor;
use crate::{ReadAt, Section};

/// A record without name, extra field and comment (APPNOTE 4.3.12).
const HEADER_LEN: usize = 46;
const SIGNATURE: [u8; 4] = *b"PK\x01\x02";
/// Where a record has the three lengths of what follows it.
const LENGTHS: usize = 28;
/// Bytes read at a time: few, since a hostile directory has one record in each.
const READ_LEN: usize = 8 << 10;

/// Why a central directory is none.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The source cannot be read.
    #[error("read the central directory")]
    Read(#[source] io::Error),
    /// An archive of nothing: no application.
    #[error("the archive has no entries")]
    Empty,
    /// A record that is none, or passes the directory's end.
    #[error("record {index} of {told} in the central directory is malformed or cut short")]
    Record {
        /// Its number, from 1.
        index: u16,
        /// Records there must be.
        told: u16,
    },
    /// Bytes behind the last record.
    #[error("{0} bytes follow the last record of the central directory")]
    Excess(u64),
}

/// Walks all records.
pub(super) fn check(reader: &dyn ReadAt, sections: &ZipSections) -> Result<(), DirectoryError> {
    let told = sections.entries;
    if told == 0 {
        return Err(DirectoryError::Empty);
    }
    let len = sections.end_record - sections.central_directory;
    let mut records = Section::new(reader, sections.central_directory, len)
        .and_then(Cursor::new)
        .map(|cursor| BufReader::with_capacity(READ_LEN, cursor))
        .map_err(DirectoryError::Read)?;
    let mut end = 0;
    for index in 1..=told {
        let malformed = || DirectoryError::Record { index, told };
        let mut header = [0; HEADER_LEN];
        match records.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(malformed()),
            other => other.map_err(DirectoryError::Read)?,
        }
        let field = |at: usize| i64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let rest = field(LENGTHS) + field(LENGTHS + 2) + field(LENGTHS + 4);
        records.seek_relative(rest).map_err(DirectoryError::Read)?;
        end = records.stream_position().map_err(DirectoryError::Read)?;
        if !header.starts_with(&SIGNATURE) || end > len {
            return Err(malformed());
        }
    }
    if end < len { Err(DirectoryError::Excess(len - end)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apk::testing::pack;

    #[test]
    fn the_directory_has_as_many_records_as_are_told() {
        let apk = pack(b"content");
        let sections = ZipSections::read(&apk).unwrap();
        assert_eq!(sections.entries, 2);
        check(&apk, &sections).unwrap();
        let with = |entries| check(&apk, &ZipSections { entries, ..sections }).unwrap_err();
        assert!(matches!(with(0), DirectoryError::Empty));
        assert!(matches!(with(1), DirectoryError::Excess(60..)));
        assert!(matches!(with(3), DirectoryError::Record { index: 3, told: 3 }));
    }

    #[test]
    fn every_truncation_and_every_length_is_noticed() {
        let apk = pack(b"content");
        let sections = ZipSections::read(&apk).unwrap();
        for end_record in sections.central_directory..sections.end_record {
            assert!(check(&apk, &ZipSections { end_record, ..sections }).is_err(), "up to {end_record}");
        }
        let start = usize::try_from(sections.central_directory).unwrap();
        for at in (start..start + 4).chain(start + LENGTHS..start + LENGTHS + 6) {
            let mut damaged = apk.clone();
            damaged[at] ^= 0xff;
            assert!(check(&damaged, &sections).is_err(), "byte {at}");
        }
    }
}
