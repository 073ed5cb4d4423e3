use super::make::{apex, archive};
use super::*;
use crate::apk::testing;
use crate::apk::{Scheme, SignerError};
use crate::avb::make::testing::key;
use crate::avb::make::{SigningKey, Statement, image_with_hashtree};
use crate::metadata;

fn filesystem() -> Vec<u8> {
    (0..200 * 4096).map(|i: usize| (i ^ i >> 9).to_le_bytes()[0]).collect()
}

fn sample() -> Vec<u8> {
    apex("com.example.a", 7, filesystem(), &[1; 32], key()).unwrap()
}

fn manifest_bytes(name: &str, version: i64) -> Vec<u8> {
    ApexManifest { name: name.into(), version }.encode_to_vec()
}

#[test]
fn what_is_made_is_read_and_verifies() {
    let bytes = sample();
    let apex = Apex::open(bytes.clone()).unwrap();
    assert_eq!((apex.name.as_str(), apex.version), ("com.example.a", 7));
    assert_eq!(apex.public_key, key().public_key());
    assert!(apex.image_offset.is_multiple_of(4096));
    assert_eq!(apex.hashtree.image_size, 200 * 4096);
    apex.verify().unwrap();
    assert!(matches!(apex.container_signer(), Err(VerifyError::Block(_))), "nobody signed the archive");
    assert_eq!(apex.archive().entries().len(), 3);
}

/// Section 4: the fields of the manifest have the published numbers.
#[test]
fn the_manifest_is_the_published_message() {
    let bytes = manifest_bytes("ab", 300);
    assert_eq!(bytes, [0x0a, 2, b'a', b'b', 0x10, 0xac, 0x02]);
    // Fields that are not known here: 5, a string; 6, a bool.
    let more = [&bytes[..], &[0x2a, 1, b'x', 0x30, 1]].concat();
    assert_eq!(manifest(&more).unwrap(), ApexManifest { name: "ab".into(), version: 300 });
}

/// Section 1: name, version, key and root digest are what the metadata partition says.
#[test]
fn metadata_pins_the_component() {
    let apex = Apex::open(sample()).unwrap();
    let entry = apex.metadata("microdroid-apex-0");
    assert_eq!((entry.name.as_str(), entry.partition_name.as_str()), ("com.example.a", "microdroid-apex-0"));
    assert_eq!((entry.manifest_name.as_str(), entry.manifest_version), ("com.example.a", 7));
    assert_eq!(entry.root_digest, apex.root_digest);
    let written = metadata::Metadata::for_apk(vec![entry.clone()], metadata::config_path("a"));
    let read = metadata::decode(&metadata::encode(&written)).unwrap();
    assert!(apex.matches(&read.apexes[0]));
    assert!(apex.matches(&ApexPayload::default()), "nothing is pinned");
    for other in [
        ApexPayload { manifest_name: "b".into(), ..entry.clone() },
        ApexPayload { manifest_version: 8, ..entry.clone() },
        ApexPayload { public_key: vec![1], ..entry.clone() },
        ApexPayload { root_digest: vec![0; 32], ..entry },
    ] {
        assert!(!apex.matches(&other), "{other:?}");
    }
}

#[test]
fn a_signed_container_has_a_signer() {
    let signed = testing::signed(&sample(), &[Scheme::V3]);
    let apex = Apex::open(signed.clone()).unwrap();
    assert_eq!(apex.container_signer().unwrap().certificate, testing::key().certificate());
    let mut changed = signed;
    changed[usize::try_from(apex.image_offset).unwrap()] ^= 1;
    let apex = Apex::open(changed).unwrap();
    let found = apex.container_signer();
    assert!(matches!(found, Err(VerifyError::Signer { source: SignerError::Digest { .. }, .. })));
    assert!(apex.verify().is_err());
}

#[test]
fn changed_images_do_not_verify() {
    let bytes = sample();
    let at = usize::try_from(Apex::open(bytes.clone()).unwrap().image_offset).unwrap();
    let verify = |offset: usize| {
        let mut changed = bytes.clone();
        changed[at + offset] ^= 1;
        Apex::open(changed).and_then(|apex| apex.verify())
    };
    let in_tree = 200 * 4096;
    let in_vbmeta = in_tree + 3 * 4096;
    assert!(matches!(verify(5), Err(ApexError::VbMeta(AvbError::Digest { .. }))));
    assert!(matches!(verify(in_tree), Err(ApexError::VbMeta(AvbError::Tree { .. }))));
    assert!(matches!(verify(in_vbmeta + 256), Err(ApexError::VbMeta(AvbError::Hash))));
    assert!(matches!(verify(in_vbmeta + 300), Err(ApexError::VbMeta(AvbError::Signature))));
}

#[test]
fn archives_that_are_no_components_are_refused_by_what_is_wrong() {
    let image = image_with_hashtree(vec![0; 8192], b"", "a", key());
    let pubkey = key().public_key();
    let manifest = manifest_bytes("a", 1);
    let open = |entries: &[(&str, &[u8])]| Apex::open(archive(entries).unwrap()).map(drop).unwrap_err();
    let with = |manifest: &[u8], pubkey: &[u8], image: &[u8]| {
        open(&[(MANIFEST, manifest), (PUBLIC_KEY, pubkey), (PAYLOAD, image)])
    };

    assert!(matches!(open(&[("original_apex", b"x")]), ApexError::Compressed));
    let missing = open(&[(MANIFEST, &manifest), (PAYLOAD, &image)]);
    assert!(matches!(missing, ApexError::Archive(ApkError::NotFound(name)) if name == PUBLIC_KEY));
    for name in ["", "..", "../a", "a b", "a/b", "ä"] {
        let found = with(&manifest_bytes(name, 1), &pubkey, &image);
        assert!(matches!(&found, ApexError::Name(named) if named == name), "{found:?}");
    }
    assert!(matches!(with(&manifest_bytes("a", -1), &pubkey, &image), ApexError::Version(-1)));
    assert!(matches!(with(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &pubkey, &image), ApexError::Manifest(_)));
    let long = vec![0; 4097];
    assert!(matches!(with(&manifest, &long, &image), ApexError::Archive(ApkError::TooLarge { .. })));

    let other = SigningKey::from_seed([2; 32], 2048).unwrap();
    assert!(matches!(with(&manifest, &other.public_key(), &image), ApexError::Key));
    assert!(matches!(with(&manifest, &pubkey, &[]), ApexError::VbMeta(AvbError::NoFooter)));
    let statement =
        |flags| Statement { flags, ..Statement::default() }.append_to(vec![0; 4096], 4096, Some(key()));
    assert!(matches!(with(&manifest, &pubkey, &statement(0)), ApexError::NoHashtree));
    assert!(matches!(with(&manifest, &pubkey, &statement(1)), ApexError::VbMeta(AvbError::Flags(1))));
}

#[test]
fn deflated_images_are_refused() {
    use std::io::{Cursor, Write};
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in [(MANIFEST, manifest_bytes("a", 1)), (PUBLIC_KEY, key().public_key())] {
        let stored =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        writer.start_file(name, stored).unwrap();
        writer.write_all(&bytes).unwrap();
    }
    writer.start_file(PAYLOAD, zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(&[0; 8192]).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    assert!(matches!(Apex::open(bytes), Err(ApexError::NotStored(PAYLOAD))));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = apex("a", 1, vec![3; 4096], b"s", key()).unwrap();
    Apex::open(bytes.clone()).unwrap().verify().unwrap();
    for len in 0..bytes.len() {
        assert!(Apex::open(bytes[..len].to_vec()).is_err(), "{len} bytes");
    }
}
