use super::*;
use crate::apk::algorithm::{ContentDigest, KeyError, SECP256R1, SECP384R1, SECP521R1};
use crate::apk::sign::sign;
use crate::apk::testing::{key, pack, sec1};
use crate::apk::verify::{SDK, Scheme, verify};
use crate::der::{element, tag};

fn scalar(len: usize) -> Vec<u8> {
    [vec![0; len - 1], vec![7]].concat()
}

/// PKCS#8 around a key.
fn pkcs8(kind: &[u8], parameters: &[u8], key: &[u8]) -> Vec<u8> {
    let algorithm = element(tag::SEQUENCE, &[&element(tag::OBJECT_IDENTIFIER, &[kind]), parameters]);
    let version = element(tag::INTEGER, &[&[0]]);
    element(tag::SEQUENCE, &[&version, &algorithm, &element(tag::OCTET_STRING, &[key])])
}

#[test]
fn a_key_keeps_its_certificate() {
    let key = SigningKey::generate().unwrap();
    let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
    assert_eq!(key.certificate(), again.certificate());
    assert_ne!(key.certificate(), SigningKey::generate().unwrap().certificate());
}

#[test]
fn every_curve_signs_what_verifies() {
    for (curve, len, digest) in [
        (SECP256R1, 32, ContentDigest::ChunkedSha256),
        (SECP384R1, 48, ContentDigest::ChunkedSha512),
        (SECP521R1, 66, ContentDigest::ChunkedSha512),
    ] {
        let key = SigningKey::from_der(&sec1(curve, &scalar(len))).unwrap();
        assert_eq!(key.algorithm().content_digest(), digest);
        let signature = key.sign(b"message");
        assert_eq!(signature, key.sign(b"message"), "deterministic");
        key.algorithm().verify(key.public_key(), b"message", &signature).unwrap();
        let refused = key.algorithm().verify(key.public_key(), b"massage", &signature);
        assert_eq!(refused, Err(KeyError::Invalid));

        let mut apk = Vec::new();
        sign(&pack(b"content"), &key, &[Scheme::V2, Scheme::V3], &mut apk).unwrap();
        let signer = verify(&apk, SDK).unwrap();
        assert_eq!((signer.certificate.as_slice(), signer.algorithm), (key.certificate(), key.algorithm()));
        let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(again.certificate(), key.certificate());
    }
}

/// RFC 6979, A.2.5: P-256 with SHA-256, message "sample".
#[test]
fn signatures_are_those_of_rfc_6979() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let secret = hex("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721");
    let key = SigningKey::from_der(&sec1(SECP256R1, &secret)).unwrap();
    let r = hex("00EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716");
    let s = hex("00F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8");
    let expected = element(tag::SEQUENCE, &[&element(tag::INTEGER, &[&r]), &element(tag::INTEGER, &[&s])]);
    assert_eq!(key.sign(b"sample"), expected);
}

/// A scalar may lack its leading zeros, or have more.
#[test]
fn scalars_of_any_length() {
    let usual = SigningKey::from_der(&sec1(SECP256R1, &scalar(32))).unwrap();
    for len in [1, 5, 31, 33, 40] {
        let key = SigningKey::from_der(&sec1(SECP256R1, &scalar(len))).unwrap();
        assert_eq!(key.public_key(), usual.public_key(), "{len} bytes");
    }
    let malformed = SigningKeyError::Malformed("EC key");
    for bad in [vec![], vec![0; 32], vec![0xff; 32], vec![1; 33]] {
        assert_eq!(SigningKey::from_der(&sec1(SECP256R1, &bad)).unwrap_err(), malformed);
    }
}

