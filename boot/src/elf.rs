//! ELF64 executables as kernels (System V ABI, chapters 4 and 5): headers checked whole, segments read straight
//! into guest memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::arch::{ELF_MACHINE, ELF_MACHINE_NAME};
use crate::{LoadError, io_error};

const HEADER_SIZE: u64 = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
const PROGRAM_HEADERS_MAX: u16 = 128;
/// Read at once: the header and, in every ordinary kernel, the program headers behind it.
const HEAD: u64 = 4096;
const PT_LOAD: u32 = 1;

/// Why a file is not a kernel that can be started.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// A directory, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    /// Its length or a header could not be read.
    #[error("read {what}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The magic number is missing.
    #[error("not an ELF file")]
    NotElf,
    /// For another CPU.
    #[error("ELF for machine {found}, expected {ELF_MACHINE_NAME}")]
    Machine {
        /// `e_machine`.
        found: u16,
    },
    /// A field of the ELF header.
    #[error("ELF header: {field} is {found}, expected {expected}")]
    Header {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: &'static str,
    },
    /// Headers or a segment reach past the end of the file.
    #[error("{what} end at byte {end}, but the file has {len} bytes")]
    PastEnd {
        /// What does.
        what: String,
        /// Where it ends.
        end: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// A field of a program header.
    #[error("program header {index}: {field} is {found:#x}, expected {expected}")]
    Segment {
        /// Which header, from 0.
        index: usize,
        /// The field's name.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: &'static str,
    },
    /// Two segments claim the same address.
    #[error("segments {first} and {second} overlap in memory")]
    Overlap {
        /// The one that begins lower.
        first: usize,
        /// The other.
        second: usize,
    },
    /// Nothing would be loaded.
    #[error("no segment to load")]
    Empty,
    /// The entry point is not among the bytes that are loaded.
    #[error("entry point {0:#x} is in no segment")]
    Entry(u64),
}

/// One loadable segment; its sums do not overflow and its file bytes exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of its program header.
    pub index: usize,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// How many bytes it has there; the rest of its memory is zero.
    pub file_size: u64,
    /// Guest physical address.
    pub address: u64,
    /// Bytes in memory, at least `file_size`, not 0.
    pub memory_size: u64,
}

impl Segment {
    /// One past its last address.
    pub fn end(&self) -> u64 {
        self.address + self.memory_size
    }
}

/// The checked headers of a kernel image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    entry: u64,
    segments: Vec<Segment>,
}

impl Kernel {
    /// Reads and checks the headers of `file`.
    ///
    /// # Errors
    /// See [`ElfError`]; the first rule that is broken is named.
    pub fn parse(file: &File) -> Result<Self, ElfError> {
        let metadata = file.metadata().map_err(|source| ElfError::Read { what: "file length", source })?;
        if !metadata.is_file() {
            return Err(ElfError::NotAFile);
        }
        Self::parse_with(metadata.len(), |offset, data| file.read_exact_at(data, offset))
    }

