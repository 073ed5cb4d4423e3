//! Signing archives with ECDSA over P-256: APK Signature Schemes v3 and v2.
//!
//! Everything is deterministic: one key has one certificate and gives one archive one signature.

use std::io::{self, Write};

use p256::ecdsa::signature::Signer as _;
use p256::elliptic_curve::Generate as _;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use sha2::{Digest, Sha256};

use super::algorithm::{EC_PUBLIC_KEY, SECP256R1, SignatureAlgorithm};
use super::digest::SignedContent;
use super::signing_block::{self, SigningBlock, SigningBlockError};
use super::verify::{STRIPPING_PROTECTION, Scheme};
use super::zip::{END_RECORD_OFFSET_FIELD, ZipError, ZipSections};
use crate::ReadAt;
use crate::der::{element, tag};
use crate::fields::{prefixed, sequence};
use crate::read_at::adapters::copy;

/// First SDK that reads v3.
const MIN_SDK: u32 = 28;
/// Last SDK there can be.
const MAX_SDK: u32 = 0x7fff_ffff;
const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::EcdsaSha256;
/// 1.2.840.10045.4.3.2, ecdsa-with-SHA256.
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// 2.5.4.3, commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Why an archive cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No private key.
    #[error("the key is not a P-256 private key in PKCS#8")]
    Key,
    /// The operating system gave no random numbers.
    #[error("make a key")]
    Random,
    /// No archive.
    #[error("find the archive's sections")]
    Sections(#[from] ZipError),
    /// A signing block that is there already and is broken.
    #[error("remove the archive's signing block")]
    Block(#[source] SigningBlockError),
    /// A scheme that nobody can sign with here.
    #[error("cannot sign with scheme {0}")]
    Scheme(Scheme),
    /// The archive passes 4 GiB with its signature.
    #[error("the signed archive passes 4 GiB")]
    TooLarge,
    /// The archive cannot be read, or the signed one not written.
    #[error("copy the archive")]
    Copy(#[from] io::Error),
}

/// A private key with the certificate it is known by.
pub struct SigningKey {
    key: p256::ecdsa::SigningKey,
    public_key: Vec<u8>,
    certificate: Vec<u8>,
}

impl SigningKey {
    /// A new key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`SignError::Random`].
    pub fn generate() -> Result<Self, SignError> {
        p256::ecdsa::SigningKey::try_generate().map(Self::new).map_err(|_| SignError::Random)
    }

    /// The key in a PEM file: `BEGIN PRIVATE KEY`.
    ///
    /// # Errors
    /// [`SignError::Key`].
    pub fn from_pem(pem: &str) -> Result<Self, SignError> {
        p256::ecdsa::SigningKey::from_pkcs8_pem(pem).map(Self::new).map_err(|_| SignError::Key)
    }

    /// The key in PKCS#8, DER.
    ///
    /// # Errors
    /// [`SignError::Key`].
    pub fn from_der(der: &[u8]) -> Result<Self, SignError> {
        p256::ecdsa::SigningKey::from_pkcs8_der(der).map(Self::new).map_err(|_| SignError::Key)
    }

    /// The key as [`SigningKey::from_pem`] reads it. Keep it to yourself.
    ///
    /// # Errors
    /// [`SignError::Key`] when it cannot be encoded.
    pub fn to_pem(&self) -> Result<String, SignError> {
        let pem = self.key.to_pkcs8_pem(LineEnding::LF).map_err(|_| SignError::Key)?;
        Ok(pem.as_str().to_owned())
    }

    /// Its SubjectPublicKeyInfo, DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Its certificate, DER: self-signed, and always the same for the key.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(super) fn new(key: p256::ecdsa::SigningKey) -> Self {
        let public_key = public_key_info(&key);
        let certificate = certificate(&key, &public_key);
        Self { key, public_key, certificate }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        sign_der(&self.key, message)
    }
}

/// Signs the archive in `apk` and writes it to `out`; a signing block that it has is replaced.
///
/// # Errors
/// [`SignError`].
pub fn sign(
    apk: &dyn ReadAt,
    key: &SigningKey,
    schemes: &[Scheme],
    out: &mut dyn Write,
) -> Result<(), SignError> {
    let sections = ZipSections::read(apk)?;
    let entries_end = match SigningBlock::read(apk, &sections) {
        Ok(block) => block.start,
        Err(SigningBlockError::Missing) => sections.central_directory,
        Err(error) => return Err(SignError::Block(error)),
    };
    let content = SignedContent::new(apk, &sections, entries_end)?;
    let digest = content.digest(ALGORITHM.content_digest())?;
    let with_v3 = schemes.contains(&Scheme::V3);
    let records = schemes
        .iter()
        .map(|scheme| match scheme {
            Scheme::V2 => Ok((signing_block::V2, v2_signer(key, &digest, with_v3))),
            Scheme::V3 => Ok((signing_block::V3, v3_signer(key, &digest))),
            Scheme::V31 => Err(SignError::Scheme(Scheme::V31)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    put_block(&content, entries_end, &records, out)
}

/// Writes the archive of `content` with a signing block of these records behind its entries.
pub(super) fn put_block(
    content: &SignedContent<'_>,
    entries_end: u64,
    records: &[(u32, Vec<u8>)],
    out: &mut dyn Write,
) -> Result<(), SignError> {
    let block = signing_block::encode(records);
    let offset = u32::try_from(entries_end + block.len() as u64)
        .ok()
        .filter(|offset| *offset != u32::MAX)
        .ok_or(SignError::TooLarge)?;
    let [entries, directory, end_record] = content.sections();
    copy(entries, out)?;
    out.write_all(&block)?;
    copy(directory, out)?;
    let mut patched = Vec::new();
    copy(end_record, &mut patched)?;
    patched[END_RECORD_OFFSET_FIELD..][..4].copy_from_slice(&offset.to_le_bytes());
    out.write_all(&patched)?;
    Ok(())
}

/// The list of signers of a v3 record: this one.
fn v3_signer(key: &SigningKey, digest: &[u8]) -> Vec<u8> {
    let sdk = [MIN_SDK.to_le_bytes(), MAX_SDK.to_le_bytes()].concat();
    let data = [
        sequence([numbered(digest).as_slice()]),
        sequence([key.certificate.as_slice()]),
        sdk.clone(),
        sequence([]),
    ]
    .concat();
    signer(key, &data, &sdk)
}

/// The list of signers of a v2 record: this one, which says when there is a v3 record as well.
fn v2_signer(key: &SigningKey, digest: &[u8], with_v3: bool) -> Vec<u8> {
    let stripping = [STRIPPING_PROTECTION.to_le_bytes(), 3u32.to_le_bytes()].concat();
    let attributes = if with_v3 { sequence([stripping.as_slice()]) } else { sequence([]) };
    let data = [sequence([numbered(digest).as_slice()]), sequence([key.certificate.as_slice()]), attributes]
        .concat();
    signer(key, &data, &[])
}

fn signer(key: &SigningKey, data: &[u8], sdk: &[u8]) -> Vec<u8> {
    let signatures = sequence([numbered(&key.sign(data)).as_slice()]);
    let record = [&prefixed(data)[..], sdk, &signatures, &prefixed(&key.public_key)].concat();
    sequence([record.as_slice()])
}

/// The algorithm's number, and length-prefixed bytes that belong to it.
fn numbered(bytes: &[u8]) -> Vec<u8> {
    [&ALGORITHM.id().to_le_bytes()[..], &prefixed(bytes)].concat()
}

fn sign_der(key: &p256::ecdsa::SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: p256::ecdsa::Signature = key.sign(message);
    signature.to_der().as_bytes().to_vec()
}

/// SubjectPublicKeyInfo (RFC 5480).
fn public_key_info(key: &p256::ecdsa::SigningKey) -> Vec<u8> {
    let point = key.verifying_key().to_sec1_point(false);
    let algorithm = element(
        tag::SEQUENCE,
        &[&element(tag::OBJECT_IDENTIFIER, &[EC_PUBLIC_KEY]), &element(tag::OBJECT_IDENTIFIER, &[SECP256R1])],
    );
    element(tag::SEQUENCE, &[&algorithm, &element(tag::BIT_STRING, &[&[0], point.as_bytes()])])
}

/// A self-signed certificate (RFC 5280) without end of validity (4.1.2.5), named by the key's hash.
fn certificate(key: &p256::ecdsa::SigningKey, public_key: &[u8]) -> Vec<u8> {
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
    let algorithm = element(tag::SEQUENCE, &[&element(tag::OBJECT_IDENTIFIER, &[ECDSA_WITH_SHA256])]);
    let version_3 = element(tag::CONTEXT_0, &[&element(tag::INTEGER, &[&[2]])]);
    let signed = element(
        tag::SEQUENCE,
        &[&version_3, &element(tag::INTEGER, &[&serial]), &algorithm, &name, &validity, &name, public_key],
    );
    let signature = element(tag::BIT_STRING, &[&[0], &sign_der(key, &signed)]);
    element(tag::SEQUENCE, &[&signed, &algorithm, &signature])
}

#[cfg(test)]
mod tests;
