#![no_main]
//! Shared components: the input is the whole archive, or the image in an archive whose manifest and key are fixed.

use std::sync::LazyLock;

use fuzz::apex::{KEY, MANIFEST_BYTES};
use libfuzzer_sys::fuzz_target;
use payload::apex::{Apex, MANIFEST, PAYLOAD, PUBLIC_KEY, make};
use payload::avb::{Descriptor, Footer, VbMeta};

static PUBLIC: LazyLock<Vec<u8>> = LazyLock::new(|| KEY.public_key());

fuzz_target!(|data: &[u8]| {
    open(data.to_vec());
    let Ok(archive) = make::archive(&[(MANIFEST, MANIFEST_BYTES), (PUBLIC_KEY, &PUBLIC), (PAYLOAD, data)])
    else {
        return;
    };
    open(archive);
    // Behind the signature, which no mutation keeps.
    let image = data.to_vec();
    let Ok(footer) = Footer::read(&image) else { return };
    let Ok(vbmeta) = footer.read_vbmeta(&image).and_then(|bytes| VbMeta::read_unverified(&bytes)) else {
        return;
    };
    for descriptor in &vbmeta.descriptors {
        if let Descriptor::Hashtree(tree) = descriptor {
            let _ = tree.verify(&image);
        }
    }
});

fn open(archive: Vec<u8>) {
    let len = archive.len() as u64;
    let Ok(apex) = Apex::open(archive) else { return };
    assert!(apex.image_offset + apex.image_len <= len);
    assert!(apex.hashtree.tree_offset + apex.hashtree.tree_size <= apex.image_len);
    assert!(apex.matches(&apex.metadata("microdroid-apex-0")));
    let _ = apex.verify();
}
