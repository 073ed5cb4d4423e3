use std::io::Cursor;

use payload::apk::manifest::Manifest;
use payload::apk::pack::Packer;
use payload::idsig::SigningInfo;
use payload::metadata::{PayloadConfig as NamedPayload, config_path, encode};

use super::*;

fn apk(entries: &[(&str, &str)]) -> Apk<Arc<Vec<u8>>> {
    let manifest = Manifest { package: "com.example.test".to_owned(), version_code: 1 };
    let mut packer = Packer::new(Cursor::new(Vec::new()), &manifest, "1").unwrap();
    for (name, text) in entries {
        packer.add(name, text.as_bytes()).unwrap();
    }
    Apk::open(Arc::new(packer.finish().unwrap().into_inner())).unwrap()
}

fn named(name: &str, extra_apk_count: u32) -> Metadata {
    Metadata::for_apk(
        Vec::new(),
        Payload::Config(NamedPayload { payload_binary_name: name.into(), extra_apk_count }),
    )
}

fn refusal(metadata: &Metadata, entries: &[(&str, &str)]) -> String {
    let failure = task_of(metadata, &apk(entries)).map(|(task, _)| task).unwrap_err();
    assert_eq!(failure.code, ErrorCode::PayloadInvalidConfig);
    failure.message
}

#[test]
fn a_configuration_in_the_apk_says_what_to_run() {
    let metadata = Metadata::for_apk(Vec::new(), config_path("assets/c.json"));
    let json = r#"{"os": {"name": "microdroid"}, "task": {"type": "microdroid_launcher", "command": "a.so", "args": ["x"]}, "tsk": 1}"#;
    let (task, warnings) = task_of(&metadata, &apk(&[("assets/c.json", json)])).unwrap();
    assert_eq!(
        (task.kind, &*task.command, &*task.args),
        (TaskType::MicrodroidLauncher, "a.so", &["x".to_owned()][..])
    );
    assert!(warnings.len() == 1 && warnings[0].contains("tsk"), "{warnings:?}");
}

#[test]
fn a_library_can_be_named_without_a_configuration() {
    let (task, warnings) = task_of(&named("a.so", 0), &apk(&[])).unwrap();
    assert_eq!((task.kind, &*task.command), (TaskType::MicrodroidLauncher, "a.so"));
    assert_eq!(warnings, [""; 0]);
    for name in ["", "a/b.so", "../b.so", "a\0"] {
        assert!(refusal(&named(name, 0), &[]).contains("payload_binary_name"), "{name:?}");
    }
}

#[test]
fn configurations_that_cannot_be_used_are_named() {
    let at = |path: &str| Metadata { payload: Some(Payload::ConfigPath(path.into())), ..named("", 0) };
    for (path, json, said) in [
        ("/etc/passwd", "{}", "is not in /mnt/apk"),
        ("/mnt/apkassets/c.json", "{}", "is not in /mnt/apk"),
        ("/mnt/apk/../assets/c.json", "{}", "no entry"),
        ("/mnt/apk/c.json", "{}", "no entry"),
        ("/mnt/apk/assets/c.json", "{", "line 1"),
        ("/mnt/apk/assets/c.json", "{}", "task: missing"),
        (
            "/mnt/apk/assets/c.json",
            r#"{"task": {"type": "executable", "command": "bin/x"}}"#,
            "no file \"bin/x\"",
        ),
        (
            "/mnt/apk/assets/c.json",
            r#"{"task": {"type": "executable", "command": "assets/c.json/"}}"#,
            "no file",
        ),
        (
            "/mnt/apk/assets/c.json",
            r#"{"task": {"command": "assets/c.json"}, "apexes": [{"name": "a"}]}"#,
            "APEX",
        ),
        (
            "/mnt/apk/assets/c.json",
            r#"{"task": {"command": "assets/c.json"}, "extra_apks": [{"path": "a"}]}"#,
            "extra",
        ),
    ] {
        let message = refusal(&at(path), &[("assets/c.json", json)]);
        assert!(message.contains(said), "{path}, {json}: {message}");
    }
    assert!(refusal(&Metadata { payload: None, ..named("", 0) }, &[]).contains("neither"));
    assert!(refusal(&named("a.so", 1), &[]).contains("extra APKs"));
}

#[test]
fn a_metadata_partition_is_read_up_to_its_length_and_no_further() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metadata");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read_metadata(&path)
    };
    let good = encode(&named("a.so", 0));
    assert_eq!(read(&good).unwrap(), named("a.so", 0));
    assert_eq!(read(&[good.as_slice(), &[0xff; 99]].concat()).unwrap(), named("a.so", 0));
    for bad in [&[][..], &good[..3], &good[..good.len() - 1], &[0xff; 4096], &[0; 4096]] {
        let failure = read(bad).unwrap_err();
        assert_eq!(failure.code, ErrorCode::PayloadInvalidConfig);
        assert!(failure.message.starts_with("read the metadata: "), "{failure:?}");
    }
}

#[test]
fn a_tree_of_another_size_is_not_mapped() {
    let tree = |tree_len| Idsig {
        salt: Vec::new(),
        root_hash: [0; 32],
        signing: SigningInfo::default(),
        tree_offset: 100,
        tree_len,
    };
    for (tree_len, partition_len, fits) in [
        (0, 4096, true),
        (4096, 8192, true),
        (4096, 128 * 4096, true),
        (3 * 4096, 129 * 4096, true),
        (4096, 129 * 4096, false),
        (0, 8192, false),
        (4096, 4096, false),
        (0, 0, false),
        (4096, 8191, false),
        (u64::MAX, 8192, false),
    ] {
        assert_eq!(
            check_tree_len(&tree(tree_len), partition_len).is_ok(),
            fits,
            "{tree_len}, {partition_len}"
        );
    }
}

#[test]
fn a_failure_names_every_cause() {
    let error = payload::apk::ApkError::Sections(payload::apk::zip::ZipError::TooSmall(3));
    let failure = Failure::new(ErrorCode::PayloadVerificationFailed, "open the APK", &error);
    assert_eq!(failure.message, "open the APK: find the archive's central directory: APK too small: 3 bytes");
    let source = payload::apk::SignerError::NoAlgorithm;
    let said = source.to_string();
    let error = payload::apk::VerifyError::Signer { scheme: payload::apk::Scheme::V3, source };
    let failure = Failure::new(ErrorCode::PayloadVerificationFailed, "verify the APK", &error);
    assert_eq!(failure.message, format!("verify the APK: v3 signer: {said}"));
}
