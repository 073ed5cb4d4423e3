//! What `vmm` says of bad input: exit status 2 before any VM starts, the file and the field named, nothing left behind.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tests::process::{Ended, Place, vmm_executable};
use tests::{apk, compile, elf, guests, host, skip};

/// A payload library that is as it should be.
fn library() -> &'static [u8] {
    static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
    LIBRARY.get_or_init(|| compile::payload(&compile::guests().join("outcome.c")).unwrap())
}

/// A payload library of this source.
fn library_of(source: &str) -> Vec<u8> {
    let place = Place::new();
    compile::payload(&place.file("source.c", source.as_bytes())).unwrap()
}

/// An app configuration, its APK and a guest OS, all well; each test spoils one thing.
struct Case {
    place: Place,
    config: Value,
    os: Value,
}

impl Case {
    fn new() -> Self {
        let place = Place::new();
        std::fs::create_dir(place.path().join("os")).unwrap();
        place.file("os/kernel", &elf::flat(&guests::hello()));
        place.file("os/initrd", b"");
        place.file("a.apk", &apk::with_library(library(), &[]));
        let config = json!({ "apk": "a.apk", "config_path": apk::CONFIG, "memory_mib": 64 });
        let os = json!({ "kernel": "kernel", "initrd": "initrd", "glibc": "2.99", "version": "1" });
        Self { place, config, os }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.place.file(name, bytes);
        self
    }

    fn apk(self, entries: &[(&str, &[u8])]) -> Self {
        self.file("a.apk", &apk::signed(entries))
    }

    fn library(self, bytes: &[u8]) -> Self {
        self.file("a.apk", &apk::with_library(bytes, &[]))
    }

    fn write(&self) {
        self.place.file("os/microdroid.json", self.os.to_string().as_bytes());
        self.place.file("app.json", self.config.to_string().as_bytes());
    }

    fn run(&self) -> Ended {
        self.write();
        run(&self.place, &["--os-dir", "os", "--app-config", "app.json"])
    }

    /// Runs it and wants status 2 and all of `parts` on stderr.
    fn refused(&self, parts: &[&str]) {
        refused(&self.run(), parts);
    }
}

/// Runs `vmm` and checks that it changed nothing in its directory.
fn run(place: &Place, args: &[&str]) -> Ended {
    let before = place.listing();
    let ended = place.vmm(args).wait();
    assert_eq!(place.listing(), before, "left behind: {ended:?}");
    ended
}

/// Whether `vmm` itself reported an error; warnings may stand before it.
fn has_error(ended: &Ended) -> bool {
    ended.stderr.lines().any(|line| line.starts_with("Error: "))
}

fn refused(ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.status, 2, "{ended:?}");
    assert!(has_error(ended), "{ended:?}");
    for part in parts {
        assert!(ended.stderr.contains(part), "no {part:?} in {}", ended.stderr);
    }
    assert_eq!(ended.text(), "");
}

/// Runs a raw configuration of this text and wants it refused.
fn raw_refused(files: &[(&str, &[u8])], config: &str, parts: &[&str]) {
    let place = Place::new();
    for (name, bytes) in files {
        place.file(name, bytes);
    }
    place.file("vm.json", config.as_bytes());
    refused(&run(&place, &["--raw-config", "vm.json"]), parts);
}

#[test]
fn good_input_is_not_called_bad() {
    let ended = Case::new().run();
    match (host::open_kvm(), host::kvm_is_real()) {
        // The kernel is no Linux: it says hello and resets without a payload manager's word.
        (Ok(()), true) => assert_eq!((ended.text().as_str(), ended.status), ("HELLO\n", 125), "{ended:?}"),
        (Ok(()), false) => refused(&ended, &["cannot boot a Linux guest", "--host software"]),
        (Err(_), _) => refused(&ended, &["/dev/kvm"]),
    }
}

#[test]
fn an_apk_that_cannot_be_read() {
    Case::new().with("apk", json!("missing.apk")).refused(&["apk", "missing.apk", "No such file"]);
    Case::new().with("apk", json!("os")).refused(&["apk", "\"os\""]);
    Case::new().with("apk", json!("/dev/null")).refused(&["apk", "/dev/null"]);
    Case::new().with("apk", json!("a.apk/b")).refused(&["a.apk/b", "Not a directory"]);
}

