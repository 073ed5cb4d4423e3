//! Who signed an archive: APK Signature Schemes v3.1, v3 and v2, the first of them that the archive has.
//!
//! ```text
//!   v3.1 has a signer for this SDK? ── yes ──> that one (a v3 block must be there as well)
//!     │ no
//!   v3 block? ── yes ──> its one signer for this SDK; says it "v3.1 from SDK N"? then a v3.1 signer from N must exist
//!     │ no
//!   v2 block? ── yes ──> all its signers; none may say "there is a v3 signature"
//! ```
//!
//! So a better signature cannot be stripped to leave a worse one. An archive that may run in a VM has exactly one
//! signer, because that signer is the VM's identity.

use std::io;

use super::algorithm::{ContentDigest, SignatureAlgorithm};
use super::digest::SignedContent;
use super::lineage;
use super::signer::{Layout, SignerError, SignerRecord, VerifiedSigner};
use super::signing_block::{self, SigningBlock, SigningBlockError};
use super::zip::{ZipError, ZipSections};
use crate::ReadAt;

/// Android API level that the SDK ranges of signers are checked against.
pub const SDK: u32 = 35;

/// Signers that v2 allows, each of which costs a signature check.
const MAX_SIGNERS: usize = 10;
/// Attribute of a v2 signer: the number of a better scheme that signed as well.
pub(super) const STRIPPING_PROTECTION: u32 = 0xbeef_f00d;
/// Attribute of a v3 signer: the SDK from which v3.1 holds.
const ROTATION_MIN_SDK: u32 = 0x559f_8b02;

/// Attribute of a v3.1 signer: the first SDK of its range means only previews of the one after it.
const ROTATION_ON_DEVELOPMENT_RELEASE: u32 = 0xc2a6_b3ba;

/// A signature scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// APK Signature Scheme v2.
    V2,
    /// APK Signature Scheme v3.
    V3,
    /// APK Signature Scheme v3.1.
    V31,
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V2 => "v2",
            Self::V3 => "v3",
            Self::V31 => "v3.1",
        })
    }
}

