#![no_main]
//! Hash trees: the input is the idsig of a fixed archive.

use libfuzzer_sys::fuzz_target;
use payload::idsig::Idsig;

fuzz_target!(|data: &[u8]| {
    let bytes = data.to_vec();
    let Ok(idsig) = Idsig::read(&bytes) else { return };
    assert!(idsig.tree_offset.checked_add(idsig.tree_len).is_some_and(|end| end <= bytes.len() as u64));
    let _ = idsig.check_apk(&*fuzz::archive::SIGNED);
    let _ = idsig.verify(&bytes, &*fuzz::archive::SIGNED);
    assert!(idsig.padded_salt().len().is_multiple_of(64));
});
