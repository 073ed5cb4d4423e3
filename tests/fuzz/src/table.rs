//! A small disk with metadata and an archive on it, the same for every run, and its checksums.

use std::sync::LazyLock;

use payload::ReadAt;
use payload::disk::{self, DiskReader, GuidSource, Part, PayloadDisk};
use payload::metadata;

use crate::archive::SIGNED;

/// Bytes of a header that its checksum is over.
const HEADER_LEN: usize = 92;

/// The disk of [`SIGNED`].
pub static DISK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let part = |bytes: &[u8]| Part::Bytes(bytes.to_vec().into());
    let payload = PayloadDisk::new(part(&SIGNED), part(b"no hash tree"), metadata::config_path("c"));
    let plan = disk::plan(&payload.partitions(), GuidSource::Seed(b"fuzz")).expect("a small disk");
    let mut bytes = vec![0; usize::try_from(plan.len).expect("a small disk")];
    DiskReader::of_plan(&plan).expect("no files").read_exact_at(&mut bytes, 0).expect("all of it");
    bytes
});

/// Makes the checksums of the header at byte `at` right, where that is possible.
pub fn seal(disk: &mut [u8], at: usize) {
    let word = |disk: &[u8], at: usize| {
        usize::try_from(u32::from_le_bytes(*disk[at..].first_chunk().expect("within the disk")))
            .expect("32 bits")
    };
    let entries = word(disk, at + 72).saturating_mul(512);
    let len = word(disk, at + 80).saturating_mul(word(disk, at + 84));
    if let Some(entries) = disk.get(entries..entries.saturating_add(len)) {
        let sum = crc32(entries);
        disk[at + 88..at + 92].copy_from_slice(&sum.to_le_bytes());
    }
    disk[at + 16..at + 20].fill(0);
    let sum = crc32(&disk[at..at + HEADER_LEN]);
    disk[at + 16..at + 20].copy_from_slice(&sum.to_le_bytes());
}

/// CRC-32 of IEEE 802.3, a bit at a time: there is nothing to gain here by a table.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}
