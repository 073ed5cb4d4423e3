//! `create-idsig` and `create-partition`.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use payload::apk::sign::SigningKey;
use payload::idsig::Idsig;
use payload::instance;

use crate::cli::{CreateIdsigArgs, CreatePartitionArgs, PartitionType};
use crate::fault::{Outcome, Refusal};
use crate::input::Input;
use crate::output::{Existing, Output};
use crate::pack::key;
use crate::progress::Progress;
use crate::text::unhex;

/// Permissions of files that anybody may read.
pub const PUBLIC: u32 = 0o666;

/// Longest salt that a block's prefix has room for.
const MAX_SALT: usize = 64;

/// Runs `create-idsig`.
pub fn idsig(args: &CreateIdsigArgs, quiet: bool) -> Result<Outcome> {
    let salt = unhex(&args.salt).filter(|salt| salt.len() <= MAX_SALT);
    let salt = salt.ok_or_else(|| anyhow!("--salt is not up to {MAX_SALT} bytes in hexadecimal"))?;
    let apk = Input::open(&args.apk)?;
    let key = args.key.as_deref().map(|pem| key::read(pem, args.cert.as_deref())).transpose()?;
    let read_once = [&args.key, &args.cert];
    let read_once =
        read_once.into_iter().flatten().map(|path| Input::open(path)).collect::<Result<Vec<_>>>()?;
    let inputs: Vec<&Input> = std::iter::once(&apk).chain(&read_once).collect();
    let output = Output::create(&args.out, PUBLIC, Existing::Replace, &inputs)?;
    write_idsig(&apk, &salt, args.force, key.as_ref(), &output, quiet)?;
    output.publish()?;
    Ok(Outcome::Good)
}

/// Hashes `apk` into `output`.
fn write_idsig(
    apk: &Input,
    salt: &[u8],
    force: bool,
    key: Option<&SigningKey>,
    output: &Output,
    quiet: bool,
) -> Result<()> {
    let progress = Progress::new("Hash", apk.len, quiet);
    let source = progress.watch(&apk.file);
    let make = if force { Idsig::create_forced } else { Idsig::create };
    let refusal = |error| Refusal::new(format!("Make the idsig of {:?}", apk.path), error);
    let (mut idsig, tree) = make(&source, salt).map_err(refusal)?;
    if let Some(key) = key {
        idsig.sign(&source, key).map_err(refusal)?;
    }
    let mut out = BufWriter::new(output.file());
    idsig
        .write(&tree, &mut out)
        .and_then(|()| out.flush())
        .with_context(|| format!("Write {:?}", output.path()))
}

/// Runs `create-partition`.
pub fn partition(args: &CreatePartitionArgs) -> Result<Outcome> {
    // AVF's tool takes the path first; others take it last.
    let (out, len) = match (size(&args.size), size(&args.out)) {
        (Some(len), _) => (&args.out, len),
        (None, Some(len)) => (&args.size, len),
        (None, None) => bail!("{:?} is not a size, such as 4096, 512K, 10M or 1G", args.size),
    };
    if len == 0 || i64::try_from(len).is_err() {
        bail!("a partition has from 1 byte to {} bytes", i64::MAX);
    }
    let output = Output::create(Path::new(out), PUBLIC, Existing::Replace, &[])?;
    let context = || format!("Write {out:?}");
    // A hole all through: it takes no room before it is written to.
    output.file().set_len(len).with_context(context)?;
    if args.kind == PartitionType::Instance {
        instance::format(&mut output.file()).with_context(context)?;
    }
    output.publish()?;
    Ok(Outcome::Good)
}

/// A number of bytes, with a unit or without.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("4096", 4096), ("1k", 1024), ("10M", 10 << 20), ("2GiB", 2 << 30), ("0", 0), ("7B", 7)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "10X", "a1M", "99999999999G", "+1", "1 M", "١M"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
