//! Who signed an archive: every scheme that is there, and the one that counts.

use std::ops::RangeInclusive;

use payload::ReadAt;
use payload::apk::verify::{Report, SchemeReport, SignerReport, report};
use payload::apk::{Signatures, Signer, VerifyError, verify_signatures};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::draw::{Mark, Page};
use crate::fault::causes;
use crate::text::hex;

/// What the signing block holds, judged.
#[derive(Debug, Default, Serialize)]
pub struct SignatureFacts {
    /// The scheme that counts, when it vouches for the archive.
    scheme: Option<String>,
    /// Who signed by it.
    pub signers: Vec<SignerFacts>,
    /// Every scheme by itself.
    schemes: Vec<SchemeFacts>,
    /// Records that are no signatures.
    other_records: Vec<OtherFacts>,
}

/// A signer who vouches for the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignerFacts {
    algorithm: String,
    /// SHA-256 of the certificate.
    pub certificate_sha256: String,
    /// SHA-256 of the certificates before it, oldest first.
    lineage: Vec<String>,
}

/// A scheme by itself.
#[derive(Debug, Serialize)]
struct SchemeFacts {
    scheme: String,
    id: u32,
    good: bool,
    problem: Option<String>,
    signers: Vec<JudgedFacts>,
}

/// A signer of a scheme.
#[derive(Debug, Serialize)]
struct JudgedFacts {
    min_sdk: u32,
    max_sdk: u32,
    problem: Option<String>,
    #[serde(flatten)]
    signer: Option<SignerFacts>,
}

#[derive(Debug, Serialize)]
struct OtherFacts {
    id: u32,
    size: usize,
    name: Option<&'static str>,
}

/// Judges the archive that fills `source`; with it, why it does not verify at `sdk`.
///
/// # Errors
/// When it cannot be read; that nobody signed it is not an error.
pub fn gather(source: &dyn ReadAt, sdk: u32) -> Result<(SignatureFacts, Option<String>), VerifyError> {
    let report = match report(source, sdk) {
        Ok(report) => report,
        Err(error @ VerifyError::Content(_)) => return Err(error),
        Err(error) => return Ok((SignatureFacts::default(), Some(sentence(&error)))),
    };
    let (signatures, mut problem) = match verify_signatures(source, sdk) {
        Ok(signatures) => (Some(signatures), None),
        Err(error) => (None, Some(sentence(&error))),
    };
    let mut facts = of(&report);
    if let Some(signatures) = signatures {
        problem = content_problem(&signatures, &report);
        if problem.is_none() {
            facts.scheme = Some(signatures.scheme().to_string());
            facts.signers = signatures.signers().map(of_signer).collect();
        }
    }
    Ok((facts, problem))
}

/// Why the content is not what those signed that count; the report has hashed it.
fn content_problem(signatures: &Signatures, report: &Report) -> Option<String> {
    let scheme = report.schemes.iter().find(|scheme| scheme.scheme == signatures.scheme())?;
    let vouched = |signer: &Signer| scheme.signers.iter().any(|judged| judged.result.as_ref() == Ok(signer));
    if signatures.signers().all(vouched) {
        return None;
    }
    let errors = scheme.signers.iter().filter_map(|judged| judged.result.as_ref().err());
    let said = errors.map(|error| format!("{} signer: {error}", scheme.scheme)).next();
    Some(said.unwrap_or_else(|| format!("a {} signer does not vouch for the content", scheme.scheme)))
}

fn sentence(error: &VerifyError) -> String {
    causes(error).join(": ")
}

fn of(report: &Report) -> SignatureFacts {
    let others = report.others.iter();
    SignatureFacts {
        scheme: None,
        signers: Vec::new(),
        schemes: report.schemes.iter().map(of_scheme).collect(),
        other_records: others
            .map(|record| OtherFacts { id: record.id, size: record.len, name: record.name })
            .collect(),
    }
}

fn of_scheme(scheme: &SchemeReport) -> SchemeFacts {
    SchemeFacts {
        scheme: scheme.scheme.to_string(),
        id: scheme.id,
        good: scheme.result.is_ok(),
        problem: scheme.result.as_ref().err().map(sentence),
        signers: scheme.signers.iter().map(of_judged).collect(),
    }
}

fn of_judged(judged: &SignerReport) -> JudgedFacts {
    JudgedFacts {
        min_sdk: *judged.sdk.start(),
        max_sdk: *judged.sdk.end(),
        problem: judged.result.as_ref().err().map(|error| causes(error).join(": ")),
        signer: judged.result.as_ref().ok().map(of_signer),
    }
}

/// The facts about a signer.
pub fn of_signer(signer: &Signer) -> SignerFacts {
    let digest = |certificate: &Vec<u8>| hex(&Sha256::digest(certificate));
    let before = signer.lineage.split_last().map_or(&[][..], |(_, before)| before);
    SignerFacts {
        algorithm: signer.algorithm.to_string(),
        certificate_sha256: digest(&signer.certificate),
        lineage: before.iter().map(digest).collect(),
    }
}

impl SignerFacts {
    /// Its algorithm, in words.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// Whether it had another key before.
    pub fn rotated(&self) -> bool {
        !self.lineage.is_empty()
    }

    /// Draws it below the line that names it.
    pub fn draw(&self, page: &mut Page) {
        page.field("", &self.certificate_sha256);
        for before in self.lineage.iter().rev() {
            page.field("", &format!("before: {before}"));
        }
    }
}

impl SignatureFacts {
    /// Draws them.
    pub fn draw(&self, page: &mut Page) {
        if self.schemes.is_empty() {
            page.mark("signature", Mark::Bad, "none");
        }
        for scheme in &self.schemes {
            let counts = self.scheme.as_ref() == Some(&scheme.scheme);
            let suffix = if counts && self.schemes.len() > 1 { ", the one that counts" } else { "" };
            match &scheme.problem {
                None => page.mark(&scheme.scheme, Mark::Good, &format!("vouches for every byte{suffix}")),
                Some(problem) => page.mark(&scheme.scheme, Mark::Bad, problem),
            }
            for judged in &scheme.signers {
                let sdk = versions(&(judged.min_sdk..=judged.max_sdk));
                match (&judged.signer, &judged.problem) {
                    (Some(signer), _) => {
                        page.field("", &format!("{}{sdk}; SHA-256 of the certificate:", signer.algorithm));
                        signer.draw(page);
                    }
                    (None, Some(problem)) if scheme.problem.is_none() => {
                        page.field("", &format!("another signer{sdk}: {problem}"));
                    }
                    _ => {}
                }
            }
        }
        for record in &self.other_records {
            let name = record.name.unwrap_or("unknown record");
            page.field("", &format!("{name} ({:#010x}), {} bytes", record.id, record.size));
        }
    }
}

/// For which versions of Android a signer signs; nothing for all of them.
fn versions(sdk: &RangeInclusive<u32>) -> String {
    const LAST: u32 = 0x7fff_ffff;
    match (*sdk.start(), *sdk.end()) {
        (0, LAST..) => String::new(),
        (first, LAST..) => format!(", API {first} and later"),
        (first, last) => format!(", API {first} to {last}"),
    }
}
