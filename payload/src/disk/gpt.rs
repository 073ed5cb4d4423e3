//! The GUID partition table (UEFI 2.10, chapter 5): primary and backup, both as the specification has them.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Partition;
use crate::labels::MAX_PARTITIONS;

/// Bytes of a sector, the unit of the table's addresses.
pub const SECTOR_SIZE: u64 = 512;

/// Where the first partition begins, in bytes: LBA 40.
pub(super) const FIRST_PARTITION: u64 = 20480;

/// Bytes of the backup table: the entries, then the header on the last LBA.
pub(super) const TAIL_LEN: u64 = (MAX_PARTITIONS * ENTRY_LEN + SECTOR) as u64;

/// UTF-16 code units of a partition's name.
pub(super) const MAX_NAME: usize = 36;

const SECTOR: usize = 512;
const HEADER_LEN: u32 = 92;
const ENTRY_LEN: usize = 128;
const REVISION: [u8; 4] = [0, 0, 1, 0];
/// Disks end at a multiple of this many bytes.
const DISK_ALIGNMENT: u64 = 64 << 10;
/// `0FC63DAF-8483-4772-8E79-3D69D8477DE4`: a Linux filesystem.
const LINUX_FILESYSTEM: Uuid = Uuid::from_u128(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4);

/// Where the unique GUIDs of disk and partitions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuidSource<'a> {
    /// Version 4 GUIDs, different each time.
    Random,
    /// Version 4 GUIDs made from these bytes, so that equal disks have equal bytes.
    Seed(&'a [u8]),
}

impl GuidSource<'_> {
    /// GUID number `index`; 0 is the disk's, and partition i has i + 1.
    pub(super) fn guid(self, index: usize) -> Uuid {
        match self {
            Self::Random => random_guid(),
            Self::Seed(seed) => {
                let digest = Sha256::new_with_prefix(b"GUID partition table")
                    .chain_update((index as u64).to_le_bytes())
                    .chain_update(seed)
                    .finalize();
                let bytes = digest.first_chunk::<16>().expect("SHA-256 has 32 bytes");
                uuid::Builder::from_random_bytes(*bytes).into_uuid()
            }
        }
    }
}

/// Length of a disk whose partitions end at byte `end`; nothing when it passes the largest file offset.
pub(super) fn disk_len(end: u64) -> Option<u64> {
    let len = end.checked_add(TAIL_LEN)?.checked_next_multiple_of(DISK_ALIGNMENT)?;
    i64::try_from(len).is_ok().then_some(len)
}

/// Both copies of the table.
#[derive(Debug)]
pub(super) struct Table {
    disk_guid: Uuid,
    entries: Vec<u8>,
    last_lba: u64,
}

impl Table {
    /// The table of `partitions` (at most 128, names fitting) on a disk of `len` bytes.
    pub(super) fn new(partitions: &[Partition], len: u64, guids: GuidSource<'_>) -> Self {
        let mut entries = vec![0; MAX_PARTITIONS * ENTRY_LEN];
        for (index, (partition, entry)) in
            partitions.iter().zip(entries.chunks_exact_mut(ENTRY_LEN)).enumerate()
        {
            fill_entry(entry, partition, guids.guid(index + 1));
        }
        Self { disk_guid: guids.guid(0), entries, last_lba: len / SECTOR_SIZE - 1 }
    }

    /// Everything before the first partition.
    pub(super) fn head(&self) -> Arc<[u8]> {
        let mut head = Vec::with_capacity(20480);
        head.extend_from_slice(&self.protective_mbr());
        head.extend_from_slice(&self.header(1, self.last_lba, 2));
        head.extend_from_slice(&self.entries);
        head.resize(20480, 0);
        head.into()
    }

    /// The backup, which ends the disk.
    pub(super) fn tail(&self) -> Arc<[u8]> {
        let mut tail = self.entries.clone();
        tail.extend_from_slice(&self.header(self.last_lba, 1, self.last_lba - 32));
        tail.into()
    }

    fn header(&self, own_lba: u64, other_lba: u64, entries_lba: u64) -> [u8; SECTOR] {
        let mut header = Vec::with_capacity(SECTOR);
        header.extend_from_slice(b"EFI PART");
        header.extend_from_slice(&REVISION);
        header.extend_from_slice(&HEADER_LEN.to_le_bytes());
        header.extend_from_slice(&[0; 8]); // its own checksum, below; reserved
        header.extend_from_slice(&own_lba.to_le_bytes());
        header.extend_from_slice(&other_lba.to_le_bytes());
        header.extend_from_slice(&(FIRST_PARTITION / SECTOR_SIZE).to_le_bytes());
        header.extend_from_slice(&(self.last_lba - 33).to_le_bytes());
        header.extend_from_slice(&self.disk_guid.to_bytes_le());
        header.extend_from_slice(&entries_lba.to_le_bytes());
        header.extend_from_slice(&128u32.to_le_bytes());
        header.extend_from_slice(&128u32.to_le_bytes());
        header.extend_from_slice(&crc32fast::hash(&self.entries).to_le_bytes());
        let checksum = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        let mut sector = [0; SECTOR];
        sector[..header.len()].copy_from_slice(&header);
        sector
    }

    fn protective_mbr(&self) -> [u8; SECTOR] {
        let mut mbr = [0; SECTOR];
        let record = &mut mbr[446..462];
        record[1..4].copy_from_slice(&[0, 2, 0]); // cylinder, head, sector of LBA 1
        record[4] = 0xee;
        record[5..8].copy_from_slice(&[0xff; 3]);
        record[8..12].copy_from_slice(&1u32.to_le_bytes());
        let sectors = u32::try_from(self.last_lba).unwrap_or(u32::MAX);
        record[12..16].copy_from_slice(&sectors.to_le_bytes());
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        mbr
    }
}

/// The keys of the standard library's hashes come from the kernel, without a device file and without a way to fail. They are
/// new for each hash: GUIDs have to be unique, not secret.
fn random_guid() -> Uuid {
    let half = || RandomState::new().build_hasher().finish().to_ne_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half());
    bytes[8..].copy_from_slice(&half());
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

fn fill_entry(entry: &mut [u8], partition: &Partition, guid: Uuid) {
    entry[..16].copy_from_slice(&LINUX_FILESYSTEM.to_bytes_le());
    entry[16..32].copy_from_slice(&guid.to_bytes_le());
    let first = partition.start / SECTOR_SIZE;
    let last = (partition.start + partition.len) / SECTOR_SIZE - 1;
    entry[32..40].copy_from_slice(&first.to_le_bytes());
    entry[40..48].copy_from_slice(&last.to_le_bytes());
    for (unit, place) in partition.label.encode_utf16().zip(entry[56..].chunks_exact_mut(2)) {
        place.copy_from_slice(&unit.to_le_bytes());
    }
}