/// Why an archive is not believed to be as somebody signed it.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No archive.
    #[error("find the archive's sections")]
    Sections(#[from] ZipError),
    /// No signing block.
    #[error("find the archive's signatures")]
    Block(#[from] SigningBlockError),
    /// A signing block without a scheme that is known here.
    #[error("No APK Signature Scheme v2 or v3 signature")]
    NoScheme,
    /// Not the number of signers there must be.
    #[error("{found} signers found in the {scheme} signature for SDK {sdk}, where there must be one")]
    SignerCount {
        /// The scheme.
        scheme: Scheme,
        /// Signers for this SDK.
        found: usize,
        /// The SDK.
        sdk: u32,
    },
    /// A signer says that there is a better signature, which is missing.
    #[error("the {signed} signature says that there is a {missing} one, which was stripped")]
    Stripped {
        /// Scheme of the signature that says it.
        signed: Scheme,
        /// What is missing.
        missing: Scheme,
    },
    /// A signer that is not believed.
    #[error("{scheme} signer: {source}")]
    Signer {
        /// Its scheme.
        scheme: Scheme,
        /// Why not.
        source: SignerError,
    },
    /// The content cannot be read.
    #[error("read the archive's content")]
    Content(#[source] io::Error),
}

/// Who signed an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// By which scheme.
    pub scheme: Scheme,
    /// By which algorithm.
    pub algorithm: SignatureAlgorithm,
    /// The signer's X.509 certificate, DER.
    pub certificate: Vec<u8>,
    /// All certificates the signer had, oldest first and the present one last; empty when it never changed.
    pub lineage: Vec<Vec<u8>>,
}

/// A signature that holds, over content not yet compared with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the content is not verified yet"]
pub struct Signature {
    signer: Signer,
    sections: ZipSections,
    entries_end: u64,
    digest: Vec<u8>,
}

impl Signature {
    /// Who signed; the content may still be another.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Compares all of the archive with what was signed.
    ///
    /// # Errors
    /// [`VerifyError::Signer`] with [`SignerError::Digest`] when it is not the same.
    pub fn verify_content(self, reader: &dyn ReadAt) -> Result<Signer, VerifyError> {
        let computed = SignedContent::new(reader, &self.sections, self.entries_end)
            .and_then(|content| content.digest(self.signer.algorithm.content_digest()))
            .map_err(VerifyError::Content)?;
        if computed != self.digest {
            let source = SignerError::Digest { computed, expected: self.digest };
            return Err(VerifyError::Signer { scheme: self.signer.scheme, source });
        }
        Ok(self.signer)
    }
}

/// Verifies the archive that fills `reader` exactly, for `sdk` (see [`SDK`]): reads all of it, on all processors.
///
/// # Errors
/// [`VerifyError`] unless one signer, and one only, vouches for every byte.
pub fn verify(reader: &dyn ReadAt, sdk: u32) -> Result<Signer, VerifyError> {
    verify_signature(reader, sdk)?.verify_content(reader)
}

/// Verifies the signature alone, which reads no more than the signing block.
///
/// # Errors
/// [`VerifyError`] unless one signer, and one only, has signed some content.
pub fn verify_signature(reader: &dyn ReadAt, sdk: u32) -> Result<Signature, VerifyError> {
    let sections = ZipSections::read(reader)?;
    let block = SigningBlock::read(reader, &sections)?;
    let (scheme, verified) = match (block.get(signing_block::V3), block.get(signing_block::V31)) {
        (Some(v3), v31) => verify_v3(v3, v31, sdk)?,
        (None, Some(_)) => {
            return Err(VerifyError::Stripped { signed: Scheme::V31, missing: Scheme::V3 });
        }
        (None, None) => {
            let v2 = block.get(signing_block::V2).ok_or(VerifyError::NoScheme)?;
            (Scheme::V2, verify_v2(v2, sdk)?)
        }
    };
    let lineage = match verified.attribute(lineage::ATTRIBUTE) {
        Some(proof) if scheme != Scheme::V2 => lineage::verify(proof, verified.certificate)
            .map_err(|error| signer_error(scheme)(error.into()))?,
        _ => Vec::new(),
    };
    let certificate = verified.certificate.to_vec();
    let signer = Signer { scheme, algorithm: verified.algorithm, certificate, lineage };
    Ok(Signature { signer, sections, entries_end: block.start, digest: verified.digest.to_vec() })
}

fn signer_error(scheme: Scheme) -> impl Fn(SignerError) -> VerifyError {
    move |source| VerifyError::Signer { scheme, source }
}

fn verify_v3<'a>(
    v3: &'a [u8],
    v31: Option<&'a [u8]>,
    sdk: u32,
) -> Result<(Scheme, VerifiedSigner<'a>), VerifyError> {
    let newer = v31
        .map(|value| SignerRecord::parse_all(value, Layout::V3).map_err(signer_error(Scheme::V31)))
        .transpose()?
        .unwrap_or_default();
    if let Some(fitting) = newer.iter().find(|signer| signer.sdk().contains(&sdk)) {
        let verified = verify_for_sdk(&newer, Scheme::V31, sdk)?;
        let preview_only =
            *fitting.sdk().start() == sdk && verified.attribute(ROTATION_ON_DEVELOPMENT_RELEASE).is_some();
        if !preview_only {
            return Ok((Scheme::V31, verified));
        }
    }
    let failed = signer_error(Scheme::V3);
    let stripped = || VerifyError::Stripped { signed: Scheme::V3, missing: Scheme::V31 };
    let signers = SignerRecord::parse_all(v3, Layout::V3).map_err(&failed)?;
    let rotated_from = |signer: &VerifiedSigner<'_>| signer.number(ROTATION_MIN_SDK).map_err(&failed);
    if v31.is_none() && signers.iter().all(|signer| !signer.sdk().contains(&sdk)) {
        // Nobody is left for this SDK: a better reason than that is a signer who says where the other one was.
        for signer in signers.iter().take(MAX_SIGNERS) {
            if let Ok(verified) = signer.verify(Layout::V3)
                && rotated_from(&verified)?.is_some_and(|from| from <= sdk)
            {
                return Err(stripped());
            }
        }
    }
    let verified = verify_for_sdk(&signers, Scheme::V3, sdk)?;
    if let Some(from) = rotated_from(&verified)?
        && !newer.iter().any(|signer| *signer.sdk().start() == from)
    {
        return Err(stripped());
    }
    Ok((Scheme::V3, verified))
}

