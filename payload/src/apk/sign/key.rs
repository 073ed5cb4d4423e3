//! Keys that archives are signed with, and the certificates they are known by.

use std::fmt;

use p256::elliptic_curve::Generate as _;

use super::certificate;
use super::error::SigningKeyError;
use super::private_key::PrivateKey;
use crate::apk::algorithm::SignatureAlgorithm;

/// A private key with the certificates it is known by.
pub struct SigningKey {
    key: PrivateKey,
    public_key: Vec<u8>,
    /// The key's own first.
    certificates: Vec<Vec<u8>>,
}

impl SigningKey {
    /// A new P-256 key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`SigningKeyError::Random`].
    pub fn generate() -> Result<Self, SigningKeyError> {
        p256::ecdsa::SigningKey::try_generate()
            .map(|key| Self::new(PrivateKey::P256(key)))
            .map_err(|_| SigningKeyError::Random)
    }

    /// The first private key of a PEM text: PKCS#8 (`PRIVATE KEY`), PKCS#1 (`RSA PRIVATE KEY`) or SEC 1 (`EC PRIVATE
    /// KEY`); RSA of 2048 to 16384 bits, or a key over P-256, P-384 or P-521.
    ///
    /// # Errors
    /// [`SigningKeyError`] when there is none, or it is encrypted or of another kind.
    pub fn from_pem(pem: &str) -> Result<Self, SigningKeyError> {
        PrivateKey::from_pem(pem).map(Self::new)
    }

    /// The key in DER, of any of the formats that [`SigningKey::from_pem`] reads.
    ///
    /// # Errors
    /// [`SigningKeyError`] when it is malformed, encrypted or of another kind.
    pub fn from_der(der: &[u8]) -> Result<Self, SigningKeyError> {
        PrivateKey::from_der(der).map(Self::new)
    }

    /// The key in the bytes of a file, PEM or DER.
    ///
    /// # Errors
    /// As [`SigningKey::from_pem`] and [`SigningKey::from_der`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SigningKeyError> {
        match std::str::from_utf8(bytes) {
            Ok(text) if text.contains("-----BEGIN ") => Self::from_pem(text),
            _ if bytes.first() == Some(&crate::der::tag::SEQUENCE) => Self::from_der(bytes),
            _ => Err(SigningKeyError::Missing),
        }
    }

    /// The same key with certificates of the user's, PEM or DER, the first of which must be its own; those that follow
    /// it in PEM are put into archives, too.
    ///
    /// # Errors
    /// [`SigningKeyError::Certificate`].
    pub fn with_certificate(self, certificates: &[u8]) -> Result<Self, SigningKeyError> {
        let certificates = certificate::read(certificates, &self.public_key)?;
        Ok(Self { certificates, ..self })
    }

    /// The key as [`SigningKey::from_pem`] reads it, in PKCS#8. Keep it to yourself.
    ///
    /// # Errors
    /// [`SigningKeyError::Malformed`] when it cannot be encoded.
    pub fn to_pem(&self) -> Result<String, SigningKeyError> {
        self.key.to_pem()
    }

    /// What it signs by, as the reference signer chooses: SHA-256 for RSA of up to 3072 bits (PKCS #1 v1.5) and P-256,
    /// SHA-512 for longer keys.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }

    /// The signature by [`SigningKey::algorithm`] over `message`, always the same for it.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(message)
    }

    /// Its SubjectPublicKeyInfo, DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Its certificate, DER: the user's, or a self-signed one that is always the same for the key.
    pub fn certificate(&self) -> &[u8] {
        &self.certificates[0]
    }

    /// Its certificate and those that the user put behind it, DER.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    pub(super) fn new(key: PrivateKey) -> Self {
        let public_key = key.public_key();
        let certificates = vec![certificate::self_signed(&key, &public_key)];
        Self { key, public_key, certificates }
    }
}

/// Tells what everyone may know.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
