//! `payload create-idsig` and `create-partition`: hash trees and empty partitions.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::command::Place;

#[test]
fn hash_trees() {
    let place = Place::new();
    place.hello();
    let said = place.good(&["verify", "hello.apk", "--idsig", "hello.apk.idsig"]);
    assert!(said.contains("hash tree of \"hello.apk\"") && said.contains("v4 signature"), "{said}");
    // Beside its archive, it is verified by itself.
    place.good(&["verify", "hello.apk.idsig"]);

    // Unsigned: hashing info and tree are the same.
    place.good(&["create-idsig", "hello.apk", "plain.idsig"]);
    let (signed, plain) = (place.read("hello.apk.idsig"), place.read("plain.idsig"));
    let facts = place.json(&["inspect", "--json", "plain.idsig"]);
    let tree = usize::try_from(facts["tree_size"].as_u64().unwrap()).unwrap();
    assert!(tree > 0 && signed[..49] == plain[..49]);
    assert!(signed[signed.len() - tree..] == plain[plain.len() - tree..]);
    assert_eq!(
        (&facts["kind"], &facts["signed"], &facts["salt"]),
        (&"idsig".into(), &false.into(), &"".into())
    );
    place.good(&["verify", "hello.apk", "--idsig", "plain.idsig"]);
    assert!(place.fails(2, &["verify", "plain.idsig"]).contains("payload verify APK --idsig plain.idsig"));

    place.good(&["create-idsig", "hello.apk", "salted.idsig", "--salt", "0badcafe", "--key", "key.pem"]);
    let facts = place.json(&["inspect", "--json", "salted.idsig"]);
    assert_eq!((&facts["salt"], &facts["signed"]), (&"0badcafe".into(), &true.into()));
    place.good(&["verify", "hello.apk", "--idsig", "salted.idsig"]);

    let mut damaged = signed.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    place.write("damaged.idsig", &damaged);
    place.fails(1, &["verify", "hello.apk", "--idsig", "damaged.idsig"]);
    place.write("cut.idsig", &signed[..last]);
    place.fails(1, &["verify", "hello.apk", "--idsig", "cut.idsig"]);
    place.fails(1, &["inspect", "cut.idsig"]);
    place.good(&["pack", "--package", "a.b", "--version-code", "1", "--key", "key.pem", "other.apk"]);
    place.fails(1, &["verify", "other.apk", "--idsig", "plain.idsig"]);
    // By a stranger's key it is signed, and not by who signed the archive.
    place.good(&[
        "pack",
        "--package",
        "a.b",
        "--version-code",
        "1",
        "--generate-key",
        "stranger.pem",
        "third.apk",
    ]);
    place.good(&["create-idsig", "hello.apk", "strange.idsig", "--key", "stranger.pem"]);
    let said = place.fails(1, &["verify", "hello.apk", "--idsig", "strange.idsig"]);
    assert!(said.contains("who did not sign the APK"), "{said}");
}

#[test]
fn hash_trees_that_are_refused() {
    let place = Place::new();
    let manifest = payload::apk::Manifest { package: "a.b".into(), version_code: 1 };
    let cursor = std::io::Cursor::new(Vec::new());
    let unsigned =
        payload::apk::pack::Packer::new(cursor, &manifest, "1").unwrap().finish().unwrap().into_inner();
    place.write("unsigned.apk", &unsigned);
    let said = place.fails(1, &["create-idsig", "unsigned.apk", "out"]);
    assert!(said.contains("No APK Signing Block"), "{said}");
    assert!(!place.path("out").exists());
    place.good(&["create-idsig", "--force", "unsigned.apk", "out"]);
    place.fails(1, &["create-idsig", "vm_config.json", "text.idsig"]);
    for salt in ["0", "xy", &"00".repeat(65)] {
        let said = place.fails(2, &["create-idsig", "--force", "unsigned.apk", "salted", "--salt", salt]);
        assert!(said.contains("--salt"), "{said}");
    }
    let said = place.fails(2, &["create-idsig", "--force", "unsigned.apk", "unsigned.apk"]);
    assert!(said.contains("the same file as the input"), "{said}");
    assert!(place.read("unsigned.apk") == unsigned && !place.path("salted").exists());
}

#[test]
fn empty_partitions() {
    let place = Place::new();
    for (args, len) in [
        (["create-partition", "a.img", "64M"], 64 << 20),
        (["create-partition", "4096", "a.img"], 4096),
        (["create-partition", "a.img", "3G"], 3 << 30),
    ] {
        place.good(&args);
        let metadata = fs::metadata(place.path("a.img")).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (len, 0), "{args:?}");
    }
    place.good(&["create-partition", "--type", "instance", "i.img", "10M"]);
    let facts = place.json(&["inspect", "--json", "i.img"]);
    assert_eq!(
        (&facts["kind"], &facts["blank"], &facts["good"]),
        (&"instance".into(), &true.into(), &true.into())
    );
    place.good(&["verify", "i.img"]);
    for args in [
        ["a.img", "10X"],
        ["b.img", "-1"],
        ["b.img", "0"],
        ["b.img", "99999999999G"],
        ["data", "1M"],
        ["none/b.img", "1M"],
    ] {
        place.fails(2, &["create-partition", args[0], "--", args[1]]);
    }
    place.fails(2, &["create-partition", "--type", "instance", "b.img", "100"]);
    assert!(!place.path("b.img").exists());
    assert_eq!(fs::metadata(place.path("a.img")).unwrap().len(), 3 << 30);
}
