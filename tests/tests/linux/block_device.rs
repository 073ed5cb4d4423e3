//! A disk image that is a block device of the host.

use serde_json::json;
use tests::linux::Files;
use tests::loop_device::LoopDevice;
use tests::process::Place;

use super::{line, probe, sha256};

const SIZE: usize = 1 << 20;

#[test]
fn a_block_device_of_the_host_is_read_written_and_discarded() {
    const NAME: &str = "a_block_device_of_the_host_is_read_written_and_discarded";
    let Some(files) = Files::find(NAME) else { return };
    let place = Place::new();
    let bytes: Vec<u8> = (0..SIZE).map(|n| (n * 13 + n / 509).to_le_bytes()[0]).collect();
    for engine in ["auto", "io_uring", "threads", "sync"] {
        // A new device each time: one that was once asked for what its file's file system lacks no longer discards.
        let backing = place.file("backing", &bytes);
        let device = match LoopDevice::new(&backing) {
            Ok(device) => device,
            Err(e) => return tests::skip(NAME, &format!("no loop device: {e}")),
        };
        let disks = json!({ "disks": [
            { "partitions": [{ "label": "other", "path": "other" }] },
            { "image": device.path(), "writable": true, "engine": engine },
        ] });
        let vm = probe(&files, "disk,discard", &disks);
        vm.place.file("other", &[1; 4096]);
        let ended = vm.run();
        assert_eq!(ended.status, 0, "{engine}: {ended:?}");
        let text = ended.text();
        assert_eq!(line(&text, "vdb"), format!("- {SIZE} {}", sha256(&bytes)), "{engine}: {text}");
        assert_eq!(line(&text, "discarded"), "0 bytes are not zero", "{engine}: {text}");
        assert_eq!(line(&text, "zeroed"), "0 bytes are not zero", "{engine}: {text}");
        // The guest's flush went down to the file under the device.
        let written: Vec<u8> = (0..SIZE)
            .map(|n| match n / 4096 {
                4..8 | 16..20 => 0,
                page => b'A' + u8::try_from(page % 26).unwrap(),
            })
            .collect();
        assert!(std::fs::read(&backing).unwrap() == written, "{engine}: what the guest wrote is there");
    }
}
