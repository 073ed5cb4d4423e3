//! ELF64 executables as kernels (System V ABI, chapters 4 and 5): headers checked whole, and the notes that say
//! how to enter them.

mod notes;

use std::io;

use crate::arch::{ELF_MACHINE, ELF_MACHINE_NAME};
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::image::{Protocol, ReadAt, Segment};
use notes::Notes;

/// How an ELF file begins.
pub const MAGIC: &[u8] = b"\x7fELF";
const HEADER_SIZE: u64 = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
const PROGRAM_HEADERS_MAX: u16 = 128;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Why a file is not a kernel that can be started.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// A header could not be read.
    #[error("read {what}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
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

/// The checked headers of an ELF kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// How it is entered.
    pub protocol: Protocol,
    /// Guest physical address of the first instruction.
    pub entry: u64,
    /// What is loaded, lowest address first, without overlaps.
    pub segments: Vec<Segment>,
}

impl Elf {
    /// Checks the headers of an image of `len` bytes, of which `head` are the first: all of them, or more than an
    /// ELF header has.
    ///
    /// # Errors
    /// See [`ElfError`]; the first rule that is broken is named.
    pub fn parse(head: &[u8], len: u64, read_at: &mut ReadAt<'_>) -> Result<Self, ElfError> {
        let header = Header::parse(head, len)?;
        let size = usize::from(header.entries) * usize::from(PROGRAM_HEADER_SIZE);
        let start = usize::try_from(header.table).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(size)?));
        let table = match range.and_then(|range| head.get(range)) {
            Some(table) => table.to_vec(),
            None => {
                let mut table = vec![0; size];
                read_at(header.table, &mut table)
                    .map_err(|source| ElfError::Read { what: "program headers", source })?;
                table
            }
        };
        let mut segments = Vec::new();
        let mut notes = Notes::default();
        for (index, raw) in table.chunks_exact(usize::from(PROGRAM_HEADER_SIZE)).enumerate() {
            match u32_at(raw, 0) {
                PT_LOAD => segments.extend(segment(index, raw, len)?),
                PT_NOTE => notes.read(index, u64_at(raw, 8), u64_at(raw, 32), len, read_at)?,
                _ => {}
            }
        }
        let (protocol, entry) = notes.entry(header.entry);
        Self::checked(protocol, entry, segments)
    }

    fn checked(protocol: Protocol, entry: u64, mut segments: Vec<Segment>) -> Result<Self, ElfError> {
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
        Ok(Self { protocol, entry, segments })
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

/// Checks the header of a loadable segment; `None` when it is empty.
fn segment(index: usize, raw: &[u8], len: u64) -> Result<Option<Segment>, ElfError> {
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

#[cfg(test)]
pub(crate) mod tests;
