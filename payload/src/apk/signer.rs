//! One signer of an archive, as schemes v2 and v3 write it; all but the content's digest is judged here.
//!
//! ```text
//!   signer      = +signed_data | v3: min_sdk u32, max_sdk u32 | +(+(algorithm u32, +signature))* | +public_key
//!   signed_data = +(+(algorithm u32, +digest))* | +(+certificate)* | v3: min_sdk, max_sdk | +(+(id u32, value))* | ..
//! ```
//!
//! Little-endian; `+` is a 32-bit length of what follows.

use std::ops::RangeInclusive;

use super::algorithm::{ContentDigest, KeyError, SignatureAlgorithm, certifies};
use super::lineage::LineageError;
use crate::der;
use crate::fields::Fields;
use crate::hex::Hex;

/// Why a signer is not believed. The sentences are those that users of Android's tools know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// A record that is cut short, or stands twice where it may once.
    #[error("the signer's {0} is malformed")]
    Malformed(&'static str),
    /// Only algorithms that nobody knows, or none.
    #[error("No supported APK signatures found")]
    NoAlgorithm,
    /// Only algorithms that are not accepted, of which this is the strongest.
    #[error("No supported APK signatures found: {0} is not accepted")]
    Refused(SignatureAlgorithm),
    /// The signature is not the public key's over the signed data.
    #[error(transparent)]
    Signature(#[from] KeyError),
    /// Signed and unsigned SDK range differ.
    #[error("SDK versions mismatch between signed and unsigned in v3 signer block")]
    SdkRange,
    /// Other algorithms are signed than were used.
    #[error("Signature algorithms don't match between digests and signatures records")]
    AlgorithmsDiffer,
    /// No certificate is signed.
    #[error("No certificates listed")]
    NoCertificates,
    /// The first certificate is another key's.
    #[error("Public key mismatch between certificate and signature record")]
    KeyMismatch,
    /// The content is not what was signed.
    #[error("Digest mismatch: computed={} vs expected={}", Hex(.computed), Hex(.expected))]
    Digest {
        /// Digest of the content as it is.
        computed: Vec<u8>,
        /// Digest that was signed.
        expected: Vec<u8>,
    },
    /// The content cannot be read, or not be digested by this algorithm.
    #[error("digest the content: {0}")]
    Content(String),
    /// The keys before this one did not hand over to it.
    #[error("the proof of rotation does not hold")]
    Lineage(#[from] LineageError),
}

/// Which layout a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    V2,
    V3,
}

/// A signer's record, not yet believed.
#[derive(Debug)]
pub(super) struct SignerRecord<'a> {
    signed_data: &'a [u8],
    sdk: RangeInclusive<u32>,
    signatures: Vec<(u32, &'a [u8])>,
    public_key: &'a [u8],
}

/// What a signer whose signature holds has signed.
#[derive(Debug)]
pub(super) struct SignedData<'a> {
    digests: Vec<(u32, &'a [u8])>,
    certificates: Vec<&'a [u8]>,
    sdk: RangeInclusive<u32>,
    attributes: Attributes<'a>,
}

/// A signer whose signature holds.
#[derive(Debug)]
pub(super) struct VerifiedSigner<'a> {
    pub(super) algorithm: SignatureAlgorithm,
    pub(super) digest: &'a [u8],
    pub(super) certificate: &'a [u8],
    attributes: Attributes<'a>,
}

/// Numbered values that a signer has signed besides, some of which change what its signature means.
#[derive(Debug)]
pub(super) struct Attributes<'a>(Vec<(u32, &'a [u8])>);

impl<'a> SignerRecord<'a> {
    /// The signers in a scheme's record of the signing block.
    pub(super) fn parse_all(value: &'a [u8], layout: Layout) -> Result<Vec<Self>, SignerError> {
        let mut fields = Fields::new(value);
        let records = fields.sequence().ok_or(SignerError::Malformed("list"))?;
        records
            .into_iter()
            .map(|record| Self::parse(record, layout).ok_or(SignerError::Malformed("record")))
            .collect()
    }

    fn parse(mut fields: Fields<'a>, layout: Layout) -> Option<Self> {
        let signed_data = fields.prefixed()?;
        let sdk = sdk_range(&mut fields, layout)?;
        let signatures = numbered(fields.sequence()?)?;
        let public_key = fields.prefixed()?;
        Some(Self { signed_data, sdk, signatures, public_key })
    }

    /// SDK versions it signs for.
    pub(super) fn sdk(&self) -> &RangeInclusive<u32> {
        &self.sdk
    }

