//! Making archives: equal inputs give equal bytes.

use std::io::{Seek, Write};

use ::zip::result::ZipError;
use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, DateTime, ZipWriter};

use super::manifest::{self, Manifest, ManifestError};
use crate::ReadAt;
use crate::read_at::adapters::copy;

/// Libraries begin at a multiple of this many bytes, so that they can be mapped from the archive.
const PAGE: u16 = 4096;
/// Other entries begin at a multiple of this many.
const WORD: u16 = 4;

/// Why an archive cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Its manifest cannot be written.
    #[error("write the manifest")]
    Manifest(#[from] ManifestError),
    /// An entry cannot be written; two of one name, for example.
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
}

impl<W: Write + Seek> Packer<W> {
    /// Begins an archive in `out`, with its manifest.
    ///
    /// # Errors
    /// [`PackError`] when the manifest is refused or `out` cannot be written.
    pub fn new(out: W, manifest: &Manifest, version_name: &str) -> Result<Self, PackError> {
        let mut packer = Self { writer: ZipWriter::new(out) };
        packer.add(manifest::PATH, &manifest.encode(version_name)?)?;
        Ok(packer)
    }

    /// Adds an entry of these bytes.
    ///
    /// # Errors
    /// [`PackError::Entry`].
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), PackError> {
        self.add_from(name, &bytes)
    }

    /// Adds an entry with the content of `source`.
    ///
    /// # Errors
    /// [`PackError::Entry`] when `source` cannot be read, too.
    pub fn add_from(&mut self, name: &str, source: &dyn ReadAt) -> Result<(), PackError> {
        let align = if name.ends_with(".so") { PAGE } else { WORD };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .with_android_alignment(align);
        self.writer
            .start_file(name, options)
            .and_then(|()| Ok(copy(source, &mut self.writer)?))
            .map_err(|source| PackError::Entry { name: name.into(), source })
    }

    /// Writes the central directory and gives the output back; sign it next ([`super::sign`]).
    ///
    /// # Errors
    /// [`PackError::Finish`].
    pub fn finish(self) -> Result<W, PackError> {
        self.writer.finish().map_err(PackError::Finish)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor as IoCursor;

    use super::*;
    use crate::apk::{Apk, Compression};

    fn pack() -> Vec<u8> {
        let manifest = Manifest { package: "com.example.a".into(), version_code: 1 };
        let mut packer = Packer::new(IoCursor::new(Vec::new()), &manifest, "1.0").unwrap();
        packer.add("assets/odd.txt", b"12345").unwrap();
        packer.add_from("lib/x86_64/liba.so", &vec![7u8; 10_000]).unwrap();
        packer.add("assets/vm_config.json", b"{}").unwrap();
        packer.finish().unwrap().into_inner()
    }

    #[test]
    fn entries_are_stored_and_aligned() {
        let apk = Apk::open(pack()).unwrap();
        let names: Vec<&str> = apk.entries().iter().map(|entry| entry.name.as_str()).collect();
        let expected =
            ["AndroidManifest.xml", "assets/odd.txt", "lib/x86_64/liba.so", "assets/vm_config.json"];
        assert_eq!(names, expected);
        for entry in apk.entries() {
            assert_eq!(entry.compression, Compression::Stored);
            let align = if entry.name.ends_with(".so") { 4096 } else { 4 };
            assert!(apk.data_start(entry).unwrap().is_multiple_of(align), "{}", entry.name);
        }
        assert_eq!(apk.read("lib/x86_64/liba.so", 10_000).unwrap(), vec![7; 10_000]);
        let manifest = Manifest::parse(&apk.read(manifest::PATH, manifest::MAX_LEN).unwrap()).unwrap();
        assert_eq!(manifest, Manifest { package: "com.example.a".into(), version_code: 1 });
    }

    #[test]
    fn equal_inputs_give_equal_bytes() {
        assert_eq!(pack(), pack());
    }

    #[test]
    fn two_entries_of_one_name_are_refused() {
        let manifest = Manifest { package: "a.b".into(), version_code: 1 };
        let mut packer = Packer::new(IoCursor::new(Vec::new()), &manifest, "").unwrap();
        packer.add("x", b"1").unwrap();
        assert!(matches!(packer.add("x", b"2"), Err(PackError::Entry { name, .. }) if name == "x"));
    }
}
