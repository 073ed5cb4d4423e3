//! Everything that a signing block holds, for people to look at: each scheme with a verdict of its own.
//!
//! Whether the archive is to be believed is another question, which [`super::verify_all`] answers.

use std::ops::RangeInclusive;

use super::{MAX_SIGNERS, Scheme, Signer, VerifyError, signer, signer_error};
use crate::ReadAt;
use crate::apk::algorithm::ContentDigest;
use crate::apk::digest::SignedContent;
use crate::apk::signer::{Layout, SignerError, SignerRecord};
use crate::apk::signing_block::{self, SigningBlock, record_name};
use crate::apk::zip::ZipSections;

/// Records besides the schemes' that are listed.
const MAX_OTHERS: usize = 64;

/// What a signing block holds.
#[derive(Debug)]
pub struct Report {
    /// The schemes that are there: v3.1, v3 and v2, in this order.
    pub schemes: Vec<SchemeReport>,
    /// The first 64 other records, in the block's order; what counts for nothing, as a scheme's second record, too.
    pub others: Vec<OtherRecord>,
    /// Other records that are not listed.
    pub left_off: usize,
}

/// One scheme, looked at alone.
#[derive(Debug)]
pub struct SchemeReport {
    /// Which it is.
    pub scheme: Scheme,
    /// Number of its record in the block.
    pub id: u32,
    /// Its first ten signers.
    pub signers: Vec<SignerReport>,
    /// Whether the signers it must have for the SDK are there and vouch for every byte.
    pub result: Result<(), VerifyError>,
}

/// One signer of a scheme.
#[derive(Debug)]
pub struct SignerReport {
    /// SDKs that it signs for; all of them with v2.
    pub sdk: RangeInclusive<u32>,
    /// Who it is, when it vouches for every byte.
    pub result: Result<Signer, SignerError>,
}

/// A record that is no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherRecord {
    /// Its number.
    pub id: u32,
    /// Bytes of its value.
    pub len: usize,
    /// What it holds, when that is known.
    pub name: Option<&'static str>,
}

/// Looks at everything in the signing block of the archive that fills `reader` exactly: reads the archive once for each
/// kind of digest, three times at most.
///
/// # Errors
/// [`VerifyError`] when there is no signing block, or the content cannot be read.
pub fn report(reader: &dyn ReadAt, sdk: u32) -> Result<Report, VerifyError> {
    let sections = ZipSections::read(reader)?;
    let block = SigningBlock::read(reader, &sections)?;
    let content = SignedContent::new(reader, &sections, block.start).map_err(VerifyError::Content)?;
    let mut judge = Judge { content, computed: Vec::new(), sdk };
    let all = [
        (Scheme::V31, signing_block::V31, Layout::V3),
        (Scheme::V3, signing_block::V3, Layout::V3),
        (Scheme::V2, signing_block::V2, Layout::V2),
    ];
    let mut schemes = Vec::new();
    for (scheme, id, layout) in all {
        let Some(value) = block.get(id) else { continue };
        let mut signers = Vec::new();
        let result = judge.scheme(value, scheme, layout, &mut signers);
        schemes.push(SchemeReport { scheme, id, signers, result });
    }
    // The first record of each scheme is told of above.
    let mut told: Vec<u32> = Vec::new();
    let others = block.records().filter(|(id, _)| {
        let first = all.iter().any(|(_, scheme, _)| scheme == id) && !told.contains(id);
        if first {
            told.push(*id);
        }
        !first
    });
    let mut listed: Vec<OtherRecord> = Vec::new();
    let mut left_off = 0;
    for (id, value) in others {
        if listed.len() < MAX_OTHERS {
            listed.push(OtherRecord { id, len: value.len(), name: record_name(id) });
        } else {
            left_off += 1;
        }
    }
    Ok(Report { schemes, others: listed, left_off })
}

/// Judges schemes over one content.
struct Judge<'a> {
    content: SignedContent<'a>,
    computed: Vec<(ContentDigest, Vec<u8>)>,
    sdk: u32,
}

impl Judge<'_> {
    fn scheme(
        &mut self,
        value: &[u8],
        scheme: Scheme,
        layout: Layout,
        reports: &mut Vec<SignerReport>,
    ) -> Result<(), VerifyError> {
        let failed = signer_error(scheme);
        let records = SignerRecord::parse_all(value, layout).map_err(&failed)?;
        for record in records.iter().take(MAX_SIGNERS) {
            let result = self.signer(record, scheme, layout);
            reports.push(SignerReport { sdk: record.sdk().clone(), result });
        }
        if layout == Layout::V2 && records.len() > MAX_SIGNERS {
            return Err(VerifyError::TooManySigners { scheme, found: records.len() });
        }
        let counting: Vec<usize> =
            (0..records.len()).filter(|index| records[*index].sdk().contains(&self.sdk)).collect();
        let one = layout == Layout::V3;
        if counting.is_empty() || one && counting.len() > 1 {
            return Err(VerifyError::SignerCount { scheme, found: counting.len(), sdk: self.sdk });
        }
        for index in counting {
            let result = match reports.get(index) {
                Some(report) => report.result.as_ref().map(|_| ()).map_err(SignerError::clone),
                // Past those that are listed, which can be the only one for its SDK.
                None => self.signer(&records[index], scheme, layout).map(|_| ()),
            };
            result.map_err(&failed)?;
        }
        Ok(())
    }

    fn signer(
        &mut self,
        record: &SignerRecord<'_>,
        scheme: Scheme,
        layout: Layout,
    ) -> Result<Signer, SignerError> {
        let verified = record.verify(layout)?;
        let signer = signer(scheme, &verified)?;
        let computed = self
            .content
            .digest_once(signer.algorithm.content_digest(), &mut self.computed)
            .map_err(|error| SignerError::Content(error.to_string()))?;
        if computed != verified.digest {
            let expected = verified.digest.to_vec();
            return Err(SignerError::Digest { computed: computed.to_vec(), expected });
        }
        Ok(signer)
    }
}
