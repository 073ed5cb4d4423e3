//! A kernel image of any kind that can be started, told apart by content: its headers checked whole, its segments
//! read straight into guest memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::bzimage::{self, BzImage, BzImageError, SetupHeader};
use crate::elf::{self, Elf, ElfError};
use crate::image::{Protocol, Segment};
use crate::{LoadError, io_error};

/// Read at once: every header of an ordinary kernel.
const HEAD: u64 = 4096;

/// Why a file is not a kernel that can be started.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A directory, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    /// Its length or its first bytes could not be read.
    #[error("read {what}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Nothing that is known.
    #[error("neither an ELF file nor a bzImage")]
    Unknown,
    /// An ELF file, but not a kernel that can be started.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A bzImage that cannot be started.
    #[error(transparent)]
    BzImage(#[from] BzImageError),
}

/// The checked headers of a kernel image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    protocol: Protocol,
    entry: u64,
    segments: Vec<Segment>,
    setup: Option<SetupHeader>,
}

impl Kernel {
    /// Reads and checks the headers of `file`.
    ///
    /// # Errors
    /// See [`KernelError`]; the first rule that is broken is named.
    pub fn parse(file: &File) -> Result<Self, KernelError> {
        let metadata = file.metadata().map_err(|source| KernelError::Read { what: "file length", source })?;
        if !metadata.is_file() {
            return Err(KernelError::NotAFile);
        }
        Self::parse_with(metadata.len(), |offset, data| file.read_exact_at(data, offset))
    }

    /// As [`Self::parse`], for an image of `len` bytes that `read_at` fills a buffer from.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn parse_with(
        len: u64,
        mut read_at: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Self, KernelError> {
        let mut head = vec![0; usize::try_from(len.min(HEAD)).unwrap_or_default()];
        read_at(0, &mut head).map_err(|source| KernelError::Read { what: "headers", source })?;
        if head.starts_with(elf::MAGIC) {
            let Elf { protocol, entry, segments } = Elf::parse(&head, len, &mut read_at)?;
            return Ok(Self { protocol, entry, segments, setup: None });
        }
        if !bzimage::is_one(&head) {
            return Err(KernelError::Unknown);
        }
        let BzImage { entry, segment, setup } = BzImage::parse(&head, len)?;
        Ok(Self { protocol: Protocol::Linux64, entry, segments: vec![segment], setup: Some(setup) })
    }

    /// The state in which it is entered.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Guest physical address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// What is loaded, lowest address first, without overlaps.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What a bzImage says of itself.
    pub(crate) fn setup(&self) -> Option<&SetupHeader> {
        self.setup.as_ref()
    }

    /// Reads the segments into guest memory, one read each; what is zero in them is left as it is.
    pub(crate) fn read_into(&self, mem: &GuestMemoryMmap, mut file: &File) -> Result<(), LoadError> {
        for segment in self.segments.iter().filter(|s| s.file_size > 0) {
            let failed = |source| LoadError::ReadSegment { index: segment.index, source };
            file.seek(SeekFrom::Start(segment.offset)).map_err(failed)?;
            let size = usize::try_from(segment.file_size).expect("a segment that fits memory fits usize");
            mem.read_exact_volatile_from(GuestAddress(segment.address), &mut file, size)
                .map_err(|e| failed(io_error(e)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_no_kind_are_refused() {
        for content in [&b""[..], b"\x7fEL", b"MZ", &[0; 8192]] {
            let read = |offset: u64, data: &mut [u8]| {
                let from = usize::try_from(offset).unwrap();
                data.copy_from_slice(&content[from..from + data.len()]);
                Ok(())
            };
            let error = Kernel::parse_with(content.len() as u64, read).unwrap_err();
            assert_eq!(error.to_string(), "neither an ELF file nor a bzImage");
        }
    }
}
