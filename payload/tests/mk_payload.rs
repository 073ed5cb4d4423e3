//! `mk_payload` as its users run it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use payload::disk::composite::CompositeVersion;
use payload::disk::contents::Kind;
use payload::disk::{self, Contents, PartitionTable};
use payload::metadata::{self, Metadata, Payload};
use payload::{ReadAt, Section};
use tempfile::TempDir;

/// The published example, with its trailing commas and both spellings.
const EXAMPLE: &str = r#"{
  "apexes": [
    { "name": "com.my.hello", "path": "hello.apex", },
    { "name": "com.my.world", "path": "world.apex", },
  ],
  "apk": {
    "name": "com.my.app",
    "path": "app.apk",
    "idsigPath": "app.apk.idsig",
  },
  "payload_config_path": "/mnt/apk/assets/vm_config.json",
}
"#;

/// A directory with the example and its files; the second APEX needs no zeros behind it.
fn example() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), EXAMPLE).unwrap();
    for (name, len) in [("hello.apex", 332_148), ("world.apex", 8192), ("app.apk", 100_001)] {
        fs::write(dir.path().join(name), archive(len)).unwrap();
    }
    fs::write(dir.path().join("app.apk.idsig"), [4; 5000]).unwrap();
    dir
}

/// An archive without entries, this long: what comes before its directory means nothing.
fn archive(len: usize) -> Vec<u8> {
    let directory = u32::try_from(len - 22).unwrap();
    let mut bytes: Vec<u8> = (0..len - 22).map(|i| (i % 251).to_le_bytes()[0]).collect();
    bytes.extend(b"PK\x05\x06");
    bytes.extend([0; 12]);
    bytes.extend(directory.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mk_payload"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn succeeds(dir: &Path, args: &[&str]) {
    let output = run(dir, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    assert_eq!((output.stdout.as_slice(), said.as_ref()), (&[][..], ""));
}

/// What it says when it ends with 2 and leaves the directory as it was.
fn refuses(dir: &Path, args: &[&str]) -> String {
    let before = listing(dir);
    let output = run(dir, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert_eq!(listing(dir), before, "{args:?} changed the directory");
    assert!(!said.contains('\x1b'), "colours belong on terminals: {said}");
    said
}

/// Names and contents.
fn listing(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), path.is_file().then(|| fs::read(path).unwrap())))
        .collect();
    files.sort();
    files
}

fn names(dir: &Path, prefix: &str) -> BTreeSet<String> {
    listing(dir)
        .into_iter()
        .map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_string())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

fn bytes_of(path: &Path) -> Vec<u8> {
    let disk = disk::open(path).unwrap();
    let mut bytes = vec![0; usize::try_from(disk.len().unwrap()).unwrap()];
    disk.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn strings<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_string).into()
}

/// Section 1: which files there are, and how they are numbered.
#[test]
fn the_published_example_makes_the_published_files() {
    let dir = example();
    succeeds(dir.path(), &["config.json", "disk.img"]);
    let expected = ["", "-header", "-footer", "-metadata", "-filler-0", "-filler-2", "-filler-3"];
    assert_eq!(names(dir.path(), "disk"), expected.map(|it| format!("disk{it}.img")).into());

    succeeds(dir.path(), &["--layout", "kapsel", "config.json", "ours.v1.img"]);
    let expected =
        ["", "-header", "-footer", "-metadata", "-filler-0", "-filler-1", "-filler-2", "-filler-3"];
    assert_eq!(names(dir.path(), "ours"), expected.map(|it| format!("ours.v1{it}.img")).into());

    // No filler behind hash trees then, and no extension here.
    succeeds(dir.path(), &["--layout", "2021-06", "config.json", "old"]);
    let expected = ["", "-header", "-footer", "-metadata", "-filler-0", "-filler-1", "-filler-2"];
    assert_eq!(names(dir.path(), "old"), expected.map(|it| format!("old{it}")).into());
}

/// Sections 1 and 2: partitions, metadata and contents of each layout, read through the specification.
#[test]
fn each_layout_is_a_clean_disk_of_the_same_contents() {
    let dir = example();
    for (layout, label, named) in [
        ("2021-08", "payload-metadata", true),
        ("2021-06", "metadata", false),
        ("kapsel", "payload-metadata", true),
    ] {
        let out = format!("{layout}.img");
        succeeds(dir.path(), &["--layout", layout, "config.json", &out]);
        let opened = disk::open(&dir.path().join(&out)).unwrap();
        let version = opened.composite().unwrap().version();
        let old = layout == "2021-06";
        assert_eq!(version, if old { CompositeVersion::Absolute } else { CompositeVersion::Relative });
        let table = PartitionTable::read(&opened).unwrap();
        assert_eq!(table.problems, []);
        let labels: Vec<&str> = table.partitions.iter().map(|it| it.label.as_str()).collect();
        let apexes = ["microdroid-apex-0", "microdroid-apex-1"];
        assert_eq!(labels, [label, apexes[0], apexes[1], "microdroid-apk", "microdroid-apk-idsig"]);

        let section = |index: usize| {
            let partition = &table.partitions[index];
            Section::new(&opened, partition.start().unwrap(), partition.len().unwrap()).unwrap()
        };
        let Kind::Metadata(found) = Contents::read(label, &section(0)).unwrap().kind else { panic!() };
        assert_example(&found, if named { apexes } else { ["", ""] });
        for (index, file) in [(1, "hello.apex"), (2, "world.apex"), (3, "app.apk")] {
            let content = fs::read(dir.path().join(file)).unwrap();
            let found = Contents::read(labels[index], &section(index)).unwrap();
            assert_eq!((found.len, found.kind), (content.len() as u64, Kind::Archive), "{layout}, {file}");
            let mut bytes = vec![0; content.len()];
            section(index).read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == content);
        }
    }
}

