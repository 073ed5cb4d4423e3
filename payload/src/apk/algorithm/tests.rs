use p256::ecdsa::signature::hazmat::PrehashSigner;

use super::*;
use crate::der::element;

fn ec_key(curve: &[u8], point: &[u8]) -> Vec<u8> {
    let kind = element(tag::OBJECT_IDENTIFIER, &[EC_PUBLIC_KEY]);
    let algorithm = element(tag::SEQUENCE, &[&kind, &element(tag::OBJECT_IDENTIFIER, &[curve])]);
    element(tag::SEQUENCE, &[&algorithm, &element(tag::BIT_STRING, &[&[0], point])])
}

fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let kind = element(tag::OBJECT_IDENTIFIER, &[RSA_ENCRYPTION]);
    let algorithm = element(tag::SEQUENCE, &[&kind, &[0x05, 0x00]]);
    let numbers =
        element(tag::SEQUENCE, &[&element(tag::INTEGER, &[modulus]), &element(tag::INTEGER, &[exponent])]);
    element(tag::SEQUENCE, &[&algorithm, &element(tag::BIT_STRING, &[&[0], &numbers])])
}

/// Section 4: ECDSA over each curve, with both hashes, shorter and longer than the curve's order.
#[test]
fn every_curve_with_every_hash() {
    let message = b"message";
    let (sha256, sha512) = (Sha256::digest(message).to_vec(), Sha512::digest(message).to_vec());
    let mut cases: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> = Vec::new();
    let one = |len: usize| [vec![0; len - 1], vec![3]].concat();

    let secret = p256::ecdsa::SigningKey::from_slice(&one(32)).unwrap();
    let sign = |hash: &[u8]| -> p256::ecdsa::Signature { secret.sign_prehash(hash).unwrap() };
    let signatures = [&sha256, &sha512].map(|hash| sign(hash).to_der().as_bytes().to_vec());
    let [a, b] = signatures;
    cases.push((ec_key(SECP256R1, secret.verifying_key().to_sec1_point(false).as_bytes()), a, b));

    let secret = p384::ecdsa::SigningKey::from_slice(&one(48)).unwrap();
    let sign = |hash: &[u8]| -> p384::ecdsa::Signature { secret.sign_prehash(hash).unwrap() };
    let [a, b] = [&sha256, &sha512].map(|hash| sign(hash).to_der().as_bytes().to_vec());
    cases.push((ec_key(SECP384R1, secret.verifying_key().to_sec1_point(false).as_bytes()), a, b));

    let secret = p521::ecdsa::SigningKey::from_slice(&one(66)).unwrap();
    let sign = |hash: &[u8]| -> p521::ecdsa::Signature { secret.sign_prehash(hash).unwrap() };
    let [a, b] = [&sha256, &sha512].map(|hash| sign(hash).to_der().as_bytes().to_vec());
    cases.push((ec_key(SECP521R1, secret.verifying_key().to_sec1_point(false).as_bytes()), a, b));

    for (key, by_sha256, by_sha512) in cases {
        SignatureAlgorithm::EcdsaSha256.verify(&key, message, &by_sha256).unwrap();
        SignatureAlgorithm::VerityEcdsaSha256.verify(&key, message, &by_sha256).unwrap();
        SignatureAlgorithm::EcdsaSha512.verify(&key, message, &by_sha512).unwrap();
        let invalid = Err(KeyError::Invalid);
        assert_eq!(SignatureAlgorithm::EcdsaSha512.verify(&key, message, &by_sha256), invalid);
        assert_eq!(SignatureAlgorithm::EcdsaSha256.verify(&key, b"massage", &by_sha256), invalid);
        for len in 0..by_sha256.len() {
            assert_eq!(SignatureAlgorithm::EcdsaSha256.verify(&key, message, &by_sha256[..len]), invalid);
        }
        assert_eq!(SignatureAlgorithm::RsaPssSha256.verify(&key, message, &by_sha256), Err(KeyError::Kind));
        for len in 0..key.len() {
            assert_eq!(
                SignatureAlgorithm::EcdsaSha256.verify(&key[..len], message, &by_sha256),
                Err(KeyError::Key)
            );
        }
    }
}

