use super::*;
use crate::apk::testing::{Forged, pack, signed, signers, with_block};
use crate::apk::{Scheme, SignatureAlgorithm, signing_block};
use crate::merkle::VerifiedReader;

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
    let long = Idsig::create(&apk, &[0; 65]);
    assert!(matches!(long, Err(IdsigError::Length { field: "salt", found: 65, most: 64 })));
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
    let apk = signed(&pack(&[1; 5000]), &[Scheme::V3]);
    let (_, bytes) = idsig_of(&apk, b"salt");
    for len in 0..bytes.len() {
        let error = Idsig::read(&bytes[..len].to_vec()).unwrap_err();
        let expected = match error {
            IdsigError::Ends(_) => true,
            IdsigError::Length { most, .. } => most < len as u64,
            _ => false,
        };
        assert!(expected, "{len} bytes: {error}");
    }
}

/// Where each length stands, by the name in its errors, for the salt "salt" and an unsigned idsig.
const LENGTHS: [(usize, &str); 10] = [
    (4, "hashing info"),
    (13, "salt"),
    (21, "root hash"),
    (57, "signing info"),
    (61, "digest of the archive"),
    (97, "certificate"),
    (101, "additional data"),
    (105, "public key"),
    (113, "signature"),
    (117, "tree"),
];

