//! `inspect`: what is in a file, drawn or as JSON. Both show the same facts, gathered once.

mod apex;
pub mod apk;
mod disk;
mod idsig;
pub mod instance;
pub mod metadata;
pub mod signatures;

use anyhow::{Context, Result, anyhow};
use payload::disk::DiskReader;
use serde::Serialize;

use crate::cli::InspectArgs;
use crate::draw::{Mark, Page};
use crate::fault::{Outcome, Refusal};
use crate::input::Input;
use crate::kind::{self, Kind};
use crate::progress::Progress;
use crate::screen::{self, Screen};
use crate::text::size;

/// The facts about one file.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Facts {
    /// Of an APK.
    Apk(Box<apk::ApkFacts>),
    /// Of a shared component.
    Apex(apex::ApexFacts),
    /// Of a disk.
    Disk(disk::DiskFacts),
    /// Of a hash tree.
    Idsig(idsig::IdsigFacts),
    /// Of an instance image.
    Instance(instance::InstanceFacts),
    /// Of a metadata partition.
    Metadata(metadata::MetadataFacts),
}

/// The document that is printed.
#[derive(Debug, Serialize)]
struct Document<'a> {
    kind: &'static str,
    file: String,
    size: u64,
    good: bool,
    problems: &'a [String],
    #[serde(flatten)]
    facts: &'a Facts,
}

/// Runs `inspect`.
pub fn run(args: &InspectArgs, quiet: bool) -> Result<Outcome> {
    let input = Input::open(&args.file)?;
    let kind = kind::of(&input.file).with_context(|| format!("Read {:?}", input.path))?;
    let (facts, problems) = gather(&input, kind, quiet)?;
    let document = Document {
        kind: kind.name(),
        file: args.file.display().to_string(),
        size: input.len,
        good: problems.is_empty(),
        problems: &problems,
        facts: &facts,
    };
    if args.json {
        let text = serde_json::to_string_pretty(&document).context("Write the JSON document")?;
        screen::print(&(text + "\n"))?;
    } else {
        let mut page = Page::new(Screen::stdout());
        let len = match &facts {
            Facts::Disk(disk) => disk.len(),
            _ => input.len,
        };
        page.title(&document.file, &format!("{}, {}", facts.title(), size(len)));
        page.gap();
        facts.draw(&mut page, problems.is_empty());
        if !problems.is_empty() {
            page.gap();
            for (index, problem) in problems.iter().enumerate() {
                page.mark(if index == 0 { "problems" } else { "" }, Mark::Bad, problem);
            }
        }
        screen::print(&page.finish())?;
    }
    Ok(if problems.is_empty() { Outcome::Good } else { Outcome::Refused })
}

/// Looks at the file; with what is wrong with it.
fn gather(input: &Input, kind: Kind, quiet: bool) -> Result<(Facts, Vec<String>)> {
    let broken = |what: &str| format!("{:?} is no {what}", input.path);
    Ok(match kind {
        Kind::Apk => {
            let progress = Progress::new("Verify", input.len, quiet);
            let (facts, problems) = apk::gather(&progress.watch(&input.file))
                .map_err(|error| Refusal::new(broken("readable APK"), error))?;
            (Facts::Apk(Box::new(facts)), problems)
        }
        Kind::Apex => {
            // Read by the hash tree and by the archive's signature.
            let progress = Progress::new("Verify", input.len.saturating_mul(2), quiet);
            let (facts, problems) = apex::gather(&progress.watch(&input.file))
                .map_err(|error| Refusal::new(broken("APEX that its key vouches for"), error))?;
            (Facts::Apex(facts), problems)
        }
        Kind::Disk => {
            let disk = open_disk(input)?;
            let (facts, problems) =
                disk::gather(&disk).map_err(|error| Refusal::new(broken("disk with partitions"), error))?;
            (Facts::Disk(facts), problems)
        }
        Kind::Idsig => {
            let facts = idsig::gather(&input.file).map_err(|error| Refusal::new(broken("idsig"), error))?;
            (Facts::Idsig(facts), Vec::new())
        }
        Kind::Instance => {
            let facts = instance::gather(&input.file)
                .map_err(|error| Refusal::new(broken("instance image"), error))?;
            (Facts::Instance(facts), Vec::new())
        }
        Kind::Metadata => {
            let facts = metadata::gather(&input.file)
                .map_err(|error| Refusal::new(broken("metadata partition"), error))?;
            (Facts::Metadata(facts), Vec::new())
        }
        Kind::Unknown => {
            let known = anyhow!(
                "it is no APK, APEX, idsig, disk, composite disk, instance image or metadata partition"
            );
            return Err(Refusal::new(format!("{:?} is of no known kind", input.path), known).into());
        }
    })
}

/// The disk that a file is, or that it specifies.
pub fn open_disk(input: &Input) -> Result<DiskReader> {
    payload::disk::open(&input.path)
        .map_err(|error| Refusal::new(format!("{:?} cannot be read as a disk", input.path), error).into())
}

impl Facts {
    fn title(&self) -> &'static str {
        match self {
            Self::Apk(_) => "APK",
            Self::Apex(_) => "APEX",
            Self::Disk(facts) => facts.title(),
            Self::Idsig(_) => "hash tree (idsig)",
            Self::Instance(_) => "instance image",
            Self::Metadata(_) => "metadata partition",
        }
    }

    fn draw(&self, page: &mut Page, good: bool) {
        match self {
            Self::Apk(facts) => facts.draw(page),
            Self::Apex(facts) => facts.draw(page, good),
            Self::Disk(facts) => facts.draw(page),
            Self::Idsig(facts) => facts.draw(page),
            Self::Instance(facts) => facts.draw(page),
            Self::Metadata(facts) => facts.draw(page),
        }
    }
}
