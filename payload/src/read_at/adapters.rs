//! Sources made of other sources, for the parsers and hashers of this crate.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use super::{ReadAt, past_end};

/// Several sources read as one, each after the one before.
pub(crate) struct Chain<'a> {
    /// Each source with the position where it ends.
    parts: Vec<(u64, &'a dyn ReadAt)>,
}

impl<'a> Chain<'a> {
    /// # Errors
    /// When a source does not tell its length, or the sum does not fit 64 bits.
    pub(crate) fn new(sources: &[&'a dyn ReadAt]) -> io::Result<Self> {
        let mut end = 0u64;
        let mut parts = Vec::with_capacity(sources.len());
        for source in sources {
            end = end.checked_add(source.len()?).ok_or_else(past_end)?;
            parts.push((end, *source));
        }
        Ok(Self { parts })
    }
}

impl ReadAt for Chain<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.parts.last().map_or(0, |(end, _)| *end))
    }

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let mut index = self.parts.partition_point(|(end, _)| *end <= offset);
        while !buffer.is_empty() {
            let (end, source) = self.parts.get(index).ok_or_else(past_end)?;
            let start = index.checked_sub(1).map_or(0, |before| self.parts[before].0);
            let here = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            let (head, tail) = buffer.split_at_mut(here);
            source.read_exact_at(head, offset - start)?;
            buffer = tail;
            offset = *end;
            index += 1;
        }
        Ok(())
    }
}

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

/// Bytes copied at a time.
const COPIED: usize = 1 << 20;

/// Writes all of `source` to `out`.
pub(crate) fn copy(source: &dyn ReadAt, out: &mut dyn Write) -> io::Result<()> {
    // `io::copy` moves as much at a time as the reader buffers.
    let mut reader = BufReader::with_capacity(COPIED, Cursor::new(source)?);
    io::copy(&mut reader, out).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_across_its_seams() {
        let (a, b, c) = (vec![0u8, 1], Vec::new(), vec![2u8, 3, 4]);
        let chain = Chain::new(&[&a, &b, &c]).unwrap();
        assert_eq!(ReadAt::len(&chain).unwrap(), 5);
        for start in 0..5u8 {
            for len in 0..=5 - start {
                let mut got = vec![0; usize::from(len)];
                chain.read_exact_at(&mut got, u64::from(start)).unwrap();
                assert_eq!(got, (start..start + len).collect::<Vec<_>>());
            }
        }
        assert!(chain.read_exact_at(&mut [0; 2], 4).is_err());
    }

    #[test]
    fn copies_are_whole() {
        let source: Vec<u8> = (0..COPIED * 2 + 5).map(|i| (i % 251).to_le_bytes()[0]).collect();
        let mut copied = Vec::new();
        copy(&source, &mut copied).unwrap();
        assert!(copied == source);
    }

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
