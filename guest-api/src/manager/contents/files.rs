//! The bytes of an archive's files: stored ones where they lie, deflated ones unpacked once into bounded memory.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use payload::ReadAt;
use payload::apk::{Apk, Compression, Entry};

/// The bytes of the files of one archive.
pub struct Files<R> {
    apk: Apk<R>,
    source: R,
    starts: HashMap<usize, u64>,
    unpacked: Unpacked,
}

impl<R: ReadAt + Clone> Files<R> {
    /// The files of `apk`, which was opened over `source`. Unpacked files take at most `budget` bytes of memory.
    pub fn new(apk: Apk<R>, source: R, budget: u64) -> Self {
        Self { apk, source, starts: HashMap::new(), unpacked: Unpacked::new(budget) }
    }

    /// The entry of this index.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<&Entry> {
        self.apk.entries().get(index)
    }

    /// Reads up to `len` bytes of the file from `offset` on into `out`, whose contents are replaced; fewer only at its end.
    ///
    /// # Errors
    /// `NotFound` for an index that is none, `InvalidData` when the archive contradicts itself, `FileTooLarge` for a
    /// deflated file larger than the memory there is for it, and those of the source: a damaged block is an I/O error.
    pub fn read(&mut self, index: usize, offset: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        let entry = self.apk.entries().get(index).ok_or(io::ErrorKind::NotFound)?;
        let left = usize::try_from(entry.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        if len == 0 {
            return Ok(());
        }
        match entry.compression {
            Compression::Stored if entry.size == entry.packed_size => {
                let start = match self.starts.get(&index) {
                    Some(start) => *start,
                    None => {
                        let start = self.apk.data_start(entry).map_err(invalid)?;
                        *self.starts.entry(index).or_insert(start)
                    }
                };
                let at = start.checked_add(offset).ok_or(io::ErrorKind::InvalidData)?;
                out.resize(len, 0);
                self.source.read_exact_at(out, at)
            }
            Compression::Deflated => {
                let bytes = self.unpacked.get(index, &self.apk, entry)?;
                // `offset` is below the entry's size, which `bytes` has.
                let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidData)?;
                let part =
                    bytes.get(start..).and_then(|rest| rest.get(..len)).ok_or(io::ErrorKind::InvalidData)?;
                out.extend_from_slice(part);
                Ok(())
            }
            Compression::Stored | Compression::Other => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Unpacked files, the longest unused of which go first when there is no room for another.
struct Unpacked {
    budget: u64,
    used: u64,
    clock: u64,
    files: HashMap<usize, (u64, Arc<[u8]>)>,
}

impl Unpacked {
    fn new(budget: u64) -> Self {
        Self { budget, used: 0, clock: 0, files: HashMap::new() }
    }

    fn get<R: ReadAt + Clone>(&mut self, index: usize, apk: &Apk<R>, entry: &Entry) -> io::Result<Arc<[u8]>> {
        self.clock += 1;
        if let Some((used_at, bytes)) = self.files.get_mut(&index) {
            *used_at = self.clock;
            return Ok(Arc::clone(bytes));
        }
        if entry.size > self.budget {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        while self.used > self.budget - entry.size {
            let oldest = self.files.iter().min_by_key(|(_, (used_at, _))| *used_at).map(|(&index, _)| index);
            let Some((_, gone)) = oldest.and_then(|oldest| self.files.remove(&oldest)) else { break };
            self.used -= <[u8]>::len(&gone) as u64;
        }
        let mut bytes = Vec::new();
        apk.copy(entry, &mut bytes).map_err(invalid)?;
        let bytes: Arc<[u8]> = bytes.into();
        self.used += <[u8]>::len(&bytes) as u64;
        self.files.insert(index, (self.clock, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
