//! A small signed archive, the same for every run, and its parts.

use std::io::Cursor;
use std::sync::LazyLock;

use payload::apk::Scheme;
use payload::apk::manifest::Manifest;
use payload::apk::pack::Packer;
use payload::apk::sign::{SigningKey, sign};
use payload::apk::signing_block::SigningBlock;
use payload::apk::zip::ZipSections;

/// A P-256 key as SEC 1 writes it, the scalar 1: for tests and nothing else.
pub static KEY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut key = vec![0x30, 49, 2, 1, 1, 4, 32];
    key.resize(key.len() + 31, 0);
    key.push(1);
    // [0] EXPLICIT OBJECT IDENTIFIER prime256v1.
    key.extend([0xa0, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]);
    key
});

/// Bytes of a signing block around its pairs: the size before them, and size and magic behind.
const BLOCK_FRAME: usize = 8 + 24;

/// An archive of a few hundred bytes, signed with v2 and v3.
pub static SIGNED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let manifest = Manifest { package: "com.example.fuzz".into(), version_code: 1 };
    let mut packer = Packer::new(Cursor::new(Vec::new()), &manifest, "1").expect("a manifest");
    packer.add("assets/vm_config.json", b"{}").expect("an entry");
    packer.add("assets/a", &[b'a'; 300]).expect("an entry");
    let unsigned = packer.finish().expect("an archive").into_inner();
    let key = SigningKey::from_der(&KEY).expect("a good key");
    let mut signed = Vec::new();
    sign(&unsigned, &key, &[Scheme::V2, Scheme::V3], &mut signed).expect("a signature");
    signed
});

/// An archive that nobody signed, the same for every run, whose hash tree has two levels.
pub static UNSIGNED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let manifest = Manifest { package: "com.example.fuzz".into(), version_code: 1 };
    let mut packer = Packer::new(Cursor::new(Vec::new()), &manifest, "1").expect("a manifest");
    packer.add("assets/a", &[b'a'; 129 * 4096]).expect("an entry");
    packer.finish().expect("an archive").into_inner()
});

/// Where the signing block of [`SIGNED`] begins, and where its central directory does.
fn block_of_signed() -> (usize, usize) {
    let sections = ZipSections::read(&*SIGNED).expect("an archive");
    let block = SigningBlock::read(&*SIGNED, &sections).expect("a signing block");
    (
        usize::try_from(block.start).expect("small"),
        usize::try_from(sections.central_directory).expect("small"),
    )
}

/// The pairs in the signing block of [`SIGNED`].
pub fn pairs() -> Vec<u8> {
    let (start, end) = block_of_signed();
    SIGNED[start + 8..end - 24].to_vec()
}

/// [`SIGNED`] with other pairs in its signing block, all sizes and offsets right.
pub fn with_pairs(pairs: &[u8]) -> Vec<u8> {
    let (start, end) = block_of_signed();
    let size = (pairs.len() + 24) as u64;
    let mut archive = SIGNED[..start].to_vec();
    archive.extend_from_slice(&size.to_le_bytes());
    archive.extend_from_slice(pairs);
    archive.extend_from_slice(&size.to_le_bytes());
    archive.extend_from_slice(b"APK Sig Block 42");
    let directory = u32::try_from(archive.len()).expect("small");
    assert_eq!(archive.len(), start + pairs.len() + BLOCK_FRAME);
    archive.extend_from_slice(&SIGNED[end..]);
    // The end record is the last 22 bytes; its offset of the central directory is at 16.
    let at = archive.len() - 22 + 16;
    archive[at..at + 4].copy_from_slice(&directory.to_le_bytes());
    archive
}
