#![no_main]
//! Signatures: the input is the pairs of a signing block inside an archive that is otherwise well.

use libfuzzer_sys::fuzz_target;
use payload::apk::verify::report;
use payload::apk::{SDK, verify, verify_all, verify_signature};
use payload::idsig::Idsig;

fuzz_target!(|data: &[u8]| {
    let archive = fuzz::archive::with_pairs(data);
    let verified = verify(&archive, SDK).is_ok();
    // Content is checked after the signature: what is believed in the end was believed before.
    assert!(!verified || verify_signature(&archive, SDK).is_ok());
    // A VM's signer is one of all of them, and a report gives the scheme that counts the same verdict.
    let all = verify_all(&archive, SDK);
    assert!(!verified || all.is_ok());
    if let (Ok(all), Ok(report)) = (all, report(&archive, SDK)) {
        let counts = report.schemes.iter().find(|scheme| scheme.scheme == all.scheme).expect("it was found");
        assert!(counts.result.is_ok());
    }
    let _ = Idsig::create(&archive, &[]);
});
