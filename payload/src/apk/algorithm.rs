//! Signature algorithms of the APK Signature Schemes, and the public keys they are checked with.

use std::fmt;

use rsa::{BoxedUint, Pkcs1v15Sign, Pss, RsaPublicKey};
use sha2::{Digest, Sha256, Sha512};

use crate::der::{Reader, element, tag};

/// RSA keys from 1024 bits (old certificates) to 16384 (the longest that signing tools make).
const RSA_BITS: std::ops::RangeInclusive<usize> = 1024..=16384;

/// How the content of an archive is digested, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentDigest {
    /// SHA-256 over the SHA-256 of each 1 MiB.
    ChunkedSha256,
    /// The root of a hash tree, and the length.
    VerityChunkedSha256,
    /// SHA-512 over the SHA-512 of each 1 MiB.
    ChunkedSha512,
}

/// A signature algorithm of the published list. DSA is known, so that it can be named, and never accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// RSASSA-PSS, SHA-256, 32 bytes of salt.
    RsaPssSha256,
    /// RSASSA-PSS, SHA-512, 64 bytes of salt.
    RsaPssSha512,
    /// RSASSA-PKCS1-v1_5, SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5, SHA-512.
    RsaPkcs1Sha512,
    /// ECDSA, SHA-256.
    EcdsaSha256,
    /// ECDSA, SHA-512.
    EcdsaSha512,
    /// RSASSA-PKCS1-v1_5, SHA-256, content by hash tree.
    VerityRsaPkcs1Sha256,
    /// ECDSA, SHA-256, content by hash tree.
    VerityEcdsaSha256,
    /// DSA, SHA-256: refused.
    DsaSha256,
    /// DSA, SHA-256, content by hash tree: refused.
    VerityDsaSha256,
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RsaPssSha256 => "RSASSA-PSS with SHA-256",
            Self::RsaPssSha512 => "RSASSA-PSS with SHA-512",
            Self::RsaPkcs1Sha256 => "RSASSA-PKCS1-v1_5 with SHA-256",
            Self::RsaPkcs1Sha512 => "RSASSA-PKCS1-v1_5 with SHA-512",
            Self::EcdsaSha256 => "ECDSA with SHA-256",
            Self::EcdsaSha512 => "ECDSA with SHA-512",
            Self::VerityRsaPkcs1Sha256 => "RSASSA-PKCS1-v1_5 with SHA-256 over a hash tree",
            Self::VerityEcdsaSha256 => "ECDSA with SHA-256 over a hash tree",
            Self::DsaSha256 => "DSA with SHA-256",
            Self::VerityDsaSha256 => "DSA with SHA-256 over a hash tree",
        })
    }
}

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key of a kind that is read here: RSA, or ECDSA over P-256, P-384 or P-521.
    #[error("the public key is not of a supported kind")]
    Key,
    /// A key of another kind than the algorithm's.
    #[error("the public key is not of the signature algorithm's kind")]
    Kind,
    /// An algorithm that nothing is believed by.
    #[error("{0} is not accepted")]
    Refused(SignatureAlgorithm),
    /// The key did not make it.
    #[error("Signature is invalid")]
    Invalid,
}

impl SignatureAlgorithm {
    /// All of them, with the numbers they have in signatures.
    const ALL: [(u32, Self); 10] = [
        (0x0101, Self::RsaPssSha256),
        (0x0102, Self::RsaPssSha512),
        (0x0103, Self::RsaPkcs1Sha256),
        (0x0104, Self::RsaPkcs1Sha512),
        (0x0201, Self::EcdsaSha256),
        (0x0202, Self::EcdsaSha512),
        (0x0301, Self::DsaSha256),
        (0x0421, Self::VerityRsaPkcs1Sha256),
        (0x0423, Self::VerityEcdsaSha256),
        (0x0425, Self::VerityDsaSha256),
    ];

    /// The algorithm numbered `id`, when it is known.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().find(|(number, _)| *number == id).map(|(_, algorithm)| *algorithm)
    }

    /// Its number in signatures.
    pub fn id(self) -> u32 {
        let known = Self::ALL.iter().find(|(_, algorithm)| *algorithm == self);
        known.map(|(number, _)| *number).expect("every algorithm is listed")
    }

    /// Whether a signature by it can be believed: not by DSA.
    pub fn is_accepted(self) -> bool {
        !matches!(self, Self::DsaSha256 | Self::VerityDsaSha256)
    }

    /// How the content is digested that it signs.
    pub fn content_digest(self) -> ContentDigest {
        match self {
            Self::RsaPssSha256 | Self::RsaPkcs1Sha256 | Self::EcdsaSha256 | Self::DsaSha256 => {
                ContentDigest::ChunkedSha256
            }
            Self::RsaPssSha512 | Self::RsaPkcs1Sha512 | Self::EcdsaSha512 => ContentDigest::ChunkedSha512,
            Self::VerityRsaPkcs1Sha256 | Self::VerityEcdsaSha256 | Self::VerityDsaSha256 => {
                ContentDigest::VerityChunkedSha256
            }
        }
    }

    /// Whether `signature` over `message` was made with the key of `public_key` (DER, SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// [`KeyError`] when it was not, the key is of another kind, or the algorithm is not accepted.
    pub fn verify(self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        // First of all: a DSA key is of no supported kind, which would be the lesser reason.
        if !self.is_accepted() {
            return Err(KeyError::Refused(self));
        }
        let key = PublicKey::from_der(public_key).ok_or(KeyError::Key)?;
        let sha512 = self.content_digest() == ContentDigest::ChunkedSha512;
        let hash = if sha512 { Sha512::digest(message).to_vec() } else { Sha256::digest(message).to_vec() };
        let rsa = |key: PublicKey| match key {
            PublicKey::Rsa(key) => Ok(key),
            _ => Err(KeyError::Kind),
        };
        let verified = match self {
            Self::EcdsaSha256 | Self::EcdsaSha512 | Self::VerityEcdsaSha256 => {
                return key.verify_ecdsa(&hash, signature);
            }
            Self::RsaPssSha256 => rsa(key)?.verify(Pss::<Sha256>::new_with_salt(32), &hash, signature),
            Self::RsaPssSha512 => rsa(key)?.verify(Pss::<Sha512>::new_with_salt(64), &hash, signature),
            Self::RsaPkcs1Sha256 | Self::VerityRsaPkcs1Sha256 => {
                rsa(key)?.verify(Pkcs1v15Sign::new::<Sha256>(), &hash, signature)
            }
            Self::RsaPkcs1Sha512 => rsa(key)?.verify(Pkcs1v15Sign::new::<Sha512>(), &hash, signature),
            Self::DsaSha256 | Self::VerityDsaSha256 => return Err(KeyError::Refused(self)),
        };
        verified.map_err(|_| KeyError::Invalid)
    }
}