    /// The digests it lists, whether or not its signature holds.
    pub(super) fn digests(
        &self,
        layout: Layout,
    ) -> Result<impl Iterator<Item = (SignatureAlgorithm, &'a [u8])> + use<'a>, SignerError> {
        let digests = SignedData::parse(self.signed_data, layout)?.digests;
        Ok(digests.into_iter().filter_map(|(id, digest)| Some((SignatureAlgorithm::from_id(id)?, digest))))
    }

    /// The attributes it lists, whether or not its signature holds.
    pub(super) fn attributes(&self, layout: Layout) -> Result<Attributes<'a>, SignerError> {
        SignedData::parse(self.signed_data, layout).map(|data| data.attributes)
    }

    /// Checks everything but the content: the signature by the strongest algorithm, and that what is signed agrees
    /// with what is not.
    pub(super) fn verify(&self, layout: Layout) -> Result<VerifiedSigner<'a>, SignerError> {
        let (algorithm, signature) = strongest(self.signatures.iter().copied())?;
        algorithm.verify(self.public_key, self.signed_data, signature)?;

        let data = SignedData::parse(self.signed_data, layout)?;
        if data.sdk != self.sdk {
            return Err(SignerError::SdkRange);
        }
        let used = self.signatures.iter().map(|(id, _)| id);
        if !used.eq(data.digests.iter().map(|(id, _)| id)) {
            return Err(SignerError::AlgorithmsDiffer);
        }
        let (_, digest) = strongest(data.digests.iter().copied())?;
        let keys: Vec<&[u8]> = data
            .certificates
            .iter()
            .map(|certificate| {
                der::certificate_public_key(certificate).ok_or(SignerError::Malformed("certificate"))
            })
            .collect::<Result<_, _>>()?;
        let (Some(certificate), Some(certified)) = (data.certificates.first(), keys.first()) else {
            return Err(SignerError::NoCertificates);
        };
        if !certifies(certified, self.public_key) {
            return Err(SignerError::KeyMismatch);
        }
        Ok(VerifiedSigner { algorithm, digest, certificate, attributes: data.attributes })
    }
}

impl<'a> VerifiedSigner<'a> {
    pub(super) fn attributes(&self) -> &Attributes<'a> {
        &self.attributes
    }
}

impl<'a> Attributes<'a> {
    /// The values of all attributes numbered `id`.
    pub(super) fn all(&self, id: u32) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(found, _)| *found == id).map(|(_, value)| *value)
    }

    /// The 32-bit numbers that the attributes numbered `id` are.
    pub(super) fn numbers(&self, id: u32) -> Result<Vec<u32>, SignerError> {
        self.all(id)
            .map(|value| Fields::new(value).u32().ok_or(SignerError::Malformed("attribute")))
            .collect()
    }
}

impl<'a> SignedData<'a> {
    /// Writers of v2 leave bytes behind the attributes; they are signed and mean nothing.
    fn parse(bytes: &'a [u8], layout: Layout) -> Result<Self, SignerError> {
        Self::parse_fields(Fields::new(bytes), layout).ok_or(SignerError::Malformed("signed data"))
    }

    fn parse_fields(mut fields: Fields<'a>, layout: Layout) -> Option<Self> {
        let digests = numbered(fields.sequence()?)?;
        let certificates = fields.sequence()?.into_iter().map(Fields::rest).collect();
        let sdk = sdk_range(&mut fields, layout)?;
        let attributes = fields
            .sequence()?
            .into_iter()
            .map(|mut record| Some((record.u32()?, record.rest())))
            .collect::<Option<Vec<_>>>()?;
        Some(Self { digests, certificates, sdk, attributes: Attributes(attributes) })
    }
}

fn sdk_range(fields: &mut Fields<'_>, layout: Layout) -> Option<RangeInclusive<u32>> {
    match layout {
        Layout::V2 => Some(0..=u32::MAX),
        Layout::V3 => Some(fields.u32()?..=fields.u32()?),
    }
}

/// Records of a number and length-prefixed bytes.
fn numbered(records: Vec<Fields<'_>>) -> Option<Vec<(u32, &[u8])>> {
    records.into_iter().map(|mut record| Some((record.u32()?, record.prefixed()?))).collect()
}

/// The accepted algorithm with the strongest content digest, the first of equals; those that nobody knows are passed over.
fn strongest<'a>(
    list: impl Iterator<Item = (u32, &'a [u8])>,
) -> Result<(SignatureAlgorithm, &'a [u8]), SignerError> {
    let rank = |algorithm: SignatureAlgorithm| -> (bool, ContentDigest) {
        (algorithm.is_accepted(), algorithm.content_digest())
    };
    let best = list
        .filter_map(|(id, value)| Some((SignatureAlgorithm::from_id(id)?, value)))
        .reduce(|best, next| if rank(next.0) > rank(best.0) { next } else { best });
    match best {
        Some((algorithm, _)) if !algorithm.is_accepted() => Err(SignerError::Refused(algorithm)),
        best => best.ok_or(SignerError::NoAlgorithm),
    }
}
