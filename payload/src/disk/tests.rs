use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::partition::padded_len;
use super::*;
use crate::labels;
use crate::metadata::{Payload, PayloadConfig};

const SEED: GuidSource<'_> = GuidSource::Seed(b"test");

fn file(len: u64) -> Part {
    Part::File { path: "/nowhere".into(), len }
}

fn spec(label: &str, filler: Filler, len: u64) -> PartitionSpec {
    PartitionSpec::read_only(label, filler, file(len))
}

fn lbas(plan: &DiskPlan) -> Vec<(u64, u64)> {
    plan.partitions.iter().map(|p| (p.start / SECTOR_SIZE, (p.start + p.len) / SECTOR_SIZE - 1)).collect()
}

/// Section 2's worked example.
#[test]
fn worked_example() {
    let specs = [
        spec("payload-metadata", Filler::None, 100),
        spec("microdroid-apex-0", Filler::Zero, 332_148),
        spec("microdroid-apk", Filler::Zero, 3_888_734),
        spec("microdroid-apk-idsig", Filler::None, 39_115),
    ];
    let plan = plan(&specs, SEED).unwrap();
    assert_eq!(lbas(&plan), [(40, 47), (48, 703), (704, 8303), (8304, 8383)]);
    assert_eq!(plan.len, 4_325_376);
}

/// Section 1's table of fillers: partition and filler bytes.
#[test]
fn filler_table() {
    for (size, size_partition, size_filler, zero_filler) in
        [(8000, 8192, 192, 192), (8188, 8192, 4, 4), (8189, 12288, 4099, 3), (8192, 12288, 4096, 0)]
    {
        assert_eq!(padded_len(size, Filler::Size), Some(size_partition));
        assert_eq!(size_partition - size, size_filler);
        assert_eq!(padded_len(size, Filler::Zero), Some(size + zero_filler));

        let plan = plan(&[spec("a", Filler::Size, size)], SEED).unwrap();
        let last = plan.extents.iter().find(|e| e.start + e.len == 20480 + size_partition).unwrap();
        assert_eq!((last.start, last.len), (20480 + size_partition - 4, 4));
        let told = i32::try_from(size).unwrap().to_be_bytes();
        assert_eq!(last.content, Content::Bytes(Arc::from(told)));
    }
}

#[test]
fn default_layout_of_an_application() {
    let payload =
        Payload::Config(PayloadConfig { payload_binary_name: "libx.so".into(), extra_apk_count: 2 });
    let disk = PayloadDisk {
        extra_apks: vec![
            ExtraApk { apk: file(1), idsig: file(2) },
            ExtraApk { apk: file(3), idsig: file(4) },
        ],
        ..PayloadDisk::new(file(10_000), file(5000), payload)
    };
    let specs = disk.partitions();
    let names: Vec<&str> = specs.iter().map(|spec| spec.label.as_str()).collect();
    let expected = [
        "payload-metadata",
        "microdroid-apk",
        "microdroid-apk-idsig",
        "extra-apk-0",
        "extra-idsig-0",
        "extra-apk-1",
        "extra-idsig-1",
    ];
    assert_eq!(names, expected);
    assert!(specs.iter().all(|spec| !spec.writable && spec.filler != Filler::Size));
    let Part::Bytes(bytes) = &specs[0].parts[0] else { panic!("metadata is bytes of the plan") };
    assert_eq!(crate::metadata::decode(bytes).unwrap().apk.unwrap().payload_partition_name, labels::APK);
}

/// Section 1: labels, fillers and names of the three layouts, with more than ten of what is numbered.
#[test]
fn layouts_differ_as_their_table_says() {
    for (layout, label, apex_len, named) in [
        (Layout::Kapsel, "payload-metadata", 12288, true),
        (Layout::V2021_06, "metadata", 12288, false),
        (Layout::V2021_08, "payload-metadata", 8192, true),
    ] {
        let apex = |name: String| Apex {
            about: crate::metadata::ApexPayload { name, ..Default::default() },
            image: file(8192),
        };
        let disk = PayloadDisk {
            layout,
            apexes: (0..11).map(|index| apex(format!("com.example.{index}"))).collect(),
            extra_apks: vec![ExtraApk { apk: file(4096), idsig: file(1) }; 11],
            ..PayloadDisk::new(file(4096), file(100), crate::metadata::config_path("a"))
        };
        let metadata = disk.metadata();
        for (index, apex) in metadata.apexes.iter().enumerate() {
            assert_eq!(apex.name, format!("com.example.{index}"));
            let partition = if named { labels::apex(index) } else { String::new() };
            assert_eq!(apex.partition_name, partition);
        }
        let plan = plan(&disk.partitions(), SEED).unwrap();
        let found: Vec<&str> = plan.partitions.iter().map(|it| it.label.as_str()).collect();
        let mut expected = vec![label.to_string()];
        expected.extend((0..11).map(|index| format!("microdroid-apex-{index}")));
        expected.extend(["microdroid-apk".into(), "microdroid-apk-idsig".into()]);
        expected.extend((0..11).flat_map(|i| [format!("extra-apk-{i}"), format!("extra-idsig-{i}")]));
        assert_eq!(found, expected);
        assert_eq!((plan.partitions[1].len, plan.partitions[12].len), (apex_len, 4096));
        assert_eq!(layout.name().parse(), Ok(layout));
    }
    assert!("2021-07".parse::<Layout>().unwrap_err().to_string().contains("2021-08"));
}

