//! Who signed an archive: APK Signature Schemes v3.1, v3 and v2, the first of them that the archive has.
//!
//! ```text
//!   v3.1 has a signer for this SDK? ── yes ──> that one (a v3 block must be there as well, and must know of it)
//!     │ no
//!   v3 block? ── yes ──> its one signer for this SDK; says it "v3.1 from SDK N"? then v3.1 must begin at N
//!     │ no
//!   v2 block? ── yes ──> all its signers, ten at most; none may say "there is a v3 signature"
//! ```
//!
//! So a better signature cannot be stripped to leave a worse one. [`verify_all`] believes all who signed; an archive
//! that may run in a VM has exactly one signer, because that signer is the VM's identity: [`verify`].

use std::io;

use sha2::{Digest, Sha256, Sha512};

use super::algorithm::{ContentDigest, SignatureAlgorithm};
use super::digest::SignedContent;
use super::directory::{self, DirectoryError};
use super::lineage::{self, LineageError};
use super::signer::{Layout, SignerError, SignerRecord, VerifiedSigner};
use super::signing_block::{self, SigningBlock, SigningBlockError};
use super::zip::{ZipError, ZipSections};
use crate::ReadAt;

mod report;
mod rotation;

pub use report::{OtherRecord, Report, SchemeReport, SignerReport, report};

/// Android API level that the SDK ranges of signers are checked against.
pub const SDK: u32 = 35;

/// Signers that v2 allows, each of which costs a signature check.
const MAX_SIGNERS: usize = 10;
/// Attribute of a v2 signer: the number of a better scheme that signed as well.
pub(super) const STRIPPING_PROTECTION: u32 = 0xbeef_f00d;

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
    /// An archive whose entries are not to be told.
    #[error("walk the archive's entries")]
    Directory(#[from] DirectoryError),
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
    /// More signers than a scheme has.
    #[error("{found} signers found in the {scheme} signature, which may have {MAX_SIGNERS}")]
    TooManySigners {
        /// The scheme.
        scheme: Scheme,
        /// Its signers.
        found: usize,
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

impl Signer {
    /// SHA-256 of the certificate: what signing tools show.
    pub fn certificate_sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }

    /// SHA-512 of the certificate: what a VM's identity is made of.
    pub fn certificate_sha512(&self) -> [u8; 64] {
        Sha512::digest(&self.certificate).into()
    }
}

/// Who signed every byte of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The scheme that counts.
    pub scheme: Scheme,
    /// Its signers, at least one; more than one only with v2.
    pub signers: Vec<Signer>,
}

/// Signatures that hold, all by one scheme, over content not yet compared with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the content is not verified yet"]
pub struct Signatures {
    scheme: Scheme,
    /// Each with the digest of the content that it signed; at least one.
    signers: Vec<(Signer, Vec<u8>)>,
    sections: ZipSections,
    entries_end: u64,
}

impl Signatures {
    /// The scheme that counts.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Who signed; the content may still be another.
    pub fn signers(&self) -> impl ExactSizeIterator<Item = &Signer> {
        self.signers.iter().map(|(signer, _)| signer)
    }

    /// Compares all of the archive with what was signed, reading it once for each kind of digest.
    ///
    /// # Errors
    /// [`VerifyError::Signer`] with [`SignerError::Digest`] when it is not the same.
    pub fn verify_content(self, reader: &dyn ReadAt) -> Result<Verified, VerifyError> {
        let content =
            SignedContent::new(reader, &self.sections, self.entries_end).map_err(VerifyError::Content)?;
        let mut computed: Vec<(ContentDigest, Vec<u8>)> = Vec::new();
        for (signer, expected) in &self.signers {
            let found = content
                .digest_once(signer.algorithm.content_digest(), &mut computed)
                .map_err(VerifyError::Content)?;
            if found != expected {
                let source = SignerError::Digest { computed: found.to_vec(), expected: expected.clone() };
                return Err(VerifyError::Signer { scheme: self.scheme, source });
            }
        }
        let signers = self.signers.into_iter().map(|(signer, _)| signer).collect();
        Ok(Verified { scheme: self.scheme, signers })
    }
}

/// The signature of an archive's only signer, over content not yet compared with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the content is not verified yet"]
pub struct Signature(Signatures);

impl Signature {
    /// Who signed; the content may still be another.
    pub fn signer(&self) -> &Signer {
        let (signer, _) = &self.0.signers[0];
        signer
    }

    /// Compares all of the archive with what was signed.
    ///
    /// # Errors
    /// [`VerifyError::Signer`] with [`SignerError::Digest`] when it is not the same.
    pub fn verify_content(self, reader: &dyn ReadAt) -> Result<Signer, VerifyError> {
        self.0.verify_content(reader).map(|mut verified| verified.signers.swap_remove(0))
    }
}

/// Verifies the archive that fills `reader` exactly, for `sdk` (see [`SDK`]): reads all of it, on all processors.
///
/// # Errors
/// [`VerifyError`] unless one signer, and one only, vouches for every byte.
pub fn verify(reader: &dyn ReadAt, sdk: u32) -> Result<Signer, VerifyError> {
    verify_signature(reader, sdk)?.verify_content(reader)
}

