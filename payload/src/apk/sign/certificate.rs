//! Certificates for signing keys: one of their own, always the same for a key, or those a user brings.

use sha2::{Digest, Sha256};

use super::error::SigningKeyError;
use super::pem;
use super::private_key::{NULL, PrivateKey};
use crate::apk::algorithm::{SignatureAlgorithm, certifies};
use crate::der::{self, element, tag};

/// 1.2.840.10045.4.3.2 and .4, ecdsa-with-SHA256 and -SHA512.
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_WITH_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
/// 1.2.840.113549.1.1.11 and .13, sha256WithRSAEncryption and sha512WithRSAEncryption.
const SHA256_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const SHA512_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d];
/// 2.5.4.3, commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Certificates of one signer that are put into archives.
const MAX_CERTIFICATES: usize = 16;

/// The certificates in a PEM text or in DER, the first of which must be of `public_key`.
pub(super) fn read(bytes: &[u8], public_key: &[u8]) -> Result<Vec<Vec<u8>>, SigningKeyError> {
    let certificates: Vec<Vec<u8>> = if bytes.first() == Some(&tag::SEQUENCE) {
        vec![bytes.to_vec()]
    } else {
        let blocks = std::str::from_utf8(bytes).ok().and_then(pem::blocks);
        let blocks = blocks.ok_or(SigningKeyError::Certificate("is neither PEM nor DER"))?;
        blocks.into_iter().filter(|block| block.label == "CERTIFICATE").map(|block| block.content).collect()
    };
    if certificates.len() > MAX_CERTIFICATES {
        return Err(SigningKeyError::Certificate("is one of more than 16"));
    }
    for certificate in &certificates {
        der::certificate_public_key(certificate).ok_or(SigningKeyError::Certificate("is malformed"))?;
    }
    let first = certificates.first().ok_or(SigningKeyError::Certificate("is missing"))?;
    let certified = der::certificate_public_key(first).ok_or(SigningKeyError::Certificate("is malformed"))?;
    if !certifies(certified, public_key) {
        return Err(SigningKeyError::Certificate("is of another key"));
    }
    Ok(certificates)
}

/// A self-signed certificate (RFC 5280) without end of validity (4.1.2.5), named by the key's hash.
pub(super) fn self_signed(key: &PrivateKey, public_key: &[u8]) -> Vec<u8> {
    let hash = Sha256::digest(public_key);
    let name: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let attribute = element(
        tag::SEQUENCE,
        &[&element(tag::OBJECT_IDENTIFIER, &[COMMON_NAME]), &element(tag::UTF8_STRING, &[name.as_bytes()])],
    );
    let name = element(tag::SEQUENCE, &[&element(tag::SET, &[&attribute])]);
    // Positive, and not zero whatever the hash: a serial number of 16 bytes.
    let mut serial = [0x40; 16];
    serial[1..].copy_from_slice(&hash[8..23]);
    let validity = element(
        tag::SEQUENCE,
        &[
            &element(tag::UTC_TIME, &[b"200101000000Z"]),
            &element(tag::GENERALIZED_TIME, &[b"99991231235959Z"]),
        ],
    );
    let algorithm = algorithm_identifier(key.algorithm());
    let version_3 = element(tag::CONTEXT_0, &[&element(tag::INTEGER, &[&[2]])]);
    let signed = element(
        tag::SEQUENCE,
        &[&version_3, &element(tag::INTEGER, &[&serial]), &algorithm, &name, &validity, &name, public_key],
    );
    let signature = element(tag::BIT_STRING, &[&[0], &key.sign(&signed)]);
    element(tag::SEQUENCE, &[&signed, &algorithm, &signature])
}

/// AlgorithmIdentifier of a signature (RFC 5758, 3.2; RFC 4055, 5).
fn algorithm_identifier(algorithm: SignatureAlgorithm) -> Vec<u8> {
    let (identifier, parameters): (_, &[u8]) = match algorithm {
        SignatureAlgorithm::RsaPkcs1Sha256 => (SHA256_WITH_RSA, NULL),
        SignatureAlgorithm::RsaPkcs1Sha512 => (SHA512_WITH_RSA, NULL),
        SignatureAlgorithm::EcdsaSha512 => (ECDSA_WITH_SHA512, &[]),
        _ => (ECDSA_WITH_SHA256, &[]),
    };
    element(tag::SEQUENCE, &[&element(tag::OBJECT_IDENTIFIER, &[identifier]), parameters])
}
