//! `verify`: who vouches for a file, if anyone.

mod disk;

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};
use payload::ReadAt;
use payload::apex::Apex;
use payload::apk;
use payload::idsig::Idsig;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cli::VerifyArgs;
use crate::draw::{Mark, Page};
use crate::fault::{Outcome, Refusal, causes, outcome_of, sentences};
use crate::input::Input;
use crate::inspect;
use crate::inspect::signatures::{SignerFacts, of_signer};
use crate::kind::{self, Kind};
use crate::progress::Progress;
use crate::screen::{self, Screen};
use crate::text::hex;

/// The document that is printed.
#[derive(Debug, Serialize)]
struct Document {
    good: bool,
    files: Vec<Verdict>,
}

/// What is found out about one file.
#[derive(Debug, Default, Serialize)]
struct Verdict {
    kind: &'static str,
    file: String,
    good: bool,
    /// API levels at which it was verified; for archives.
    sdk: Vec<u32>,
    /// The scheme that counts at the last of them.
    scheme: Option<String>,
    /// Who signed it by that.
    signers: Vec<SignerFacts>,
    /// What was verified, in sentences.
    checked: Vec<String>,
    /// The first reason why it is not good, and what that was caused by.
    errors: Vec<String>,
}

/// Runs `verify`.
pub fn run(args: &VerifyArgs, quiet: bool) -> Result<Outcome> {
    if args.idsig.is_some() && args.files.len() != 1 {
        bail!("--idsig is of one APK, and {} files are given", args.files.len());
    }
    let mut worst = Outcome::Good;
    let mut files = Vec::new();
    for path in &args.files {
        let mut verdict = Verdict { file: path.display().to_string(), kind: "unknown", ..Verdict::default() };
        let result = Input::open(path).and_then(|input| one(&input, args, quiet, &mut verdict));
        verdict.good = result.is_ok();
        if let Err(error) = result {
            verdict.errors = causes(error.as_ref());
            worst = worst.max(outcome_of(&error));
            screen::complain(&sentences(&error));
        } else if !quiet && !args.json {
            screen::print(&verdict.picture())?;
        }
        files.push(verdict);
    }
    if args.json {
        let document = Document { good: worst == Outcome::Good, files };
        let text = serde_json::to_string_pretty(&document).context("Write the JSON document")?;
        screen::print(&(text + "\n"))?;
    }
    Ok(worst)
}

/// Verifies one file, and notes what was found until then.
fn one(input: &Input, args: &VerifyArgs, quiet: bool, verdict: &mut Verdict) -> Result<()> {
    let kind = kind::of(&input.file).with_context(|| format!("Read {:?}", input.path))?;
    if args.idsig.is_some() && !matches!(kind, Kind::Apk | Kind::Unknown) {
        bail!("--idsig is of an APK, and {:?} is none", input.path);
    }
    verdict.kind = kind.name();
    match kind {
        Kind::Apex => verify_apex(input, quiet, verdict),
        Kind::Disk => disk::verify(input, &levels(args), quiet, verdict),
        Kind::Idsig => {
            let apk = Input::open(&apk_of(&input.path)?)?;
            verify_idsig(input, &apk, quiet, verdict)
        }
        Kind::Instance | Kind::Metadata => verify_records(input, kind, verdict),
        // What is of no known kind is no archive either, and the reason for that is told.
        Kind::Apk | Kind::Unknown => {
            verify_apk(input, &levels(args), quiet, verdict)?;
            match &args.idsig {
                Some(path) => verify_idsig(&Input::open(path)?, input, quiet, verdict),
                None => Ok(()),
            }
        }
    }
}

/// The API levels to verify at.
fn levels(args: &VerifyArgs) -> Vec<u32> {
    if args.sdk.is_empty() { vec![apk::SDK] } else { args.sdk.clone() }
}

/// The error that says of `input` that it is not good.
fn refuse(input: &Input, error: impl Into<Error>) -> Error {
    Refusal::new(format!("{:?} does not verify", input.path), error).into()
}

fn verify_apk(input: &Input, levels: &[u32], quiet: bool, verdict: &mut Verdict) -> Result<()> {
    let progress = Progress::new("Verify", input.len.saturating_mul(levels.len() as u64), quiet);
    verify_archive(&progress.watch(&input.file), levels, "", verdict).map_err(|error| refuse(input, error))
}

