#![no_main]
//! Binary manifests; what is read and written again is read the same.

use libfuzzer_sys::fuzz_target;
use payload::apk::Manifest;

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = Manifest::parse(data) else { return };
    let again = manifest.encode("1").expect("what was read can be written");
    assert_eq!(Manifest::parse(&again).expect("what was written can be read"), manifest);
});
