//! A ROM that the processor starts in after its reset: at the end of the first 4 GiB, its last 64 KiB also below 1 MiB,
//! as on a PC.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::GuestMemoryMmap;

use super::e820::Ram;
use super::layout::{ACPI_END, HIGH_MEMORY_START, MMIO_GAP_END, ROM_MAX};
use super::state::BootState;
use crate::{LoadError, put};

const PAGE: usize = 0x1000;
const SHADOW: usize = 0x1_0000;
/// The first instruction is 16 bytes before the end.
const SIZE_MIN: u64 = 16;

/// A ROM's content, in whole pages, the last of which ends at 4 GiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rom {
    image: Vec<u8>,
}

impl Rom {
    /// Reads `file` whole.
    ///
    /// # Errors
    /// When it cannot be read, or has no room for a first instruction or more than 16 MiB.
    pub fn read(file: &File) -> Result<Self, LoadError> {
        let len = file.metadata().map_err(LoadError::ReadRom)?.len();
        if !(SIZE_MIN..=ROM_MAX).contains(&len) {
            return Err(LoadError::RomSize { len, min: SIZE_MIN, max: ROM_MAX });
        }
        let len = usize::try_from(len).map_err(|_| LoadError::ReadRom(io::ErrorKind::FileTooLarge.into()))?;
        let mut image = vec![0; len.next_multiple_of(PAGE)];
        let start = image.len() - len;
        file.read_exact_at(&mut image[start..], 0).map_err(LoadError::ReadRom)?;
        Ok(Self { image })
    }

    /// Its bytes: a multiple of 4096, zeros before the file's.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// Guest physical address of the first of them.
    pub fn address(&self) -> u64 {
        MMIO_GAP_END - self.image.len() as u64
    }

    /// Puts the shadow below 1 MiB of `mem` and gives the registers of a processor after its reset.
    pub(super) fn load(&self, mem: &GuestMemoryMmap) -> Result<BootState, LoadError> {
        Ram::of(mem)?;
        let shadow = &self.image[self.image.len().saturating_sub(SHADOW)..];
        debug_assert!(HIGH_MEMORY_START - shadow.len() as u64 >= ACPI_END);
        put(mem, HIGH_MEMORY_START - shadow.len() as u64, shadow)?;
        Ok(BootState::reset())
    }
}
