//! What the command leaves behind when it is killed or has no room.

use std::fs;
use std::process::{Command, Stdio};

use crate::command::{Place, can_run, skip};

/// Killed in the middle of writing, the command leaves the old file and nothing else.
#[test]
fn a_killed_run_leaves_nothing() {
    let place = Place::new();
    place.write("out.apk", b"old");
    let big = fs::File::create(place.path("big.bin")).unwrap();
    big.set_len(1 << 30).unwrap();
    let before = place.names();
    let args = [
        "pack",
        "--package",
        "a.b",
        "--version-code",
        "1",
        "--key",
        "key.pem",
        "--asset",
        "big.bin",
        "out.apk",
    ];
    let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // It writes once it has a file open that has no name.
    let descriptors = format!("/proc/{}/fd", child.id());
    let writes = || {
        let links = fs::read_dir(&descriptors).into_iter().flatten().flatten();
        links
            .filter_map(|link| fs::read_link(link.path()).ok())
            .any(|to| to.to_string_lossy().ends_with("(deleted)"))
    };
    while !writes() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(place.names(), before);
    let out = place.read("out.apk");
    assert!(out == b"old" || payload::apk::verify(&out, payload::apk::SDK).is_ok());
}

/// On a file system without room, everything fails with exit status 2 and leaves the old files.
#[test]
fn a_full_disk_leaves_nothing() {
    const NAME: &str = "a_full_disk_leaves_nothing";
    if !can_run(NAME, &["unshare", "mount"]) {
        return;
    }
    let place = Place::new();
    place.hello();
    fs::create_dir(place.path("full")).unwrap();
    let tool = env!("CARGO_BIN_EXE_payload");
    let script = format!(
        "mount -t tmpfs -o size=16k none full || exit 77
         echo old > full/out.apk; echo old > full/out
         '{tool}' pack --package a.b --version-code 1 --key key.pem --lib x86_64=libhello.so --idsig full/out.apk; echo $?
         '{tool}' create-idsig hello.apk full/first; echo $?
         '{tool}' create-idsig hello.apk full/out --salt 00; echo $?
         '{tool}' create-idsig hello.apk full/third; echo $?
         ls -A full; cat full/out.apk"
    );
    let output =
        Command::new("unshare").args(["-rm", "sh", "-c", &script]).current_dir(place.dir()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) || said.is_empty() {
        return skip(NAME, "no file system of its own to fill");
    }
    // The first hash tree takes the only room there is, twice its 4 KiB and more.
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "2", "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(lines[1..4].contains(&"2"), "{said}");
    assert!(!said.contains("idsig") && !said.contains(".payload"), "{said}");
    assert_eq!(lines.last(), Some(&"old"), "{said}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"));
}