#[test]
fn keys_that_are_none_are_refused() {
    let refused = |key: &[u8]| SignatureAlgorithm::RsaPkcs1Sha256.verify(key, b"", &[0; 256]);
    let f4 = [1, 0, 1];
    let modulus = |bytes: usize| [vec![0, 0x80], vec![1; bytes - 1]].concat();
    assert_eq!(
        refused(&rsa_key(&modulus(256), &f4)),
        Err(KeyError::Invalid),
        "a key, and no signature by it"
    );
    assert_eq!(refused(&rsa_key(&modulus(2048), &f4)), Err(KeyError::Invalid), "16384 bits");
    for (bad, why) in [
        (rsa_key(&modulus(2049), &f4), "too long"),
        (rsa_key(&modulus(64), &f4), "too short"),
        (rsa_key(&modulus(256)[1..], &f4), "negative"),
        (rsa_key(&[], &f4), "empty"),
        (rsa_key(&modulus(256), &[]), "no exponent"),
        (rsa_key(&modulus(256), &[2]), "even exponent"),
        (rsa_key(&modulus(256), &modulus(256)), "long exponent"),
        (rsa_key(&[modulus(255), vec![2]].concat(), &f4), "even modulus"),
        (ec_key(SECP256R1, &[4; 65]), "not on the curve"),
        (ec_key(SECP256R1, &[0]), "the point at infinity"),
        (ec_key(&[1, 2, 3], &[4; 65]), "no such curve"),
        (ec_key(SECP384R1, &[4; 65]), "a point of another length"),
    ] {
        assert_eq!(refused(&bad), Err(KeyError::Key), "{why}");
    }
}

#[test]
fn numbers_are_the_published_ones() {
    for id in [0x0101, 0x0102, 0x0103, 0x0104, 0x0201, 0x0202, 0x0421, 0x0423] {
        let algorithm = SignatureAlgorithm::from_id(id).unwrap();
        assert_eq!((algorithm.id(), algorithm.is_accepted()), (id, true));
    }
    for id in [0, 0x0105, 0x0302, 0x0422, 0x0424, u32::MAX] {
        assert_eq!(SignatureAlgorithm::from_id(id), None);
    }
}

/// Section 4: DSA is refused, with chunks and with a hash tree, and by its name.
#[test]
fn dsa_is_known_and_refused() {
    for (id, digest) in [(0x0301, ContentDigest::ChunkedSha256), (0x0425, ContentDigest::VerityChunkedSha256)]
    {
        let dsa = SignatureAlgorithm::from_id(id).unwrap();
        assert_eq!((dsa.id(), dsa.is_accepted(), dsa.content_digest()), (id, false, digest));
        let refused = dsa.verify(&[], b"", b"").unwrap_err();
        assert_eq!(refused, KeyError::Refused(dsa));
        assert!(refused.to_string().starts_with("DSA with SHA-256"), "{refused}");
    }
}

/// A certificate may have the modulus without the zero in front of it; no other difference is overlooked.
#[test]
fn a_modulus_may_lack_its_sign_in_the_certificate() {
    let modulus = [vec![0, 0x80], vec![1; 255]].concat();
    let (right, short) = (rsa_key(&modulus, &[1, 0, 1]), rsa_key(&modulus[1..], &[1, 0, 1]));
    assert!(certifies(&right, &right) && certifies(&short, &right));
    assert!(!certifies(&right, &short), "signers write it right");
    assert!(!certifies(&rsa_key(&modulus[1..], &[3]), &right));
    assert!(!certifies(&ec_key(SECP256R1, &[4; 65]), &right));
    for len in 0..short.len() {
        assert!(!certifies(&short[..len], &right));
    }
}
