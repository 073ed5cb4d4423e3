//! Files of the host that fail while a VM uses them: the guest has an error, the VM lives, and one line tells of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;
use tests::linux::{App, Files, Life};
use tests::loop_device::LoopDevice;
use tests::process::{Ended, Place};
use tests::raw_vm::RawVm;
use tests::small_fs;

use super::{line, probe};

/// The disk, of which so much has room or is left.
const SIZE: u64 = 4 << 20;
const ROOM: u64 = 1 << 20;
/// What the guest moves at a time.
const PIECE: u64 = 64 << 10;
const ENGINES: [&str; 3] = ["io_uring", "threads", "sync"];

fn vm(files: &Files, words: &str, image: &Path, engine: &str) -> RawVm {
    probe(
        files,
        &format!("faults,{words}"),
        &json!({ "disks": [{ "image": image, "writable": true, "engine": engine }] }),
    )
}

/// The VM ended as the guest wanted, and said once what is wrong with the file.
fn check(ended: &Ended, what: &str) {
    assert_eq!(ended.status, 0, "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().filter(|line| line.contains("disk")).collect();
    assert!(matches!(lines[..], [line] if line.contains(what)), "one line with {what:?}: {ended:?}");
}

/// What the guest says of pieces that went well up to `good` bytes and not behind.
fn counts(good: u64) -> String {
    format!("{} {} Input/output error", good / PIECE, (SIZE - good) / PIECE)
}

#[test]
fn a_full_file_system_is_an_error_in_the_guest() {
    const NAME: &str = "a_full_file_system_is_an_error_in_the_guest";
    let Some(files) = Files::find(NAME) else { return };
    for engine in ENGINES {
        let place = Place::new();
        let (directory, image) = (place.path().join("home"), place.path().join("home/image"));
        let room = usize::try_from(ROOM).unwrap();
        let run = || {
            File::create(&image).unwrap().set_len(SIZE).unwrap();
            vm(&files, "writes,reads", &image, engine).run()
        };
        let ended = match small_fs::with(&directory, room, run) {
            Ok(ended) => ended,
            Err(e) => return tests::skip(NAME, &format!("no mount namespace: {e}")),
        };
        check(&ended, "No space left on device");
        assert_eq!(line(&ended.text(), "writes"), counts(ROOM), "{engine}: {ended:?}");
        // What has no room is a hole, which reads as zeros.
        assert_eq!(line(&ended.text(), "reads"), "64 0 Success", "{engine}: {ended:?}");
        assert!(!image.exists(), "nobody else has seen that file system");
    }
}

#[test]
fn a_device_that_fails_is_an_error_in_the_guest() {
    const NAME: &str = "a_device_that_fails_is_an_error_in_the_guest";
    let Some(files) = Files::find(NAME) else { return };
    let place = Place::new();
    for engine in ENGINES {
        let backing = place.file("backing", &vec![7; usize::try_from(SIZE).unwrap()]);
        let device = match LoopDevice::new(&backing) {
            Ok(device) => device,
            Err(e) => return tests::skip(NAME, &format!("no loop device: {e}")),
        };
        File::options().write(true).open(&backing).unwrap().set_len(ROOM).unwrap();
        let ended = vm(&files, "reads", device.path(), engine).run();
        check(&ended, "Input/output error");
        assert_eq!(line(&ended.text(), "reads"), counts(ROOM), "{engine}: {ended:?}");
    }
}

#[test]
fn a_file_cut_off_under_a_vm_is_an_error_in_the_guest() {
    let Some(files) = Files::find("a_file_cut_off_under_a_vm_is_an_error_in_the_guest") else { return };
    let place = Place::new();
    for engine in ENGINES {
        let image = place.file("image", &vec![7; usize::try_from(SIZE).unwrap()]);
        let running = vm(&files, "reads,shrinks", &image, engine).start().wait_for("READY");
        File::options().write(true).open(&image).unwrap().set_len(ROOM).unwrap();
        let ended = running.wait();
        check(&ended, "the file ends before the disk does");
        assert_eq!(line(&ended.text(), "reads"), "64 0 Success", "{engine}: {ended:?}");
        assert_eq!(line(&ended.text(), "shrunk"), counts(ROOM), "{engine}: {ended:?}");
    }
}

#[test]
fn a_block_damaged_after_the_mount_is_an_error_of_the_payload() {
    let Some(files) = Files::find("a_block_damaged_after_the_mount_is_an_error_of_the_payload") else {
        return;
    };
    // EIO for whoever reads, SIGBUS for whoever has it mapped.
    for (kind, output, status, reason) in [
        ("read", "MOUNTED\nInput/output error\n", libc::EIO, 3),
        ("map", "MOUNTED\n", 128 + libc::SIGBUS, 15),
    ] {
        let apk = files.read(&format!("damaged-{kind}.apk"));
        let app = App::new(&files, Path::new("damaged.apk"));
        let path = app.place.file("damaged.apk", &apk);
        let running = app.start().wait_for("MOUNTED\n");
        // Behind the head with configuration and library, within what the payload reads.
        let file = File::options().write(true).open(path).unwrap();
        for at in (1 << 18..1 << 20).step_by(4096) {
            file.write_all_at(&[apk[at] ^ 1], u64::try_from(at).unwrap()).unwrap();
        }
        let life = Life::of(running.wait());
        assert_eq!((life.ended.text().as_str(), life.ended.status), (output, status), "{life:?}");
        assert_eq!(life.death_reason(), Some(reason), "{life:?}");
        assert!(life.names().contains(&"payload_ready"), "{life:?}");
    }
}
