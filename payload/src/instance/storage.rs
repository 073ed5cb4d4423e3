//! What an instance image is kept in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::ReadAt;

/// Something of a fixed length that can be written.
///
/// Writes come in whole sectors of 512 bytes, at multiples of 512. Until [`Storage::flush`] returns, any of the sectors
/// written since the last one may have reached the disk or not, in any order, but each of them whole.
pub trait Storage: ReadAt {
    /// Writes all of `bytes` from byte `offset` on.
    ///
    /// # Errors
    /// What the operating system says; when the range passes the end.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written would survive a power cut.
    ///
    /// # Errors
    /// What the operating system says.
    fn flush(&mut self) -> io::Result<()>;
}

/// A file or a block device.
impl Storage for File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Storage for &File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(*self, bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// In memory, where nothing is ever lost or kept.
impl Storage for Vec<u8> {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let range =
            usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(bytes.len())?));
        let place = range.and_then(|range| self.get_mut(range));
        let past_end = || io::Error::new(io::ErrorKind::UnexpectedEof, "write past the end");
        place.ok_or_else(past_end)?.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
