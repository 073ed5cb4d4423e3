//! An instance image: whose records are where. What is in them is sealed.

use std::io;

use payload::ReadAt;
use payload::instance::{InstanceError, InstanceImage, MANAGER, RETIRED, SECTOR, Storage};
use serde::Serialize;

use crate::draw::{Page, Segment};
use crate::text::{count, size};

/// What an instance image holds.
#[derive(Debug, Serialize)]
pub struct InstanceFacts {
    version: u16,
    image_size: u64,
    /// Whether no VM has written to it yet.
    blank: bool,
    records: Vec<RecordFacts>,
}

/// A record.
#[derive(Debug, Serialize)]
struct RecordFacts {
    uuid: String,
    /// manager, retired or other.
    owner: &'static str,
    /// Where its header begins.
    offset: u64,
    /// Bytes of its payload.
    payload_size: u64,
    /// Where the next record would begin.
    end: u64,
}

/// Lists the records.
///
/// # Errors
/// When there is no image, or no list of records in it.
pub fn gather(source: &dyn ReadAt) -> Result<InstanceFacts, InstanceError> {
    let image = InstanceImage::open(ReadOnly(source))?;
    let records = image.records()?;
    let blank = image.is_blank()?;
    Ok(InstanceFacts {
        version: 1,
        image_size: source.len().unwrap_or(0),
        blank,
        records: records
            .iter()
            .map(|record| RecordFacts {
                uuid: record.uuid.to_string(),
                owner: match record.uuid {
                    MANAGER => "manager",
                    RETIRED => "retired",
                    _ => "other",
                },
                offset: record.offset,
                payload_size: record.payload_len,
                end: record.end(),
            })
            .collect(),
    })
}

/// A source that nothing is written to.
struct ReadOnly<'a>(&'a dyn ReadAt);

impl ReadAt for ReadOnly<'_> {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

impl Storage for ReadOnly<'_> {
    fn write_all_at(&mut self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl InstanceFacts {
    /// Draws them.
    pub fn draw(&self, page: &mut Page) {
        let header = SECTOR as u64;
        let mut segments = vec![Segment { tag: "H".into(), len: header, used: header, frame: true }];
        let mut end = header;
        for (index, record) in self.records.iter().enumerate() {
            let len = record.end - record.offset;
            let used = if record.owner == "retired" { 0 } else { len };
            segments.push(Segment { tag: (index + 1).to_string(), len, used, frame: false });
            end = record.end;
        }
        if self.image_size > end {
            segments.push(Segment { tag: "free".into(), len: self.image_size - end, used: 0, frame: false });
        }
        page.map(&segments, ("0", &size(self.image_size)));
        page.gap();
        if self.blank {
            page.field("records", "none: no VM has run with it yet");
            return;
        }
        page.field("records", &format!("{}, sealed", count(self.records.len() as u64, "record")));
        page.gap();
        let rows: Vec<Vec<String>> = self
            .records
            .iter()
            .enumerate()
            .map(|(index, record)| {
                let owner = match record.owner {
                    "manager" => "payload manager",
                    "retired" => "nobody (free)",
                    _ => "unknown",
                };
                let number = (index + 1).to_string();
                let place = record.offset.to_string();
                vec![number, place, size(record.payload_size), record.uuid.clone(), owner.into()]
            })
            .collect();
        page.table(&[">#", ">byte", ">payload", "uuid", "whose"], &rows);
    }
}
