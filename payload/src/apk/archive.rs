//! Entries of an archive, over any [`ReadAt`].

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use ::zip::CompressionMethod;
use ::zip::ZipArchive;
use ::zip::result::ZipError as EntryError;

use super::zip::{ZipError, ZipSections};
use crate::ReadAt;
use crate::read_at::adapters::Cursor;

/// Longest central directory read into memory, in bytes: 65,534 entries with names of 400 bytes.
const MAX_DIRECTORY_LEN: u64 = 32 << 20;

/// Bytes of a local header in front of its name (APPNOTE 4.3.7).
const LOCAL_HEADER_LEN: u64 = 30;

/// Why an archive, or an entry of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ApkError {
    /// No archive by the rules of [`ZipSections`].
    #[error("find the archive's central directory")]
    Sections(#[from] ZipError),
    /// The central directory is longer than any sensible one.
    #[error("the central directory has {0} bytes, more than {MAX_DIRECTORY_LEN}")]
    DirectoryTooLong(u64),
    /// The central directory cannot be read.
    #[error("read the central directory")]
    Directory(#[source] EntryError),
    /// The central directory does not hold as many different entries as the end record tells.
    #[error("the central directory holds {found} different entries, not {told}")]
    EntryCount {
        /// Different entries found.
        found: usize,
        /// Entries told.
        told: usize,
    },
    /// A name that is not a relative path of plain components.
    #[error("entry name {0:?} is not a relative path in UTF-8")]
    Name(String),
    /// No entry of this name.
    #[error("no entry {0:?} in the archive")]
    NotFound(String),
    /// An entry larger than the caller has use for.
    #[error("entry {name:?} has {size} bytes, more than {limit}")]
    TooLarge {
        /// Its name.
        name: String,
        /// Its size when unpacked, as told.
        size: u64,
        /// The caller's limit.
        limit: u64,
    },
    /// An entry's data cannot be read, or is not what the directory tells.
    #[error("read entry {name:?}")]
    Entry {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// An entry's data does not lie before the central directory.
    #[error("entry {0:?} lies outside the archive")]
    Outside(String),
    /// Two entries that share bytes: small archives that unpack to huge trees are made so.
    #[error("entries {first:?} and {second:?} overlap")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The one that begins before the first has ended.
        second: String,
    },
}

/// How an entry is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As it is.
    Stored,
    /// Deflated.
    Deflated,
    /// In a way that is not read here.
    Other,
}

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the archive: relative, `/` between components, none of them empty, `.` or `..`.
    pub name: String,
    /// Whether it is a directory; its name has no `/` at the end here.
    pub directory: bool,
    /// Bytes when unpacked.
    pub size: u64,
    /// Bytes in the archive.
    pub packed_size: u64,
    /// How it is packed.
    pub compression: Compression,
    index: usize,
    /// Where its local header begins.
    header_start: u64,
}

/// An archive, open. Reading is `&self`: clones and threads share the directory.
#[derive(Clone)]
pub struct Apk<R> {
    archive: ZipArchive<Cursor<WithDirectory<R>>>,
    sections: ZipSections,
    entries: Arc<[Entry]>,
    by_name: Arc<HashMap<String, usize>>,
}

impl<R: ReadAt + Clone> Apk<R> {
    /// Opens the archive that fills `reader` exactly (for a partition, take a [`crate::Section`] of
    /// [`super::zip::archive_len`] bytes).
    ///
    /// # Errors
    /// [`ApkError`] when it is no archive by the strict rules, or has an entry that no directory tree could hold.
    pub fn open(reader: R) -> Result<Self, ApkError> {
        let sections = ZipSections::read(&reader)?;
        let directory_len = sections.end_record - sections.central_directory;
        if directory_len > MAX_DIRECTORY_LEN {
            return Err(ApkError::DirectoryTooLong(directory_len));
        }
        let source = WithDirectory::new(reader, &sections)
            .and_then(Cursor::new)
            .map_err(|error| ApkError::Directory(EntryError::Io(error)))?;
        let archive = ZipArchive::new(source).map_err(ApkError::Directory)?;
        let (found, told) = (archive.len(), usize::from(sections.entries));
        if found != told || archive.offset() != 0 {
            return Err(ApkError::EntryCount { found, told });
        }
        let entries = (0..found).map(|index| entry(&archive, index)).collect::<Result<Arc<[_]>, _>>()?;
        check_places(&entries, &sections)?;
        let by_name: HashMap<_, _> = entries.iter().map(|entry| (entry.name.clone(), entry.index)).collect();
        if by_name.len() != told {
            return Err(ApkError::EntryCount { found: by_name.len(), told });
        }
        Ok(Self { archive, sections, entries, by_name: Arc::new(by_name) })
    }

    /// Where the archive's sections are.
    pub fn sections(&self) -> &ZipSections {
        &self.sections
    }

