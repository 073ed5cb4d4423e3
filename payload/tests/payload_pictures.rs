//! What `payload inspect` draws, line for line, and that nothing hostile reaches the terminal.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod command;

use std::sync::Arc;

use command::Place;
use payload::apk::pack::Packer;
use payload::apk::{Manifest, Scheme, sign};
use payload::disk::{self, GuidSource, Part, PayloadDisk};
use payload::metadata::{self, ApexPayload, Metadata};

/// Compares a picture with the one in `tests/command/`; with `KAPSEL_DRAW=1` that is drawn anew.
fn is_drawn(name: &str, picture: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/command").join(name);
    if std::env::var_os("KAPSEL_DRAW").is_some_and(|value| value == "1") {
        std::fs::write(&path, picture).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(picture == expected, "{name}, which is\n{picture}\nshould be\n{expected}");
}

#[test]
fn an_apk() {
    let place = Place::new();
    place.hello();
    is_drawn("apk.txt", &place.good(&["inspect", "hello.apk"]));
    // Without Unicode, at another width.
    let output =
        place.command(&["inspect", "hello.apk"]).env("LC_ALL", "C").env("COLUMNS", "100").output().unwrap();
    let ascii = String::from_utf8(output.stdout).unwrap();
    assert!(ascii.is_ascii() && ascii.contains("+ vouches for every byte"), "{ascii}");
    assert!(ascii.lines().all(|line| line.len() <= 100), "{ascii}");
}

#[test]
fn a_hash_tree() {
    let place = Place::new();
    place.write("zeros", &vec![0; 3 << 20]);
    place.pack(&["--asset", "zeros"]);
    is_drawn("idsig.txt", &place.good(&["inspect", "hello.apk.idsig"]));
}

/// The archive and hash tree of [`Place::hello`] as a disk.
fn disk(place: &Place) -> disk::DiskPlan {
    let file = |name: &str| {
        let path = place.path(name);
        let len = std::fs::metadata(&path).unwrap().len();
        Part::File { path, len }
    };
    let payload = metadata::config_path("assets/vm_config.json");
    let specs = PayloadDisk::new(file("hello.apk"), file("hello.apk.idsig"), payload).partitions();
    disk::plan(&specs, GuidSource::Seed(b"picture")).unwrap()
}

fn write(plan: &disk::DiskPlan, place: &Place, name: &str) {
    let file = std::fs::File::create(place.path(name)).unwrap();
    disk::write_flat(&plan.extents, &file, &mut |_| ()).unwrap();
}

#[test]
fn a_disk() {
    let place = Place::new();
    place.hello();
    write(&disk(&place), &place, "disk.img");
    is_drawn("disk.txt", &place.good(&["inspect", "disk.img"]));
    let facts = place.json(&["inspect", "--json", "disk.img"]);
    assert_eq!(
        (&facts["kind"], &facts["good"], &facts["table"]),
        (&"disk".into(), &true.into(), &"primary".into())
    );
    let partition = &facts["partitions"][1];
    assert_eq!((&partition["label"], &partition["filler"]), (&"microdroid-apk".into(), &"zero".into()));
    assert_eq!(
        (&partition["holds"]["kind"], &partition["holds"]["version_code"]),
        (&"apk".into(), &7.into())
    );
    let said = place.good(&["verify", "disk.img"]);
    assert!(said.contains("hash tree of \"microdroid-apk\""), "{said}");

    let image = place.read("disk.img");
    let damaged = |at: usize| {
        let mut image = image.clone();
        image[at] ^= 1;
        place.write("damaged.img", &image);
    };
    // The primary table, the archive's content, and the last byte of the tree.
    let archive = usize::try_from(partition["offset"].as_u64().unwrap()).unwrap();
    damaged(600);
    let run = place.run(&["inspect", "damaged.img"]);
    assert!(run.status == 1 && run.out.contains("read from the backup"), "{}", run.out);
    place.fails(1, &["verify", "damaged.img"]);
    damaged(archive + 16_384 + 100);
    assert_eq!(place.run(&["inspect", "damaged.img"]).status, 0);
    let said = place.fails(1, &["verify", "damaged.img"]);
    assert!(said.contains("Verify \"microdroid-apk\"") && said.contains("Digest mismatch"), "{said}");
    let tree = &facts["partitions"][2];
    let end = tree["offset"].as_u64().unwrap() + tree["content_size"].as_u64().unwrap();
    damaged(usize::try_from(end).unwrap() - 1);
    assert!(place.fails(1, &["verify", "damaged.img"]).contains("tree"));
    place.write("cut.img", &image[..image.len() / 2]);
    place.fails(1, &["verify", "cut.img"]);
}

fn apex() -> Vec<u8> {
    let key = payload::avb::make::SigningKey::from_seed([3; 32], 2048).unwrap();
    let filesystem: Vec<u8> = (0..200 * 4096).map(|i: usize| (i % 251).to_le_bytes()[0]).collect();
    payload::apex::make::apex("com.example.shared", 5, filesystem, &[9; 32], &key).unwrap()
}

#[test]
fn a_shared_component() {
    let place = Place::new();
    let mut bytes = apex();
    place.write("shared.apex", &bytes);
    is_drawn("apex.txt", &place.good(&["inspect", "shared.apex"]));
    let said = place.good(&["verify", "shared.apex"]);
    assert!(said.contains("filesystem of com.example.shared version 5"), "{said}");
    let facts = place.json(&["inspect", "--json", "shared.apex"]);
    assert_eq!(
        (&facts["kind"], &facts["version"], &facts["good"]),
        (&"apex".into(), &5.into(), &true.into())
    );
    // One byte of the filesystem.
    let image = usize::try_from(facts["image"]["offset"].as_u64().unwrap()).unwrap();
    bytes[image + 5000] ^= 1;
    place.write("shared.apex", &bytes);
    let run = place.run(&["inspect", "shared.apex"]);
    assert!(
        run.status == 1 && run.out.contains("✗ the filesystem is not what the key vouches for"),
        "{}",
        run.out
    );
    place.fails(1, &["verify", "shared.apex"]);
    place.write("shared.apex", &bytes[..bytes.len() - 1]);
    place.fails(1, &["verify", "shared.apex"]);
}

/// What `mk_payload` makes, in every layout.
#[test]
fn a_composite_disk() {
    let place = Place::new();
    place.hello();
    place.write("shared.apex", &apex());
    let config = r#"{"apexes": [{"name": "com.example.shared", "path": "shared.apex"}],
        "apk": {"name": "apk", "path": "hello.apk", "idsigPath": "hello.apk.idsig"},
        "payload_config_path": "/mnt/apk/assets/vm_config.json",}"#;
    place.write("config.json", config.as_bytes());
    for layout in ["kapsel", "2021-06", "2021-08"] {
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_mk_payload"))
            .args(["--layout", layout, "config.json", "disk.img"])
            .current_dir(place.dir())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let facts = place.json(&["inspect", "--json", "disk.img"]);
        assert_eq!(facts["good"], true, "{layout}: {facts:#}");
        let kinds: Vec<&str> = facts["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|partition| partition["holds"]["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["metadata", "apex", "apk", "idsig"], "{layout}");
        let filler = if layout == "2021-08" { "zero" } else { "size" };
        assert_eq!(facts["partitions"][1]["filler"], filler, "{layout}");
        assert!(facts["composite"]["components"].as_array().unwrap().len() >= 5);
        let said = place.good(&["verify", "disk.img"]);
        assert!(said.contains("filesystem of com.example.shared version 5"), "{said}");
        assert!(place.good(&["inspect", "disk.img"]).starts_with("disk.img: composite disk, "));
    }
    // A component that is gone is no verdict on the disk.
    std::fs::remove_file(place.path("hello.apk")).unwrap();
    place.fails(2, &["verify", "disk.img"]);
}

