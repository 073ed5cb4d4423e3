//! Keys in files.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use payload::apk::sign::SigningKey;

use crate::input::Input;
use crate::output::{Existing, Output};

/// Longest file read: a key of 16384 bits, or a certificate of one, takes a fifth of it.
const MAX_LEN: u64 = 64 << 10;

/// The key in a file, PEM or DER, with the certificate in another.
pub fn read(path: &Path, certificate: Option<&Path>) -> Result<SigningKey> {
    let key = SigningKey::from_bytes(&Input::open(path)?.bytes(MAX_LEN)?)
        .with_context(|| format!("Read the key in {path:?}"))?;
    let Some(certificate) = certificate else { return Ok(key) };
    key.with_certificate(&Input::open(certificate)?.bytes(MAX_LEN)?)
        .with_context(|| format!("Take the certificate in {certificate:?}"))
}

/// Writes a new key to a file that only its owner may read, and that must not be there yet.
pub fn keep(key: &SigningKey, path: &Path) -> Result<Output> {
    let output = Output::create(path, 0o600, Existing::Keep, &[])?;
    let pem = key.to_pem().context("Encode the key")?;
    output.file().write_all(pem.as_bytes()).with_context(|| format!("Write {path:?}"))?;
    Ok(output)
}