#[test]
fn an_apk_that_is_not_one() {
    Case::new().file("a.apk", b"").refused(&["a.apk"]);
    Case::new().file("a.apk", &[b'x'; 100_000]).refused(&["a.apk", "no end of central directory"]);
    let good = apk::with_library(library(), &[]);
    for len in [1, 22, 100, good.len() / 2, good.len() - 1] {
        Case::new().file("a.apk", &good[..len]).refused(&["a.apk"]);
    }
    let entries = [(apk::CONFIG, apk::RUN_LIBRARY.as_bytes()), (apk::LIBRARY, library())];
    Case::new().file("a.apk", &apk::unsigned(&entries)).refused(&["a.apk", "No APK Signing Block"]);
}

#[test]
fn a_payload_configuration_that_is_missing_or_broken() {
    Case::new().apk(&[(apk::LIBRARY, library())]).refused(&["a.apk", apk::CONFIG]);
    Case::new().with("config_path", json!("assets/other.json")).refused(&["a.apk", "assets/other.json"]);
    let with = |config: &str| Case::new().apk(&[(apk::CONFIG, config.as_bytes()), (apk::LIBRARY, library())]);
    with("{\n  \"task\":\n  oops }").refused(&["a.apk", apk::CONFIG, "line 3", "column 3"]);
    with("").refused(&["a.apk", apk::CONFIG, "line 1"]);
    with("{}").refused(&["a.apk", apk::CONFIG, "task"]);
    with("[1]").refused(&["a.apk", apk::CONFIG, "line 1"]);
    with(r#"{"task": {"type": "microdroid_launcher", "command": "../x.so"}}"#).refused(&["a.apk", "command"]);
    with(r#"{"task": {"type": "nonsense", "command": "x.so"}}"#).refused(&["a.apk", "nonsense"]);
    with(r#"{"os": {"name": "../x"}, "task": {"type": "microdroid_launcher", "command": "libpayload.so"}}"#)
        .refused(&["a.apk", "os.name"]);
}

#[test]
fn a_configuration_that_is_missing_or_broken() {
    let place = Place::new();
    for option in ["--app-config", "--raw-config"] {
        refused(&run(&place, &[option, "none.json"]), &["none.json", "No such file"]);
        refused(&run(&place, &[option, "tmp"]), &["tmp"]);
        place.file("c.json", b"{\n \"name\": \"x\",\n oops\n}");
        refused(&run(&place, &[option, "c.json"]), &["c.json", "line 3", "column 2"]);
        place.file("c.json", b"{\n \"name\": \"x\",\n \"memory_mib\": \"much\"\n}");
        refused(&run(&place, &[option, "c.json"]), &["c.json", "line 3", "\"much\""]);
        place.file("c.json", b"[]");
        refused(&run(&place, &[option, "c.json"]), &["c.json"]);
        place.file("c.json", &[0xff, 0xfe, 0]);
        refused(&run(&place, &[option, "c.json"]), &["c.json"]);
        place.file("c.json", "[".repeat(200_000).as_bytes());
        refused(&run(&place, &[option, "c.json"]), &["c.json", "line 1"]);
    }
}

#[test]
fn keys_that_are_unknown_or_do_not_go_together() {
    let unknown = |key: &str, nearest: &str| {
        let hint = format!("did you mean \"{nearest}\"");
        Case::new().with(key, json!(1)).refused(&["app.json", key, &hint]);
    };
    unknown("apkk", "apk");
    unknown("memory_mb", "memory_mib");
    unknown("configpath", "config_path");
    Case::new().with("zzzzzzzzzz", json!(1)).refused(&["app.json", "zzzzzzzzzz"]);
    Case::new().with("payload_binary_name", json!("x.so")).refused(&[
        "app.json",
        "payload_binary_name",
        "config_path",
    ]);
    Case::new().with("config_path", json!(null)).refused(&["app.json", "config_path"]);
    let binary =
        |name: &str| Case::new().with("config_path", json!(null)).with("payload_binary_name", json!(name));
    binary("a/b.so").refused(&["app.json", "payload_binary_name", "a/b.so"]);
    binary("none.so").refused(&["a.apk", "lib/x86_64/none.so"]);
    Case::new().with("os_name", json!("../etc")).refused(&["app.json", "os_name", "../etc"]);
    Case::new().with("os_name", json!("other")).refused(&["other", "other.json"]);
    Case::new().with("debug_level", json!("some")).refused(&["app.json", "some"]);
    Case::new().with("apk", json!(null)).refused(&["app.json"]);
    raw_refused(&[], r#"{"kernal": "k"}"#, &["vm.json", "kernal", "did you mean \"kernel\""]);
    raw_refused(&[], r#"{"kernel": "k", "gpu": {}}"#, &["vm.json", "gpu", "not supported"]);
    raw_refused(
        &[],
        r#"{"kernel": "k", "disks": [{"writeable": true}]}"#,
        &["vm.json", "disks[0].writeable", "writable"],
    );
    raw_refused(&[], "{}", &["vm.json", "kernel"]);
}

#[test]
fn a_payload_that_cannot_run() {
    Case::new().apk(&[(apk::CONFIG, apk::RUN_LIBRARY.as_bytes())]).refused(&["a.apk", apk::LIBRARY]);
    Case::new().library(b"#!/bin/sh\n").refused(&["a.apk", apk::LIBRARY, "ELF"]);
    Case::new().library(b"").refused(&["a.apk", apk::LIBRARY, "ELF"]);
    let mut other = library().to_vec();
    other[18] = 183;
    Case::new().library(&other).refused(&["a.apk", apk::LIBRARY, "183", "x86-64"]);
    for len in [4, 64, 200, library().len() / 2] {
        Case::new().library(&library()[..len]).refused(&["a.apk", apk::LIBRARY]);
    }
    Case::new().library(&library_of("int something_else(void) { return 0; }")).refused(&[
        "a.apk",
        apk::LIBRARY,
        "AVmPayload_main",
    ]);
    Case::new()
        .library(&library_of(
            "static int AVmPayload_main(void) { return 0; } int f(void) { return AVmPayload_main(); }",
        ))
        .refused(&["a.apk", apk::LIBRARY, "AVmPayload_main"]);
    let mut old = Case::new();
    old.os["glibc"] = json!("2.1");
    old.refused(&["a.apk", apk::LIBRARY, "glibc", "2.1"]);
}

#[test]
fn an_idsig_that_is_not_of_the_apk() {
    let good = apk::with_library(library(), &[]);
    let idsig = apk::idsig(&good);
    let case = |bytes: &[u8]| {
        Case::new().file("a.apk", &good).file("a.idsig", bytes).with("idsig", json!("a.idsig"))
    };
    Case::new().with("idsig", json!("none.idsig")).refused(&["idsig", "none.idsig", "No such file"]);
    for len in [0, 1, 3, 8, 40, idsig.len() / 2, idsig.len() - 1] {
        case(&idsig[..len]).refused(&["a.idsig"]);
    }
    let other = apk::idsig(&apk::with_library(library(), &[("assets/more", b"x")]));
    case(&other).refused(&["a.idsig", "another archive"]);
    case(&[0xff; 5000]).refused(&["a.idsig"]);
}

#[test]
fn a_bootloader_beside_what_it_replaces() {
    let good = elf::flat(&guests::hello());
    let files = [("k", &good[..]), ("r", &[0xf4; 16][..])];
    raw_refused(&files, r#"{"bootloader": "r", "kernel": "k"}"#, &["bootloader", "kernel"]);
    raw_refused(&files, r#"{"bootloader": "r", "initrd": "k"}"#, &["bootloader", "initrd"]);
    raw_refused(&files, r#"{}"#, &["kernel", "bootloader"]);
    raw_refused(&files, r#"{"bootloader": "none"}"#, &["bootloader", "none", "No such file"]);
    raw_refused(&[("r", &[0xf4; 15])], r#"{"bootloader": "r"}"#, &["bootloader", "\"r\"", "15 bytes"]);
    raw_refused(&[("r", &good[..63])], r#"{"bootloader": "r"}"#, &["bootloader", "\"r\"", "ELF header"]);
}

#[test]
fn a_bootconfig_that_no_kernel_reads() {
    let good = elf::flat(&guests::hello());
    let refused = |bootconfig: &str, parts: &[&str]| {
        let config = format!(r#"{{"kernel": "k", "bootconfig": {bootconfig}}}"#);
        raw_refused(&[("k", &good)], &config, &[&["bootconfig"], parts].concat());
    };
    refused(r#"{"a b": 1}"#, &["\"a b\"", "letters"]);
    refused(r#"{"a": "both ' and \""}"#, &["quotes"]);
    refused(r#"{"a": 1.5}"#, &["an integer"]);
    refused(&format!(r#"{{"a": "{}"}}"#, "x".repeat(40_000)), &["40008", "32767"]);
}

#[test]
fn a_kernel_that_is_not_one() {
    let raw = |bytes: &[u8], parts: &[&str]| {
        raw_refused(&[("k", bytes)], r#"{"kernel": "k", "memory_mib": 64}"#, parts);
    };
    raw(b"MZ is no ELF", &["kernel", "\"k\"", "neither an ELF file nor a bzImage"]);
    raw(b"", &["kernel", "\"k\"", "neither an ELF file nor a bzImage"]);
    let mut other = elf::flat(&guests::hello());
    other[18] = 183;
    raw(&other, &["\"k\"", "ELF for machine 183, expected x86-64"]);
    let mut image = elf::bzimage(&guests::hello());
    raw(&image[..image.len() - 1], &["\"k\"", "bzImage", "bytes of the kernel"]);
    image[0x236] = 0;
    raw(&image, &["\"k\"", "xloadflags", "64-bit entry point"]);
    let good = elf::flat(&guests::hello());
    raw(&good[..good.len() - 1], &["\"k\"", "segment 0"]);
    raw(&good[..63], &["\"k\"", "ELF header"]);
    let mut far = good.clone();
    far[64 + 24..64 + 32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    far[24..32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    raw(&far, &["\"k\"", "segment 0", "usable memory"]);
    raw_refused(&[], r#"{"kernel": "none"}"#, &["kernel", "none", "No such file"]);
    raw_refused(&[("k", &good)], r#"{"kernel": "k", "initrd": "none"}"#, &["initrd", "none", "No such file"]);
    Case::new()
        .file("os/kernel", b"no ELF either")
        .refused(&["os/kernel", "neither an ELF file nor a bzImage"]);
    let mut lost = Case::new();
    lost.os["initrd"] = json!("lost");
    lost.refused(&["os/lost", "No such file"]);
    let long = "x".repeat(2048);
    raw_refused(&[("k", &good)], &json!({ "kernel": "k", "params": long }).to_string(), &["2047"]);
    raw_refused(&[("k", &good)], r#"{"kernel": "k", "params": "a\nb"}"#, &["0x0a"]);
}

#[test]
fn a_ramdisk_larger_than_the_memory() {
    let place = Place::new();
    place.file("k", &elf::flat(&guests::hello()));
    place.file("r", b"");
    std::fs::File::options().write(true).open(place.path().join("r")).unwrap().set_len(1 << 30).unwrap();
    place.file("vm.json", br#"{"kernel": "k", "initrd": "r", "memory_mib": 64}"#);
    if let Err(error) = host::open_kvm() {
        skip("a_ramdisk_larger_than_the_memory", &format!("/dev/kvm: {error}"));
        return;
    }
    refused(&run(&place, &["--raw-config", "vm.json"]), &["initrd of 1073741824 bytes does not fit"]);
}

#[test]
fn memory_that_is_too_little_or_too_much() {
    let kernel = elf::flat(&guests::hello());
    for mib in [json!(0), json!(31), json!(1_u64 << 40), json!(u64::MAX)] {
        Case::new().with("memory_mib", mib.clone()).refused(&["app.json", "memory_mib", &mib.to_string()]);
        let config = json!({ "kernel": "k", "memory_mib": mib }).to_string();
        raw_refused(&[("k", &kernel)], &config, &["vm.json", "memory_mib", &mib.to_string()]);
    }
    Case::new().with("memory_mib", json!(-1)).refused(&["app.json", "line 1"]);
}

#[test]
fn disks_that_are_not_there_or_not_possible() {
    let kernel = elf::flat(&guests::hello());
    let disk = |disk: Value, parts: &[&str]| {
        let config = json!({ "kernel": "k", "disks": [disk] }).to_string();
        raw_refused(&[("k", &kernel), ("d", b"12345")], &config, parts);
    };
    disk(json!({ "image": "none" }), &["none", "No such file"]);
    disk(json!({}), &["vm.json", "disks"]);
    disk(json!({ "image": "d", "partitions": [{ "label": "a", "path": "d" }] }), &["vm.json", "disks"]);
    disk(json!({ "partitions": [{ "label": "a", "path": "none" }] }), &["none", "No such file"]);
    let twice = json!([{ "label": "a", "path": "d" }, { "label": "a", "path": "d" }]);
    disk(json!({ "partitions": twice }), &["\"a\""]);
    disk(json!({ "partitions": [{ "label": "x".repeat(37), "path": "d" }] }), &["xxx", "36"]);
    let writable = json!([{ "label": "a", "path": "d", "writable": true }]);
    disk(json!({ "writable": true, "partitions": writable }), &["\"a\"", "4096"]);
}

#[test]
fn command_lines_that_mean_nothing() {
    let place = Place::new();
    for args in [
        &[][..],
        &["--nonsense"],
        &["--app-config"],
        &["--app-config", "a", "--raw-config", "b"],
        &["nonsense"],
        &["--app-config", "a", "--host", "mars"],
        &["--app-config", "a", "--start-timeout", "0"],
    ] {
        let ended = run(&place, args);
        assert_eq!((ended.status, ended.text().as_str()), (2, ""), "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty());
    }
}

#[test]
fn a_host_without_kvm() {
    let name = "a_host_without_kvm";
    let case = Case::new();
    case.write();
    // In a mount namespace of its own /dev is empty.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"])
        .arg(vmm_executable());
    command.args(["--os-dir", "os", "--app-config", "app.json"]);
    let allowed = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/dev"]).output();
    if !allowed.is_ok_and(|probe| probe.status.success()) {
        skip(name, "no mount namespace for this user");
        return;
    }
    let ended = case.place.command(&mut command).wait();
    refused(&ended, &["/dev/kvm", "does not exist", "--host software"]);
}

#[test]
fn a_host_whose_kvm_may_not_be_used() {
    let name = "a_host_whose_kvm_may_not_be_used";
    let Ok(kvm) = std::fs::metadata("/dev/kvm") else {
        skip(name, "no /dev/kvm");
        return;
    };
    if kvm.permissions().mode() & 0o006 == 0o006 {
        skip(name, "everyone may use /dev/kvm here");
        return;
    }
    // The other user has to reach program and files, wherever they lie.
    let case = Case::new();
    case.write();
    let mut command = match host::open_kvm() {
        Err(_) => Command::new(vmm_executable()),
        Ok(()) => {
            let copy = case.place.path().join("vmm");
            std::fs::copy(vmm_executable(), &copy).unwrap();
            open_to_all(case.place.path());
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(copy);
            setpriv
        }
    };
    command.args(["--os-dir", "os", "--app-config", "app.json"]);
    let ended = case.place.command(&mut command).wait();
    if ended.stderr.starts_with("setpriv:") {
        skip(name, ended.stderr.trim());
        return;
    }
    refused(&ended, &["/dev/kvm", "permission", "group"]);
}

#[test]
fn files_that_may_not_be_read() {
    let case = Case::new();
    case.write();
    let copy = case.place.path().join("vmm");
    std::fs::copy(vmm_executable(), &copy).unwrap();
    open_to_all(case.place.path());
    let lock = |name: &str, mode| {
        std::fs::set_permissions(case.place.path().join(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    for (locked, parts) in [
        ("a.apk", &["apk", "a.apk", "Permission denied"][..]),
        ("app.json", &["app.json", "Permission denied"]),
        ("os/kernel", &["os/kernel", "Permission denied"]),
    ] {
        lock(locked, 0);
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy);
        setpriv.args(["--os-dir", "os", "--app-config", "app.json"]);
        let ended = case.place.command(&mut setpriv).wait();
        lock(locked, 0o644);
        if ended.stderr.starts_with("setpriv:") {
            skip("files_that_may_not_be_read", ended.stderr.trim());
            return;
        }
        refused(&ended, parts);
    }
}

/// Lets everyone read a directory and run what is in it.
fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mode = if path.is_dir() || path.ends_with("vmm") { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
}
