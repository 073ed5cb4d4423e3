//! `payload pack`: what it makes, what signs it, and what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::command::{KEY, Place, can_run, judge, library};

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
    assert_eq!(place.read("key.pem"), KEY.as_bytes());
    assert_eq!(place.read("libhello.so"), library(62, 20_000));
}
