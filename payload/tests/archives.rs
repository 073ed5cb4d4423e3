//! Archives signed by the reference signer, and its verdicts on them (KAPSEL_TEST_DATA).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use payload::apk::{self, SDK, Scheme, SignerError, VerifyError};
use sha2::{Digest, Sha256};

/// The archives' directory, or a notice that there is none.
fn archives(test: &str) -> Option<PathBuf> {
    let root = std::env::var_os("KAPSEL_TEST_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let dir = root.join("apk");
    if dir.join("expected.json").is_file() {
        return Some(dir);
    }
    let notice = format!("kapsel-skip: {test}: no archives in {}\n", dir.display());
    std::io::stderr().write_all(notice.as_bytes()).unwrap();
    None
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Section 4: each archive gets the reference signer's verdict at SDK 35, for its reason.
#[test]
fn verdicts_are_the_reference_ones() {
    let Some(dir) = archives("verdicts_are_the_reference_ones") else { return };
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 6);
    for (name, verdict) in expected {
        let found = apk::verify(&File::open(dir.join(name)).unwrap(), SDK);
        if verdict["result"] == "accept" {
            let signer = found.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(signer.scheme.to_string(), verdict["scheme"].as_str().unwrap(), "{name}");
            assert_eq!(
                hex(&Sha256::digest(&signer.certificate)),
                verdict["cert"].as_str().unwrap(),
                "{name}"
            );
        } else {
            let why = verdict["why"].as_str().unwrap();
            match found {
                Err(VerifyError::Stripped { signed: Scheme::V2, missing: Scheme::V3 }) => {
                    assert_eq!(why, "v2:V2_SIG_MISSING_APK_SIG_REFERENCED", "{name}");
                }
                Err(VerifyError::Stripped { signed: Scheme::V3, missing: Scheme::V31 }) => {
                    assert_eq!(why, "v3:V31_BLOCK_MISSING", "{name}");
                }
                other => panic!("{name}: {other:?} instead of {why}"),
            }
        }
    }
}

/// The rotated archive: v3.1 hands over to a newer key than v3 names.
#[test]
fn rotation_is_followed_back_to_the_first_key() {
    let Some(dir) = archives("rotation_is_followed_back_to_the_first_key") else { return };
    let file = File::open(dir.join("v31-rsa-2048_2-tgt-33-1-tgt-28.apk")).unwrap();
    let rotated = apk::verify(&file, SDK).unwrap();
    assert_eq!(rotated.scheme, Scheme::V31);
    assert_eq!(rotated.lineage.len(), 2);
    assert_eq!(rotated.lineage.last(), Some(&rotated.certificate));
    // Its v3.1 signer is for previews of SDK 33: from 32 on, but not for 32 as it was released.
    for sdk in [24, 31, 32] {
        let before = apk::verify(&file, sdk).unwrap();
        assert_eq!(before.scheme, Scheme::V3);
        assert_eq!(before.certificate, rotated.lineage[0]);
    }
    let after = apk::verify(&file, 33).unwrap();
    assert_eq!((after.scheme, after.certificate), (Scheme::V31, rotated.certificate));
    assert!(matches!(
        apk::verify(&file, 23),
        Err(VerifyError::SignerCount { scheme: Scheme::V3, found: 0, sdk: 23 })
    ));
}

/// No archive survives a change of any of its bytes that are signed, or of its signature.
#[test]
fn every_damaged_byte_is_noticed() {
    let Some(dir) = archives("every_damaged_byte_is_noticed") else { return };
    let bytes = std::fs::read(dir.join("v3-only-with-ecdsa-sha256-p256.apk")).unwrap();
    let intact = apk::verify(&bytes, SDK).unwrap();
    let mut ignored = 0;
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        match apk::verify(&damaged, SDK) {
            // Only the padding of the signing block may change, which nobody signs.
            Ok(signer) => {
                assert_eq!(signer, intact);
                ignored += 1;
            }
            Err(VerifyError::Signer { source: SignerError::Digest { computed, expected }, .. }) => {
                assert_ne!(computed, expected);
            }
            Err(_) => {}
        }
    }
    assert!(ignored * 7 < 4096, "{ignored} changes were not noticed");
}
