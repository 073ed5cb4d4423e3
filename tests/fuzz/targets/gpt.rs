#![no_main]
//! Partition tables: the input is the first 2 KiB of a small disk and its last 1 KiB, laid over a good one; its first byte says
//! whether checksums are made right again.

use libfuzzer_sys::fuzz_target;
use payload::Section;
use payload::disk::{Contents, PartitionTable};

const HEAD: usize = 2048;
const TAIL: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let mut disk = fuzz::table::DISK.clone();
    let len = disk.len();
    let (head, tail) = data.split_at(data.len().min(HEAD));
    disk[..head.len()].copy_from_slice(head);
    let tail = &tail[..tail.len().min(TAIL)];
    disk[len - TAIL..len - TAIL + tail.len()].copy_from_slice(tail);
    for (bit, at) in [(1, 512), (2, len - 512)] {
        if mode & bit != 0 {
            fuzz::table::seal(&mut disk, at);
        }
    }
    let Ok(table) = PartitionTable::read(&disk) else { return };
    for partition in &table.partitions {
        let (Some(start), Some(len)) = (partition.start(), partition.len()) else {
            assert!(!table.problems.is_empty());
            continue;
        };
        let Ok(section) = Section::new(&disk, start, len) else {
            // A last usable sector past the disk is a problem, and so is a partition past that.
            assert!(!table.problems.is_empty());
            continue;
        };
        if let Ok(contents) = Contents::read(&partition.label, &section) {
            assert!(contents.len <= len);
        }
    }
});
