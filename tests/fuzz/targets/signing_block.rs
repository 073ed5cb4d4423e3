#![no_main]
//! Signatures: the input is the pairs of a signing block inside an archive that is otherwise well.

use libfuzzer_sys::fuzz_target;
use payload::apk::{SDK, verify, verify_signature};
use payload::idsig::Idsig;

fuzz_target!(|data: &[u8]| {
    let archive = fuzz::archive::with_pairs(data);
    let verified = verify(&archive, SDK).is_ok();
    // Content is checked after the signature: what is believed in the end was believed before.
    assert!(!verified || verify_signature(&archive, SDK).is_ok());
    let _ = Idsig::create(&archive, &[]);
});
