//! The notes of an ELF kernel (System V ABI, chapter 5, "Note Section") that say how it is entered.

use super::{ElfError, within};
use crate::bytes::{u32_at, u64_at};
use crate::image::{Protocol, ReadAt};

/// Notes are read whole; those of kernels have some hundred bytes.
const SIZE_MAX: u64 = 64 << 10;
const HEADER: usize = 12;
/// XEN_ELFNOTE_PHYS32_ENTRY: the 32-bit entry point of the PVH protocol.
const PHYS32_ENTRY: u32 = 18;

/// What the notes say.
#[derive(Debug, Default)]
pub struct Notes {
    pvh: Option<u64>,
    is_linux: bool,
}

impl Notes {
    /// Reads the notes of program header `index`, `size` bytes from `offset` of the file.
    pub fn read(
        &mut self,
        index: usize,
        offset: u64,
        size: u64,
        len: u64,
        read_at: &mut ReadAt<'_>,
    ) -> Result<(), ElfError> {
        if size > SIZE_MAX {
            let expected = "at most 64 KiB of notes";
            return Err(ElfError::Segment { index, field: "p_filesz", found: size, expected });
        }
        within(offset, size, len, || format!("notes of segment {index}"))?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        read_at(offset, &mut bytes).map_err(|source| ElfError::Read { what: "notes", source })?;
        self.take(index, &bytes)
    }

    fn take(&mut self, index: usize, mut rest: &[u8]) -> Result<(), ElfError> {
        while rest.len() >= HEADER {
            let size = |at| usize::try_from(u32_at(rest, at)).unwrap_or(usize::MAX);
            let (name_size, content_size, kind) = (size(0), size(4), u32_at(rest, 8));
            // Lengths are 32 bits, so their sums fit; a note that leaves its segment ends the list.
            let content_at = HEADER + name_size.next_multiple_of(4);
            let Some(name) = rest.get(HEADER..HEADER + name_size) else { break };
            let Some(content) = rest.get(content_at..content_at + content_size) else { break };
            match (name, kind) {
                (b"Xen\0", PHYS32_ENTRY) => self.pvh = Some(entry_point(index, content)?),
                (b"Linux\0", _) => self.is_linux = true,
                _ => {}
            }
            rest = rest.get(content_at + content_size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Protocol and entry point of a kernel whose ELF header has `entry`. PVH is for kernels that know nothing
    /// else: a Linux kernel gets more by its own protocol, random numbers for one.
    pub fn entry(&self, entry: u64) -> (Protocol, u64) {
        match self.pvh {
            Some(pvh) if !self.is_linux => (Protocol::Pvh, pvh),
            _ => (Protocol::Linux64, entry),
        }
    }
}

/// The note's content: an address of 4 or 8 bytes, in the first 4 GiB since the entry is in 32-bit mode.
fn entry_point(index: usize, content: &[u8]) -> Result<u64, ElfError> {
    let (field, expected) = ("PVH entry", "an address of 4 or 8 bytes, below 4 GiB");
    let found = match content.len() {
        4 => u64::from(u32_at(content, 0)),
        8 => u64_at(content, 0),
        len => return Err(ElfError::Segment { index, field, found: len as u64, expected }),
    };
    match u32::try_from(found) {
        Ok(_) => Ok(found),
        Err(_) => Err(ElfError::Segment { index, field, found, expected }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for value in [name.len(), content.len()] {
            note.extend(u32::try_from(value).unwrap().to_le_bytes());
        }
        note.extend(kind.to_le_bytes());
        for part in [name, content] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    fn entry(notes: &[Vec<u8>]) -> Result<(Protocol, u64), String> {
        let mut parsed = Notes::default();
        parsed.take(0, &notes.concat()).map_err(|e| e.to_string())?;
        Ok(parsed.entry(0x1234))
    }

    #[test]
    fn pvh_is_for_kernels_that_are_not_linux() {
        let pvh = note(b"Xen\0", 18, &0x10_0000_u64.to_le_bytes());
        let version = note(b"Xen\0", 5, b"xen-3.0\0");
        let gnu = note(b"GNU\0", 3, &[7; 5]);
        let linux = note(b"Linux\0", 0x101, &[0; 4]);
        assert_eq!(entry(&[]), Ok((Protocol::Linux64, 0x1234)));
        assert_eq!(entry(&[gnu.clone(), version.clone()]), Ok((Protocol::Linux64, 0x1234)));
        assert_eq!(entry(&[gnu, version, pvh.clone()]), Ok((Protocol::Pvh, 0x10_0000)));
        assert_eq!(entry(&[pvh, linux]), Ok((Protocol::Linux64, 0x1234)));
        let short = note(b"Xen\0", 18, &0x20_0000_u32.to_le_bytes());
        assert_eq!(entry(&[short]), Ok((Protocol::Pvh, 0x20_0000)));
    }

    #[test]
    fn an_entry_that_no_32_bit_register_holds_is_refused() {
        for content in [&(1_u64 << 32).to_le_bytes()[..], &[], &[0; 3], &[0; 16]] {
            let error = entry(&[note(b"Xen\0", 18, content)]).unwrap_err();
            assert!(error.contains("PVH entry") && error.contains("below 4 GiB"), "{error}");
        }
    }

    #[test]
    fn notes_that_lie_about_their_size_end_the_list() {
        for (at, value) in [(0, u32::MAX), (4, u32::MAX), (0, 200), (4, 200)] {
            let mut bytes = note(b"Xen\0", 18, &[0; 8]);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert_eq!(entry(&[bytes]), Ok((Protocol::Linux64, 0x1234)));
        }
    }
}
