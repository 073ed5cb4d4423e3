//! `payload verify`: verdicts on archives, and what is none.

use std::fs;
use std::process::Command;

use crate::command::{Place, skip};

#[test]
fn verdicts_on_archives() {
    let place = Place::new();
    place.hello();
    let said = place.good(&["verify", "hello.apk"]);
    assert!(said.starts_with("hello.apk: good\n  verified  ✓ v3 signature at API level 35\n"), "{said}");
    place.good(&["verify", "hello.apk", "--sdk", "28,35"]);
    place.good(&["--quiet", "verify", "hello.apk"]);

    let mut damaged = place.read("hello.apk");
    let at = damaged.windows(4).position(|window| window == b"\x7fELF").unwrap();
    damaged[at + 100] ^= 1;
    place.write("damaged.apk", &damaged);
    let said = place.fails(1, &["verify", "damaged.apk"]);
    assert!(
        said.starts_with("Error: \"damaged.apk\" does not verify\n  caused by: v3 signer: Digest mismatch"),
        "{said}"
    );
    let said = place.fails(1, &["verify", "damaged.apk", "--sdk", "28"]);
    assert!(said.contains("  caused by: At API level 28\n"), "{said}");

    place.write("cut.apk", &damaged[..damaged.len() - 1]);
    place.write("empty.apk", b"");
    place.write("text.apk", b"no archive, and long enough to be one\n");
    for name in ["cut.apk", "empty.apk", "text.apk"] {
        place.fails(1, &["verify", name]);
        place.fails(1, &["inspect", name]);
    }
    // Several files: each gets its verdict, and the worst one counts.
    let run = place.run(&["verify", "hello.apk", "damaged.apk", "cut.apk"]);
    assert_eq!(run.status, 1);
    assert!(
        run.out.contains("hello.apk: good") && run.err.matches("Error: ").count() == 2,
        "{}{}",
        run.out,
        run.err
    );
    let document = place.json(&["verify", "--json", "hello.apk", "damaged.apk"]);
    assert_eq!(document["good"], false);
    assert_eq!(document["files"][0]["good"], true);
    assert_eq!(document["files"][0]["scheme"], "v3");
    assert_eq!(document["files"][0]["signers"][0]["algorithm"], "ECDSA with SHA-256");
    assert_eq!(document["files"][1]["good"], false);
    assert_eq!(document["files"][1]["errors"][0], "\"damaged.apk\" does not verify");
}

/// What cannot be read at all is exit status 2, at once.
#[test]
fn what_is_no_file_is_no_verdict() {
    let place = Place::new();
    place.hello();
    let fifo = place.path("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    for name in ["none", "data", "fifo", "/dev/null", "hello.apk/x"] {
        for args in [
            &["verify", name][..],
            &["inspect", name],
            &["create-idsig", name, "out"],
            &["verify", "hello.apk", "--idsig", name],
        ] {
            let said = place.fails(2, args);
            assert!(
                said.starts_with("Error: Open \"") && said.contains("\n  caused by: "),
                "{args:?}: {said}"
            );
        }
    }
    assert!(!place.path("out").exists());
    for args in [
        &["verify"][..],
        &["nonsense"],
        &["verify", "a", "b", "--idsig", "c"],
        &["inspect", "hello.apk", "--idsig=x"],
        &["pack", "x.apk"],
    ] {
        place.fails(2, args);
    }
    for args in [&["--help"][..], &["--version"], &["pack", "--help"]] {
        place.good(args);
    }
}

/// Section 4: the reference signer's archives, and its verdicts at SDK 35.
#[test]
fn verdicts_on_the_reference_archives() {
    let root = std::env::var_os("KAPSEL_TEST_DATA").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        std::path::PathBuf::from,
    );
    let Ok(expected) = fs::read(root.join("apk/expected.json")) else {
        return skip("verdicts_on_the_reference_archives", &format!("no archives in {}", root.display()));
    };
    let place = Place::new();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 6);
    for (name, verdict) in expected {
        let path = root.join("apk").join(name);
        let path = path.to_str().unwrap();
        let good = verdict["result"] == "accept";
        for subcommand in ["verify", "inspect"] {
            assert_eq!(place.run(&[subcommand, path]).status, i32::from(!good), "{subcommand} {name}");
        }
        if good {
            let found = place.json(&["verify", "--json", path]);
            assert_eq!(found["files"][0]["scheme"], verdict["scheme"], "{name}");
            assert_eq!(found["files"][0]["signers"][0]["certificate_sha256"], verdict["cert"], "{name}");
        }
    }
}