#[test]
fn metadata_and_instance_images() {
    let place = Place::new();
    let apex = ApexPayload {
        name: "com.example.shared".into(),
        partition_name: "microdroid-apex-0".into(),
        root_digest: vec![0xab; 32],
        manifest_version: 3,
        ..ApexPayload::default()
    };
    let metadata = Metadata::for_apk(vec![apex], metadata::config_path("assets/vm_config.json"));
    place.write("metadata", &metadata::encode(&metadata));
    is_drawn("metadata.txt", &place.good(&["inspect", "metadata"]));
    place.good(&["verify", "metadata"]);

    let mut image = vec![0; 64 << 10];
    payload::instance::format(&mut image).unwrap();
    let mut image = payload::instance::InstanceImage::open(image).unwrap();
    image.put(payload::instance::MANAGER, &[1; 700]).unwrap();
    place.write("instance.img", &image.into_storage());
    is_drawn("instance.txt", &place.good(&["inspect", "instance.img"]));
}

/// Names that would clear the screen, turn text around or begin a line of their own.
#[test]
fn hostile_names_are_shown_and_not_obeyed() {
    const EVIL: &str = "\u{1b}[2Jevil\u{202e}\u{7f}\u{9b}31m";
    let place = Place::new();
    let manifest = Manifest { package: "a.b".into(), version_code: 1 };
    let cursor = std::io::Cursor::new(Vec::new());
    let mut packer = Packer::new(cursor, &manifest, EVIL).unwrap();
    let stand_in = "x".repeat(EVIL.len());
    packer.add(&format!("lib/{stand_in}/{stand_in}"), b"1").unwrap();
    let bytes = packer.finish().unwrap().into_inner();
    let mut renamed = bytes.clone();
    while let Some(at) = renamed.windows(stand_in.len()).position(|name| name == stand_in.as_bytes()) {
        renamed[at..at + EVIL.len()].copy_from_slice(EVIL.as_bytes());
    }
    let mut apk = Vec::new();
    let key = sign::SigningKey::from_pem(command::KEY).unwrap();
    sign::sign(&renamed, &key, &[Scheme::V3], &mut apk).unwrap();
    place.write("evil.apk", &apk);
    let metadata = Metadata::for_apk(Vec::new(), metadata::Payload::ConfigPath(EVIL.into()));
    place.write("evil.metadata", &metadata::encode(&metadata));
    let spec =
        disk::PartitionSpec::read_only(EVIL, disk::Filler::None, Part::Bytes(Arc::from(vec![1; 4096])));
    let plan = disk::plan(&[spec], GuidSource::Random).unwrap();
    write(&plan, &place, "evil.img");
    place.write(EVIL, b"nothing in particular");

    for (name, status) in [("evil.apk", 0), ("evil.metadata", 0), ("evil.img", 0), (EVIL, 1)] {
        for subcommand in ["inspect", "verify"] {
            let run = place.run(&[subcommand, name]);
            assert_eq!(run.status, status, "{name:?}: {}{}", run.out, run.err);
            let said = run.out + &run.err;
            let bad = said.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
            assert_eq!(bad, None, "{name:?}: {said:?}");
            if subcommand == "inspect" {
                assert!(said.contains("evil"), "{name:?}: {said}");
            }
        }
    }
    let facts = place.json(&["inspect", "--json", "evil.apk"]);
    assert_eq!(facts["version_name"], EVIL);
}

/// A map of more partitions than there are columns.
#[test]
fn a_full_table_fits_the_screen() {
    let place = Place::new();
    let specs: Vec<disk::PartitionSpec> = (0..128)
        .map(|index| {
            let content = Part::Bytes(Arc::from(vec![1; 512 * (1 + index * 3)]));
            disk::PartitionSpec::read_only(format!("part-{index}"), disk::Filler::None, content)
        })
        .collect();
    let plan = disk::plan(&specs, GuidSource::Random).unwrap();
    write(&plan, &place, "full.img");
    let picture = place.good(&["inspect", "full.img"]);
    assert!(picture.lines().all(|line| line.chars().count() <= 80), "{picture}");
    assert!(picture.contains('…') && picture.contains("part-127"), "{picture}");
}
