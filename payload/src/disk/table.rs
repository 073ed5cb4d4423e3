//! Reads a GUID partition table back, and says what is wrong with it (UEFI 2.10, chapter 5).
//!
//! Both copies are read. The primary is believed; where it is damaged the backup is, and the damage is a [`Problem`],
//! as is everything a repair program would complain of. Work and memory are bounded: [`MAX_ENTRIES_LEN`] bytes of entries.

use std::io;

use uuid::Uuid;

use super::SECTOR_SIZE;
use crate::ReadAt;

mod check;

/// Most bytes of entries read: eight times what a table of 128 has.
pub const MAX_ENTRIES_LEN: u64 = 128 << 10;

const SECTOR: usize = 512;
const LEAST_HEADER: u32 = 92;
const LEAST_ENTRY: u32 = 128;
/// UTF-16 code units of a name.
const NAME_UNITS: usize = 36;

/// Why a disk has no partition table to read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The disk cannot be read.
    #[error("read the partition table")]
    Read(#[source] io::Error),
    /// Not even the headers fit.
    #[error("the disk has {0} bytes, too few for a partition table")]
    TooSmall(u64),
    /// Neither copy is a table.
    #[error("no GUID partition table: {primary}, {backup}")]
    NoTable {
        /// What is wrong with the primary one.
        primary: Problem,
        /// What is wrong with the backup.
        backup: Problem,
    },
}

/// Which of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// At the beginning of the disk.
    Primary,
    /// At its end.
    Backup,
}

/// What a copy's header or entries suffer from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not begin with `EFI PART`.
    #[error("has no signature")]
    Signature,
    /// Revision, header size or entry sizes that are not of a table.
    #[error("has sizes of no partition table")]
    Sizes,
    /// The header is not what its checksum says.
    #[error("has a wrong header checksum")]
    HeaderChecksum,
    /// The entries are not what their checksum says.
    #[error("has a wrong checksum of its entries")]
    EntriesChecksum,
    /// It says it is elsewhere.
    #[error("names another sector as its own")]
    OwnSector,
    /// The entries lie outside the disk.
    #[error("has its entries outside the disk")]
    EntriesOutside,
}

/// Something that is not as the specification has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Sector 0 is no protective MBR.
    #[error("the protective MBR {0}")]
    Mbr(&'static str),
    /// A copy that cannot be used.
    #[error("the {} table {damage}", copy.name())]
    Damaged {
        /// Which.
        copy: Copy,
        /// What it suffers from.
        damage: Damage,
    },
    /// A header's sector address that is not what it has to be.
    #[error("the {} table has {field} {found}, expected {expected}", copy.name())]
    Address {
        /// In which copy.
        copy: Copy,
        /// The field.
        field: &'static str,
        /// What is there.
        found: u64,
        /// What it has to be.
        expected: u64,
    },
    /// The copies differ.
    #[error("primary and backup table differ in {0}")]
    Differ(&'static str),
    /// A partition that ends before it begins, or outside the usable sectors.
    #[error("partition {number} ({first} to {last}) is outside the usable sectors {usable:?}")]
    Outside {
        /// Its number, from 1.
        number: usize,
        /// First sector.
        first: u64,
        /// Last sector.
        last: u64,
        /// First and last usable sector.
        usable: (u64, u64),
    },
    /// Two partitions share sectors.
    #[error("partitions {0} and {1} overlap")]
    Overlap(usize, usize),
    /// Two partitions of one name.
    #[error("partitions {0} and {1} have the same label")]
    SameLabel(usize, usize),
    /// Two partitions of one GUID.
    #[error("partitions {0} and {1} have the same GUID")]
    SameGuid(usize, usize),
    /// A name that is no UTF-16.
    #[error("the label of partition {0} is not UTF-16")]
    Label(usize),
}

impl Copy {
    fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        }
    }
}

