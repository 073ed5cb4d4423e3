#![no_main]
//! Metadata partitions; what is decoded and encoded again is decoded the same.

use libfuzzer_sys::fuzz_target;
use payload::metadata::{decode, encode};

fuzz_target!(|data: &[u8]| {
    let Ok(metadata) = decode(data) else { return };
    assert_eq!(decode(&encode(&metadata)).expect("what was encoded can be decoded"), metadata);
});
