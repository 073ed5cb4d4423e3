//! What becomes of a run: its exit status, and how an error is told.

use std::error::Error;
use std::io;

use crate::text::clean;

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Exit status 0.
    Good,
    /// Exit status 1: what was looked at is not as it must be.
    Refused,
    /// Exit status 2: it could not be looked at, or not be written.
    Failed,
}

/// A fault of what was looked at, and not of the way there.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    what: String,
    #[source]
    source: anyhow::Error,
}

impl Refusal {
    /// Says of `what` that `source` is why it is not as it must be.
    pub fn new(what: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}

/// The exit status for an error: 1 for a [`Refusal`] that is not the operating system's word, else 2.
pub fn outcome_of(error: &anyhow::Error) -> Outcome {
    match error.is::<Refusal>() && !is_from_system(error.as_ref()) {
        true => Outcome::Refused,
        false => Outcome::Failed,
    }
}

/// Whether an operating system's error is at the root of it: a bad disk is no verdict on the archive on it.
pub fn is_from_system(error: &(dyn Error + 'static)) -> bool {
    let chain = anyhow::Chain::new(error);
    chain
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.raw_os_error().is_some() || hidden(error))
}

/// An error inside of one that has only a sentence of its own.
fn hidden(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<io::Error>())
        .is_some_and(|inner| inner.raw_os_error().is_some())
}

/// The error and what caused it, a line each, without what its line before it says already.
pub fn sentences(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut before = String::new();
    for cause in error.chain() {
        let line = clean(&cause.to_string());
        if before.is_empty() {
            text.push_str(&format!("Error: {line}\n"));
        } else if !before.ends_with(&line) {
            text.push_str(&format!("  caused by: {line}\n"));
        }
        before = line;
    }
    text
}

/// The causes alone, outermost first: what [`sentences`] shows, for machines.
pub fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let chain = anyhow::Chain::new(error);
    let mut lines: Vec<String> = Vec::new();
    for cause in chain {
        let line = cause.to_string();
        if lines.last().is_none_or(|before| !before.ends_with(&line)) {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn only_a_refusal_is_a_verdict() {
        let verdict = anyhow!(Refusal::new("\"a.apk\" is not signed", anyhow!("No APK Signing Block")));
        assert_eq!(outcome_of(&verdict), Outcome::Refused);
        assert_eq!(
            sentences(&verdict),
            "Error: \"a.apk\" is not signed\n  caused by: No APK Signing Block\n"
        );
        let broken = io::Error::from_raw_os_error(5);
        assert_eq!(outcome_of(&anyhow!(Refusal::new("a", broken))), Outcome::Failed);
        let missing = Err::<(), _>(io::Error::from_raw_os_error(2)).context("Open \"a\"").unwrap_err();
        assert_eq!(outcome_of(&missing), Outcome::Failed);
        // An archive that is cut short is no matter of the operating system's.
        let short = io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end");
        assert_eq!(outcome_of(&anyhow!(Refusal::new("a", short))), Outcome::Refused);
    }

    #[test]
    fn what_a_line_ends_with_is_not_said_again() {
        let error = anyhow!("inner").context("outer: inner").context("outermost");
        assert_eq!(sentences(&error), "Error: outermost\n  caused by: outer: inner\n");
        assert_eq!(causes(error.as_ref()), ["outermost", "outer: inner"]);
    }

    #[test]
    fn errors_do_not_reach_the_terminal_raw() {
        let error = anyhow!("entry \u{1b}[2J\n is bad");
        assert_eq!(sentences(&error), "Error: entry \\u{1b}[2J\\n is bad\n");
    }
}
