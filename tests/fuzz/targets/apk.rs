#![no_main]
//! Archives: their structure, their entries, their signature.

use libfuzzer_sys::fuzz_target;
use payload::apk::{Apk, Manifest, SDK, manifest, verify, verify_all, zip};

fuzz_target!(|data: &[u8]| {
    let bytes = data.to_vec();
    if let Ok(apk) = Apk::open(bytes.clone()) {
        for entry in apk.entries().iter().take(8) {
            let _ = apk.data_start(entry);
            if let Ok(content) = apk.read(&entry.name, 1 << 16) {
                assert!(content.len() <= 1 << 16);
            }
        }
        if let Ok(text) = apk.read(manifest::PATH, manifest::MAX_LEN) {
            let _ = Manifest::parse(&text);
        }
    }
    if let Ok(len) = zip::archive_len(&bytes, bytes.len() as u64) {
        assert!(len <= bytes.len() as u64);
    }
    assert!(verify(&bytes, SDK).is_err() || verify_all(&bytes, SDK).is_ok());
});
