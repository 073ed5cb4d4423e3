//! Signing archives: APK Signature Schemes v3 and v2, with the user's RSA or ECDSA key or one made here.
//!
//! Everything is deterministic: one key has one certificate and gives one archive one signature.

use std::io::{self, Write};

use super::digest::SignedContent;
use super::signing_block::{self, SigningBlock, SigningBlockError};
use super::verify::{STRIPPING_PROTECTION, Scheme};
use super::zip::{END_RECORD_OFFSET_FIELD, ZipError, ZipSections};
use crate::ReadAt;
use crate::fields::{prefixed, sequence};
use crate::read_at::adapters::copy;

mod certificate;
mod error;
mod key;
mod pem;
mod private_key;

pub use error::SigningKeyError;
pub use key::SigningKey;

/// First SDK that reads v3.
const MIN_SDK: u32 = 28;
/// Last SDK there can be.
const MAX_SDK: u32 = 0x7fff_ffff;

/// Why an archive cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
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

/// Signs the archive in `apk` and writes it to `out` from its first byte to its last; a signing block that it has is
/// replaced. The content is digested once, whatever the schemes.
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
    let digest = content.digest(key.algorithm().content_digest())?;
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
    let data = [content_and_certificates(key, digest), sdk.clone(), sequence([])].concat();
    signer(key, &data, &sdk)
}

/// The list of signers of a v2 record: this one, which says when there is a v3 record as well.
fn v2_signer(key: &SigningKey, digest: &[u8], with_v3: bool) -> Vec<u8> {
    let stripping = [STRIPPING_PROTECTION.to_le_bytes(), 3u32.to_le_bytes()].concat();
    let attributes = if with_v3 { sequence([stripping.as_slice()]) } else { sequence([]) };
    signer(key, &[content_and_certificates(key, digest), attributes].concat(), &[])
}

/// What the signed data of both begins with.
fn content_and_certificates(key: &SigningKey, digest: &[u8]) -> Vec<u8> {
    let digests = sequence([numbered(key, digest).as_slice()]);
    let certificates = sequence(key.certificates().iter().map(Vec::as_slice));
    [digests, certificates].concat()
}

fn signer(key: &SigningKey, data: &[u8], sdk: &[u8]) -> Vec<u8> {
    let signatures = sequence([numbered(key, &key.sign(data)).as_slice()]);
    let record = [&prefixed(data)[..], sdk, &signatures, &prefixed(key.public_key())].concat();
    sequence([record.as_slice()])
}

/// The algorithm's number, and length-prefixed bytes that belong to it.
fn numbered(key: &SigningKey, bytes: &[u8]) -> Vec<u8> {
    [&key.algorithm().id().to_le_bytes()[..], &prefixed(bytes)].concat()
}

#[cfg(test)]
mod tests;
