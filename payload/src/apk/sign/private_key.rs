//! Private keys as files hold them: PKCS#8 (RFC 5208), PKCS#1 (RFC 8017, A.1.2) and SEC 1 (RFC 5915).

use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::pkcs8::{EncodePrivateKey, LineEnding};
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, Pkcs1v15Sign, RsaPrivateKey};
use sha2::{Digest, Sha256, Sha512};

use super::error::SigningKeyError;
use super::pem;
use crate::apk::algorithm::{EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP256R1, SECP384R1, SECP521R1};
use crate::apk::algorithm::{SignatureAlgorithm, unsigned};
use crate::der::{self, Reader, element, tag};

/// Shorter keys are no longer safe to sign with, longer ones are not verified here.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=16384;
/// RSA keys of more bits than this are worth SHA-512, as are curves of more than 256.
const RSA_SHA256_BITS: u32 = 3072;

/// Other kinds of keys that tools make, by object identifier.
const OTHER_KINDS: [(&[u8], &str); 7] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01], "a DSA key"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a], "an RSA key for PSS alone"),
    (&[0x2b, 0x65, 0x70], "an Ed25519 key"),
    (&[0x2b, 0x65, 0x71], "an Ed448 key"),
    (&[0x2b, 0x65, 0x6e], "an X25519 key"),
    (&[0x2b, 0x65, 0x6f], "an X448 key"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x03, 0x01], "a Diffie-Hellman key"),
];

/// A private key that archives can be signed with.
pub(super) enum PrivateKey {
    Rsa(Box<RsaPrivateKey>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    P521(p521::ecdsa::SigningKey),
}

impl PrivateKey {
    /// The first private key of a PEM text.
    pub(super) fn from_pem(text: &str) -> Result<Self, SigningKeyError> {
        let blocks = pem::blocks(text).ok_or(SigningKeyError::Malformed("PEM"))?;
        let block = blocks
            .iter()
            .find(|block| block.label.ends_with("PRIVATE KEY"))
            .ok_or(SigningKeyError::Missing)?;
        if block.encrypted {
            return Err(SigningKeyError::Encrypted);
        }
        match block.label {
            "PRIVATE KEY" => Self::from_pkcs8(&block.content),
            "RSA PRIVATE KEY" => rsa_key(&block.content),
            "EC PRIVATE KEY" => ec_key(&block.content, None),
            "ENCRYPTED PRIVATE KEY" => Err(SigningKeyError::Encrypted),
            "DSA PRIVATE KEY" => Err(SigningKeyError::Kind("a DSA key".into())),
            "OPENSSH PRIVATE KEY" => Err(SigningKeyError::Kind("a key of OpenSSH's own format".into())),
            other => Err(SigningKeyError::Kind(format!("a block {other:?}"))),
        }
    }

    /// A private key of any of the formats, DER.
    pub(super) fn from_der(bytes: &[u8]) -> Result<Self, SigningKeyError> {
        // Told apart by what follows the version: an algorithm, a modulus, or a scalar.
        let mut fields = Reader::new(bytes).sequence().ok_or(SigningKeyError::Malformed("DER"))?;
        let first = fields.any().map(|it| it.tag);
        match (first, fields.any().map(|it| it.tag)) {
            (Some(tag::INTEGER), Some(tag::INTEGER)) => rsa_key(bytes),
            (Some(tag::INTEGER), Some(tag::OCTET_STRING)) => ec_key(bytes, None),
            (Some(tag::SEQUENCE), Some(tag::OCTET_STRING)) => Err(SigningKeyError::Encrypted),
            _ => Self::from_pkcs8(bytes),
        }
    }