    /// As [`Self::parse`], for an image of `len` bytes that `read_at` fills a buffer from.
    ///
    /// # Errors
    /// See [`ElfError`].
    pub fn parse_with(
        len: u64,
        mut read_at: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> Result<Self, ElfError> {
        let mut head = vec![0; usize::try_from(len.min(HEAD)).unwrap_or_default()];
        read_at(0, &mut head).map_err(|source| ElfError::Read { what: "ELF header", source })?;
        if !head.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        let header = Header::parse(&head, len)?;
        let end = header.table + u64::from(header.entries) * u64::from(PROGRAM_HEADER_SIZE);
        let range = usize::try_from(header.table).ok().zip(usize::try_from(end).ok());
        let table = match range.and_then(|(from, to)| head.get(from..to)) {
            Some(table) => table.to_vec(),
            None => {
                let mut table = vec![0; usize::from(header.entries) * usize::from(PROGRAM_HEADER_SIZE)];
                read_at(header.table, &mut table)
                    .map_err(|source| ElfError::Read { what: "program headers", source })?;
                table
            }
        };
        let mut segments = Vec::new();
        for (index, raw) in table.chunks_exact(usize::from(PROGRAM_HEADER_SIZE)).enumerate() {
            segments.extend(segment(index, raw, len)?);
        }
        Self::checked(header.entry, segments)
    }

    fn checked(entry: u64, mut segments: Vec<Segment>) -> Result<Self, ElfError> {
        if segments.is_empty() {
            return Err(ElfError::Empty);
        }
        segments.sort_by_key(|s| s.address);
        for pair in segments.windows(2) {
            if pair[0].end() > pair[1].address {
                return Err(ElfError::Overlap { first: pair[0].index, second: pair[1].index });
            }
        }
        if !segments.iter().any(|s| entry >= s.address && entry - s.address < s.file_size) {
            return Err(ElfError::Entry(entry));
        }
        Ok(Self { entry, segments })
    }

    /// Guest physical address of the first instruction.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// What is loaded, lowest address first, without overlaps.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
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

/// What the ELF header says of the program headers.
struct Header {
    entry: u64,
    table: u64,
    entries: u16,
}

impl Header {
    fn parse(head: &[u8], len: u64) -> Result<Self, ElfError> {
        if len < HEADER_SIZE {
            return Err(ElfError::PastEnd { what: "ELF header".into(), end: HEADER_SIZE, len });
        }
        let want = |field, found: u64, ok: bool, expected| match ok {
            true => Ok(()),
            false => Err(ElfError::Header { field, found, expected }),
        };
        want("EI_CLASS", head[4].into(), head[4] == 2, "2 (64-bit)")?;
        want("EI_DATA", head[5].into(), head[5] == 1, "1 (little-endian)")?;
        let machine = u16_at(head, 18);
        if machine != ELF_MACHINE {
            return Err(ElfError::Machine { found: machine });
        }
        want("EI_VERSION", head[6].into(), head[6] == 1, "1")?;
        let kind = u16_at(head, 16);
        want("e_type", kind.into(), matches!(kind, 2 | 3), "2 (executable) or 3 (position-independent)")?;
        let version = u32_at(head, 20);
        want("e_version", version.into(), version == 1, "1")?;
        let entry_size = u16_at(head, 54);
        want("e_phentsize", entry_size.into(), entry_size == PROGRAM_HEADER_SIZE, "56")?;
        let entries = u16_at(head, 56);
        want("e_phnum", entries.into(), (1..=PROGRAM_HEADERS_MAX).contains(&entries), "1 to 128")?;
        let table = u64_at(head, 32);
        let size = u64::from(entries) * u64::from(PROGRAM_HEADER_SIZE);
        within(table, size, len, || "program headers".into())?;
        Ok(Self { entry: u64_at(head, 24), table, entries })
    }
}

/// Checks one program header; `None` when it loads nothing.
fn segment(index: usize, raw: &[u8], len: u64) -> Result<Option<Segment>, ElfError> {
    if u32_at(raw, 0) != PT_LOAD {
        return Ok(None);
    }
    let (offset, address) = (u64_at(raw, 8), u64_at(raw, 24));
    let (file_size, memory_size) = (u64_at(raw, 32), u64_at(raw, 40));
    let broken = |field, found, expected| Err(ElfError::Segment { index, field, found, expected });
    if file_size > memory_size {
        return broken("p_filesz", file_size, "at most p_memsz");
    }
    if address.checked_add(memory_size).is_none() {
        return broken("p_memsz", memory_size, "an end within 64 bits");
    }
    within(offset, file_size, len, || format!("bytes of segment {index}"))?;
    Ok((memory_size > 0).then_some(Segment { index, offset, file_size, address, memory_size }))
}

/// Checks that `size` bytes from `offset` are there in a file of `len` bytes.
fn within(offset: u64, size: u64, len: u64, what: impl FnOnce() -> String) -> Result<(), ElfError> {
    match offset.checked_add(size) {
        Some(end) if end <= len => Ok(()),
        end => Err(ElfError::PastEnd { what: what(), end: end.unwrap_or(u64::MAX), len }),
    }
}

/// The callers have checked that the bytes are there; a missing byte would read as 0.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests;