/// Section 9: a partition of the first era may be several files, one behind the other.
#[test]
fn files_of_one_partition_follow_each_other() {
    let parts = vec![file(5), file(4096), file(3)];
    let joined = PartitionSpec { parts, ..spec("a", Filler::Size, 0) };
    let plan = plan(&[joined], SEED).unwrap();
    let files: Vec<(u64, u64)> = plan
        .extents
        .iter()
        .filter(|extent| matches!(extent.content, Content::File { .. }))
        .map(|extent| (extent.start, extent.len))
        .collect();
    assert_eq!(files, [(20480, 5), (20485, 4096), (24581, 3)]);
    assert_eq!((plan.partitions[0].content_len, plan.partitions[0].len), (4104, 8192));
}

#[test]
fn what_the_table_cannot_describe_is_refused() {
    let many: Vec<_> = (0..129).map(|i| spec(&format!("p{i}"), Filler::None, 1)).collect();
    assert_eq!(plan(&many, SEED), Err(DiskError::TooManyPartitions(129)));
    assert!(plan(&many[..128], SEED).is_ok());

    let twice = [spec("a", Filler::None, 1), spec("a", Filler::None, 1)];
    assert_eq!(plan(&twice, SEED), Err(DiskError::DuplicateLabel("a".into())));

    for bad in [String::new(), "x".repeat(37), "\u{1f980}".repeat(19), "a\0".into()] {
        let specs = [spec(&bad, Filler::None, 1)];
        assert_eq!(plan(&specs, SEED), Err(DiskError::BadLabel { label: bad }));
    }
    assert!(plan(&[spec(&"\u{1f980}".repeat(18), Filler::None, 1)], SEED).is_ok());

    assert_eq!(plan(&[spec("a", Filler::Zero, 0)], SEED), Err(DiskError::Empty("a".into())));
    let too_long = 1 << 31;
    assert_eq!(
        plan(&[spec("a", Filler::Size, too_long)], SEED),
        Err(DiskError::SizeFiller { label: "a".into(), len: too_long })
    );
    for len in [u64::MAX, u64::MAX - 20480, i64::MAX.unsigned_abs()] {
        assert_eq!(plan(&[spec("a", Filler::Zero, len)], SEED), Err(DiskError::TooLong));
    }
}

#[test]
fn writable_partitions_are_whole_blocks_of_files() {
    let writable = |filler, parts| PartitionSpec { label: "w".into(), writable: true, filler, parts };
    assert_eq!(
        plan(&[writable(Filler::None, vec![file(4097)])], SEED),
        Err(DiskError::WritableSize { label: "w".into(), len: 4097 })
    );
    let bytes = Part::Bytes(Arc::from([0; 4096]));
    for bad in [writable(Filler::None, vec![bytes]), writable(Filler::Size, vec![file(4096)])] {
        assert_eq!(plan(&[bad], SEED), Err(DiskError::WritableBytes("w".into())));
    }
    let good = plan(&[writable(Filler::None, vec![file(4000), file(96)])], SEED).unwrap();
    let flags: Vec<bool> = good
        .extents
        .iter()
        .filter_map(|e| match &e.content {
            Content::File { writable, .. } => Some(*writable),
            _ => None,
        })
        .collect();
    assert_eq!(flags, [true, true]);
}

#[test]
fn random_guids_are_version_4_and_all_different() {
    let mut seen = std::collections::HashSet::new();
    for index in 0..10_000 {
        let guid = GuidSource::Random.guid(index);
        assert_eq!((guid.get_version_num(), guid.get_variant()), (4, uuid::Variant::RFC4122));
        assert!(seen.insert(guid));
    }
}

#[test]
fn a_seed_decides_every_byte_and_random_none() {
    let specs = [spec("a", Filler::None, 1)];
    assert_eq!(plan(&specs, SEED), plan(&specs, SEED));
    assert_ne!(plan(&specs, SEED), plan(&specs, GuidSource::Seed(b"other")));
    assert_ne!(plan(&specs, GuidSource::Random), plan(&specs, GuidSource::Random));
}

