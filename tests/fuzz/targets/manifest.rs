#![no_main]
//! Binary manifests; what is read and written again is read the same.

use libfuzzer_sys::fuzz_target;
use payload::apk::Manifest;
use payload::apk::manifest::Details;

fuzz_target!(|data: &[u8]| {
    let details = Details::parse(data);
    let Ok(manifest) = Manifest::parse(data) else { return assert!(details.is_err()) };
    if let Ok(details) = details {
        assert_eq!(details.manifest, manifest);
    }
    let again = manifest.encode("1").expect("what was read can be written");
    assert_eq!(Manifest::parse(&again).expect("what was written can be read"), manifest);
});
