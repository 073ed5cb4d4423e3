#![no_main]
//! Hash trees: the input is the idsig of one of two archives.

use fuzz::archive::{SIGNED, UNSIGNED};
use libfuzzer_sys::fuzz_target;
use payload::ReadAt;
use payload::idsig::{Idsig, IdsigError};
use payload::merkle::VerifiedReader;

fuzz_target!(|data: &[u8]| {
    let bytes = data.to_vec();
    let Ok(idsig) = Idsig::read(&bytes) else { return };
    assert!(idsig.tree_offset.checked_add(idsig.tree_len).is_some_and(|end| end <= bytes.len() as u64));
    assert_eq!(Idsig::read_file(&bytes).is_ok(), idsig.file_len() == bytes.len() as u64);
    assert!(idsig.padded_salt().len().is_multiple_of(64));
    compare(&idsig, &bytes, &SIGNED);
    compare(&idsig, &bytes, &UNSIGNED);
});

/// Whole or block by block, the verdict is the same, since each block of the tree is on the way to some block.
fn compare(idsig: &Idsig, bytes: &[u8], apk: &Vec<u8>) {
    let _ = idsig.check_apk(apk);
    assert!(idsig.verify_signature(apk).is_err() || idsig.check_apk(apk).is_ok());
    let bytes = bytes.to_vec();
    let verified = idsig.verify(&bytes, apk);
    let other_apk = matches!(verified, Err(IdsigError::OtherApk { .. }));
    let Ok(verifier) = idsig.block_verifier(&bytes, apk.len() as u64) else {
        assert!(verified.is_err());
        return;
    };
    let blocks = apk.chunks(4096).zip(0..).all(|(block, index)| verifier.verify(index, block).is_ok());
    assert!(other_apk || verified.is_ok() == blocks);
    let mut read = vec![0; apk.len()];
    let reader = VerifiedReader::new(apk, verifier);
    assert_eq!(reader.read_exact_at(&mut read, 0).is_ok(), blocks);
    assert!(if blocks { read == *apk } else { read.iter().all(|byte| *byte == 0) });
}
