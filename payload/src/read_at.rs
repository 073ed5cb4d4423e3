//! Random reads over what has a length: files, block devices, bytes in memory, and parts of them.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;

pub(crate) mod adapters;

/// Something of a fixed length that many threads may read at any place at once.
pub trait ReadAt: Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// When the operating system does not tell it.
    fn len(&self) -> io::Result<u64>;

    /// Whether there is nothing to read.
    ///
    /// # Errors
    /// As [`ReadAt::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from byte `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the range passes the end; else what the operating system says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn len(&self) -> io::Result<u64> {
        let metadata = self.metadata()?;
        if metadata.file_type().is_block_device() {
            // A block device has no size in its inode; the cursor is not used for anything else here.
            return (&mut &*self).seek(SeekFrom::End(0));
        }
        Ok(metadata.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn len(&self) -> io::Result<u64> {
        // usize has at most 64 bits on every platform Rust knows.
        Ok(<[u8]>::len(self) as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| past_end())?;
        let end = start.checked_add(buffer.len()).ok_or_else(past_end)?;
        buffer.copy_from_slice(self.get(start..end).ok_or_else(past_end)?);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> io::Result<u64> {
        ReadAt::len(self.as_slice())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

/// `len` bytes of another source, from `start` on: an archive inside its padded partition, one section of a file.
#[derive(Clone, Copy, Debug)]
pub struct Section<R> {
    inner: R,
    start: u64,
    len: u64,
}

impl<R: ReadAt> Section<R> {
    /// The `len` bytes of `inner` from `start` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when `inner` is shorter.
    pub fn new(inner: R, start: u64, len: u64) -> io::Result<Self> {
        let end = start.checked_add(len).ok_or_else(past_end)?;
        if end > inner.len()? {
            return Err(past_end());
        }
        Ok(Self { inner, start, len })
    }
}

impl<R: ReadAt> ReadAt for Section<R> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let wanted = ReadAt::len(&*buffer)?;
        if offset.checked_add(wanted).is_none_or(|end| end > self.len) {
            return Err(past_end());
        }
        self.inner.read_exact_at(buffer, self.start + offset)
    }
}

fn past_end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn slices_refuse_ranges_past_their_end() {
        let bytes = [1u8, 2, 3];
        let mut two = [0; 2];
        bytes.as_slice().read_exact_at(&mut two, 1).unwrap();
        assert_eq!(two, [2, 3]);
        for offset in [2, 3, u64::MAX - 1, u64::MAX] {
            let error = bytes.as_slice().read_exact_at(&mut two, offset).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_section_stays_within_its_bounds() {
        let section = Section::new(vec![0u8, 1, 2, 3, 4], 1, 3).unwrap();
        assert_eq!(ReadAt::len(&section).unwrap(), 3);
        let mut all = [0; 3];
        section.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(all, [1, 2, 3]);
        assert!(section.read_exact_at(&mut all, 1).is_err());
        assert!(section.read_exact_at(&mut all, u64::MAX).is_err());
        assert!(Section::new(vec![0u8; 4], 2, 3).is_err());
        assert!(Section::new(vec![0u8; 4], u64::MAX, 1).is_err());
    }

    #[test]
    fn files_tell_their_length_and_read_anywhere() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        assert_eq!(ReadAt::len(&file).unwrap(), 5);
        let mut got = [0; 3];
        ReadAt::read_exact_at(&file, &mut got, 2).unwrap();
        assert_eq!(&got, b"llo");
        assert!(ReadAt::read_exact_at(&file, &mut got, 3).is_err());
    }
}