/// One partition, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Its number, from 1: the entry's place in the table.
    pub number: usize,
    /// Its name; what is no UTF-16 is replaced.
    pub label: String,
    /// First sector.
    pub first_lba: u64,
    /// Last sector, which belongs to it.
    pub last_lba: u64,
    /// What it is for.
    pub type_guid: Uuid,
    /// Its own GUID.
    pub guid: Uuid,
    /// Attribute bits.
    pub attributes: u64,
}

impl TableEntry {
    /// First byte; nothing when it is no byte of any disk.
    pub fn start(&self) -> Option<u64> {
        self.first_lba.checked_mul(SECTOR_SIZE)
    }

    /// Length in bytes; nothing when it ends before it begins, or past the largest address.
    pub fn len(&self) -> Option<u64> {
        let end = self.last_lba.checked_add(1)?.checked_mul(SECTOR_SIZE)?;
        end.checked_sub(self.start()?).filter(|len| *len > 0)
    }

    /// Whether it has no sector.
    pub fn is_empty(&self) -> bool {
        self.len().is_none()
    }
}

/// A partition table as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTable {
    /// The disk's GUID.
    pub disk_guid: Uuid,
    /// Which copy this is of.
    pub copy: Copy,
    /// First and last sector that partitions may have.
    pub usable: (u64, u64),
    /// The partitions in the order of their entries; unused entries are left out.
    pub partitions: Vec<TableEntry>,
    /// Everything that is not as it should be.
    pub problems: Vec<Problem>,
}

impl PartitionTable {
    /// Reads both copies of the table of `disk`, whose sectors have 512 bytes.
    ///
    /// # Errors
    /// [`TableError`] when neither copy is a table. Everything less is one of the [`PartitionTable::problems`].
    pub fn read(disk: &dyn ReadAt) -> Result<Self, TableError> {
        let len = disk.len().map_err(TableError::Read)?;
        let sectors = len / SECTOR_SIZE;
        if sectors < 3 {
            return Err(TableError::TooSmall(len));
        }
        let mut problems = Vec::new();
        check::protective_mbr(&sector(disk, 0)?, sectors, &mut problems);
        let primary = found(Header::read(disk, Copy::Primary, 1, sectors)?, &mut problems);
        // The last sector, or where the primary table says: a disk that has grown keeps its backup there.
        let mut backup = Header::read(disk, Copy::Backup, sectors - 1, sectors)?;
        if let (Err(_), Ok(first)) = (&backup, &primary)
            && (2..sectors - 1).contains(&first.other_lba)
        {
            backup = Header::read(disk, Copy::Backup, first.other_lba, sectors)?;
        }
        let backup = found(backup, &mut problems);
        check::headers(primary.as_ref().ok(), backup.as_ref().ok(), sectors, &mut problems);
        let header = match (primary, backup) {
            (Ok(header), _) | (Err(_), Ok(header)) => header,
            (Err(primary), Err(backup)) => return Err(TableError::NoTable { primary, backup }),
        };
        let partitions = header.partitions(&mut problems);
        check::partitions(&partitions, header.usable, &mut problems);
        let Header { disk_guid, copy, usable, .. } = header;
        Ok(Self { disk_guid, copy, usable, partitions, problems })
    }

    /// The partition of this name; the first of several.
    pub fn find(&self, label: &str) -> Option<&TableEntry> {
        self.partitions.iter().find(|partition| partition.label == label)
    }
}

/// Keeps what is wrong with a copy among the problems, too.
fn found(header: Result<Header, Problem>, problems: &mut Vec<Problem>) -> Result<Header, Problem> {
    header.inspect_err(|problem| problems.push(problem.clone()))
}

fn sector(disk: &dyn ReadAt, lba: u64) -> Result<[u8; SECTOR], TableError> {
    let mut bytes = [0; SECTOR];
    disk.read_exact_at(&mut bytes, lba * SECTOR_SIZE).map_err(TableError::Read)?;
    Ok(bytes)
}

/// One copy, its checksums right.
#[derive(Debug)]
struct Header {
    copy: Copy,
    own_lba: u64,
    other_lba: u64,
    usable: (u64, u64),
    disk_guid: Uuid,
    entries_lba: u64,
    entries_checksum: u32,
    entry_len: usize,
    entries: Vec<u8>,
}

