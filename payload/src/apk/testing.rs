//! Archives for the tests of this crate.

use std::io::Cursor;

use super::manifest::Manifest;
use super::pack::Packer;
use super::sign::{SigningKey, sign};
use super::verify::Scheme;

/// A key for tests and nothing else: the scalar 1.
pub(crate) fn key() -> SigningKey {
    let mut scalar = [0; 32];
    scalar[31] = 1;
    SigningKey::new(p256::ecdsa::SigningKey::from_slice(&scalar).unwrap())
}

/// An unsigned archive with a manifest and one entry of these bytes.
pub(crate) fn pack(content: &[u8]) -> Vec<u8> {
    let manifest = Manifest { package: "com.example.test".into(), version_code: 3 };
    let mut packer = Packer::new(Cursor::new(Vec::new()), &manifest, "1.0").unwrap();
    packer.add("assets/content", content).unwrap();
    packer.finish().unwrap().into_inner()
}

/// `apk`, signed with [`key`].
pub(crate) fn signed(apk: &[u8], schemes: &[Scheme]) -> Vec<u8> {
    let mut out = Vec::new();
    sign(&apk, &key(), schemes, &mut out).unwrap();
    out
}
