//! Initial ramdisks: measured, placed as high as they may lie, and read as one.

use std::fs::File;
use std::io::{self, Seek};
use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::image::Segment;
use crate::{LoadError, io_error, put};

const PAGE: u64 = 0x1000;
/// Linux looks for the next archive at a multiple of 4 (Documentation/driver-api/early-userspace/buffer-format.rst).
const ARCHIVE_ALIGN: u64 = 4;

/// Ramdisks with their sizes, and what follows them, not yet placed.
pub struct Initrd<'a> {
    files: Vec<(&'a File, u64)>,
    trailer: &'a [u8],
    size: u64,
}

impl<'a> Initrd<'a> {
    /// Takes the sizes of `files`, which `trailer` follows.
    pub fn measure(files: &[&'a File], trailer: &'a [u8]) -> Result<Self, LoadError> {
        let mut measured = Vec::with_capacity(files.len());
        let mut size = trailer.len() as u64;
        for (index, file) in files.iter().enumerate() {
            let failed = |source| LoadError::ReadInitrd { index, source };
            let metadata = file.metadata().map_err(failed)?;
            if !metadata.is_file() {
                return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
            }
            // Sizes of files are below 2^63 each: only a sum of them could overflow.
            size = metadata
                .len()
                .checked_next_multiple_of(ARCHIVE_ALIGN)
                .and_then(|len| size.checked_add(len))
                .ok_or_else(|| failed(io::ErrorKind::FileTooLarge.into()))?;
            measured.push((*file, metadata.len()));
        }
        Ok(Self { files: measured, trailer, size })
    }

    /// Bytes of all ramdisks with their padding, and of the trailer.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The highest page-aligned address within `usable` that keeps it off every page of `segments`
    /// (sorted by address). High, since kernels allocate early memory beside their image.
    pub fn place(&self, usable: &Range<u64>, segments: &[Segment]) -> Result<u64, LoadError> {
        let mut end = usable.end;
        let mut free = 0;
        for segment in segments.iter().rev().map(Some).chain([None]) {
            let start = segment.map_or(usable.start, Segment::end).next_multiple_of(PAGE).max(usable.start);
            let gap = (end & !(PAGE - 1)).saturating_sub(start);
            if gap >= self.size {
                return Ok(((end & !(PAGE - 1)) - self.size) & !(PAGE - 1));
            }
            free = free.max(gap);
            end = segment.map_or(end, |s| s.address.min(end));
        }
        Err(LoadError::InitrdTooLarge { size: self.size, free })
    }

    /// Reads all of it to `address`; the padding is left as it is.
    pub fn read_into(&self, mem: &GuestMemoryMmap, address: u64) -> Result<(), LoadError> {
        let mut at = address;
        for (index, (file, len)) in self.files.iter().enumerate() {
            let failed = |source| LoadError::ReadInitrd { index, source };
            let mut file = *file;
            file.rewind().map_err(failed)?;
            let size = usize::try_from(*len).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
            mem.read_exact_volatile_from(GuestAddress(at), &mut file, size)
                .map_err(|e| failed(io_error(e)))?;
            at += len.next_multiple_of(ARCHIVE_ALIGN);
        }
        put(mem, at, self.trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn file(len: usize, fill: u8) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![fill; len]).unwrap();
        file
    }

    fn seg(address: u64, memory_size: u64) -> Segment {
        Segment { index: 0, offset: 0, file_size: 0, address, memory_size }
    }

    #[test]
    fn several_are_one_each_padded_to_four() {
        let (a, b, c) = (file(5, b'a'), file(4, b'b'), file(3, b'c'));
        let initrd = Initrd::measure(&[&a, &b, &c], b"end").unwrap();
        assert_eq!(initrd.size(), 19);
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
        initrd.read_into(&mem, 0x1000).unwrap();
        let mut bytes = [0xff; 19];
        mem.read_slice(&mut bytes, GuestAddress(0x1000)).unwrap();
        assert_eq!(&bytes, b"aaaaa\0\0\0bbbbccc\0end");
    }

    #[test]
    fn it_lies_at_the_top_or_in_the_highest_gap_that_holds_it() {
        let a = file(0x1801, 1);
        let initrd = Initrd::measure(&[&a], &[]).unwrap();
        let usable = 0x10_0000..0x20_0000;
        assert_eq!(initrd.place(&usable, &[]).unwrap(), 0x1f_e000);
        assert_eq!(initrd.place(&(0x10_0000..0x20_0fff), &[]).unwrap(), 0x1f_e000, "last page is not whole");
        // One page is left above the kernel, so it goes below it.
        let segments = [seg(0x18_0010, 0x10), seg(0x1a_0000, 0x5_f001)];
        assert_eq!(initrd.place(&usable, &segments).unwrap(), 0x19_e000);
        let full = [seg(0x10_1000, 0xf_e001)];
        let error = initrd.place(&usable, &full).unwrap_err();
        assert_eq!(
            error.to_string(),
            "initrd of 6148 bytes does not fit: the largest free range of guest memory has 4096 bytes"
        );
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let a = file(100, 1);
        let initrd = Initrd::measure(&[&a], &[]).unwrap();
        a.set_len(50).unwrap();
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        assert!(matches!(initrd.read_into(&mem, 0), Err(LoadError::ReadInitrd { index: 0, .. })));
    }

    #[test]
    fn a_directory_is_not_a_ramdisk() {
        let directory = File::open("/").unwrap();
        let found = Initrd::measure(&[&directory], &[]).map(|_| ());
        assert!(matches!(found, Err(LoadError::ReadInitrd { index: 0, .. })));
    }

    proptest! {
        #[test]
        fn a_place_is_free_aligned_and_inside(
            size in 1_u64..0x8000,
            top in 0x10_0000_u64..0x12_0000,
            starts in prop::collection::btree_set(0x10_u64..0x120, 0..6),
            len in 1_u64..0x1000,
        ) {
            let usable = 0x10_0000..top;
            let segments: Vec<_> = starts.iter().map(|s| seg(s * 0x1000, len)).collect();
            let initrd = Initrd { files: Vec::new(), trailer: &[], size };
            if let Ok(at) = initrd.place(&usable, &segments) {
                prop_assert_eq!(at % PAGE, 0);
                prop_assert!(at >= usable.start && at + size <= usable.end);
                let pages = at..(at + size).next_multiple_of(PAGE);
                for s in &segments {
                    prop_assert!(s.end() <= pages.start || s.address >= pages.end);
                }
            }
        }
    }
}
