//! Kernels with AVB footers made by the reference tool, and their verdicts (KAPSEL_TEST_DATA).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use payload::ReadAt;
use payload::avb::boot::{BootError, InitrdKind, VerifiedBoot, verify_boot};
use payload::avb::{AvbError, VbMeta, verify_footer};

/// The images' directory, or a notice that there is none.
fn images(test: &str) -> Option<PathBuf> {
    let root = std::env::var_os("KAPSEL_TEST_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let dir = root.join("avb");
    if dir.join("expected.json").is_file() {
        return Some(dir);
    }
    let notice = format!("kapsel-skip: {test}: no images in {}\n", dir.display());
    std::io::stderr().write_all(notice.as_bytes()).unwrap();
    None
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Judge {
    dir: PathBuf,
    key: Vec<u8>,
    /// The stored rollback index.
    stored: u64,
}

impl Judge {
    fn new(dir: &Path, key: &str) -> Self {
        Self { dir: dir.into(), key: std::fs::read(dir.join(key)).unwrap(), stored: 5 }
    }

    fn judge(&self, image: &str, initrd: Option<&str>) -> Result<VerifiedBoot, BootError> {
        let image = File::open(self.dir.join(image)).unwrap();
        let initrd = initrd.map(|name| File::open(self.dir.join(name)).unwrap());
        verify_boot(&image, initrd.as_ref().map(|it| it as &dyn ReadAt), &self.key, self.stored)
    }
}

const NORMAL: Option<&str> = Some("initrd_normal.bin");
const DEBUG: Option<&str> = Some("initrd_debug.bin");

/// Every image of the list gets the verdict it has there, for its reason.
#[test]
fn verdicts_are_the_expected_ones() {
    let Some(dir) = images("verdicts_are_the_expected_ones") else { return };
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
    let cases = expected["cases"].as_object().unwrap();
    assert!(cases.len() >= 14);
    let judge = Judge::new(&dir, "key4096.avbpubkey");
    for (image, case) in cases {
        let verdict = case["verdict"].as_str().unwrap();
        let found = judge.judge(image, NORMAL);
        match verdict {
            "ok" | "ok with initrd_normal.bin, refused with initrd_debug.bin: no such descriptor" => {
                accepted(&judge, image, &found.unwrap_or_else(|e| panic!("{image}: {e:?}")), &expected);
            }
            "ok without an initrd, refused with one" => {
                assert_eq!(judge.judge(image, None).unwrap().initrd, None, "{image}");
                assert!(matches!(found, Err(BootError::UnknownInitrd)), "{image}: {found:?}");
            }
            "wrong key" => assert!(matches!(found, Err(BootError::Key)), "{image}: {found:?}"),
            "wrong key (ok with key2048.avbpubkey)" => {
                assert!(matches!(found, Err(BootError::Key)), "{image}: {found:?}");
                Judge::new(&dir, "key2048.avbpubkey").judge(image, NORMAL).unwrap();
            }
            _ => {
                let error = found.expect_err(image);
                assert!(is_refusal(verdict, &error), "{image}: {error:?} instead of {verdict:?}");
            }
        }
    }
}

/// What is said about an image that may run, and which initrds it may run with.
fn accepted(judge: &Judge, image: &str, found: &VerifiedBoot, expected: &serde_json::Value) {
    let case = &expected["cases"][image];
    assert_eq!(hex(&found.kernel_digest), expected["kernel_digest"].as_str().unwrap(), "{image}");
    let (kind, digest) = found.initrd.clone().unwrap();
    assert_eq!(
        (kind, hex(&digest).as_str()),
        (InitrdKind::Normal, expected["initrd_normal_digest"].as_str().unwrap())
    );
    assert!(matches!(judge.judge(image, None), Err(BootError::NoInitrd)), "{image}");
    assert!(matches!(judge.judge(image, Some("initrd_extra.bin")), Err(BootError::UnknownInitrd)), "{image}");
    match (judge.judge(image, DEBUG), case["verdict"] == "ok") {
        (Ok(debug), true) => {
            let (kind, digest) = debug.initrd.unwrap();
            assert_eq!(kind, InitrdKind::Debug, "{image}");
            assert_eq!(hex(&digest), expected["initrd_debug_digest"].as_str().unwrap(), "{image}");
        }
        (Err(BootError::UnknownInitrd), false) => {}
        (other, _) => panic!("{image}: {other:?}"),
    }
    if let Some(index) = case["rollback_index"].as_u64() {
        assert_eq!(found.rollback_index, index, "{image}");
    }
    let vbmeta: VbMeta = verify_footer(&File::open(judge.dir.join(image)).unwrap()).unwrap().1;
    if let Some(algorithm) = case["algorithm"].as_str() {
        assert_eq!(vbmeta.algorithm.to_string(), algorithm, "{image}");
    }
    for (key, value) in case["properties"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap().as_bytes().to_vec();
        assert!(found.properties.contains(&(key.clone(), value)), "{image}: {key}");
    }
}

fn is_refusal(verdict: &str, error: &BootError) -> bool {
    match verdict {
        "rollback index 4 below stored 5" => matches!(error, BootError::Rollback { found: 4, stored: 5 }),
        "refused: unknown hash descriptor initrd_extra" => {
            matches!(error, BootError::UnknownPartition(name) if name == "initrd_extra")
        }
        "refused: algorithm NONE" => matches!(error, BootError::VbMeta(AvbError::Unsigned)),
        "refused: kernel digest" => {
            matches!(error, BootError::Kernel(AvbError::Digest { partition }) if partition == "boot")
        }
        "refused: signature" => matches!(error, BootError::VbMeta(AvbError::Signature)),
        "refused: vbmeta hash" => matches!(error, BootError::VbMeta(AvbError::Hash)),
        "refused: no AVB footer" => matches!(error, BootError::VbMeta(AvbError::NoFooter)),
        "refused: footer offset outside the image" => {
            matches!(error, BootError::VbMeta(AvbError::Malformed { structure: "footer", .. }))
        }
        other => panic!("a verdict this test does not know: {other}"),
    }
}