#[test]
fn keys_that_are_not_for_signing_are_named() {
    let refused = |pem: &str| SigningKey::from_bytes(pem.as_bytes()).unwrap_err().to_string();
    let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
    assert!(refused("").contains("no private key"));
    assert!(refused("ssh-rsa AAAA").contains("no private key"));
    assert!(refused(&block("CERTIFICATE", "")).contains("no private key"));
    for encrypted in [
        block("ENCRYPTED PRIVATE KEY", "MAA="),
        block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMAA="),
    ] {
        assert!(refused(&encrypted).contains("decrypt it first with `openssl pkey"));
    }
    assert!(refused(&block("DSA PRIVATE KEY", "MAA=")).contains("is a DSA key"));
    assert!(refused(&block("OPENSSH PRIVATE KEY", "MAA=")).contains("OpenSSH"));
    assert!(refused(&block("PRIVATE KEY", "MAA=")).contains("malformed PKCS#8"));
    assert!(refused(&block("PRIVATE KEY", "*")).contains("malformed PEM"));
    assert!(refused("-----BEGIN PRIVATE KEY-----").contains("malformed PEM"));

    let of_kind = |kind: &[u8], parameters: &[u8], key: &[u8]| {
        SigningKey::from_der(&pkcs8(kind, parameters, key)).unwrap_err().to_string()
    };
    assert!(of_kind(&[0x2b, 0x65, 0x70], &[], &[]).contains("Ed25519"));
    assert!(of_kind(&[1, 2, 3], &[], &[]).contains("unknown kind"));
    let ec = crate::apk::algorithm::EC_PUBLIC_KEY;
    let key = sec1(SECP256R1, &scalar(32));
    let named = |curve: &[u8]| element(tag::OBJECT_IDENTIFIER, &[curve]);
    assert!(of_kind(ec, &[0x30, 0], &key).contains("without a name"));
    assert!(of_kind(ec, &named(SECP384R1), &key).contains("malformed EC key"), "two curves");
    assert!(SigningKey::from_der(&pkcs8(ec, &named(SECP256R1), &key)).is_ok());
    let secp256k1 = sec1(&[0x2b, 0x81, 0x04, 0x00, 0x0a], &scalar(32));
    assert!(SigningKey::from_der(&secp256k1).unwrap_err().to_string().contains("another curve"));
    let encrypted = element(tag::SEQUENCE, &[&[0x30, 0], &element(tag::OCTET_STRING, &[&[1]])]);
    assert_eq!(SigningKey::from_der(&encrypted).unwrap_err(), SigningKeyError::Encrypted);
}

/// No cut of a key, and no byte of it changed, makes anything panic.
#[test]
fn damaged_keys_are_refused_or_other_keys() {
    let whole = pkcs8(
        crate::apk::algorithm::EC_PUBLIC_KEY,
        &element(tag::OBJECT_IDENTIFIER, &[SECP256R1]),
        &sec1(SECP256R1, &scalar(32)),
    );
    for len in 0..whole.len() {
        assert!(SigningKey::from_der(&whole[..len]).is_err(), "{len} bytes");
        for value in [0, 0x7f, 0x80, 0x84, 0xff] {
            let mut damaged = whole.clone();
            damaged[len] = value;
            let _ = SigningKey::from_der(&damaged);
        }
    }
    assert!(SigningKey::from_der(&[&whole[..], &[0]].concat()).is_err(), "bytes behind it");
}

#[test]
fn rsa_numbers_must_fit_each_other() {
    let key = |numbers: &[&[u8]]| {
        let version = element(tag::INTEGER, &[&[0]]);
        let numbers: Vec<u8> = numbers.iter().flat_map(|it| element(tag::INTEGER, &[it])).collect();
        SigningKey::from_der(&element(tag::SEQUENCE, &[&version, &numbers])).unwrap_err()
    };
    let modulus = |bytes: usize| [vec![0, 0x80], vec![1; bytes - 1]].concat();
    let (e, small) = (&[1, 0, 1][..], &[3][..]);
    assert_eq!(key(&[&modulus(128), e, small, small, small]), SigningKeyError::RsaBits(1024));
    assert_eq!(key(&[&modulus(255), e, small, small, small]), SigningKeyError::RsaBits(2040));
    let malformed = SigningKeyError::Malformed("RSA key");
    assert_eq!(key(&[&modulus(256), e, small, small, small]), malformed);
    assert_eq!(key(&[&modulus(256), e, small, &[0], &modulus(256)]), malformed);
    assert_eq!(key(&[&modulus(2049), e, small, small, small]), malformed, "over 16384 bits");
    assert_eq!(key(&[&modulus(256), e]), malformed);
}

#[test]
fn a_users_certificate_must_be_of_the_key() {
    let own = key().certificate().to_vec();
    let other = SigningKey::generate().unwrap().certificate().to_vec();
    let with = |bytes: &[u8]| key().with_certificate(bytes);
    assert_eq!(with(&own).unwrap().certificate(), own);
    assert_eq!(with(&other).unwrap_err(), SigningKeyError::Certificate("is of another key"));
    assert_eq!(with(b"").unwrap_err(), SigningKeyError::Certificate("is missing"));
    assert_eq!(with(&[0xff]).unwrap_err(), SigningKeyError::Certificate("is neither PEM nor DER"));
    for len in 1..own.len() {
        assert_eq!(with(&own[..len]).unwrap_err(), SigningKeyError::Certificate("is malformed"));
    }
}