/// Whether a certificate's public key is `signer`, both as SubjectPublicKeyInfo.
///
/// Some certificates have an RSA modulus without the zero that makes it positive; signers write it right.
pub(crate) fn certifies(certified: &[u8], signer: &[u8]) -> bool {
    certified == signer || positive_modulus(certified).is_some_and(|certified| certified == signer)
}

/// An RSA key whose modulus was written as a negative number, with it as the positive one that was meant.
fn positive_modulus(info: &[u8]) -> Option<Vec<u8>> {
    let mut info = Reader::new(info).sequence()?;
    let algorithm = info.expect(tag::SEQUENCE)?;
    let kind = Reader::new(algorithm.content).expect(tag::OBJECT_IDENTIFIER)?.content;
    let mut numbers = Reader::new(info.bit_string()?).sequence()?;
    let modulus = numbers.expect(tag::INTEGER)?.content;
    let exponent = numbers.expect(tag::INTEGER)?.whole;
    let negative = modulus.first().is_some_and(|byte| byte & 0x80 != 0);
    (kind == RSA_ENCRYPTION && negative).then(|| {
        let modulus = element(tag::INTEGER, &[&[0], modulus]);
        let key = element(tag::SEQUENCE, &[&modulus, exponent]);
        element(tag::SEQUENCE, &[algorithm.whole, &element(tag::BIT_STRING, &[&[0], &key])])
    })
}

/// A public key of a kind that signs archives.
enum PublicKey {
    Rsa(RsaPublicKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(p521::ecdsa::VerifyingKey),
}

/// Object identifiers, as they stand in DER.
pub(super) const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
pub(super) const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
pub(super) const SECP256R1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(super) const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
pub(super) const SECP521R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7; RFC 3279, 2.3).
    fn from_der(bytes: &[u8]) -> Option<Self> {
        let mut info = Reader::new(bytes).sequence()?;
        let mut algorithm = info.sequence()?;
        let kind = algorithm.expect(tag::OBJECT_IDENTIFIER)?.content;
        let key = info.bit_string()?;
        if kind == RSA_ENCRYPTION {
            let mut numbers = Reader::new(key).sequence()?;
            let modulus = unsigned(numbers.expect(tag::INTEGER)?.content)?;
            let exponent = unsigned(numbers.expect(tag::INTEGER)?.content)?;
            return RsaPublicKey::new_with_size_limits(modulus, exponent, RSA_BITS).ok().map(Self::Rsa);
        }
        if kind != EC_PUBLIC_KEY {
            return None;
        }
        match algorithm.expect(tag::OBJECT_IDENTIFIER)?.content {
            SECP256R1 => p256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok().map(Self::P256),
            SECP384R1 => p384::ecdsa::VerifyingKey::from_sec1_bytes(key).ok().map(Self::P384),
            SECP521R1 => p521::ecdsa::VerifyingKey::from_sec1_bytes(key).ok().map(Self::P521),
            _ => None,
        }
    }

    fn verify_ecdsa(&self, hash: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        use p256::ecdsa::signature::hazmat::PrehashVerifier;
        let invalid = |_| KeyError::Invalid;
        match self {
            Self::Rsa(_) => Err(KeyError::Kind),
            Self::P256(key) => {
                let signature = p256::ecdsa::Signature::from_der(signature).map_err(invalid)?;
                key.verify_prehash(hash, &signature).map_err(invalid)
            }
            Self::P384(key) => {
                let signature = p384::ecdsa::Signature::from_der(signature).map_err(invalid)?;
                key.verify_prehash(hash, &signature).map_err(invalid)
            }
            Self::P521(key) => {
                let signature = p521::ecdsa::Signature::from_der(signature).map_err(invalid)?;
                key.verify_prehash(hash, &signature).map_err(invalid)
            }
        }
    }
}

/// A positive DER integer of at most as many bits as the longest key.
pub(super) fn unsigned(content: &[u8]) -> Option<BoxedUint> {
    let digits = content.strip_prefix(&[0]).unwrap_or(content);
    let negative = digits.len() == content.len() && content.first().is_none_or(|byte| byte & 0x80 != 0);
    if negative || digits.len() > RSA_BITS.end() / 8 {
        return None;
    }
    let bits = u32::try_from(digits.len() * 8).ok()?;
    BoxedUint::from_be_slice(digits, bits.max(8)).ok()
}

#[cfg(test)]
mod tests;
