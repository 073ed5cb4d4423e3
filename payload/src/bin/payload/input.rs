//! Opening what the command is given.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use payload::ReadAt;

/// A file that is read, known by what it is and not by its name.
pub struct Input {
    /// Its path as it was given.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// Its length in bytes.
    pub len: u64,
    identity: (u64, u64),
}

impl Input {
    /// Opens a regular file or a block device, and nothing that one would wait for.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> io::Result<Self> {
            let file = payload::disk::open_file(path, false)?;
            let metadata = file.metadata()?;
            let len = ReadAt::len(&file)?;
            Ok(Self { path: path.into(), file, len, identity: (metadata.dev(), metadata.ino()) })
        };
        open().with_context(|| format!("Open {path:?}"))
    }

    /// Device and inode.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// All of it, which may be `limit` bytes.
    pub fn bytes(&self, limit: u64) -> Result<Vec<u8>> {
        let read = || {
            if self.len > limit {
                let sentence = format!("it has {} bytes, more than {limit}", self.len);
                return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
            }
            let mut bytes = Vec::new();
            (&self.file).take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().with_context(|| format!("Read {:?}", self.path))
    }
}