fn assert_example(found: &Metadata, partitions: [&str; 2]) {
    let apexes: Vec<_> =
        found.apexes.iter().map(|it| (it.name.as_str(), it.partition_name.as_str())).collect();
    assert_eq!(apexes, [("com.my.hello", partitions[0]), ("com.my.world", partitions[1])]);
    let apk = found.apk.as_ref().unwrap();
    assert_eq!(apk.name, "com.my.app");
    assert_eq!(apk.payload_partition_name, "microdroid-apk");
    assert_eq!(apk.idsig_partition_name, "microdroid-apk-idsig");
    assert_eq!(found.payload, Some(Payload::ConfigPath("/mnt/apk/assets/vm_config.json".into())));
}

#[test]
fn the_flat_image_is_the_composite_disk() {
    let dir = example();
    for layout in ["2021-06", "2021-08", "kapsel"] {
        let make = |args: &[&str]| {
            succeeds(dir.path(), &[&["--seed", "s", "--layout", layout], args].concat());
        };
        make(&["config.json", "disk.img"]);
        make(&["--raw", "--quiet", "config.json", "flat.img"]);
        assert_eq!(names(dir.path(), "flat"), strings(["flat.img"]));
        let flat = fs::read(dir.path().join("flat.img")).unwrap();
        assert!(bytes_of(&dir.path().join("disk.img")) == flat);
        make(&["--raw", "config.json", "again.img"]);
        assert!(fs::read(dir.path().join("again.img")).unwrap() == flat, "a seed decides every byte");
        succeeds(dir.path(), &["--raw", "--layout", layout, "config.json", "again.img"]);
        assert!(fs::read(dir.path().join("again.img")).unwrap() != flat, "without one GUIDs are random");
    }
}

/// Section 2, version 2: the disk moves with its directory.
#[test]
fn a_directory_with_a_disk_can_be_moved() {
    let dir = example();
    succeeds(dir.path(), &["config.json", "disk.img"]);
    let before = bytes_of(&dir.path().join("disk.img"));
    let moved = tempfile::tempdir().unwrap();
    let moved = moved.path().join("elsewhere");
    fs::create_dir(&moved).unwrap();
    for (path, content) in listing(dir.path()) {
        fs::write(moved.join(path.file_name().unwrap()), content.unwrap()).unwrap();
    }
    dir.close().unwrap();
    assert!(bytes_of(&moved.join("disk.img")) == before);
}

#[test]
fn paths_are_relative_to_the_configuration() {
    let dir = example();
    let elsewhere = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    let out = elsewhere.path().join("disk");
    succeeds(Path::new("/"), &[config.to_str().unwrap(), out.to_str().unwrap()]);
    assert_eq!(PartitionTable::read(&disk::open(&out).unwrap()).unwrap().partitions.len(), 5);
    // From the directory itself, where paths have no directory.
    succeeds(dir.path(), &["config.json", "disk"]);
    assert_eq!(PartitionTable::read(&disk::open(&dir.path().join("disk")).unwrap()).unwrap().problems, []);
}

#[test]
fn metadata_alone_needs_no_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), EXAMPLE).unwrap();
    succeeds(dir.path(), &["--metadata-only", "config.json", "m"]);
    let bytes = fs::read(dir.path().join("m")).unwrap();
    let found = metadata::decode(&bytes).unwrap();
    assert_example(&found, ["microdroid-apex-0", "microdroid-apex-1"]);
    assert_eq!(bytes, metadata::encode(&found), "and nothing else");
    assert_eq!(names(dir.path(), ""), strings(["config.json", "m"]));
}

#[test]
fn everything_may_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    succeeds(dir.path(), &["config.json", "disk"]);
    assert_eq!(names(dir.path(), "disk"), strings(["disk", "disk-footer", "disk-header", "disk-metadata"]));
    let table = PartitionTable::read(&disk::open(&dir.path().join("disk")).unwrap()).unwrap();
    assert_eq!((table.partitions.len(), table.problems), (1, vec![]));
}