/// The one signer whose SDK range holds `sdk`.
fn verify_for_sdk<'a>(
    signers: &[SignerRecord<'a>],
    scheme: Scheme,
    sdk: u32,
) -> Result<VerifiedSigner<'a>, VerifyError> {
    let fitting: Vec<_> = signers.iter().filter(|signer| signer.sdk().contains(&sdk)).collect();
    match fitting[..] {
        [signer] => signer.verify(Layout::V3).map_err(signer_error(scheme)),
        _ => Err(VerifyError::SignerCount { scheme, found: fitting.len(), sdk }),
    }
}

/// Every signer must hold; then there must be one.
fn verify_v2(value: &[u8], sdk: u32) -> Result<VerifiedSigner<'_>, VerifyError> {
    let failed = signer_error(Scheme::V2);
    let count = |found| VerifyError::SignerCount { scheme: Scheme::V2, found, sdk };
    let signers = SignerRecord::parse_all(value, Layout::V2).map_err(&failed)?;
    if signers.len() > MAX_SIGNERS {
        return Err(count(signers.len()));
    }
    let mut verified = Vec::new();
    for signer in &signers {
        let signer = signer.verify(Layout::V2).map_err(&failed)?;
        if signer.number(STRIPPING_PROTECTION).map_err(&failed)? == Some(3) {
            return Err(VerifyError::Stripped { signed: Scheme::V2, missing: Scheme::V3 });
        }
        verified.push(signer);
    }
    let found = verified.len();
    verified.pop().filter(|_| found == 1).ok_or_else(|| count(found))
}

/// The digest that an idsig names its archive by: that of the strongest v3 algorithm, or v2 where there is no v3, as
/// listed and not verified. With it, the number of the algorithm.
///
/// # Errors
/// [`VerifyError`] when the archive lists none.
pub fn listed_digest(reader: &dyn ReadAt) -> Result<(SignatureAlgorithm, Vec<u8>), VerifyError> {
    let sections = ZipSections::read(reader)?;
    let block = SigningBlock::read(reader, &sections)?;
    let (scheme, layout, value) = match (block.get(signing_block::V3), block.get(signing_block::V2)) {
        (Some(value), _) => (Scheme::V3, Layout::V3, value),
        (None, Some(value)) => (Scheme::V2, Layout::V2, value),
        (None, None) => return Err(VerifyError::NoScheme),
    };
    let mut best: Option<(ContentDigest, SignatureAlgorithm, &[u8])> = None;
    for signer in SignerRecord::parse_all(value, layout).map_err(signer_error(scheme))? {
        for (algorithm, digest) in signer.digests(layout).map_err(signer_error(scheme))? {
            let strength = algorithm.content_digest();
            if best.is_none_or(|(strongest, ..)| strength > strongest) {
                best = Some((strength, algorithm, digest));
            }
        }
    }
    let (_, algorithm, digest) = best.ok_or(SignerError::NoAlgorithm).map_err(signer_error(scheme))?;
    Ok((algorithm, digest.to_vec()))
}

#[cfg(test)]
mod tests;
