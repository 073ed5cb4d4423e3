//! The disks that this crate makes, judged by the tools that others use.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};

use payload::disk::{self, Filler, GuidSource, Part, PayloadDisk};
use payload::metadata;

mod judge;
use judge::{can_run, succeeds};

#[test]
fn sgdisk_finds_nothing_to_say() {
    if !can_run("sgdisk_finds_nothing_to_say", &["sgdisk"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let apk = dir.path().join("a.apk");
    fs::write(&apk, vec![1; 3_888_734]).unwrap();
    let part = |len: usize| Part::Bytes(vec![2; len].into());
    let apk = Part::File { path: apk, len: 3_888_734 };
    let specs = PayloadDisk {
        extra_apks: vec![disk::ExtraApk { apk: part(1), idsig: part(4096) }],
        ..PayloadDisk::new(apk, part(39_115), metadata::config_path("assets/vm_config.json"))
    }
    .partitions();
    assert_eq!(specs[1].filler, Filler::Zero);
    let plan = disk::plan(&specs, GuidSource::Random).unwrap();
    let image = dir.path().join("disk.img");
    disk::write_flat(&plan.extents, &File::create(&image).unwrap(), &mut |_| {}).unwrap();
    let image = image.to_str().unwrap();
    let said = succeeds("sgdisk", &["--verify", image]);
    assert!(said.contains("No problems found"), "{said}");
    for (index, label) in
        ["payload-metadata", "microdroid-apk", "microdroid-apk-idsig", "extra-apk-0", "extra-idsig-0"]
            .iter()
            .enumerate()
    {
        let number = (index + 1).to_string();
        let said = succeeds("sgdisk", &["--info", &number, image]);
        assert!(said.contains(&format!("Partition name: '{label}'")), "{said}");
        assert!(said.contains("Linux filesystem"), "{said}");
        let first = plan.partitions[index].start / disk::SECTOR_SIZE;
        assert!(said.contains(&format!("First sector: {first} ")), "{said}");
    }
    // With the primary header damaged, the backup is found and is as good.
    let mut damaged = fs::read(image).unwrap();
    damaged[600] ^= 1;
    damaged[513] ^= 1;
    fs::write(image, damaged).unwrap();
    let said = succeeds("sgdisk", &["--info", "2", image]);
    assert!(said.contains("but valid backup") && said.contains("'microdroid-apk'"), "{said}");
}