impl Header {
    fn read(
        disk: &dyn ReadAt,
        copy: Copy,
        lba: u64,
        sectors: u64,
    ) -> Result<Result<Self, Problem>, TableError> {
        let damaged = |damage| Ok(Err(Problem::Damaged { copy, damage }));
        let bytes = sector(disk, lba)?;
        let (header, sizes) = match Self::parse(&bytes, copy, lba) {
            Ok(parsed) => parsed,
            Err(damage) => return damaged(damage),
        };
        let start = header.entries_lba.checked_mul(SECTOR_SIZE);
        let end = start.and_then(|start| start.checked_add(sizes));
        let Some(start) = start.filter(|_| end.is_some_and(|end| end <= sectors * SECTOR_SIZE)) else {
            return damaged(Damage::EntriesOutside);
        };
        let mut entries = vec![0; usize::try_from(sizes).expect("at most 128 KiB")];
        disk.read_exact_at(&mut entries, start).map_err(TableError::Read)?;
        if crc32fast::hash(&entries) != header.entries_checksum {
            return damaged(Damage::EntriesChecksum);
        }
        Ok(Ok(Self { entries, ..header }))
    }

    /// The header without its entries, and how many bytes those have.
    fn parse(bytes: &[u8; SECTOR], copy: Copy, lba: u64) -> Result<(Self, u64), Damage> {
        if !bytes.starts_with(b"EFI PART") {
            return Err(Damage::Signature);
        }
        let header_len = word(bytes, 12);
        let (count, entry_len) = (word(bytes, 80), word(bytes, 84));
        let sizes = u64::from(count) * u64::from(entry_len);
        let whole = usize::try_from(header_len)
            .ok()
            .filter(|len| header_len >= LEAST_HEADER && *len <= SECTOR)
            .filter(|_| word(bytes, 8) >> 16 == 1 && (1..=MAX_ENTRIES_LEN).contains(&sizes))
            .filter(|_| entry_len >= LEAST_ENTRY && entry_len.is_power_of_two())
            .ok_or(Damage::Sizes)?;
        let mut cleared = *bytes;
        cleared[16..20].fill(0);
        if crc32fast::hash(&cleared[..whole]) != word(bytes, 16) {
            return Err(Damage::HeaderChecksum);
        }
        if long(bytes, 24) != lba {
            return Err(Damage::OwnSector);
        }
        let header = Self {
            copy,
            own_lba: lba,
            other_lba: long(bytes, 32),
            usable: (long(bytes, 40), long(bytes, 48)),
            disk_guid: guid(bytes, 56),
            entries_lba: long(bytes, 72),
            entries_checksum: word(bytes, 88),
            entry_len: usize::try_from(entry_len).map_err(|_| Damage::Sizes)?,
            entries: Vec::new(),
        };
        Ok((header, sizes))
    }

    fn partitions(&self, problems: &mut Vec<Problem>) -> Vec<TableEntry> {
        let mut partitions = Vec::new();
        for (index, entry) in self.entries.chunks_exact(self.entry_len).enumerate() {
            let type_guid = guid(entry, 0);
            if type_guid.is_nil() {
                continue;
            }
            let number = index + 1;
            let units: Vec<u16> = entry[56..56 + 2 * NAME_UNITS]
                .chunks_exact(2)
                .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
                .take_while(|unit| *unit != 0)
                .collect();
            if char::decode_utf16(units.iter().copied()).any(|unit| unit.is_err()) {
                problems.push(Problem::Label(number));
            }
            partitions.push(TableEntry {
                number,
                label: String::from_utf16_lossy(&units),
                first_lba: long(entry, 32),
                last_lba: long(entry, 40),
                type_guid,
                guid: guid(entry, 16),
                attributes: long(entry, 48),
            });
        }
        partitions
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("a field of a header or entry"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("a field of a header or entry"))
}

fn guid(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(*bytes[at..].first_chunk().expect("a field of a header or entry"))
}

#[cfg(test)]
mod tests;
