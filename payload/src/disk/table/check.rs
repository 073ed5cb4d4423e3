//! What a repair program would complain of.

use std::collections::HashMap;

use super::{Header, Problem, SECTOR, TableEntry};

/// UEFI 2.10, 5.2.3: one record of type 0xEE over the whole disk, or as much of it as 32 bits can say.
pub(super) fn protective_mbr(mbr: &[u8; SECTOR], sectors: u64, problems: &mut Vec<Problem>) {
    if mbr[510..] != [0x55, 0xaa] {
        return problems.push(Problem::Mbr("is missing"));
    }
    let Some(record) = mbr[446..510].chunks_exact(16).find(|record| record[4] == 0xee) else {
        return problems.push(Problem::Mbr("has no record of type 0xEE"));
    };
    if super::word(record, 8) != 1 {
        problems.push(Problem::Mbr("does not begin at sector 1"));
    }
    let covered = super::word(record, 12);
    // Programs that do not know the length write the largest one.
    if covered != u32::MAX && u64::from(covered) != sectors - 1 {
        problems.push(Problem::Mbr("does not cover the disk"));
    }
}

/// Each header's place, and that both say the same.
pub(super) fn headers(
    primary: Option<&Header>,
    backup: Option<&Header>,
    sectors: u64,
    problems: &mut Vec<Problem>,
) {
    let last = sectors - 1;
    let mut expect = |header: &Header, field, found, expected| {
        if found != expected {
            problems.push(Problem::Address { copy: header.copy, field, found, expected });
        }
    };
    if let Some(header) = primary {
        expect(header, "the backup's sector", header.other_lba, last);
        expect(header, "entries at sector", header.entries_lba, 2);
    }
    if let Some(header) = backup {
        expect(header, "its own sector", header.own_lba, last);
        expect(header, "the primary's sector", header.other_lba, 1);
        let before = header.own_lba.saturating_sub(entry_sectors(header));
        expect(header, "entries at sector", header.entries_lba, before);
    }
    for header in [primary, backup].into_iter().flatten() {
        let (first, end) = header.usable;
        let tables = entry_sectors(header) + 1;
        if first < tables + 1 {
            let (field, expected) = ("a first usable sector", tables + 1);
            problems.push(Problem::Address { copy: header.copy, field, found: first, expected });
        }
        if end > last.saturating_sub(tables) {
            let (field, expected) = ("a last usable sector", last.saturating_sub(tables));
            problems.push(Problem::Address { copy: header.copy, field, found: end, expected });
        }
    }
    if let (Some(primary), Some(backup)) = (primary, backup) {
        let mut same = |what, same: bool| {
            if !same {
                problems.push(Problem::Differ(what));
            }
        };
        same("the disk's GUID", primary.disk_guid == backup.disk_guid);
        same("the usable sectors", primary.usable == backup.usable);
        same("their entries", primary.entries == backup.entries);
    }
}

fn entry_sectors(header: &Header) -> u64 {
    header.entries.len().div_ceil(SECTOR) as u64
}

/// Partitions within the usable sectors, apart from each other, each with a name and a GUID of its own.
pub(super) fn partitions(partitions: &[TableEntry], usable: (u64, u64), problems: &mut Vec<Problem>) {
    let mut labels = HashMap::new();
    let mut guids = HashMap::new();
    for partition in partitions {
        let TableEntry { number, first_lba: first, last_lba: last, .. } = *partition;
        if first > last || first < usable.0 || last > usable.1 {
            problems.push(Problem::Outside { number, first, last, usable });
        }
        // No name at all is no name twice.
        if !partition.label.is_empty()
            && let Some(other) = labels.insert(partition.label.as_str(), number)
        {
            problems.push(Problem::SameLabel(other, number));
        }
        if let Some(other) = guids.insert(partition.guid, number) {
            problems.push(Problem::SameGuid(other, number));
        }
    }
    let mut by_place: Vec<&TableEntry> = partitions.iter().filter(|it| it.first_lba <= it.last_lba).collect();
    by_place.sort_by_key(|partition| partition.first_lba);
    let mut reach: Option<&TableEntry> = None;
    for partition in by_place {
        if let Some(before) = reach
            && partition.first_lba <= before.last_lba
        {
            problems.push(Problem::Overlap(before.number, partition.number));
        }
        if reach.is_none_or(|before| partition.last_lba > before.last_lba) {
            reach = Some(partition);
        }
    }
}