#[test]
fn components_of_the_system_come_from_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    let apexes = dir.path().join("system");
    fs::create_dir(&apexes).unwrap();
    fs::write(apexes.join("com.android.adbd.apex"), archive(9000)).unwrap();
    fs::write(dir.path().join("config.json"), r#"{"system_apexes": ["com.android.adbd"]}"#).unwrap();
    succeeds(dir.path(), &["--apex-dir", "system", "config.json", "disk"]);
    let table = PartitionTable::read(&disk::open(&dir.path().join("disk")).unwrap()).unwrap();
    assert_eq!(table.partitions[1].label, "microdroid-apex-0");
    assert_eq!(table.partitions[1].len(), Some(12288));

    assert!(refuses(dir.path(), &["config.json", "no"]).contains("--apex-dir"));
    let said = refuses(dir.path(), &["--apex-dir", "absent", "config.json", "no"]);
    assert!(said.contains("absent/com.android.adbd.apex"), "{said}");
}

#[test]
fn bad_input_is_named_and_changes_nothing() {
    let dir = example();
    let path = |name: &str| dir.path().join(name);
    succeeds(dir.path(), &["config.json", "disk.img"]);
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::create_dir(path("directory")).unwrap();
    fs::write(path("empty"), "").unwrap();

    for (from, to, expected) in [
        ("\"hello.apex\"", "\"absent.apex\"", "absent.apex"),
        ("\"hello.apex\"", "\"fifo\"", "neither a regular file nor a block device"),
        ("\"app.apk\"", "\"directory\"", "open APK"),
        ("\"app.apk.idsig\"", "\"empty\"", "the file is empty"),
        (
            "\"idsigPath\"",
            "\"idsig_pth\"",
            "unknown key \"apk.idsig_pth\", did you mean \"idsig_path\"?, line 9",
        ),
        ("\"com.my.app\"", "7", "\"apk.name\": expected a string, line 7"),
        ("\"apexes\": [", "\"apexes\": [,", "line 2"),
    ] {
        fs::write(path("bad.json"), EXAMPLE.replacen(from, to, 1)).unwrap();
        for raw in [&[][..], &["--raw"]] {
            let said = refuses(dir.path(), &[raw, &["bad.json", "disk.img"]].concat());
            assert!(said.starts_with("Error: ") && said.contains(expected), "{to}: {said}");
        }
    }
    let many = r#"{"name": "a", "path": "hello.apex"},"#.repeat(128);
    fs::write(path("bad.json"), format!(r#"{{"apexes": [{many}]}}"#)).unwrap();
    let said = refuses(dir.path(), &["bad.json", "disk.img"]);
    assert!(said.contains("129 partitions, and a disk holds at most 128"), "{said}");

    for config in ["absent.json", "fifo", "directory"] {
        assert!(refuses(dir.path(), &[config, "disk.img"]).contains(config));
    }
    for out in ["fifo", "directory", "absent/disk", "app.apk", "config.json", "/"] {
        for option in ["--raw", "--metadata-only", "--quiet"] {
            let said = refuses(dir.path(), &[option, "config.json", out]);
            assert!(said.contains(out), "{option} {out}: {said}");
        }
    }
    // Not even by a name that is made from OUT's.
    fs::write(path("bad.json"), EXAMPLE.replacen("hello.apex", "x-header", 1)).unwrap();
    fs::rename(path("hello.apex"), path("x-header")).unwrap();
    assert!(refuses(dir.path(), &["bad.json", "x"]).contains("the disk is made from it"));
    for usage in [&["--layout", "2021-07", "a", "b"][..], &["a"], &["--raw", "--metadata-only", "a", "b"]] {
        refuses(dir.path(), usage);
    }
}

/// Whenever it is killed, the old file stands, or the new one.
#[test]
fn a_kill_leaves_the_old_file_or_the_new_one() {
    let dir = example();
    fs::write(dir.path().join("app.apk"), archive(64 << 20)).unwrap();
    succeeds(dir.path(), &["--raw", "--seed", "new", "config.json", "new.img"]);
    let new = fs::read(dir.path().join("new.img")).unwrap();
    let out = dir.path().join("disk.img");
    for patience in [0, 1, 2, 5, 10, 100, 1000] {
        fs::write(&out, "old").unwrap();
        let mut child =
            command(dir.path(), &["--raw", "--seed", "new", "config.json", "disk.img"]).spawn().unwrap();
        // So many looks at the directory after its first file there, however long they take.
        let mut looks = 0;
        while looks < patience && child.try_wait().unwrap().is_none() {
            looks += names_only(dir.path(), ".mk_payload");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let found = fs::read(&out).unwrap();
        assert!(found == b"old" || found == new, "{} bytes stand after {patience} looks", found.len());
    }
}

fn names_only(dir: &Path, prefix: &str) -> usize {
    let found = fs::read_dir(dir).unwrap().flatten();
    usize::from(found.into_iter().any(|it| it.file_name().to_string_lossy().starts_with(prefix)))
}

#[test]
fn the_help_teaches() {
    let output = run(Path::new("/"), &["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for taught in ["idsigPath", "OUT-filler-N", "2021-06", "--apex-dir", "Exit status"] {
        assert!(text.contains(taught), "{taught} is missing in {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 120) && !text.contains('\x1b'));
    // The example in it is one.
    let from = text.find("{\n").unwrap();
    let to = text.find("\n  }\n").unwrap() + 4;
    payload::disk::config::PayloadConfig::parse(&text.as_bytes()[from..to]).unwrap();
}
