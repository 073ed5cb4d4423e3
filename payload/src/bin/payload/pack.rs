//! `pack`: an APK of libraries and assets, signed.

pub mod key;
mod plan;

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use payload::ReadAt;
use payload::apk::manifest::{Manifest, V2_SDK};
use payload::apk::pack::Packer;
use payload::apk::sign::{SigningKey, sign};
use payload::apk::{Apk, Scheme};
use payload::idsig::Idsig;
use sha2::{Digest, Sha256};

use crate::cli::PackArgs;
use crate::create::PUBLIC;
use crate::fault::Outcome;
use crate::input::Input;
use crate::output::{self, Existing, Output};
use crate::progress::Progress;
use crate::screen;
use crate::text::{clean, count, hex, size};
use plan::{Item, Plan};

/// Runs `pack`.
pub fn run(args: &PackArgs, quiet: bool) -> Result<Outcome> {
    let plan = Plan::new(args)?;
    for warning in &plan.warnings {
        screen::complain(&format!("Warning: {}\n", clean(warning)));
    }
    let key = match &args.key {
        Some(pem) => key::read(pem, args.cert.as_deref())?,
        None => SigningKey::generate().context("Make a key")?,
    };
    let read_once = [&args.key, &args.cert, &args.config];
    let read_once =
        read_once.into_iter().flatten().map(|path| Input::open(path)).collect::<Result<Vec<_>>>()?;
    let inputs: Vec<&Input> = plan.items.iter().filter_map(Item::input).chain(&read_once).collect();
    let apk = Output::create(&args.out, PUBLIC, Existing::Replace, &inputs)?;
    let idsig_path = args.idsig.as_ref().map(|path| path.clone().unwrap_or_else(|| beside(&args.out)));
    refuse_equal(&[Some(&args.out), idsig_path.as_ref(), args.generate_key.as_ref()])?;
    let idsig = idsig_path
        .as_ref()
        .map(|path| Output::create(path, PUBLIC, Existing::Replace, &inputs))
        .transpose()?;
    let kept = args.generate_key.as_ref().map(|path| key::keep(&key, path)).transpose()?;

    let unsigned = write_unsigned(args, &plan, quiet)?;
    write_signed(&unsigned, &key, &apk, quiet)?;
    drop(unsigned);
    if let Some(idsig) = &idsig {
        write_idsig(&key, &apk, idsig, quiet)?;
    }
    let told = summary(args, &apk, &key)?;
    // The key first: without it, the archive could have no second version.
    for output in kept.into_iter().chain([apk]).chain(idsig) {
        output.publish()?;
    }
    if !quiet {
        screen::print(&told)?;
        if args.key.is_none() && args.generate_key.is_none() {
            screen::complain(
                "Note: a new key signed it and is gone now, so no later version can have the same signer; \
                 --generate-key FILE keeps it\n",
            );
        }
    }
    Ok(Outcome::Good)
}

/// Refuses to write two files to one place.
fn refuse_equal(paths: &[Option<&PathBuf>]) -> Result<()> {
    let mut seen = HashSet::new();
    for path in paths.iter().flatten() {
        // The directory is there; the file need not be.
        let directory = std::fs::canonicalize(output::parent(path)).unwrap_or_default();
        if !seen.insert(directory.join(path.file_name().unwrap_or_default())) {
            bail!("Write {path:?}: it would be written twice; give each file a place of its own");
        }
    }
    Ok(())
}

/// Where an archive's idsig is looked for: its path with one more extension.
pub fn beside(apk: &std::path::Path) -> PathBuf {
    let mut path = apk.as_os_str().to_owned();
    path.push(".idsig");
    path.into()
}

/// The archive before it is signed, in a file without a name beside the one that is to be.
fn write_unsigned(args: &PackArgs, plan: &Plan, quiet: bool) -> Result<std::fs::File> {
    let directory = output::parent(&args.out);
    let file = tempfile::tempfile_in(directory).with_context(|| format!("Write to {directory:?}"))?;
    let manifest = Manifest { package: args.package.clone(), version_code: args.version_code };
    let version_name = args.version_name.clone().unwrap_or_else(|| args.version_code.to_string());
    let context = || format!("Pack {:?}", args.out);
    let out = BufWriter::with_capacity(1 << 20, file);
    let mut packer = Packer::for_sdk(out, &manifest, &version_name, V2_SDK).with_context(context)?;
    let progress = Progress::new("Pack", plan.items.iter().map(Item::len).sum(), quiet);
    for item in &plan.items {
        let added = match item {
            Item::File { name, input } => packer.add_from(name, &progress.watch(&input.file)),
            Item::Bytes { name, bytes } => packer.add(name, bytes),
        };
        added.with_context(context)?;
    }
    let out = packer.finish().with_context(context)?;
    out.into_inner().map_err(|error| error.into_error()).with_context(context)
}

fn write_signed(unsigned: &std::fs::File, key: &SigningKey, output: &Output, quiet: bool) -> Result<()> {
    let len = ReadAt::len(unsigned).context("Read the unsigned archive")?;
    // Read twice: once to be hashed, once to be copied.
    let progress = Progress::new("Sign", 2 * len, quiet);
    let mut out = BufWriter::with_capacity(1 << 20, output.file());
    sign(&progress.watch(unsigned), key, &[Scheme::V2, Scheme::V3], &mut out)
        .and_then(|()| Ok(out.flush()?))
        .with_context(|| format!("Sign {:?}", output.path()))
}

fn write_idsig(key: &SigningKey, apk: &Output, output: &Output, quiet: bool) -> Result<()> {
    let context = || format!("Write {:?}", output.path());
    let progress = Progress::new("Hash", ReadAt::len(apk.file()).with_context(context)?, quiet);
    let source = progress.watch(apk.file());
    let (mut idsig, tree) = Idsig::create(&source, &[]).with_context(context)?;
    idsig.sign(&source, key).with_context(context)?;
    let mut out = BufWriter::new(output.file());
    idsig.write(&tree, &mut out).and_then(|()| out.flush()).with_context(context)
}

/// What was made, in a line or two: read from the file, and not from what was asked for.
fn summary(args: &PackArgs, apk: &Output, key: &SigningKey) -> Result<String> {
    let read = Apk::open(apk.file()).with_context(|| format!("Read {:?} again", args.out))?;
    let libraries = read.entries().iter().filter(|entry| entry.name.starts_with("lib/")).count();
    let len = ReadAt::len(apk.file()).with_context(|| format!("Read {:?} again", args.out))?;
    Ok(format!(
        "{}: {} version {}, {} with {}, {}\n  signed by v2 and v3, certificate SHA-256 {}\n",
        clean(&args.out.display().to_string()),
        args.package,
        args.version_code,
        count(read.entries().len() as u64, "entry"),
        count(libraries as u64, "library"),
        size(len),
        hex(&Sha256::digest(key.certificate())),
    ))
}
