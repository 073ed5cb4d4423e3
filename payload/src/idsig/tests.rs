use super::*;
use crate::apk::Scheme;
use crate::apk::testing::{pack, signed};

fn apk() -> Vec<u8> {
    signed(&pack(&vec![0x5a; 600_000]), &[Scheme::V3])
}

fn idsig_of(apk: &[u8], salt: &[u8]) -> (Idsig, Vec<u8>) {
    let (idsig, tree) = Idsig::create(&apk, salt).unwrap();
    let bytes = idsig.to_bytes(&tree);
    (idsig, bytes)
}

#[test]
fn what_is_made_is_read_and_verifies() {
    let apk = apk();
    for salt in [&b""[..], b"salt", &[7; 32], &[9; 64]] {
        let (made, mut bytes) = idsig_of(&apk, salt);
        bytes.resize(bytes.len().next_multiple_of(4096) + 4096, 0);
        let read = Idsig::read(&bytes).unwrap();
        assert_eq!(read, made);
        read.verify(&bytes, &apk).unwrap();
        assert_eq!(read.padded_salt().len(), if salt.is_empty() { 0 } else { 64 });
        assert!(read.padded_salt().starts_with(salt));
        let mut written = Vec::new();
        made.write(&Tree::build(&apk, &made.padded_salt()).unwrap(), &mut written).unwrap();
        assert_eq!(written, bytes[..written.len()]);
    }
    assert!(matches!(Idsig::create(&apk, &[0; 65]), Err(IdsigError::Malformed("salt"))));
}

/// Section 3: sizes and the place of each field, for no salt.
#[test]
fn the_header_is_the_published_one() {
    let (idsig, bytes) = idsig_of(&apk(), b"");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(4), word(8), bytes[12], word(13), word(17)), (2, 45, 1, 12, 0, 32));
    assert_eq!(bytes[21..53], idsig.root_hash);
}

#[test]
fn every_truncation_is_an_error() {
    let apk = apk();
    let (_, bytes) = idsig_of(&apk, b"salt");
    for len in (0..200).chain(bytes.len() - 200..bytes.len()) {
        assert!(Idsig::read(&bytes[..len].to_vec()).is_err(), "{len} bytes");
    }
}

/// Every field that is a length, set to 2^32 - 1 and its neighbours.
#[test]
fn hostile_lengths_are_refused() {
    let apk = apk();
    let (idsig, bytes) = idsig_of(&apk, b"salt");
    let header = usize::try_from(idsig.tree_offset).unwrap();
    let mut read = 0;
    for at in 0..header - 3 {
        for len in [u32::MAX, u32::MAX - 3, 0x8000_0000, 0x7fff_ffff] {
            let mut hostile = bytes.clone();
            hostile[at..at + 4].copy_from_slice(&len.to_le_bytes());
            // What is opaque (root, salt, digest, algorithm) may be anything, and then belongs to no archive.
            if let Ok(found) = Idsig::read(&hostile) {
                assert_ne!(found, idsig);
                assert!(found.verify(&hostile, &apk).is_err() || found.signing != idsig.signing, "byte {at}");
                read += 1;
            }
        }
    }
    assert!(read < 4 * header, "no length was refused");
    let mut long = bytes[..8].to_vec();
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Idsig::read(&long), Err(IdsigError::Malformed("hashing info"))));
}

#[test]
fn what_is_not_supported_is_named() {
    let apk = apk();
    let (_, bytes) = idsig_of(&apk, b"");
    for (at, expected) in [(0, "version"), (8, "hash algorithm"), (12, "block size 2 to the power of")] {
        let mut other = bytes.clone();
        other[at] ^= 1;
        match Idsig::read(&other) {
            Err(IdsigError::Unsupported { what, .. }) => assert_eq!(what, expected),
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn another_archive_and_damage_are_noticed() {
    let apk = apk();
    let (idsig, bytes) = idsig_of(&apk, b"");
    let other = signed(&pack(b"other"), &[Scheme::V3]);
    assert!(matches!(idsig.check_apk(&other), Err(IdsigError::OtherApk { .. })));
    assert!(matches!(Idsig::create(&pack(b""), b""), Err(IdsigError::ApkDigest(_))));

    // The archive changed where its signing block does not tell.
    let mut changed = apk.clone();
    changed[300_000] ^= 1;
    idsig.check_apk(&changed).unwrap();
    assert!(matches!(idsig.verify(&bytes, &changed), Err(IdsigError::Root)));

    let mut damaged = bytes.clone();
    let last = damaged.len() - 4096;
    damaged[last] ^= 1;
    assert!(matches!(idsig.verify(&damaged, &apk), Err(IdsigError::Tree)));

    let shorter = Idsig { tree_len: idsig.tree_len - 4096, ..idsig };
    assert!(matches!(shorter.check_apk(&apk), Err(IdsigError::TreeLen { .. })));
}

/// Later versions of the scheme put more behind the signing info; it is kept and changes nothing.
#[test]
fn more_signing_info_is_kept() {
    let apk = apk();
    let (mut idsig, tree) = Idsig::create(&apk, b"").unwrap();
    idsig.signing.rest = vec![1, 0, 0, 0, 2, 0, 0, 0, 9, 9];
    let bytes = idsig.to_bytes(&tree);
    let read = Idsig::read(&bytes).unwrap();
    assert_eq!(read.signing, idsig.signing);
    read.verify(&bytes, &apk).unwrap();
    idsig.signing.rest = vec![0; 70_000];
    assert!(matches!(Idsig::read(&idsig.to_bytes(&tree)), Err(IdsigError::Malformed("signing info"))));
}
