//! A disk written out as one flat image, for judges and for other virtual machine monitors.
//!
//! Holes of the files stay holes, and zeros of the disk become some. Where both files are on one file system, the kernel
//! copies, or lets both share their blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{Content, Extent, open_file};
use crate::ReadAt;

/// Bytes moved at a time, between two reports of progress.
const CHUNK: u64 = 8 << 20;
/// Bytes moved at a time through memory.
const BUFFER: usize = 1 << 20;
/// Runs of zeros of this many bytes become holes.
const HOLE: usize = 4096;

/// Why a disk is not written out.
#[derive(Debug, thiserror::Error)]
pub enum FlatError {
    /// A file of the disk cannot be read.
    #[error("copy {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of the disk is shorter than when the disk was planned.
    #[error("copy {}: it has {len} bytes, and the disk needs {needed}", path.display())]
    Shorter {
        /// The file.
        path: PathBuf,
        /// Its length now.
        len: u64,
        /// Bytes of it that the disk needs.
        needed: u64,
    },
    /// The image cannot be written.
    #[error("write the image")]
    Write(#[source] io::Error),
}

/// Writes the disk of these extents (sorted, without gaps) into the regular file `out`, whose former contents are lost.
/// `progress` is told the bytes of the disk that are done, now and then and at the end.
///
/// # Errors
/// When a file cannot be read or is shorter than planned (its path is named), or `out` not written.
pub fn write(extents: &[Extent], out: &File, progress: &mut dyn FnMut(u64)) -> Result<(), FlatError> {
    let len = extents.last().map_or(0, |last| last.start + last.len);
    out.set_len(0).and_then(|()| out.set_len(len)).map_err(FlatError::Write)?;
    for extent in extents {
        match &extent.content {
            Content::Bytes(bytes) => write_dense(out, bytes, extent.start).map_err(FlatError::Write)?,
            Content::File { path, offset, .. } => FileCopy::new(path, *offset, extent, out)?.run(progress)?,
            Content::Zeros => {}
        }
        progress(extent.start + extent.len);
    }
    Ok(())
}

/// One file's range on its way into the image.
struct FileCopy<'a> {
    path: &'a Path,
    file: File,
    out: &'a File,
    /// The range in the file.
    start: u64,
    end: u64,
    /// Where in the image it goes.
    to: u64,
    /// Whether the kernel copies; else the bytes go through memory.
    in_kernel: bool,
}

impl<'a> FileCopy<'a> {
    fn new(path: &'a Path, start: u64, extent: &Extent, out: &'a File) -> Result<Self, FlatError> {
        let file =
            open_file(path, false).map_err(|source| FlatError::Read { path: path.to_path_buf(), source })?;
        let end = start.saturating_add(extent.len);
        let copy = Self { path, file, out, start, end, to: extent.start, in_kernel: true };
        copy.check_len()?;
        Ok(copy)
    }

    fn run(mut self, progress: &mut dyn FnMut(u64)) -> Result<(), FlatError> {
        let mut at = self.start;
        while at < self.end {
            let (data, hole) = self.next_data(at);
            at = data;
            while at < hole {
                at += self.copy_some(at, hole)?;
                progress(self.to + (at - self.start));
            }
        }
        // A hole at its end looks the same as a file that was cut there.
        self.check_len()
    }

    fn read_error(&self, source: io::Error) -> FlatError {
        FlatError::Read { path: self.path.to_path_buf(), source }
    }

    fn check_len(&self) -> Result<(), FlatError> {
        let len = ReadAt::len(&self.file).map_err(|error| self.read_error(error))?;
        if len < self.end {
            return Err(FlatError::Shorter { path: self.path.to_path_buf(), len, needed: self.end });
        }
        Ok(())
    }

    /// The next range with data in it, from `at` on; empty and at the end when there is none.
    fn next_data(&self, at: u64) -> (u64, u64) {
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => {
                let data = data.clamp(at, self.end);
                let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(data)).unwrap_or(self.end);
                (data, hole.clamp(data, self.end))
            }
            Err(Errno::NXIO) => (self.end, self.end),
            // A device or file system that does not know holes.
            Err(_) => (at, self.end),
        }
    }

    /// Copies a piece of the data at `at`, which reaches to `end`; gives how many bytes, at least one.
    fn copy_some(&mut self, at: u64, end: u64) -> Result<u64, FlatError> {
        let wanted = (end - at).min(CHUNK);
        let to = self.to + (at - self.start);
        while self.in_kernel {
            let (mut from, mut into) = (at, to);
            let len = usize::try_from(wanted).expect("at most a chunk");
            match rustix::fs::copy_file_range(&self.file, Some(&mut from), self.out, Some(&mut into), len) {
                Ok(0) => {
                    self.check_len()?;
                    // Files that are as long as they say, and still give nothing: read(2) may know more.
                    self.in_kernel = false;
                }
                Ok(copied) => return Ok(copied as u64),
                Err(Errno::INTR) => {}
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    return Err(FlatError::Write(error.into()));
                }
                // Another file system, or one that cannot.
                Err(_) => self.in_kernel = false,
            }
        }
        self.copy_through_memory(at, to, wanted)
    }

    fn copy_through_memory(&self, at: u64, to: u64, wanted: u64) -> Result<u64, FlatError> {
        let mut buffer = vec![0; BUFFER.min(usize::try_from(wanted).unwrap_or(BUFFER))];
        FileExt::read_exact_at(&self.file, &mut buffer, at).map_err(|error| {
            match (error.kind(), self.check_len()) {
                (io::ErrorKind::UnexpectedEof, Err(shorter)) => shorter,
                _ => self.read_error(error),
            }
        })?;
        write_dense(self.out, &buffer, to).map_err(FlatError::Write)?;
        Ok(buffer.len() as u64)
    }
}

/// Writes `bytes` at `start`, but for blocks that are all zeros.
fn write_dense(out: &File, bytes: &[u8], start: u64) -> io::Result<()> {
    let mut at = start;
    for run in bytes.chunks(HOLE).collect::<Vec<_>>().chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let len: usize = run.iter().copied().map(<[u8]>::len).sum();
        if !is_zero(run[0]) {
            let from = usize::try_from(at - start).expect("an offset into a slice");
            out.write_all_at(&bytes[from..from + len], at)?;
        }
        at += len as u64;
    }
    Ok(())
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
