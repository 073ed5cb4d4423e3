//! The list of records.

use std::io;

use uuid::Uuid;

use super::seal::{self, SealingCdi};
use super::{
    DEFAULT_LEN, InstanceError, MANAGER, MAX_PAYLOAD, MIN_LEN, ManagerRecord, RETIRED, SECTOR, Storage,
};

const MAGIC: &[u8] = b"Android-VM-instance";
const VERSION: u16 = 1;
const SECTOR_LEN: u64 = SECTOR as u64;
/// Records followed in one image: as many as there is room for in one of the usual size.
const MAX_RECORDS: usize = (DEFAULT_LEN / SECTOR_LEN) as usize;

type Sector = [u8; SECTOR];

/// Makes `storage` an image without records; of what was in it nothing can be found any more.
///
/// # Errors
/// [`InstanceError::TooSmall`], [`InstanceError::Io`].
pub fn format(storage: &mut impl Storage) -> Result<(), InstanceError> {
    let len = storage.len().map_err(reading)?;
    if len < MIN_LEN {
        return Err(InstanceError::TooSmall(len));
    }
    let mut first = [0; SECTOR];
    first[..MAGIC.len()].copy_from_slice(MAGIC);
    first[MAGIC.len()..][..2].copy_from_slice(&VERSION.to_le_bytes());
    // The list's end first, so that there is no moment with a header and what was there before.
    for (sector, offset) in [([0; SECTOR], SECTOR_LEN), (first, 0)] {
        storage.write_all_at(&sector, offset).map_err(writing)?;
        storage.flush().map_err(writing)?;
    }
    Ok(())
}

/// A record in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub uuid: Uuid,
    /// Where its header begins, in bytes; the payload is [`SECTOR`] bytes behind.
    pub offset: u64,
    /// Bytes of its payload.
    pub payload_len: u64,
}

impl Record {
    /// Where the next record's header is. That it fits 64 bits was checked when the record was found.
    pub fn end(&self) -> u64 {
        self.offset + span(self.payload_len)
    }
}

/// Bytes that a record takes, header included.
fn span(payload_len: u64) -> u64 {
    SECTOR_LEN + payload_len.next_multiple_of(SECTOR_LEN)
}

/// The records of an image, and where they end.
struct List {
    records: Vec<Record>,
    end: u64,
}

impl List {
    fn first(&self, uuid: Uuid) -> Option<Record> {
        self.records.iter().find(|record| record.uuid == uuid).copied()
    }
}

/// Where a record is to be written.
struct Place {
    offset: u64,
    /// What is to stand behind it.
    behind: Option<(u64, Sector)>,
}

/// An image in `S`.
#[derive(Debug)]
pub struct InstanceImage<S> {
    storage: S,
}

