#![no_main]
//! Verified Boot: the input is a vbmeta, an image with a footer, and a public key.

use libfuzzer_sys::fuzz_target;
use payload::avb::boot::verify_boot;
use payload::avb::{Descriptor, PublicKey, VbMeta, verify_footer};

fuzz_target!(|data: &[u8]| {
    let image = data.to_vec();
    let _ = verify_footer(&image);
    let _ = PublicKey::parse(data);
    let Ok(vbmeta) = VbMeta::read_unverified(data) else { return };
    // Nothing is made up: what is told is told by bytes of the input.
    assert!(vbmeta.descriptors.len() <= data.len() / 16);
    for descriptor in &vbmeta.descriptors {
        match descriptor {
            Descriptor::Hash(hash) => drop(hash.verify(&image)),
            Descriptor::Hashtree(tree) => {
                let checked = tree.check(data.len() as u64).is_ok();
                assert!(checked || tree.verify(&image).is_err());
            }
            _ => {}
        }
    }
    let _ = verify_boot(&image, Some(&image), &vbmeta.public_key, 0);
});
