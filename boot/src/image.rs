//! What a kernel image of any kind comes to: where it is entered, and what lies where in memory.

use std::io;

/// Fills a buffer from an offset of the image.
pub type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// The state in which a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// 64-bit mode with `boot_params` (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
    Linux64,
    /// 32-bit mode with `hvm_start_info` (the PVH entry of Xen and others, docs/misc/pvh.pandoc there).
    Pvh,
}

/// One piece of the image and its place in memory; its sums do not overflow and its file bytes exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of its program header; 0 in a bzImage.
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
