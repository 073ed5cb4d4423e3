//! Disks of files and partitions in a Linux guest.

use std::process::Command;

use serde_json::json;
use tests::linux::Files;
use tests::process::vmm_executable;

use super::{line, probe, sha256};

#[test]
fn a_composite_disk_reads_back_byte_for_byte() {
    let Some(files) = Files::find("a_composite_disk_reads_back_byte_for_byte") else { return };
    check_disks(&files);
}

/// Runs a VM that reads a composite disk and writes another.
pub fn check_disks(files: &Files) {
    let disk = json!({ "disks": [
        { "partitions": [
            { "label": "first", "path": "a" },
            { "label": "joined", "paths": ["b", "a"], "filler": "zero" },
            { "label": "sized", "path": "c", "filler": "size" },
        ] },
        { "image": "image", "writable": true },
    ] });
    let vm = probe(files, "disk", &disk);
    let content = |len: usize, seed: usize| -> Vec<u8> {
        (0..len).map(|n| u8::try_from((n * 7 + n / 251 + seed) % 256).unwrap()).collect()
    };
    let (a, b, c) = (content(100_001, 1), content(8192, 2), content(8189, 3));
    let image = content(1 << 20, 4);
    for (name, bytes) in [("a", &a), ("b", &b), ("c", &c), ("image", &image)] {
        vm.place.file(name, bytes);
    }
    let ended = vm.run();
    let text = ended.text();
    let padded = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes
    };
    let joined = padded(&[b, a.clone()].concat());
    let mut sized = c;
    sized.resize(12288 - 4, 0);
    sized.extend(8189_i32.to_be_bytes());
    for (device, label, want) in
        [("vda1", "first", padded(&a)), ("vda2", "joined", joined), ("vda3", "sized", sized)]
    {
        assert_eq!(line(&text, device), format!("{label} {} {}", want.len(), sha256(&want)), "{ended:?}");
    }
    assert_eq!(line(&text, "vdb"), format!("- {} {}", image.len(), sha256(&image)), "{ended:?}");
    let written: Vec<u8> = (0..image.len()).map(|n| b'A' + u8::try_from(n / 4096 % 26).unwrap()).collect();
    assert!(
        std::fs::read(vm.place.path().join("image")).unwrap() == written,
        "what the guest wrote is there"
    );
    assert_eq!(std::fs::read(vm.place.path().join("a")).unwrap(), a);
    assert_eq!(ended.status, 0);
}

#[test]
fn a_disk_of_mk_payload_is_the_disk_in_the_vm() {
    let Some(files) = Files::find("a_disk_of_mk_payload_is_the_disk_in_the_vm") else { return };
    let vm = probe(&files, "disk", &json!({ "disks": [{ "image": "disk.img" }] }));
    let (apk, idsig) = (files.read("nonce.apk"), files.read("nonce.idsig"));
    vm.place.file("a.apk", &apk);
    vm.place.file("a.idsig", &idsig);
    let config = br#"{ "apk": { "name": "sample", "path": "a.apk", "idsigPath": "a.idsig", },
                       "payload_config_path": "/mnt/apk/assets/vm_config.json", }"#;
    vm.place.file("payload.json", config);
    // It is shipped beside the monitor.
    let mut mk_payload = Command::new(vmm_executable().with_file_name("mk_payload"));
    let made = vm.place.command(mk_payload.args(["payload.json", "disk.img"])).wait();
    assert_eq!(made.status, 0, "{made:?}");
    let ended = vm.run();
    let text = ended.text();
    for (device, label, mut want) in
        [("vda2", "microdroid-apk", apk), ("vda3", "microdroid-apk-idsig", idsig)]
    {
        want.resize(want.len().next_multiple_of(4096), 0);
        assert_eq!(line(&text, device), format!("{label} {} {}", want.len(), sha256(&want)), "{ended:?}");
    }
    assert!(line(&text, "vda1").starts_with("payload-metadata 4096 "), "{ended:?}");
    assert_eq!(ended.status, 0);
}
