//! A disk: its tables, and everything on it that somebody vouches for.

use anyhow::{Context, Result, anyhow};
use payload::ReadAt;
use payload::apex::Apex;
use payload::labels::Role;

use super::{Verdict, compare_idsig, refuse, verify_archive};
use crate::input::Input;
use crate::inspect::open_disk;
use crate::parts::{Disk, Part};
use crate::progress::Progress;
use crate::text::count;

/// Verifies the disk that `input` is or specifies.
pub fn verify(input: &Input, levels: &[u32], quiet: bool, verdict: &mut Verdict) -> Result<()> {
    let reader = open_disk(input)?;
    let len = reader.len().with_context(|| format!("Read {:?}", input.path))?;
    // Archives are hashed for each level, and once more for the hash tree.
    let progress = Progress::new("Verify", len.saturating_mul(levels.len() as u64 + 1), quiet);
    let source = progress.watch(&reader);
    let disk = Disk::read(&source).map_err(|error| refuse(input, error))?;
    let problems = disk.problems();
    if let Some(first) = problems.first() {
        let error = anyhow!("{first}");
        return Err(refuse(
            input,
            match problems.len() - 1 {
                0 => error,
                more => error.context(format!(
                    "{}, of which the first is told here",
                    count(more as u64 + 1, "problem")
                )),
            },
        ));
    }
    verdict.checked.push(format!("partition tables, {}", count(disk.parts.len() as u64, "partition")));
    for (apk, idsig) in disk.archives() {
        let label = &apk.entry.label;
        archive(apk, idsig, levels, verdict)
            .map_err(|error| refuse(input, error.context(format!("Verify {label:?}"))))?;
    }
    for part in disk.parts.iter().filter(|part| matches!(part.role, Some(Role::Apex(_)))) {
        let label = &part.entry.label;
        component(&disk, part, verdict)
            .map_err(|error| refuse(input, error.context(format!("Verify {label:?}"))))?;
    }
    Ok(())
}

fn archive(apk: &Part<'_>, idsig: Option<&Part<'_>>, levels: &[u32], verdict: &mut Verdict) -> Result<()> {
    let label = &apk.entry.label;
    let source = apk.archive().context("find the archive")?;
    verify_archive(&source, levels, &format!(" of {label:?}"), verdict)?;
    let part = idsig.context("find its hash tree")?;
    let (idsig, bytes) = part.idsig().zip(part.source.as_ref()).context("read its hash tree")?;
    compare_idsig(idsig, bytes, &source, &format!("{label:?}"), verdict)
}

fn component(disk: &Disk<'_>, part: &Part<'_>, verdict: &mut Verdict) -> Result<()> {
    let label = &part.entry.label;
    let apex = Apex::open(part.archive().context("find the archive")?)?;
    apex.verify()?;
    let pinned = disk
        .metadata()
        .iter()
        .flat_map(|metadata| &metadata.apexes)
        .find(|apex| apex.partition_name == *label);
    if pinned.is_some_and(|pinned| !apex.matches(pinned)) {
        return Err(anyhow!("it is not the component that the metadata pins"));
    }
    verdict.checked.push(format!("filesystem of {} version {} in {label:?}", apex.name, apex.version));
    Ok(())
}
