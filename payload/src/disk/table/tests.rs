use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::disk::{DiskReader, Filler, GuidSource, Part, PartitionSpec, plan};

fn disk(lengths: &[usize]) -> Vec<u8> {
    let specs: Vec<_> = lengths
        .iter()
        .enumerate()
        .map(|(index, len)| {
            let part = Part::Bytes(Arc::from(vec![7; *len]));
            PartitionSpec::read_only(format!("part-{index}"), Filler::Zero, part)
        })
        .collect();
    let plan = plan(&specs, GuidSource::Seed(b"table")).unwrap();
    let reader = DiskReader::of_plan(&plan).unwrap();
    let mut bytes = vec![0; usize::try_from(plan.len).unwrap()];
    reader.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn problems(disk: &[u8]) -> Vec<Problem> {
    PartitionTable::read(&disk).unwrap().problems
}

/// Makes both checksums of the header at `at` right again.
fn seal(disk: &mut [u8], at: usize) {
    let entries = usize::try_from(long(disk, at + 72)).unwrap() * SECTOR;
    let sum = crc32fast::hash(&disk[entries..entries + 128 * 128]);
    disk[at + 88..at + 92].copy_from_slice(&sum.to_le_bytes());
    disk[at + 16..at + 20].fill(0);
    let sum = crc32fast::hash(&disk[at..at + 92]);
    disk[at + 16..at + 20].copy_from_slice(&sum.to_le_bytes());
}

fn seal_both(disk: &mut [u8]) {
    let entries = disk[1024..1024 + 128 * 128].to_vec();
    let last = disk.len() - SECTOR;
    disk[last - entries.len()..last].copy_from_slice(&entries);
    seal(disk, SECTOR);
    seal(disk, last);
}

fn damaged(copy: Copy, damage: Damage) -> Problem {
    Problem::Damaged { copy, damage }
}

#[test]
fn our_table_has_no_problems() {
    let found = PartitionTable::read(&disk(&[100, 5000])).unwrap();
    assert_eq!(found.problems, []);
    assert_eq!((found.copy, found.usable), (Copy::Primary, (40, 94)));
    let second = found.find("part-1").unwrap();
    assert_eq!((second.number, second.first_lba, second.last_lba), (2, 48, 63));
    assert_eq!((second.start(), second.len()), (Some(24576), Some(8192)));
    assert_eq!((second.attributes, second.guid.get_version_num()), (0, 4));
    assert_eq!(second.type_guid.to_string(), "0fc63daf-8483-4772-8e79-3d69d8477de4");
}

#[test]
fn each_copy_stands_in_for_the_other() {
    let whole = disk(&[100]);
    let good = PartitionTable::read(&whole).unwrap();
    let last = whole.len() - SECTOR;
    for (at, copy, damage) in [
        (SECTOR, Copy::Primary, Damage::Signature),
        (SECTOR + 30, Copy::Primary, Damage::HeaderChecksum),
        (1024 + 60, Copy::Primary, Damage::EntriesChecksum),
        (SECTOR + 13, Copy::Primary, Damage::Sizes),
        (last, Copy::Backup, Damage::Signature),
        (last + 60, Copy::Backup, Damage::HeaderChecksum),
        (last - 128 * 128, Copy::Backup, Damage::EntriesChecksum),
    ] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let found = PartitionTable::read(&bytes).unwrap();
        assert_eq!(found.problems, [damaged(copy, damage)], "byte {at}");
        assert_eq!(found.partitions, good.partitions);
        assert_ne!(found.copy, copy);
    }
    let mut neither = whole;
    neither[SECTOR] = 0;
    neither[last] = 0;
    let error = PartitionTable::read(&neither).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no GUID partition table: the primary table has no signature, the backup table has no signature"
    );
}

/// Section 2: what AVF's own backup gets wrong is told.
#[test]
fn a_backup_in_the_wrong_place_is_a_problem() {
    let mut bytes = disk(&[100]);
    let last = bytes.len() - SECTOR;
    bytes[last + 72..last + 80].copy_from_slice(&2u64.to_le_bytes());
    seal(&mut bytes, last);
    let expected = Problem::Address {
        copy: Copy::Backup,
        field: "entries at sector",
        found: 2,
        expected: last as u64 / SECTOR_SIZE - 32,
    };
    assert_eq!(problems(&bytes), [expected]);

    // The disk has grown since: the backup is where the primary says.
    let mut grown = disk(&[100]);
    grown.resize(grown.len() + 65536, 0);
    let found = problems(&grown);
    assert!(found.contains(&Problem::Mbr("does not cover the disk")), "{found:?}");
    assert!(found.iter().any(|it| it.to_string().contains("the backup's sector")), "{found:?}");
    assert!(found.iter().any(|it| it.to_string().contains("its own sector")), "{found:?}");
}

