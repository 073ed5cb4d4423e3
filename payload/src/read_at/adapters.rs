//! Sources made of other sources, for the parsers and hashers of this crate.

use std::io::{self, Read, Seek, SeekFrom};

use super::ReadAt;

/// A `Read + Seek` position over a [`ReadAt`], for parsers that want one.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<R> {
    inner: R,
    len: u64,
    position: u64,
}

impl<R: ReadAt> Cursor<R> {
    pub(crate) fn new(inner: R) -> io::Result<Self> {
        let len = inner.len()?;
        Ok(Self { inner, len, position: 0 })
    }
}

impl<R: ReadAt> Read for Cursor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        self.inner.read_exact_at(&mut buffer[..wanted], self.position)?;
        self.position += ReadAt::len(&buffer[..wanted])?;
        Ok(wanted)
    }
}

impl<R: ReadAt> Seek for Cursor<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.len.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek to before the first byte"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_and_seeks() {
        let mut cursor = Cursor::new(vec![0u8, 1, 2, 3]).unwrap();
        cursor.seek(SeekFrom::End(-2)).unwrap();
        let mut rest = Vec::new();
        cursor.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [2, 3]);
        assert!(cursor.seek(SeekFrom::Current(-5)).is_err());
        assert_eq!(cursor.seek(SeekFrom::Start(9)).unwrap(), 9);
        assert_eq!(cursor.read(&mut [0; 4]).unwrap(), 0);
    }
}