    /// All entries in the order of the central directory.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry called `name`.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|index| &self.entries[*index])
    }

    /// Where the packed data of `entry` begins, in bytes from the archive's start.
    ///
    /// # Errors
    /// [`ApkError::Entry`] when its local header cannot be read, [`ApkError::Outside`] when the data would not lie
    /// before the central directory.
    pub fn data_start(&self, entry: &Entry) -> Result<u64, ApkError> {
        let mut archive = self.archive.clone();
        let start = archive
            .by_index_raw(entry.index)
            .map(|raw| raw.data_start())
            .map_err(|source| ApkError::Entry { name: entry.name.clone(), source })?;
        start
            .filter(|start| {
                start.checked_add(entry.packed_size).is_some_and(|end| end <= self.sections.central_directory)
            })
            .ok_or_else(|| ApkError::Outside(entry.name.clone()))
    }

    /// The unpacked bytes of the entry called `name`, of at most `limit` bytes; checksum verified.
    ///
    /// # Errors
    /// [`ApkError`] when there is none, it is larger, or its data is not what the directory tells.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ApkError> {
        let entry = self.entry(name).ok_or_else(|| ApkError::NotFound(name.into()))?;
        if entry.size > limit {
            return Err(ApkError::TooLarge { name: name.into(), size: entry.size, limit });
        }
        let mut bytes = Vec::new();
        self.copy(entry, &mut bytes)?;
        Ok(bytes)
    }

    /// Unpacks `entry` into `out`; never more than its size as told, and its checksum is verified.
    ///
    /// # Errors
    /// [`ApkError`] when its data is not what the directory tells, or `out` refuses a write.
    pub fn copy(&self, entry: &Entry, out: &mut dyn Write) -> Result<(), ApkError> {
        self.data_start(entry)?;
        let failed = |source| ApkError::Entry { name: entry.name.clone(), source };
        let mut archive = self.archive.clone();
        let data = archive.by_index(entry.index).map_err(failed)?;
        // One byte more than told, so that a longer entry shows itself.
        let copied = io::copy(&mut data.take(entry.size.saturating_add(1)), out)
            .map_err(|error| failed(EntryError::Io(error)))?;
        if copied != entry.size {
            return Err(failed(EntryError::InvalidArchive("the entry's size is not as told".into())));
        }
        Ok(())
    }
}

fn entry<R: io::Read + io::Seek>(archive: &ZipArchive<R>, index: usize) -> Result<Entry, ApkError> {
    let data = archive.by_index_data(index).map_err(ApkError::Directory)?;
    let raw = data.name_raw();
    let name =
        std::str::from_utf8(raw).map_err(|_| ApkError::Name(String::from_utf8_lossy(raw).into_owned()))?;
    let (path, directory) = match name.strip_suffix('/') {
        Some(path) => (path, true),
        None => (name, false),
    };
    if !is_plain_path(path) {
        return Err(ApkError::Name(name.into()));
    }
    let compression = match data.compression() {
        CompressionMethod::Stored if !data.encrypted() => Compression::Stored,
        CompressionMethod::Deflated if !data.encrypted() => Compression::Deflated,
        _ => Compression::Other,
    };
    Ok(Entry {
        name: path.into(),
        directory,
        size: data.size(),
        packed_size: data.compressed_size(),
        compression,
        index,
        header_start: data.header_start(),
    })
}

/// Whether `path` names a place in a directory tree, and no place outside of it.
pub(super) fn is_plain_path(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Checks that each entry ends before the next begins, and the last before the central directory. Local headers are not
/// read for it, so that an entry may be taken to end up to its extra fields too early.
fn check_places(entries: &[Entry], sections: &ZipSections) -> Result<(), ApkError> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| entry.header_start);
    let end = |entry: &Entry| {
        let header = LOCAL_HEADER_LEN + entry.name.len() as u64;
        entry.header_start.checked_add(header).and_then(|start| start.checked_add(entry.packed_size))
    };
    for pair in order.windows(2) {
        if end(pair[0]).is_none_or(|end| end > pair[1].header_start) {
            let [first, second] = [pair[0], pair[1]].map(|entry| entry.name.clone());
            return Err(ApkError::Overlap { first, second });
        }
    }
    match order.last() {
        Some(last) if end(last).is_none_or(|end| end > sections.central_directory) => {
            Err(ApkError::Outside(last.name.clone()))
        }
        _ => Ok(()),
    }
}

/// A source whose central directory and end record are in memory, since parsers read them a few bytes at a time.
#[derive(Clone, Debug)]
struct WithDirectory<R> {
    inner: R,
    start: u64,
    tail: Arc<[u8]>,
}

impl<R: ReadAt> WithDirectory<R> {
    fn new(inner: R, sections: &ZipSections) -> io::Result<Self> {
        let start = sections.central_directory;
        let len = usize::try_from(sections.len - start).expect("the directory's length was checked");
        let mut tail = vec![0; len];
        inner.read_exact_at(&mut tail, start)?;
        Ok(Self { inner, start, tail: tail.into() })
    }
}

impl<R: ReadAt> ReadAt for WithDirectory<R> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.start + ReadAt::len(&self.tail)?)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_sub(self.start) {
            Some(offset) => self.tail.read_exact_at(buffer, offset),
            None => self.inner.read_exact_at(buffer, offset),
        }
    }
}

#[cfg(test)]
mod tests;