#[test]
fn the_protective_record_is_checked() {
    for (at, expected) in [
        (510, "is missing"),
        (450, "has no record of type 0xEE"),
        (454, "does not begin at sector 1"),
        (458, "does not cover the disk"),
    ] {
        let mut bytes = disk(&[100]);
        bytes[at] ^= 0x11;
        assert_eq!(problems(&bytes), [Problem::Mbr(expected)]);
    }
    let mut unsure = disk(&[100]);
    unsure[458..462].fill(0xff);
    assert_eq!(problems(&unsure), []);
}

#[test]
fn entries_that_contradict_each_other_are_problems() {
    const SECOND: usize = 1024 + 128;
    let change = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = disk(&[100, 100]);
        change(&mut bytes);
        seal_both(&mut bytes);
        problems(&bytes)
    };
    let overlap = change(&|it| it[SECOND + 32] = 47);
    assert_eq!(overlap, [Problem::Overlap(1, 2)]);
    let outside = |first, last| Problem::Outside { number: 2, first, last, usable: (40, 94) };
    assert_eq!(change(&|it| it[SECOND + 40] = 95), [outside(48, 95)]);
    assert_eq!(change(&|it| it[SECOND + 40] = 47), [outside(48, 47)]);
    let huge = change(&|it| it[SECOND + 40..SECOND + 48].fill(0xff));
    assert_eq!(huge, [outside(48, u64::MAX)]);
    assert_eq!(change(&|it| it.copy_within(1024 + 56..1024 + 128, SECOND + 56)), [Problem::SameLabel(1, 2)]);
    assert_eq!(change(&|it| it.copy_within(1024 + 16..1024 + 32, SECOND + 16)), [Problem::SameGuid(1, 2)]);
    assert_eq!(change(&|it| it[SECOND + 57] = 0xd8), [Problem::Label(2)]);

    let mut differ = disk(&[100]);
    differ[SECTOR + 56] ^= 1;
    seal(&mut differ, SECTOR);
    assert_eq!(problems(&differ), [Problem::Differ("the disk's GUID")]);
}

#[test]
fn hostile_sizes_are_refused() {
    for (at, value) in
        [(80, u32::MAX), (80, 1025), (84, 0), (84, 64), (84, 96), (84, 1 << 31), (12, 91), (12, 513)]
    {
        let mut bytes = disk(&[100]);
        bytes[SECTOR + at..SECTOR + at + 4].copy_from_slice(&value.to_le_bytes());
        seal(&mut bytes, SECTOR);
        assert_eq!(problems(&bytes), [damaged(Copy::Primary, Damage::Sizes)], "{at} {value}");
    }
    for lba in [u64::MAX, u64::MAX / 512, 128 - 31] {
        let mut bytes = disk(&[100]);
        bytes[SECTOR + 72..SECTOR + 80].copy_from_slice(&lba.to_le_bytes());
        let sum = {
            bytes[SECTOR + 16..SECTOR + 20].fill(0);
            crc32fast::hash(&bytes[SECTOR..SECTOR + 92])
        };
        bytes[SECTOR + 16..SECTOR + 20].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(problems(&bytes), [damaged(Copy::Primary, Damage::EntriesOutside)]);
    }
    for len in [0, 511, 1535] {
        assert!(matches!(PartitionTable::read(&vec![0; len]), Err(TableError::TooSmall(_))));
    }
}

proptest! {
    /// Section 2: each plan is read back as it was made, without a problem.
    #[test]
    fn what_is_planned_is_read(lengths in prop::collection::vec(1usize..9000, 1..20)) {
        let found = PartitionTable::read(&disk(&lengths)).unwrap();
        prop_assert_eq!(&found.problems, &[]);
        prop_assert_eq!(found.partitions.len(), lengths.len());
        let mut lba = 40;
        for (partition, len) in found.partitions.iter().zip(&lengths) {
            prop_assert_eq!(partition.first_lba, lba);
            prop_assert_eq!(partition.len(), Some(len.next_multiple_of(4096) as u64));
            lba = partition.last_lba + 1;
        }
    }

    /// Any damage to one byte of a table is survived, and told.
    #[test]
    fn one_damaged_byte_is_told(at in 446usize..512 + 92 + 20, flip in 1u8..) {
        let mut bytes = disk(&[100]);
        // The rest of the header's sector and unused records of the MBR mean nothing.
        prop_assume!(at < 462 || (510..512 + 92).contains(&at));
        // Nor do the first record's boot flag and its cylinders, heads and sectors.
        prop_assume!(!(446..450).contains(&at) && !(451..454).contains(&at));
        bytes[at] ^= flip;
        let found = PartitionTable::read(&bytes).unwrap();
        prop_assert!(!found.problems.is_empty());
        prop_assert_eq!(found.partitions.len(), 1);
    }
}