/// Verifies an archive at each level; `place` ends the sentence about it.
fn verify_archive(source: &dyn ReadAt, levels: &[u32], place: &str, verdict: &mut Verdict) -> Result<()> {
    for sdk in levels {
        let verified = apk::verify_all(source, *sdk).map_err(|error| match levels {
            [apk::SDK] => Error::from(error),
            _ => Error::from(error).context(format!("At API level {sdk}")),
        })?;
        if !verdict.sdk.contains(sdk) {
            verdict.sdk.push(*sdk);
        }
        verdict.scheme = Some(verified.scheme.to_string());
        let signers: Vec<SignerFacts> = verified.signers.iter().map(of_signer).collect();
        let by = if signers.iter().any(SignerFacts::rotated) { ", after rotation" } else { "" };
        verdict.checked.push(format!("{} signature at API level {sdk}{by}{place}", verified.scheme));
        for signer in signers {
            if !verdict.signers.contains(&signer) {
                verdict.signers.push(signer);
            }
        }
    }
    Ok(())
}

/// The archive that an idsig is of, by the names of both.
fn apk_of(idsig: &Path) -> Result<PathBuf> {
    let apk = idsig.with_extension("");
    if idsig.extension().is_some_and(|extension| extension == "idsig") && apk.is_file() {
        return Ok(apk);
    }
    Err(anyhow!("{idsig:?} is verified against its APK: payload verify APK --idsig {}", idsig.display()))
}

fn verify_idsig(input: &Input, apk: &Input, quiet: bool, verdict: &mut Verdict) -> Result<()> {
    let progress = Progress::new("Verify the hash tree of", apk.len, quiet);
    let apk_name = format!("{:?}", apk.path);
    let read = Idsig::read_file(&input.file).map_err(|error| refuse(input, error))?;
    compare_idsig(&read, &input.file, &progress.watch(&apk.file), &apk_name, verdict)
        .map_err(|error| refuse(input, error))
}

/// Compares a hash tree with the archive, and its signature with both.
fn compare_idsig(
    idsig: &Idsig,
    source: &dyn ReadAt,
    apk: &dyn ReadAt,
    name: &str,
    verdict: &mut Verdict,
) -> Result<()> {
    idsig.verify(source, apk)?;
    verdict.checked.push(format!("hash tree of {name}"));
    if idsig.signing.signature.is_empty() {
        return Ok(());
    }
    idsig.verify_signature(apk)?;
    let certificate = hex(&Sha256::digest(&idsig.signing.certificate));
    if !verdict.signers.is_empty() && verdict.signers.iter().all(|it| it.certificate_sha256 != certificate) {
        bail!("the hash tree is signed by {certificate}, who did not sign the APK");
    }
    verdict.checked.push(format!("v4 signature, certificate {certificate}"));
    Ok(())
}

fn verify_apex(input: &Input, quiet: bool, verdict: &mut Verdict) -> Result<()> {
    let progress = Progress::new("Verify", input.len, quiet);
    let source = progress.watch(&input.file);
    let apex = Apex::open(&source).map_err(|error| refuse(input, error))?;
    apex.verify().map_err(|error| refuse(input, error))?;
    let key = hex(&Sha256::digest(&apex.public_key));
    verdict.checked.push(format!("filesystem of {} version {}", apex.name, apex.version));
    verdict.checked.push(format!("AVB key, SHA-256 {key}"));
    Ok(())
}

/// Files that nobody signs: that they can be read is all there is to verify.
fn verify_records(input: &Input, kind: Kind, verdict: &mut Verdict) -> Result<()> {
    match kind {
        Kind::Metadata => {
            inspect::metadata::gather(&input.file).map_err(|error| refuse(input, error))?;
            verdict.checked.push("the message can be read".into());
        }
        _ => {
            inspect::instance::gather(&input.file).map_err(|error| refuse(input, error))?;
            verdict.checked.push("the records can be told; only their VM can open them".into());
        }
    }
    Ok(())
}

impl Verdict {
    /// The lines for a good file.
    fn picture(&self) -> String {
        let mut page = Page::new(Screen::stdout());
        page.title(&self.file, "good");
        for (index, checked) in self.checked.iter().enumerate() {
            page.mark(if index == 0 { "verified" } else { "" }, Mark::Good, checked);
        }
        for signer in &self.signers {
            page.field("signer", &format!("{}; SHA-256 of the certificate:", signer.algorithm()));
            signer.draw(&mut page);
        }
        page.finish()
    }
}
