use super::super::SigningInfo;
use super::*;
use crate::apk::Scheme;
use crate::apk::testing::{key, key_of, pack, signed};

/// A signed idsig and its archive.
fn vouched() -> (Idsig, Vec<u8>) {
    let apk = signed(&pack(&[0x33; 100_000]), &[Scheme::V3]);
    let (mut idsig, tree) = Idsig::create(&apk, b"salt").unwrap();
    idsig.signing.additional_data = b"more".to_vec();
    idsig.sign(&apk, &key()).unwrap();
    let bytes = idsig.to_bytes(&tree);
    let read = Idsig::read_file(&bytes).unwrap();
    assert_eq!(read, idsig);
    read.verify(&bytes, &apk).unwrap();
    (read, apk)
}

#[test]
fn what_is_signed_is_believed() {
    let (idsig, apk) = vouched();
    idsig.verify_signature(&apk).unwrap();
    assert_eq!(idsig.signing.certificate, key().certificate());
    assert_eq!(idsig.signing.apk_digest, Idsig::create(&apk, b"").unwrap().0.signing.apk_digest);
}

/// Section 3: size, counting itself, and file size come first.
#[test]
fn the_signed_data_is_the_published_one() {
    let (idsig, apk) = vouched();
    let data = idsig.signed_data(apk.len() as u64);
    assert_eq!(data[..4], u32::try_from(data.len()).unwrap().to_le_bytes());
    assert_eq!(data[4..12], (apk.len() as u64).to_le_bytes());
    assert_eq!(data[12..17], [1, 0, 0, 0, 12]);
    assert_eq!(data[17..25], [4, 0, 0, 0, b's', b'a', b'l', b't']);
    assert_eq!(data[25..29], [32, 0, 0, 0]);
    assert_eq!(data[29..61], idsig.root_hash);
    assert_eq!(data[data.len() - 8..], [4, 0, 0, 0, b'm', b'o', b'r', b'e']);
}

#[test]
fn nothing_that_is_signed_can_be_changed() {
    let (idsig, mut apk) = vouched();
    type Change = fn(&mut Idsig);
    let changes: [(Change, SignatureError); 9] = [
        (|it| it.salt[0] ^= 1, KeyError::Invalid.into()),
        (|it| it.root_hash[31] ^= 1, KeyError::Invalid.into()),
        (|it| it.signing.apk_digest[0] ^= 1, KeyError::Invalid.into()),
        (|it| it.signing.additional_data.clear(), KeyError::Invalid.into()),
        (|it| it.signing.certificate.push(0), KeyError::Invalid.into()),
        (|it| it.signing.signature.clear(), SignatureError::Missing),
        (|it| it.signing.algorithm = 0x999, SignatureError::Algorithm(0x999)),
        (|it| it.signing.algorithm = SignatureAlgorithm::RsaPkcs1Sha256.id(), KeyError::Kind.into()),
        (|it| it.signing.public_key = key_of(2).public_key().to_vec(), KeyError::Invalid.into()),
    ];
    for (index, (change, expected)) in changes.into_iter().enumerate() {
        let mut other = idsig.clone();
        change(&mut other);
        match other.verify_signature(&apk) {
            Err(IdsigError::Signature(error)) => assert_eq!(error, expected, "change {index}"),
            other => panic!("change {index}: {other:?}"),
        }
    }
    // The archive's length.
    apk.push(0);
    assert!(matches!(idsig.verify_signature(&apk), Err(IdsigError::Signature(_))));
}

/// One key signs the certificate of another, or no certificate at all.
#[test]
fn a_certificate_vouches_for_its_own_key_only() {
    let (mut idsig, apk) = vouched();
    for (certificate, expected) in [
        (key_of(2).certificate().to_vec(), SignatureError::KeyMismatch),
        (vec![], SignatureError::Certificate),
    ] {
        idsig.signing.certificate = certificate;
        idsig.signing.signature = key().sign(&idsig.signed_data(apk.len() as u64));
        match idsig.verify_signature(&apk) {
            Err(IdsigError::Signature(error)) => assert_eq!(error, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_good_signature_is_of_one_archive() {
    let (mut idsig, apk) = vouched();
    idsig.signing.apk_digest[0] ^= 1;
    idsig.sign(&apk, &key()).unwrap();
    assert!(matches!(idsig.verify_signature(&apk), Err(IdsigError::OtherApk { .. })));
}

#[test]
fn too_much_to_be_read_is_not_signed() {
    let (idsig, apk) = vouched();
    for len in [MAX_SIGNING_LEN - 100, MAX_SIGNING_LEN + 1] {
        let signing = SigningInfo { additional_data: vec![0; len], ..idsig.signing.clone() };
        let mut long = Idsig { signing, ..idsig.clone() };
        let before = long.clone();
        assert!(matches!(long.sign(&apk, &key()), Err(IdsigError::Length { field: "signing info", .. })));
        assert_eq!(long, before);
    }
}
