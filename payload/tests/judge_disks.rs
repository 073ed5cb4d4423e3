//! The disks that this crate makes, judged by the tools that others use.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::path::Path;

use payload::ReadAt;
use payload::disk::composite::{CompositeFiles, CompositeVersion};
use payload::disk::{
    self, Apex, DiskPlan, DiskReader, ExtraApk, GuidSource, Layout, Part, PartitionTable, PayloadDisk,
};
use payload::metadata::{self, ApexPayload};

mod judge;
use judge::{can_run, run, succeeds};

const LABELS: [&str; 6] = [
    "payload-metadata",
    "microdroid-apex-0",
    "microdroid-apk",
    "microdroid-apk-idsig",
    "extra-apk-0",
    "extra-idsig-0",
];

/// A disk with a partition of each kind.
fn payload_disk(dir: &Path, layout: Layout) -> PayloadDisk {
    let apk = dir.join("a.apk");
    fs::write(&apk, vec![1; 3_888_734]).unwrap();
    let part = |len: usize| Part::Bytes(vec![2; len].into());
    let about = ApexPayload {
        name: "com.example".into(),
        manifest_version: 7,
        is_factory: true,
        ..Default::default()
    };
    let apk = Part::File { path: apk, len: 3_888_734 };
    PayloadDisk {
        layout,
        apexes: vec![Apex { about, image: part(332_148) }],
        extra_apks: vec![ExtraApk { apk: part(1), idsig: part(4096) }],
        ..PayloadDisk::new(apk, part(39_115), metadata::config_path("assets/vm_config.json"))
    }
}

/// The disk of the default layout, and its path as a flat image.
fn flat_image(dir: &Path) -> (DiskPlan, String) {
    flat_image_in(dir, Layout::default())
}

fn flat_image_in(dir: &Path, layout: Layout) -> (DiskPlan, String) {
    let plan = disk::plan(&payload_disk(dir, layout).partitions(), GuidSource::Random).unwrap();
    let image = dir.join("disk.img");
    disk::write_flat(&plan.extents, &File::create(&image).unwrap(), &mut |_| {}).unwrap();
    (plan, image.to_str().unwrap().to_string())
}

/// First and last sector of each partition.
fn sectors(plan: &DiskPlan) -> Vec<(u64, u64)> {
    let lba = |byte| byte / disk::SECTOR_SIZE;
    plan.partitions.iter().map(|it| (lba(it.start), lba(it.start + it.len) - 1)).collect()
}

#[test]
fn sgdisk_finds_nothing_to_say() {
    if !can_run("sgdisk_finds_nothing_to_say", &["sgdisk"]) {
        return;
    }
    for layout in Layout::ALL {
        let dir = tempfile::tempdir().unwrap();
        let (plan, image) = flat_image_in(dir.path(), layout);
        let said = succeeds("sgdisk", &["--verify", &image]);
        assert!(said.contains("No problems found"), "{layout}: {said}");
        for (index, partition) in plan.partitions.iter().enumerate() {
            let said = succeeds("sgdisk", &["--info", &(index + 1).to_string(), &image]);
            assert!(said.contains(&format!("Partition name: '{}'", partition.label)), "{said}");
            assert!(said.contains("Linux filesystem"), "{said}");
            let (first, last) = sectors(&plan)[index];
            assert!(said.contains(&format!("First sector: {first} ")), "{said}");
            assert!(said.contains(&format!("Last sector: {last} ")), "{said}");
        }
        // With the primary header damaged, the backup is found and is as good.
        let mut damaged = fs::read(&image).unwrap();
        damaged[600] ^= 1;
        damaged[513] ^= 1;
        fs::write(&image, damaged).unwrap();
        let said = succeeds("sgdisk", &["--info", "3", &image]);
        assert!(said.contains("but valid backup") && said.contains("'microdroid-apk'"), "{said}");
    }
}

/// What sgdisk finds wrong, our reader does; what it made itself, our reader reads.
#[test]
fn our_reader_and_sgdisk_agree() {
    if !can_run("our_reader_and_sgdisk_agree", &["sgdisk"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_, image) = flat_image(dir.path());
    let whole = fs::read(&image).unwrap();
    let last = whole.len() - 512;
    for at in [450, 512, 512 + 16, 512 + 60, 1024, 1024 + 40, last, last + 30, last - 16384] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&image, &damaged).unwrap();
        let verdict = run("sgdisk", &["--verify", &image]);
        let said = String::from_utf8_lossy(&verdict.stdout);
        // Of a damaged backup header it says no more than this.
        let complains = !said.contains("No problems found") || said.contains("corrupt GPT");
        assert!(complains, "byte {at}: {said}");
        assert!(!PartitionTable::read(&damaged).unwrap().problems.is_empty(), "byte {at}");
    }

    let theirs = dir.path().join("theirs.img");
    File::create(&theirs).unwrap().set_len(16 << 20).unwrap();
    let theirs_text = theirs.to_str().unwrap();
    let new = ["--new", "1:2048:4095", "--change-name", "1:größe", "--typecode", "1:ef00"];
    let more = ["--new", "5:8192:8192", "--attributes", "5:set:2", theirs_text];
    succeeds("sgdisk", &[&new[..], &more].concat());
    let found = PartitionTable::read(&disk::open(&theirs).unwrap()).unwrap();
    assert_eq!(found.problems, []);
    let [first, fifth] = &found.partitions[..] else { panic!("{:?}", found.partitions) };
    assert_eq!(
        (first.number, first.label.as_str(), first.first_lba, first.last_lba),
        (1, "größe", 2048, 4095)
    );
    assert_eq!(first.type_guid.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    assert_eq!((fifth.number, fifth.first_lba, fifth.attributes), (5, 8192, 4));
    let said = succeeds("sgdisk", &["--info", "1", theirs_text]);
    assert!(said.to_lowercase().contains(&format!("unique guid: {}", first.guid)), "{said}");
}

