//! The command `payload` as a user runs it: what it makes, what it refuses, its exit statuses, and that a failure
//! leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod command;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use command::{Place, can_run, judge, library, skip};

#[test]
fn packing_makes_what_was_asked_for() {
    let place = Place::new();
    let args = [
        "--lib",
        "libs",
        "--asset",
        "data",
        "--asset",
        "key.pem=doc/a key.txt",
        "--config",
        "vm_config.json",
    ];
    let said = place.pack(&args);
    assert!(
        said.starts_with("hello.apk: com.example.hello version 7, 9 entries with 4 libraries, "),
        "{said}"
    );
    let facts = place.json(&["inspect", "--json", "hello.apk"]);
    assert_eq!(facts["good"], true, "{facts:#}");
    assert_eq!((&facts["package"], &facts["version_code"]), (&"com.example.hello".into(), &7.into()));
    assert_eq!((&facts["min_sdk"], &facts["target_sdk"]), (&24.into(), &35.into()));
    assert_eq!(facts["abis"]["x86_64"], serde_json::json!(["libhello.so", "libmore.so"]));
    assert_eq!(facts["abis"]["arm64-v8a"], serde_json::json!(["libhello.so", "libmore.so"]));
    assert_eq!(facts["entries"]["unaligned"], 0);
    assert_eq!(facts["entries"]["stored"], 9);
    assert_eq!(facts["vm"]["accepts"], true);
    let apk = payload::apk::Apk::open(place.read("hello.apk")).unwrap();
    let names: Vec<&str> = apk.entries().iter().map(|entry| entry.name.as_str()).collect();
    let expected = [
        "AndroidManifest.xml",
        "assets/vm_config.json",
        "assets/deep/er.txt",
        "assets/doc/a key.txt",
        "assets/model.bin",
        "lib/arm64-v8a/libhello.so",
        "lib/arm64-v8a/libmore.so",
        "lib/x86_64/libhello.so",
        "lib/x86_64/libmore.so",
    ];
    assert_eq!(names, expected);
    assert_eq!(apk.read("lib/x86_64/libhello.so", 1 << 20).unwrap(), library(62, 20_000));
}

#[test]
fn equal_inputs_and_keys_give_equal_files() {
    let place = Place::new();
    place.hello();
    let first = (place.read("hello.apk"), place.read("hello.apk.idsig"));
    place.hello();
    assert!(first == (place.read("hello.apk"), place.read("hello.apk.idsig")));
}

#[test]
fn others_accept_what_is_packed() {
    if !can_run("others_accept_what_is_packed", &["apksigner", "zipalign", "unzip"]) {
        return;
    }
    let place = Place::new();
    place.pack(&["--lib", "libs", "--asset", "data", "--config", "vm_config.json"]);
    // Without a word about SDKs: the manifest says them.
    let v4 = ["verify", "--verbose", "-v4-signature-file", "hello.apk.idsig", "hello.apk"];
    let said = judge(&place, "apksigner", &v4);
    for scheme in [
        "v2 scheme (APK Signature Scheme v2)",
        "v3 scheme (APK Signature Scheme v3)",
        "v4 scheme (APK Signature Scheme v4)",
    ] {
        assert!(said.contains(&format!("Verified using {scheme}: true")), "{said}");
    }
    assert!(said.contains("Number of signers: 1") && !said.contains("WARNING"), "{said}");
    judge(&place, "zipalign", &["-c", "-p", "4", "hello.apk"]);
    assert!(judge(&place, "unzip", &["-t", "hello.apk"]).contains("No errors detected"));
}