fn read_back(plan: &DiskPlan) -> ::gpt::GptDisk<std::io::Cursor<Vec<u8>>> {
    let mut image = vec![0; usize::try_from(plan.len).unwrap()];
    for extent in &plan.extents {
        if let Content::Bytes(bytes) = &extent.content {
            let start = usize::try_from(extent.start).unwrap();
            image[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }
    ::gpt::mbr::ProtectiveMBR::from_bytes(&image[..512], ::gpt::disk::LogicalBlockSize::Lb512)
        .expect("a protective MBR");
    ::gpt::GptConfig::new()
        .logical_block_size(::gpt::disk::LogicalBlockSize::Lb512)
        .open_from_device(std::io::Cursor::new(image))
        .expect("a table with correct checksums")
}

fn specs() -> impl Strategy<Value = Vec<PartitionSpec>> {
    let filler = prop_oneof![Just(Filler::None), Just(Filler::Zero), Just(Filler::Size)];
    let parts = prop::collection::vec(1u64..70_000, 1..4);
    prop::collection::vec((filler, parts), 1..9).prop_map(|list| {
        list.into_iter()
            .enumerate()
            .map(|(index, (filler, parts))| PartitionSpec {
                label: format!("part-{index}-ö"),
                writable: false,
                filler,
                parts: parts.into_iter().map(file).collect(),
            })
            .collect()
    })
}

proptest! {
    /// Section 2: another implementation reads both copies of the table and finds the same partitions.
    #[test]
    fn the_table_is_what_others_read(specs in specs()) {
        let plan = plan(&specs, SEED).unwrap();
        let disk = read_back(&plan);
        let primary = disk.primary_header().unwrap();
        let backup = disk.backup_header().unwrap();
        let last = plan.len / SECTOR_SIZE - 1;
        prop_assert_eq!((primary.current_lba, primary.backup_lba, primary.part_start), (1, last, 2));
        prop_assert_eq!((backup.current_lba, backup.backup_lba, backup.part_start), (last, 1, last - 32));
        for header in [primary, backup] {
            prop_assert_eq!((header.first_usable, header.last_usable), (40, last - 33));
            prop_assert_eq!(header.disk_guid.get_version_num(), 4);
        }
        prop_assert_eq!(disk.partitions().len(), specs.len());
        let mut guids = HashSet::from([primary.disk_guid.as_u128()]);
        for (index, found) in disk.partitions() {
            let planned = &plan.partitions[usize::try_from(*index).unwrap() - 1];
            prop_assert_eq!(&found.name, &planned.label);
            prop_assert_eq!(found.first_lba * SECTOR_SIZE, planned.start);
            prop_assert_eq!((found.last_lba + 1) * SECTOR_SIZE, planned.start + planned.len);
            prop_assert_eq!(found.flags, 0);
            prop_assert_eq!(found.part_guid.get_version_num(), 4);
            prop_assert_eq!(&found.part_type_guid, &::gpt::partition_types::LINUX_FS);
            prop_assert!(guids.insert(found.part_guid.as_u128()), "a GUID stands twice");
        }
    }

    /// Extents cover the disk once, in order; partitions are contiguous and hold what the fillers promise.
    #[test]
    fn extents_cover_every_byte_once(specs in specs()) {
        let plan = plan(&specs, SEED).unwrap();
        let mut at = 0;
        for extent in &plan.extents {
            prop_assert_eq!(extent.start, at);
            prop_assert!(extent.len > 0);
            if let Content::Bytes(bytes) = &extent.content {
                prop_assert_eq!(bytes.len() as u64, extent.len);
            }
            at += extent.len;
        }
        prop_assert_eq!(at, plan.len);
        prop_assert!(plan.len.is_multiple_of(65536));
        let mut start = 20480;
        for (partition, spec) in plan.partitions.iter().zip(&specs) {
            let content: u64 = spec.parts.iter().map(Part::len).sum();
            prop_assert_eq!(partition.start, start);
            prop_assert_eq!(partition.content_len, content);
            prop_assert!(partition.len.is_multiple_of(4096));
            let least = content + if spec.filler == Filler::Size { 4 } else { 0 };
            prop_assert!(partition.len >= least && partition.len - least < 4096);
            start += partition.len;
        }
        prop_assert!(plan.len - start >= 33 * 512 && plan.len - start < 33 * 512 + 65536);
    }
}

/// Section 2: a plan is made from sizes alone. The files do not exist, and what is kept of a disk of 128 PiB is its table.
#[test]
fn a_plan_costs_what_its_partitions_count() {
    let stored = |len: u64| {
        let specs: Vec<_> = (0..128)
            .map(|index| {
                spec(&format!("p{index}"), if index == 0 { Filler::Size } else { Filler::Zero }, len)
            })
            .map(|mut spec| {
                // A size filler tells no more.
                spec.parts.iter_mut().for_each(|part| {
                    if let (Filler::Size, Part::File { len, .. }) = (spec.filler, part) {
                        *len = (*len).min(1 << 30);
                    }
                });
                spec
            })
            .collect();
        let plan = plan(&specs, SEED).unwrap();
        let bytes = plan.extents.iter().map(|extent| match &extent.content {
            Content::Bytes(bytes) => bytes.len(),
            Content::File { .. } | Content::Zeros => 0,
        });
        (bytes.sum::<usize>(), plan.extents.len())
    };
    let (bytes, extents) = stored((1 << 50) - 1);
    assert_eq!(bytes, 20480 + 33 * 512 + 4);
    assert!(extents <= 2 * 128 + 4, "{extents} extents");
    assert_eq!(stored(4095).0, bytes);
}
