//! Signed APKs for tests.

use std::io::Cursor;
use std::sync::OnceLock;

use payload::apk::Scheme;
use payload::apk::manifest::Manifest;
use payload::apk::pack::Packer;
use payload::apk::sign::{SigningKey, sign};
use payload::idsig::Idsig;

/// Where the payload's library lies in an APK.
pub const LIBRARY: &str = "lib/x86_64/libpayload.so";
/// Where its configuration lies.
pub const CONFIG: &str = "assets/vm_config.json";
/// A configuration that runs [`LIBRARY`].
pub const RUN_LIBRARY: &str = r#"{"task": {"type": "microdroid_launcher", "command": "libpayload.so"}}"#;

/// An APK of these entries, signed with the v3 scheme by a key of this process.
///
/// # Panics
/// When it cannot be made.
pub fn signed(entries: &[(&str, &[u8])]) -> Vec<u8> {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    let key = KEY.get_or_init(|| SigningKey::generate().expect("random numbers"));
    let mut apk = Vec::new();
    sign(&unsigned(entries), key, &[Scheme::V3], &mut apk).expect("sign an APK");
    apk
}

/// An APK of these entries without a signature.
///
/// # Panics
/// When it cannot be made.
pub fn unsigned(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let manifest = Manifest { package: "com.example.test".to_owned(), version_code: 1 };
    let mut packer = Packer::new(Cursor::new(Vec::new()), &manifest, "1").expect("begin an APK");
    for (name, content) in entries {
        packer.add(name, content).expect("add to an APK");
    }
    packer.finish().expect("finish an APK").into_inner()
}

/// A signed APK whose payload is `library`, with more assets.
pub fn with_library(library: &[u8], assets: &[(&str, &[u8])]) -> Vec<u8> {
    let mut entries = vec![(CONFIG, RUN_LIBRARY.as_bytes()), (LIBRARY, library)];
    entries.extend_from_slice(assets);
    signed(&entries)
}

/// The unsigned idsig of an APK.
///
/// # Panics
/// When it is not signed.
pub fn idsig(apk: &[u8]) -> Vec<u8> {
    let (idsig, tree) = Idsig::create(&apk.to_vec(), &[]).expect("a signed APK");
    idsig.to_bytes(&tree)
}
