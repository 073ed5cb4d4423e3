//! Making archives: equal inputs give equal bytes.

use std::collections::HashSet;
use std::io::{self, Seek, Write};

use ::zip::result::ZipError;
use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, DateTime, ZipWriter};

use super::archive::is_plain_path;
use super::manifest::{self, Manifest, ManifestError};
use crate::ReadAt;
use crate::read_at::adapters::copy;

/// Libraries begin at a multiple of this many bytes, so that they can be mapped from the archive where pages have 4 KiB
/// and where they have 16.
const PAGE: u16 = 16 << 10;
/// Other entries begin at a multiple of this many.
const WORD: u16 = 4;
/// Entries of an archive that needs no ZIP64.
const MAX_ENTRIES: usize = 0xfffe;
/// Bytes of an archive that needs no ZIP64, and leaves room for the directory and a signing block.
const MAX_LEN: u64 = 0xffff_ffff - (64 << 20);

/// Why an archive cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Its manifest cannot be written.
    #[error("write the manifest")]
    Manifest(#[from] ManifestError),
    /// A name that some reader would take for another, or refuse.
    #[error("entry name {0:?} is not a relative path of plain components; give it another")]
    Name(String),
    /// Two entries of one name.
    #[error("two entries are named {0:?}; leave one out or give it another name")]
    Duplicate(String),
    /// A name that is a file and a directory.
    #[error("{file:?} is a file, and {below:?} lies below it; give one of them another name")]
    FileAndDirectory {
        /// The file.
        file: String,
        /// The entry below it.
        below: String,
    },
    /// More entries than there are numbers for.
    #[error("more than {MAX_ENTRIES} entries; pack the small files into one")]
    TooManyEntries,
    /// More bytes than there are addresses for.
    #[error("with entry {name:?} of {len} bytes the archive passes 4 GiB; leave large files out of it")]
    TooLarge {
        /// The entry's name.
        name: String,
        /// Its bytes.
        len: u64,
    },
    /// An entry cannot be read or written.
    #[error("add entry {name:?}")]
    Entry {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: ZipError,
    },
    /// The archive cannot be finished.
    #[error("write the central directory")]
    Finish(#[source] ZipError),
}

/// An archive in the making: every entry stored, libraries aligned to pages, all times 1980-01-01.
pub struct Packer<W: Write + Seek> {
    writer: ZipWriter<W>,
    names: HashSet<String>,
    /// Directories that the names are in.
    directories: HashSet<String>,
    /// Most bytes that the archive can have by now.
    len: u64,
}

impl<W: Write + Seek> Packer<W> {
    /// Begins an archive in `out`, with its manifest, for SDKs that read v3 signatures.
    ///
    /// # Errors
    /// [`PackError`] when the manifest is refused or `out` cannot be written.
    pub fn new(out: W, manifest: &Manifest, version_name: &str) -> Result<Self, PackError> {
        Self::for_sdk(out, manifest, version_name, manifest::V3_SDK)
    }

    /// The same for `min_sdk` and later: [`manifest::V2_SDK`] for what is signed by v2 and v3.
    ///
    /// # Errors
    /// As [`Packer::new`].
    pub fn for_sdk(out: W, manifest: &Manifest, version_name: &str, min_sdk: u32) -> Result<Self, PackError> {
        let mut packer =
            Self { writer: ZipWriter::new(out), names: HashSet::new(), directories: HashSet::new(), len: 0 };
        packer.add(manifest::PATH, &manifest.encode_for(version_name, min_sdk)?)?;
        Ok(packer)
    }

    /// Adds an entry of these bytes.
    ///
    /// # Errors
    /// [`PackError`] when its name is refused or taken, or the archive becomes too large.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), PackError> {
        self.add_from(name, &bytes)
    }

    /// Adds an entry with the content of `source`.
    ///
    /// # Errors
    /// As [`Packer::add`], and [`PackError::Entry`] when `source` cannot be read.
    pub fn add_from(&mut self, name: &str, source: &dyn ReadAt) -> Result<(), PackError> {
        let align = if name.ends_with(".so") { PAGE } else { WORD };
        let failed = |source: ZipError| PackError::Entry { name: name.into(), source };
        let len = source.len().map_err(|error| failed(error.into()))?;
        self.take_name(name)?;
        // Header, name, alignment; and all but the alignment again in the directory.
        let overhead = 128 + u64::from(align) + 2 * name.len() as u64;
        self.len = self
            .len
            .checked_add(overhead)
            .and_then(|sum| sum.checked_add(len))
            .filter(|sum| *sum <= MAX_LEN)
            .ok_or_else(|| PackError::TooLarge { name: name.into(), len })?;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .with_android_alignment(align);
        self.writer.start_file(name, options).map_err(failed)?;
        let mut counted = Counted { out: &mut self.writer, left: len };
        copy(source, &mut counted).map_err(|error| failed(error.into()))
    }

    /// Notes that there is an entry of this name.
    fn take_name(&mut self, name: &str) -> Result<(), PackError> {
        let refused = |c: char| c.is_control() || c == '\\';
        if !is_plain_path(name) || name.contains(refused) || name.len() > usize::from(u16::MAX) {
            return Err(PackError::Name(name.into()));
        }
        if self.names.len() == MAX_ENTRIES {
            return Err(PackError::TooManyEntries);
        }
        if self.directories.contains(name) {
            let below = self.names.iter().filter(|other| is_below(other, name)).min();
            let below = below.expect("directories are made of names").clone();
            return Err(PackError::FileAndDirectory { file: name.into(), below });
        }
        for (slash, _) in name.match_indices('/') {
            let directory = &name[..slash];
            if self.names.contains(directory) {
                return Err(PackError::FileAndDirectory { file: directory.into(), below: name.into() });
            }
            if !self.directories.contains(directory) {
                self.directories.insert(directory.into());
            }
        }
        if !self.names.insert(name.into()) {
            return Err(PackError::Duplicate(name.into()));
        }
        Ok(())
    }

    /// Writes the central directory and gives the output back; sign it next ([`super::sign`]).
    ///
    /// # Errors
    /// [`PackError::Finish`].
    pub fn finish(self) -> Result<W, PackError> {
        self.writer.finish().map_err(PackError::Finish)
    }
}

fn is_below(name: &str, directory: &str) -> bool {
    name.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// Refuses to write more than the length that was added up: a source may grow while it is read.
struct Counted<W> {
    out: W,
    left: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let grown = || io::Error::new(io::ErrorKind::InvalidData, "it grew while it was read");
        self.left.checked_sub(bytes.len() as u64).ok_or_else(grown)?;
        let written = self.out.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