impl<S: Storage> InstanceImage<S> {
    /// Opens an image and follows its records once.
    ///
    /// # Errors
    /// [`InstanceError`] when it is none, or its records do not end inside it.
    pub fn open(storage: S) -> Result<Self, InstanceError> {
        let len = storage.len().map_err(reading)?;
        if len < MIN_LEN {
            return Err(InstanceError::TooSmall(len));
        }
        let image = Self { storage };
        let first = image.sector(0)?;
        let version = first.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk());
        let version = u16::from_le_bytes(*version.ok_or(InstanceError::Magic)?);
        if version != VERSION {
            return Err(InstanceError::Version(version));
        }
        image.list()?;
        Ok(image)
    }

    /// Gives the storage back.
    pub fn into_storage(self) -> S {
        self.storage
    }

    /// Whether nothing was ever written into it: on an instance that has been there before, somebody took its memory.
    ///
    /// # Errors
    /// As [`InstanceImage::open`].
    pub fn is_blank(&self) -> Result<bool, InstanceError> {
        Ok(self.list()?.records.is_empty())
    }

    /// All records in their order, retired ones and second ones of a uuid included.
    ///
    /// # Errors
    /// As [`InstanceImage::open`].
    pub fn records(&self) -> Result<Vec<Record>, InstanceError> {
        Ok(self.list()?.records)
    }

    /// The record of `uuid` that counts: the first.
    ///
    /// # Errors
    /// As [`InstanceImage::open`].
    pub fn find(&self, uuid: Uuid) -> Result<Option<Record>, InstanceError> {
        Ok(self.list()?.first(uuid))
    }

    /// The payload of `record`, at most [`MAX_PAYLOAD`] bytes.
    ///
    /// # Errors
    /// [`InstanceError::TooLong`], [`InstanceError::Io`].
    pub fn read(&self, record: &Record) -> Result<Vec<u8>, InstanceError> {
        let len = usize::try_from(record.payload_len).ok().filter(|_| record.payload_len <= MAX_PAYLOAD);
        let mut payload = vec![0; len.ok_or(InstanceError::TooLong(record.payload_len))?];
        let offset = record.offset.checked_add(SECTOR_LEN);
        let past_end = || reading(io::ErrorKind::UnexpectedEof.into());
        self.storage.read_exact_at(&mut payload, offset.ok_or_else(past_end)?).map_err(reading)?;
        Ok(payload)
    }

    /// What the payload-manager wrote, if it did; `cdi` is the sealing CDI of the boot node.
    ///
    /// # Errors
    /// [`InstanceError::Unseal`] when the record was changed or is another VM's, [`InstanceError`] else.
    pub fn manager_record(&self, cdi: &SealingCdi) -> Result<Option<ManagerRecord>, InstanceError> {
        let Some(record) = self.find(MANAGER)? else { return Ok(None) };
        let header = self.sector(record.offset)?;
        let plain = seal::open(cdi, &header, &self.read(&record)?)?;
        ManagerRecord::decode(&plain).map(Some)
    }

    /// Seals and writes what the payload-manager is to find next time; `random` fills a buffer with numbers that nobody
    /// can foresee ([`super::os_random`]).
    ///
    /// # Errors
    /// [`InstanceError`]; the record that was there before is then there still, or the new one is.
    pub fn set_manager_record(
        &mut self,
        cdi: &SealingCdi,
        record: &ManagerRecord,
        random: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<(), InstanceError> {
        let mut nonce = [0; seal::NONCE];
        random(&mut nonce).map_err(|source| InstanceError::Io { action: "make a nonce", source })?;
        if self.has_nonce(&nonce)? {
            let source = io::Error::other("the source of random numbers repeats itself");
            return Err(InstanceError::Io { action: "make a nonce", source });
        }
        let plain = record.encode();
        let len = seal::sealed_len(plain.len()) as u64;
        self.put(MANAGER, &seal::seal(cdi, &header(MANAGER, len), &plain, nonce))
    }

    /// Writes a record, in place of the one of this uuid if there is one: see the module's documentation for what is on
    /// the disk after a power cut. All other records stay as they are.
    ///
    /// # Errors
    /// [`InstanceError`]; the old record is then there still, or the new one is.
    pub fn put(&mut self, uuid: Uuid, payload: &[u8]) -> Result<(), InstanceError> {
        if uuid.is_nil() || uuid == RETIRED {
            return Err(InstanceError::Reserved(uuid));
        }
        let len = payload.len() as u64;
        if len > MAX_PAYLOAD {
            return Err(InstanceError::TooLong(len));
        }
        self.retire_strays(uuid)?;
        let old = self.find(uuid)?;
        let place = self.claim(span(len))?;
        let mut padded = payload.to_vec();
        padded.resize(payload.len().next_multiple_of(SECTOR), 0);
        self.write(&padded, place.offset + SECTOR_LEN)?;
        if let Some((offset, sector)) = place.behind {
            self.write(&sector, offset)?;
        }
        self.flush()?;
        self.write_and_flush(&header(uuid, len), place.offset)?;
        match old {
            Some(old) => self.write_and_flush(&header(RETIRED, old.payload_len), old.offset),
            None => Ok(()),
        }
    }

    /// Retires what a power cut left: every record of `uuid` but the first. Else one of them could count once the first
    /// is retired.
    fn retire_strays(&mut self, uuid: Uuid) -> Result<(), InstanceError> {
        let list = self.list()?;
        let strays: Vec<_> = list.records.iter().filter(|record| record.uuid == uuid).skip(1).collect();
        for stray in &strays {
            self.write(&header(RETIRED, stray.payload_len), stray.offset)?;
        }
        if strays.is_empty() { Ok(()) } else { self.flush() }
    }

    /// Finds `needed` bytes that no reader looks at, and makes one retired record or the free end of them.
    fn claim(&mut self, needed: u64) -> Result<Place, InstanceError> {
        let list = self.list()?;
        let runs = retired_runs(&list.records);
        if let Some(run) = runs.iter().find(|run| run.end - run.start >= needed) {
            let len = run.end - run.start;
            if run.records > 1 {
                self.write_and_flush(&header(RETIRED, len - SECTOR_LEN), run.start)?;
            }
            let rest = len - needed;
            let behind = rest
                .checked_sub(SECTOR_LEN)
                .map(|payload_len| (run.start + needed, header(RETIRED, payload_len)));
            return Ok(Place { offset: run.start, behind });
        }
        let tail = runs.last().filter(|run| run.end == list.end);
        let start = tail.map_or(list.end, |run| run.start);
        // What is behind the record must be the list's end.
        let len = self.storage.len().map_err(reading)?;
        let free = len.saturating_sub(SECTOR_LEN + start);
        if free < needed {
            let largest = runs.iter().map(|run| run.end - run.start).max().unwrap_or(0);
            return Err(InstanceError::Full { needed, free: free.max(largest) });
        }
        if tail.is_some() {
            self.write_and_flush(&[0; SECTOR], start)?;
        }
        Ok(Place { offset: start, behind: Some((start + needed, [0; SECTOR])) })
    }

    /// Follows the records: each header is read once, and at most [`MAX_RECORDS`] of them.
    fn list(&self) -> Result<List, InstanceError> {
        let len = self.storage.len().map_err(reading)?;
        let mut list = List { records: Vec::new(), end: SECTOR_LEN };
        loop {
            let whole = list.end.checked_add(SECTOR_LEN).is_some_and(|end| end <= len);
            if !whole || list.records.len() > MAX_RECORDS {
                return Err(InstanceError::NoEnd(list.end));
            }
            let sector = self.sector(list.end)?;
            let (uuid, payload_len) = parse_header(&sector);
            if uuid.is_nil() {
                return Ok(list);
            }
            let record = Record { uuid, offset: list.end, payload_len };
            let fits = payload_len.checked_next_multiple_of(SECTOR_LEN).is_some_and(|padded| {
                padded.checked_add(SECTOR_LEN + list.end).is_some_and(|end| end <= len)
            });
            if !fits {
                return Err(InstanceError::Record { offset: list.end, len: payload_len });
            }
            list.end = record.end();
            list.records.push(record);
        }
    }

    /// Whether a record that was sealed here, retired or not, begins with this nonce.
    fn has_nonce(&self, nonce: &[u8; seal::NONCE]) -> Result<bool, InstanceError> {
        let list = self.list()?;
        let sealed = list.records.iter().filter(|record| {
            matches!(record.uuid, MANAGER | RETIRED) && record.payload_len >= seal::NONCE as u64
        });
        for record in sealed {
            let mut used = [0; seal::NONCE];
            self.storage.read_exact_at(&mut used, record.offset + SECTOR_LEN).map_err(reading)?;
            if used == *nonce {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn sector(&self, offset: u64) -> Result<Sector, InstanceError> {
        let mut sector = [0; SECTOR];
        self.storage.read_exact_at(&mut sector, offset).map_err(reading)?;
        Ok(sector)
    }

    fn write(&mut self, sectors: &[u8], offset: u64) -> Result<(), InstanceError> {
        self.storage.write_all_at(sectors, offset).map_err(writing)
    }

    fn flush(&mut self) -> Result<(), InstanceError> {
        self.storage.flush().map_err(writing)
    }

    fn write_and_flush(&mut self, sector: &Sector, offset: u64) -> Result<(), InstanceError> {
        self.write(sector, offset)?;
        self.flush()
    }
}

/// Retired records that stand next to each other.
struct Run {
    start: u64,
    end: u64,
    records: usize,
}

fn retired_runs(records: &[Record]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for record in records.iter().filter(|record| record.uuid == RETIRED) {
        match runs.last_mut() {
            Some(run) if run.end == record.offset => {
                run.end = record.end();
                run.records += 1;
            }
            _ => runs.push(Run { start: record.offset, end: record.end(), records: 1 }),
        }
    }
    runs
}

fn header(uuid: Uuid, payload_len: u64) -> Sector {
    let mut sector = [0; SECTOR];
    sector[..16].copy_from_slice(uuid.as_bytes());
    sector[16..24].copy_from_slice(&payload_len.to_le_bytes());
    sector
}

fn parse_header(sector: &Sector) -> (Uuid, u64) {
    let (mut uuid, mut len) = ([0; 16], [0; 8]);
    uuid.copy_from_slice(&sector[..16]);
    len.copy_from_slice(&sector[16..24]);
    (Uuid::from_bytes(uuid), u64::from_le_bytes(len))
}

fn reading(source: io::Error) -> InstanceError {
    InstanceError::Io { action: "read the instance image", source }
}

fn writing(source: io::Error) -> InstanceError {
    InstanceError::Io { action: "write the instance image", source }
}