    fn from_pkcs8(bytes: &[u8]) -> Result<Self, SigningKeyError> {
        let malformed = SigningKeyError::Malformed("PKCS#8");
        let parse = || {
            let mut info = whole_sequence(bytes)?;
            info.expect(tag::INTEGER)?;
            let mut algorithm = info.sequence()?;
            let kind = algorithm.expect(tag::OBJECT_IDENTIFIER)?.content;
            Some((kind, algorithm.any(), info.expect(tag::OCTET_STRING)?.content))
        };
        let (kind, parameters, key) = parse().ok_or(malformed)?;
        match kind {
            RSA_ENCRYPTION => rsa_key(key),
            EC_PUBLIC_KEY => match parameters {
                Some(curve) if curve.tag == tag::OBJECT_IDENTIFIER => ec_key(key, Some(curve.content)),
                _ => Err(SigningKeyError::Kind("a key over a curve without a name".into())),
            },
            _ => {
                let other = OTHER_KINDS.iter().find(|(known, _)| *known == kind);
                let name = other.map_or("a key of an unknown kind", |(_, name)| *name);
                Err(SigningKeyError::Kind(name.into()))
            }
        }
    }

    /// What the reference signer takes for such a key.
    pub(super) fn algorithm(&self) -> SignatureAlgorithm {
        match self {
            Self::Rsa(key) if key.n().bits_vartime() <= RSA_SHA256_BITS => SignatureAlgorithm::RsaPkcs1Sha256,
            Self::Rsa(_) => SignatureAlgorithm::RsaPkcs1Sha512,
            Self::P256(_) => SignatureAlgorithm::EcdsaSha256,
            Self::P384(_) | Self::P521(_) => SignatureAlgorithm::EcdsaSha512,
        }
    }

    /// Signs with the hash of its algorithm; the same message has the same signature (RFC 6979 where it is ECDSA).
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let signature = if self.algorithm() == SignatureAlgorithm::RsaPkcs1Sha256 {
                    key.sign(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(message))
                } else {
                    key.sign(Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(message))
                };
                signature.expect("the key was validated, and is longer than any hash")
            }
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = prehashed(key, &Sha256::digest(message));
                signature.to_der().as_bytes().to_vec()
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::Signature = prehashed(key, &Sha512::digest(message));
                signature.to_der().as_bytes().to_vec()
            }
            Self::P521(key) => {
                let signature: p521::ecdsa::Signature = prehashed(key, &Sha512::digest(message));
                signature.to_der().as_bytes().to_vec()
            }
        }
    }

    /// SubjectPublicKeyInfo (RFC 5480; RFC 3279, 2.3.1).
    pub(super) fn public_key(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let numbers = [integer(&key.n().to_be_bytes()), integer(&key.e().to_be_bytes())];
                let key = element(tag::SEQUENCE, &[&numbers[0], &numbers[1]]);
                public_key_info(&[&element(tag::OBJECT_IDENTIFIER, &[RSA_ENCRYPTION]), NULL], &key)
            }
            Self::P256(key) => ec_info(SECP256R1, key.verifying_key().to_sec1_point(false).as_bytes()),
            Self::P384(key) => ec_info(SECP384R1, key.verifying_key().to_sec1_point(false).as_bytes()),
            Self::P521(key) => ec_info(SECP521R1, key.verifying_key().to_sec1_point(false).as_bytes()),
        }
    }

    /// PKCS#8, PEM.
    pub(super) fn to_pem(&self) -> Result<String, SigningKeyError> {
        let pem = match self {
            Self::Rsa(key) => key.to_pkcs8_pem(LineEnding::LF),
            Self::P256(key) => key.to_pkcs8_pem(LineEnding::LF),
            Self::P384(key) => key.to_pkcs8_pem(LineEnding::LF),
            Self::P521(key) => key.to_pkcs8_pem(LineEnding::LF),
        };
        pem.map(|pem| pem.as_str().to_owned()).map_err(|_| SigningKeyError::Malformed("key"))
    }
}

/// ASN.1 NULL.
pub(super) const NULL: &[u8] = &[0x05, 0x00];

fn prehashed<S>(key: &impl PrehashSigner<S>, hash: &[u8]) -> S {
    key.sign_prehash(hash).expect("a hash is long enough for its curve")
}

/// The fields of a sequence that is all there is.
fn whole_sequence(bytes: &[u8]) -> Option<Reader<'_>> {
    der::is_one(bytes).then(|| Reader::new(bytes).sequence()).flatten()
}