#[test]
fn sfdisk_partx_and_parted_see_the_partitions() {
    if !can_run("sfdisk_partx_and_parted_see_the_partitions", &["sfdisk", "partx", "parted"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (plan, image) = flat_image(dir.path());
    let dump = succeeds("sfdisk", &["--dump", &image]);
    assert!(dump.contains("label: gpt") && dump.contains("first-lba: 40"), "{dump}");
    // One line each, and no complaint about the table.
    let columns = "NR,START,END,NAME";
    let listed = succeeds("partx", &["--raw", "--noheadings", "--output", columns, &image]);
    let listed: Vec<&str> = listed.lines().collect();
    let printed = succeeds("parted", &["--script", "--machine", &image, "unit", "s", "print"]);
    assert!(!printed.contains("Warning") && !printed.contains("Error"), "{printed}");
    assert_eq!(listed.len(), LABELS.len(), "{listed:?}");
    for (index, ((first, last), label)) in sectors(&plan).into_iter().zip(LABELS).enumerate() {
        let (number, size) = (index + 1, last - first + 1);
        let line = dump.lines().find(|line| line.contains(&format!("name=\"{label}\""))).unwrap();
        let compact = line.replace(' ', "");
        assert!(compact.contains(&format!("start={first},size={size},")), "{line}");
        assert_eq!(listed[index], format!("{number} {first} {last} {label}"));
        let line = format!("{number}:{first}s:{last}s:{size}s:");
        assert!(printed.contains(&line) && printed.contains(&format!(":{label}:")), "{printed}");
    }
}

#[test]
fn qemu_img_takes_the_flat_image() {
    if !can_run("qemu_img_takes_the_flat_image", &["qemu-img"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (plan, image) = flat_image(dir.path());
    let told = succeeds("qemu-img", &["info", "--output=json", "-f", "raw", &image]);
    assert!(told.contains(&format!("\"virtual-size\": {}", plan.len)), "{told}");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let (qcow, back) = (path("disk.qcow2"), path("back.img"));
    succeeds("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &image, &qcow]);
    let said = succeeds("qemu-img", &["check", &qcow]);
    assert!(said.contains("No errors"), "{said}");
    succeeds("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &image, &qcow]);
    succeeds("qemu-img", &["convert", "-O", "raw", &qcow, &back]);
    let (mut expected, mut found) = (vec![0; usize::try_from(plan.len).unwrap()], fs::read(&back).unwrap());
    DiskReader::of_plan(&plan).unwrap().read_exact_at(&mut expected, 0).unwrap();
    found.resize(expected.len(), 0);
    assert!(found == expected);
}

/// Both messages, in the text that protoc makes of them with the schemas here.
#[test]
fn protoc_decodes_metadata_and_specification() {
    if !can_run("protoc_decodes_metadata_and_specification", &["protoc"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let schemas = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let decode = |message: &str, schema: &str, bytes: &[u8]| {
        let input = dir.path().join("message");
        fs::write(&input, bytes).unwrap();
        let script = format!("protoc --decode={message} -I'{schemas}' {schema} < '{}'", input.display());
        succeeds("sh", &["-c", &script])
    };
    let disk = payload_disk(dir.path(), Layout::default());
    let bytes = metadata::encode(&disk.metadata());
    let text = decode("android.microdroid.Metadata", "metadata.proto", &bytes[4..]);
    for line in [
        "version: 1",
        "  partition_name: \"microdroid-apex-0\"",
        "  is_factory: true",
        "  manifest_version: 7",
        "  payload_partition_name: \"microdroid-apk\"",
        "config_path: \"/mnt/apk/assets/vm_config.json\"",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is missing in {text}");
    }

    let plan = disk::plan(&disk.partitions(), GuidSource::Random).unwrap();
    let path = dir.path().join("disk.img");
    let made = CompositeFiles::of_plan(&plan, &path, CompositeVersion::Relative).unwrap();
    let bytes = made.spec.to_bytes().unwrap();
    let text = decode("kapsel.composite.CompositeDisk", "composite.proto", &bytes[15..]);
    assert!(text.starts_with("version: 2\n") && text.ends_with(&format!("length: {}\n", plan.len)), "{text}");
    let named = text.lines().filter(|line| line.contains("file_path: ")).count();
    assert_eq!(named, made.spec.components().len());
    assert!(text.contains("file_path: \"a.apk\"\n  offset: "), "{text}");
}