#[test]
fn hostile_lengths_are_refused_by_name() {
    let apk = apk();
    let (idsig, bytes) = idsig_of(&apk, b"salt");
    assert_eq!(idsig.tree_offset, 121);
    for (at, name) in LENGTHS {
        for len in [u32::MAX, u32::MAX - 3, 0x8000_0000, 0x7fff_ffff] {
            let mut hostile = bytes.clone();
            hostile[at..at + 4].copy_from_slice(&len.to_le_bytes());
            match Idsig::read(&hostile).unwrap_err() {
                IdsigError::Length { field, found, most } => {
                    assert_eq!((field, found), (name, len.into()));
                    assert!(most <= bytes.len() as u64);
                }
                other => panic!("{name}: {other}"),
            }
        }
        // One more and one less than there is.
        for delta in [1, u32::MAX] {
            let mut hostile = bytes.clone();
            let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).wrapping_add(delta);
            hostile[at..at + 4].copy_from_slice(&len.to_le_bytes());
            assert!(Idsig::read(&hostile).is_err(), "{name}: {len}");
        }
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let apk = apk();
    let (_, bytes) = idsig_of(&apk, b"");
    for (at, expected) in
        [(0, "version"), (8, "hash algorithm"), (12, "block size 2 to the power of"), (113, "tree size")]
    {
        let mut other = bytes.clone();
        other[at] ^= 1;
        other.push(0);
        match Idsig::read(&other) {
            Err(IdsigError::Unsupported { what, .. }) => assert_eq!(what, expected),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    // Hashing info with a root of 31 bytes.
    let hashing = [&bytes[8..17], &31u32.to_le_bytes(), &[7; 31]].concat();
    let short = [&bytes[..4], &prefixed(&hashing), &bytes[53..]].concat();
    let error = Idsig::read(&short).unwrap_err().to_string();
    assert_eq!(error, "the idsig has root hash size 31, which is not supported: expected 32");
    // Something behind the root.
    let long = [&bytes[..4], &prefixed(&[&bytes[8..53], &[0]].concat()), &bytes[53..]].concat();
    let error = Idsig::read(&long).unwrap_err().to_string();
    assert_eq!(error, "the idsig's hashing info has 46 bytes, where at most 45 fit");
}

/// A partition is padded, and a file is not.
#[test]
fn only_a_partition_goes_on_behind_the_tree() {
    let apk = apk();
    let (idsig, mut bytes) = idsig_of(&apk, b"");
    assert_eq!(Idsig::read_file(&bytes).unwrap(), idsig);
    let len = bytes.len() as u64;
    assert_eq!(idsig.file_len(), len);
    bytes.push(0);
    assert_eq!(Idsig::read(&bytes).unwrap(), idsig);
    let error = Idsig::read_file(&bytes).unwrap_err();
    assert!(
        matches!(error, IdsigError::Length { field: "file", found, most } if found == len + 1 && most == len)
    );
}

/// Where nobody signed, or by DSA alone, there is an idsig by force.
#[test]
fn force_names_the_digest_there_is() {
    let unsigned = pack(&[3; 20_000]);
    let (made, tree) = Idsig::create_forced(&unsigned, b"").unwrap();
    assert_eq!((made.signing.algorithm, made.signing.apk_digest.len()), (0, 0));
    let bytes = made.to_bytes(&tree);
    assert_eq!(Idsig::read_file(&bytes).unwrap(), made);
    made.verify(&bytes, &unsigned).unwrap();
    // It is no idsig of an archive that runs in a VM.
    assert!(matches!(made.check_apk(&unsigned), Err(IdsigError::ApkDigest(_))));
    let other = signed(&unsigned, &[Scheme::V3]);
    assert!(matches!(made.verify(&bytes, &other), Err(IdsigError::OtherApk { .. })));
    // By force or not, it is the same where somebody signed.
    assert_eq!(Idsig::create_forced(&other, b"a").unwrap(), Idsig::create(&other, b"a").unwrap());

    let id = |algorithm: SignatureAlgorithm| algorithm.id();
    let (ecdsa, dsa, unknown) =
        (id(SignatureAlgorithm::EcdsaSha256), id(SignatureAlgorithm::DsaSha256), 0x0999);
    for (listed, named) in [
        (vec![(dsa, vec![1; 32])], (dsa, vec![1; 32])),
        (vec![(unknown, vec![2; 32]), (dsa, vec![1; 32])], (dsa, vec![1; 32])),
        (vec![(dsa, vec![1; 32]), (ecdsa, vec![3; 32])], (ecdsa, vec![3; 32])),
        (vec![(unknown, vec![2; 32])], (0, vec![])),
        (vec![], (0, vec![])),
    ] {
        let forged = Forged { digests: listed, ..Forged::of(&unsigned) };
        let apk = with_block(&unsigned, &[(signing_block::V3, signers(&[forged.v3()]))]);
        let (made, tree) = Idsig::create_forced(&apk, b"").unwrap();
        assert_eq!((made.signing.algorithm, made.signing.apk_digest.clone()), named);
        made.verify(&made.to_bytes(&tree), &apk).unwrap();
        let unforced = Idsig::create(&apk, b"");
        let expected = match named.0 {
            0 => matches!(unforced, Err(IdsigError::ApkDigest(_))),
            id if id == dsa => matches!(unforced, Err(IdsigError::Refused(SignatureAlgorithm::DsaSha256))),
            _ => unforced.is_ok(),
        };
        assert!(expected, "{unforced:?}");
    }

    // Not by force either.
    for broken in [vec![], unsigned[1..].to_vec(), with_block(&unsigned, &[(signing_block::V3, vec![1])])] {
        assert!(matches!(Idsig::create_forced(&broken, b""), Err(IdsigError::ApkDigest(_))));
    }
}

#[test]
fn blocks_are_checked_one_by_one() {
    let apk = apk();
    for salt in [&b""[..], b"salt"] {
        let (idsig, mut bytes) = idsig_of(&apk, salt);
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        let mut data = apk.clone();
        data[300_000] ^= 1;
        let verifier = idsig.block_verifier(&bytes, apk.len() as u64).unwrap();
        for (index, block) in data.chunks(4096).enumerate() {
            assert_eq!(verifier.verify(index as u64, block).is_err(), index == 300_000 / 4096, "{index}");
        }
        let reader = VerifiedReader::new(&apk, verifier);
        let mut all = vec![0; apk.len()];
        reader.read_exact_at(&mut all, 0).unwrap();
        assert!(all == apk);
        for len in [apk.len() as u64 + (1 << 20), 1, 0] {
            let error = idsig.block_verifier(&bytes, len).err().unwrap();
            assert!(matches!(error, IdsigError::TreeLen { .. }), "{error}");
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
    let found = idsig.verify(&damaged, &apk);
    assert!(matches!(found, Err(IdsigError::Tree(at)) if at == last as u64), "{found:?}");

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
    assert!(matches!(
        Idsig::read(&idsig.to_bytes(&tree)),
        Err(IdsigError::Length { field: "signing info", .. })
    ));
}