/// RSAPrivateKey of two primes.
fn rsa_key(bytes: &[u8]) -> Result<PrivateKey, SigningKeyError> {
    let parse = || {
        let mut fields = whole_sequence(bytes)?;
        let version = fields.expect(tag::INTEGER)?.content;
        let mut number = || unsigned(fields.expect(tag::INTEGER)?.content);
        let numbers: [BoxedUint; 5] = [number()?, number()?, number()?, number()?, number()?];
        (version == [0]).then_some(numbers)
    };
    let [modulus, exponent, private, p, q] = parse().ok_or(SigningKeyError::Malformed("RSA key"))?;
    let bits = modulus.bits_vartime();
    if !RSA_BITS.contains(&bits) {
        return Err(SigningKeyError::RsaBits(bits));
    }
    // This is where the numbers are found to fit each other.
    RsaPrivateKey::from_components(modulus, exponent, private, vec![p, q])
        .map(|key| PrivateKey::Rsa(Box::new(key)))
        .map_err(|_| SigningKeyError::Malformed("RSA key"))
}

/// ECPrivateKey over the curve it names itself, or `curve`.
fn ec_key(bytes: &[u8], curve: Option<&[u8]>) -> Result<PrivateKey, SigningKeyError> {
    let parse = || {
        let mut fields = whole_sequence(bytes)?;
        let version = fields.expect(tag::INTEGER)?.content;
        let scalar = fields.expect(tag::OCTET_STRING)?.content;
        let named = fields.any().filter(|it| it.tag == tag::CONTEXT_0);
        (version == [1]).then_some((scalar, named))
    };
    let malformed = || SigningKeyError::Malformed("EC key");
    let (scalar, named) = parse().ok_or_else(malformed)?;
    let named = match named {
        Some(parameters) => {
            Reader::new(parameters.content).any().filter(|it| it.tag == tag::OBJECT_IDENTIFIER)
        }
        None => None,
    };
    let named = named.map(|it| it.content);
    if let (Some(named), Some(curve)) = (named, curve)
        && named != curve
    {
        return Err(malformed());
    }
    let key = match curve.or(named) {
        Some(SECP256R1) => fixed::<32>(scalar)
            .and_then(|scalar| p256::ecdsa::SigningKey::from_slice(&scalar).ok())
            .map(PrivateKey::P256),
        Some(SECP384R1) => fixed::<48>(scalar)
            .and_then(|scalar| p384::ecdsa::SigningKey::from_slice(&scalar).ok())
            .map(PrivateKey::P384),
        Some(SECP521R1) => fixed::<66>(scalar)
            .and_then(|scalar| p521::ecdsa::SigningKey::from_slice(&scalar).ok())
            .map(PrivateKey::P521),
        Some(_) => {
            return Err(SigningKeyError::Kind("a key over another curve than P-256, P-384 and P-521".into()));
        }
        None => return Err(SigningKeyError::Kind("a key over a curve without a name".into())),
    };
    key.ok_or_else(malformed)
}

/// A scalar of `N` bytes; some writers leave out zeros in front, or put some there.
fn fixed<const N: usize>(scalar: &[u8]) -> Option<[u8; N]> {
    let zeros = scalar.iter().take_while(|byte| **byte == 0).count();
    let digits = &scalar[zeros.min(scalar.len().saturating_sub(N))..];
    let mut bytes = [0; N];
    bytes[N.checked_sub(digits.len())?..].copy_from_slice(digits);
    Some(bytes)
}

/// A positive DER integer of these digits.
fn integer(digits: &[u8]) -> Vec<u8> {
    let zeros = digits.iter().take_while(|byte| **byte == 0).count();
    let digits = &digits[zeros..];
    let sign: &[u8] = if digits.first().is_none_or(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    element(tag::INTEGER, &[sign, digits])
}

fn ec_info(curve: &[u8], point: &[u8]) -> Vec<u8> {
    let kind = element(tag::OBJECT_IDENTIFIER, &[EC_PUBLIC_KEY]);
    public_key_info(&[&kind, &element(tag::OBJECT_IDENTIFIER, &[curve])], point)
}

fn public_key_info(algorithm: &[&[u8]], key: &[u8]) -> Vec<u8> {
    let algorithm = element(tag::SEQUENCE, algorithm);
    element(tag::SEQUENCE, &[&algorithm, &element(tag::BIT_STRING, &[&[0], key])])
}