/// Verifies the archive that fills `reader` exactly, for `sdk`, which any number of signers that its scheme allows may
/// have signed: reads all of it, on all processors.
///
/// # Errors
/// [`VerifyError`] unless every signer that counts vouches for every byte.
pub fn verify_all(reader: &dyn ReadAt, sdk: u32) -> Result<Verified, VerifyError> {
    verify_signatures(reader, sdk)?.verify_content(reader)
}

/// Verifies the only signer's signature, which reads no more than the signing block and the central directory.
///
/// # Errors
/// [`VerifyError`] unless one signer, and one only, has signed some content.
pub fn verify_signature(reader: &dyn ReadAt, sdk: u32) -> Result<Signature, VerifyError> {
    let signatures = verify_signatures(reader, sdk)?;
    match signatures.signers.len() {
        1 => Ok(Signature(signatures)),
        found => Err(VerifyError::SignerCount { scheme: signatures.scheme, found, sdk }),
    }
}

/// Verifies all signatures that count, which reads no more than the signing block and the central directory.
///
/// # Errors
/// [`VerifyError`] unless all who had to sign have signed some content.
pub fn verify_signatures(reader: &dyn ReadAt, sdk: u32) -> Result<Signatures, VerifyError> {
    let sections = ZipSections::read(reader)?;
    directory::check(reader, &sections)?;
    let block = SigningBlock::read(reader, &sections)?;
    let (scheme, verified) = match (block.get(signing_block::V3), block.get(signing_block::V31)) {
        (Some(v3), v31) => {
            let (scheme, verified) = rotation::verify(v3, v31, sdk)?;
            (scheme, vec![verified])
        }
        (None, Some(_)) => {
            return Err(VerifyError::Stripped { signed: Scheme::V31, missing: Scheme::V3 });
        }
        (None, None) => {
            let v2 = block.get(signing_block::V2).ok_or(VerifyError::NoScheme)?;
            (Scheme::V2, verify_v2(v2, sdk)?)
        }
    };
    let signers = verified
        .into_iter()
        .map(|verified| Ok((signer(scheme, &verified)?, verified.digest.to_vec())))
        .collect::<Result<_, _>>()
        .map_err(signer_error(scheme))?;
    Ok(Signatures { scheme, signers, sections, entries_end: block.start })
}

/// Who that is, its proof of rotation verified.
fn signer(scheme: Scheme, verified: &VerifiedSigner<'_>) -> Result<Signer, SignerError> {
    let lineage = match scheme {
        Scheme::V2 => Vec::new(),
        Scheme::V3 | Scheme::V31 => lineage(verified)?,
    };
    let certificate = verified.certificate.to_vec();
    Ok(Signer { scheme, algorithm: verified.algorithm, certificate, lineage })
}

fn signer_error(scheme: Scheme) -> impl Fn(SignerError) -> VerifyError {
    move |source| VerifyError::Signer { scheme, source }
}

/// The certificates of the signer's proof, oldest first; none when it never changed its key.
fn lineage(signer: &VerifiedSigner<'_>) -> Result<Vec<Vec<u8>>, LineageError> {
    let mut proofs = signer.attributes().all(lineage::ATTRIBUTE);
    match (proofs.next(), proofs.next()) {
        (None, _) => Ok(Vec::new()),
        (Some(proof), None) => lineage::verify(proof, signer.certificate),
        (Some(_), Some(_)) => Err(LineageError::Several),
    }
}

/// Every signer must hold, and none may know of a better scheme.
fn verify_v2(value: &[u8], sdk: u32) -> Result<Vec<VerifiedSigner<'_>>, VerifyError> {
    let failed = signer_error(Scheme::V2);
    let signers = SignerRecord::parse_all(value, Layout::V2).map_err(&failed)?;
    match signers.len() {
        0 => return Err(VerifyError::SignerCount { scheme: Scheme::V2, found: 0, sdk }),
        1..=MAX_SIGNERS => {}
        found => return Err(VerifyError::TooManySigners { scheme: Scheme::V2, found }),
    }
    let mut verified = Vec::new();
    for signer in &signers {
        let signer = signer.verify(Layout::V2).map_err(&failed)?;
        if signer.attributes().numbers(STRIPPING_PROTECTION).map_err(&failed)?.contains(&3) {
            return Err(VerifyError::Stripped { signed: Scheme::V2, missing: Scheme::V3 });
        }
        verified.push(signer);
    }
    Ok(verified)
}

/// The digest that an idsig names its archive by: that of the strongest v3 algorithm, or v2 where there is no v3, as
/// listed and not verified. With it, the algorithm: one that is refused only where no other is listed.
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
    let rank = |algorithm: SignatureAlgorithm| (algorithm.is_accepted(), algorithm.content_digest());
    let mut best: Option<(SignatureAlgorithm, &[u8])> = None;
    for signer in SignerRecord::parse_all(value, layout).map_err(signer_error(scheme))? {
        for (algorithm, digest) in signer.digests(layout).map_err(signer_error(scheme))? {
            if best.is_none_or(|(strongest, _)| rank(algorithm) > rank(strongest)) {
                best = Some((algorithm, digest));
            }
        }
    }
    let (algorithm, digest) = best.ok_or(SignerError::NoAlgorithm).map_err(signer_error(scheme))?;
    Ok((algorithm, digest.to_vec()))
}

#[cfg(test)]
mod tests;