#[test]
fn keys_are_made_kept_and_used() {
    let place = Place::new();
    let pack = ["pack", "--package", "a.b", "--version-code", "1", "--lib", "x86_64=libhello.so"];
    place.good(&[&pack[..], &["--generate-key", "new.pem", "first.apk"]].concat());
    assert_eq!(fs::metadata(place.path("new.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    place.good(&[&pack[..], &["--key", "new.pem", "second.apk"]].concat());
    assert!(place.read("first.apk") == place.read("second.apk"));
    // A key that is there is never replaced, and nothing is made.
    let key = place.read("new.pem");
    let refused = place.fails(2, &[&pack[..], &["--generate-key", "new.pem", "third.apk"]].concat());
    assert!(refused.contains("it is there already and will not be replaced"), "{refused}");
    assert!(place.read("new.pem") == key && !place.path("third.apk").exists());
    // Without either the key is gone, which is said.
    let run = place.run(&[&pack[..], &["fourth.apk"]].concat());
    assert!(run.status == 0 && run.err.contains("--generate-key"), "{}", run.err);
    let quiet = place.run(&[&pack[..], &["--quiet", "fifth.apk"]].concat());
    assert_eq!((quiet.status, quiet.out.as_str(), quiet.err.as_str()), (0, "", ""));
    assert!(place.read("fourth.apk") != place.read("fifth.apk"));
}

#[test]
fn any_key_and_its_certificate_sign() {
    if !can_run("any_key_and_its_certificate_sign", &["openssl"]) {
        return;
    }
    let place = Place::new();
    for (kind, parameter) in [("rsa", "rsa_keygen_bits:2048"), ("ec", "ec_paramgen_curve:P-384")] {
        let request = ["req", "-x509", "-nodes", "-days", "9", "-subj", "/CN=tests", "-keyout", "user.pem"];
        let key = ["-out", "cert.pem", "-newkey", kind, "-pkeyopt", parameter];
        judge(&place, "openssl", &[&request[..], &key[..]].concat());
        let pack =
            ["pack", "--package", "a.b", "--version-code", "1", "--key", "user.pem", "--cert", "cert.pem"];
        place.good(&[&pack[..], &["--idsig=user.idsig", "user.apk"]].concat());
        let fingerprint =
            judge(&place, "openssl", &["x509", "-in", "cert.pem", "-noout", "-fingerprint", "-sha256"]);
        let expected = fingerprint.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
        let verdict = place.json(&["verify", "--json", "user.apk", "--idsig", "user.idsig"]);
        assert_eq!(verdict["files"][0]["signers"][0]["certificate_sha256"], expected, "{kind}: {verdict:#}");
        assert_eq!(verdict["good"], true);
        // Another key's certificate is refused.
        let other = [
            "pack",
            "--package",
            "a.b",
            "--version-code",
            "1",
            "--key",
            "key.pem",
            "--cert",
            "cert.pem",
            "x.apk",
        ];
        assert!(place.fails(2, &other).contains("Take the certificate"));
    }
    assert!(!place.path("x.apk").exists());
}

/// Each with a word of the sentence that says what to do.
#[test]
fn packing_refuses_what_would_not_work() {
    let place = Place::new();
    place.write("text.so", b"#!/bin/sh\n");
    place.write("program.so", &{
        let mut program = library(62, 100);
        program[16] = 2;
        program
    });
    place.write("bad.json", b"{\"task\": {\"command\": \"\"}}");
    place.write("odd/a\\b", b"");
    place.write("twice/model.bin", b"");
    place.write("file-and-dir/deep", b"");
    std::os::unix::fs::symlink("data", place.path("odd-link")).unwrap();
    let before = place.names();
    for (args, word) in [
        (&["--lib", "arm64-v8a=libhello.so"][..], "made for x86_64, not for arm64-v8a"),
        (&["--lib", "x86_64=text.so"], "does not begin with an ELF header"),
        (&["--lib", "x86_64=program.so"], "link it with -shared"),
        (&["--lib", "mips=libhello.so"], "there are arm64-v8a"),
        (&["--lib", "x86_64=vm_config.json"], "not named NAME.so"),
        (&["--lib", "x86_64=none.so"], "No such file"),
        (&["--lib", "data"], "is no ABI"),
        (&["--lib", "libhello.so"], "neither ABI=FILE nor a directory"),
        (&["--lib", "libs", "--lib", "x86_64=libhello.so"], "leave one out"),
        (
            &["--lib", "x86_64=libs/x86_64/libmore.so", "--config", "vm_config.json"],
            "add --lib x86_64=libhello.so",
        ),
        (&["--config", "vm_config.json"], "not packed for any ABI"),
        (&["--config", "bad.json"], "task.command: is empty"),
        (&["--config", "none.json"], "No such file"),
        (&["--asset", "key.pem=../key.pem"], "not a relative path"),
        (&["--asset", "key.pem=a//b"], "not a relative path"),
        (&["--asset", "odd"], "not a relative path"),
        (&["--asset", "data", "--asset", "twice"], "leave one out"),
        (&["--asset", "data", "--asset", "file-and-dir"], "give one of them another name"),
        (&["--asset", "."], "symbolic link to a directory"),
        (&["--asset", "none"], "No such file"),
        (&["--package", "not a name"], "is not a package name"),
        (&["--key", "vm_config.json"], "no private key"),
        (&["--key", "none.pem"], "No such file"),
        (&["--idsig=data"], "it is a directory"),
        (&["--idsig=/dev/null"], "no regular file"),
    ] {
        let package = if args[0] == "--package" { &[][..] } else { &["--package", "a.b"] };
        let all = [&["pack", "--version-code", "1"], package, args, &["out.apk"]].concat();
        let said = place.fails(2, &all);
        assert!(said.contains(word), "{args:?}: {said}");
        assert!(said.lines().skip(1).all(|line| line.starts_with("  caused by: ")), "{said}");
        assert_eq!(place.names(), before, "{args:?}");
    }
    // Nothing is written over a file that goes into it, or twice to one place.
    let pack = ["pack", "--package", "a.b", "--version-code", "1", "--lib", "x86_64=libhello.so"];
    for (more, word) in [
        (&["libhello.so"][..], "the same file as the input"),
        (&["--key", "key.pem", "key.pem"], "the same file as the input"),
        (&["--key", "key.pem", "--idsig=./key.pem", "out.apk"], "the same file as the input"),
        (&["--key", "key.pem", "--idsig=data/../out.apk", "out.apk"], "written twice"),
        (&["--generate-key", "out.apk", "out.apk"], "written twice"),
    ] {
        let said = place.fails(2, &[&pack[..], more].concat());
        assert!(said.contains(word), "{more:?}: {said}");
        assert_eq!(place.names(), before, "{more:?}");
    }
    assert_eq!(place.read("key.pem"), command::KEY.as_bytes());
    assert_eq!(place.read("libhello.so"), library(62, 20_000));
}

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
