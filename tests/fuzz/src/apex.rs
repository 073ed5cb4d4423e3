//! A shared component and the key that signed it, the same for every run, each below the longest input there is.

use std::sync::LazyLock;

use payload::apex::{MANIFEST, PAYLOAD, PUBLIC_KEY, make};
use payload::avb::Footer;
use payload::avb::make::{SigningKey, image_with_hashtree};

/// The key.
pub static KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::from_seed([1; 32], 2048).expect("a size there is"));

/// A manifest: called `a`, version 1.
pub const MANIFEST_BYTES: &[u8] = &[0x0a, 1, b'a', 0x10, 1];

/// A signed image of 8 KiB.
pub fn image() -> Vec<u8> {
    image_with_hashtree(vec![1; 4096], b"salt", "a", &KEY)
}

/// A whole component, but for the filesystem.
pub fn component() -> Vec<u8> {
    let image = image();
    let mut footer = Footer::read(&image).expect("a footer");
    let mut short = footer.read_vbmeta(&image).expect("a vbmeta");
    (footer.original_image_size, footer.vbmeta_offset) = (0, 0);
    short.extend(footer.to_bytes());
    let entries = [(MANIFEST, MANIFEST_BYTES), (PUBLIC_KEY, &KEY.public_key()), (PAYLOAD, &short)];
    make::archive(&entries).expect("a small archive")
}
