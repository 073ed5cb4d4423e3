//! An application archive.

use std::collections::BTreeMap;

use payload::ReadAt;
use payload::apk::config::{self, PayloadConfig, TaskType};
use payload::apk::manifest::{self, Details};
use payload::apk::{Apk, ApkError, Compression, Entry, SDK, VerifyError};
use serde::Serialize;

use super::signatures::{self, SignatureFacts};
use crate::draw::{Mark, Page, Segment};
use crate::fault::causes;
use crate::text::{count, size};

/// Entries that are listed.
const LISTED: usize = 8;
/// ABIs that are drawn, and obstacles that are told.
const MAX_LINES: usize = 16;
/// Configurations that are looked at.
const MAX_CONFIGS: usize = 16;

/// What is in an archive.
#[derive(Debug, Serialize)]
pub struct ApkFacts {
    package: Option<String>,
    version_code: Option<u64>,
    version_name: Option<String>,
    min_sdk: Option<u32>,
    target_sdk: Option<u32>,
    entries: EntryFacts,
    abis: BTreeMap<String, Vec<String>>,
    sections: SectionFacts,
    #[serde(flatten)]
    signatures: SignatureFacts,
    vm: VmFacts,
    /// Why it does not verify.
    #[serde(skip)]
    refusal: Option<String>,
}

/// The entries.
#[derive(Debug, Serialize)]
struct EntryFacts {
    count: usize,
    stored: usize,
    packed_size: u64,
    unpacked_size: u64,
    largest: Vec<LargeEntry>,
    /// Stored entries that do not begin at a multiple of 4 bytes, and libraries that do not at one of 4 KiB.
    unaligned: usize,
}

#[derive(Debug, Serialize)]
struct LargeEntry {
    name: String,
    size: u64,
    packed_size: u64,
    compression: &'static str,
}

/// Where the archive's sections end, in bytes from its start.
#[derive(Debug, Serialize)]
struct SectionFacts {
    entries_end: u64,
    central_directory: u64,
    end_record: u64,
    end: u64,
}

/// Whether it can be the application of a VM.
#[derive(Debug, Serialize)]
struct VmFacts {
    accepts: bool,
    obstacles: Vec<String>,
    configs: Vec<ConfigFacts>,
}

/// A payload configuration.
#[derive(Debug, Serialize)]
struct ConfigFacts {
    path: String,
    os: Option<String>,
    command: Option<String>,
}

/// Looks at the archive that fills `source`, all of which is read; with what is wrong with it.
///
/// # Errors
/// When there is no archive.
pub fn gather(source: &dyn ReadAt) -> Result<(ApkFacts, Vec<String>), GatherError> {
    let apk = Apk::open(source)?;
    let (signatures, refusal) = signatures::gather(source, SDK)?;
    let mut problems: Vec<String> = refusal.iter().cloned().collect();
    let details = details(&apk).map_err(|problem| problems.push(problem)).ok();
    let manifest = details.as_ref().map(|details| &details.manifest);
    let abis = abis(apk.entries());
    let entries = match entries(&apk) {
        Ok(entries) => entries,
        Err(error) => {
            problems.push(causes(&error).join(": "));
            EntryFacts::of(apk.entries())
        }
    };
    let at = apk.sections();
    let block = payload::apk::signing_block::SigningBlock::read(source, at);
    let facts = ApkFacts {
        package: manifest.map(|manifest| manifest.package.clone()),
        version_code: manifest.map(|manifest| manifest.version_code),
        version_name: details.as_ref().and_then(|details| details.version_name.clone()),
        min_sdk: details.as_ref().and_then(|details| details.min_sdk),
        target_sdk: details.as_ref().and_then(|details| details.target_sdk),
        entries,
        vm: vm(&apk, &abis, signatures.signers.len(), refusal.is_some(), details.is_some()),
        abis,
        sections: SectionFacts {
            entries_end: block.map_or(at.central_directory, |block| block.start),
            central_directory: at.central_directory,
            end_record: at.end_record,
            end: at.len,
        },
        signatures,
        refusal,
    };
    Ok((facts, problems))
}

/// Why an archive cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// Its entries cannot be told.
    #[error(transparent)]
    Archive(#[from] ApkError),
    /// Its content cannot be read.
    #[error(transparent)]
    Content(#[from] VerifyError),
}

/// Package and version of an archive.
pub fn details<R: ReadAt + Clone>(apk: &Apk<R>) -> Result<Details, String> {
    let bytes = apk.read(manifest::PATH, manifest::MAX_LEN).map_err(|error| causes(&error).join(": "))?;
    Details::parse(&bytes).map_err(|error| error.to_string())
}

/// The libraries for each ABI.
fn abis(entries: &[Entry]) -> BTreeMap<String, Vec<String>> {
    let mut abis: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.directory) {
        let parts: Vec<&str> = entry.name.split('/').collect();
        if let ["lib", abi, name] = parts[..] {
            abis.entry(abi.into()).or_default().push(name.into());
        }
    }
    abis
}

fn entries(apk: &Apk<&dyn ReadAt>) -> Result<EntryFacts, ApkError> {
    let mut facts = EntryFacts::of(apk.entries());
    for entry in apk.entries().iter().filter(|entry| entry.compression == Compression::Stored) {
        let library = entry.name.starts_with("lib/") && entry.name.ends_with(".so");
        let align = if library { 4096 } else { 4 };
        let begins = apk.data_start(entry)?;
        facts.unaligned += usize::from(!entry.directory && !begins.is_multiple_of(align));
    }
    Ok(facts)
}

impl EntryFacts {
    fn of(entries: &[Entry]) -> Self {
        let files: Vec<&Entry> = entries.iter().filter(|entry| !entry.directory).collect();
        let mut largest = files.clone();
        largest.sort_by(|a, b| b.packed_size.cmp(&a.packed_size).then_with(|| a.name.cmp(&b.name)));
        let sum = |of: fn(&Entry) -> u64| files.iter().fold(0u64, |sum, entry| sum.saturating_add(of(entry)));
        Self {
            count: files.len(),
            stored: files.iter().filter(|entry| entry.compression == Compression::Stored).count(),
            packed_size: sum(|entry| entry.packed_size),
            unpacked_size: sum(|entry| entry.size),
            largest: largest.iter().take(LISTED).map(|entry| LargeEntry::of(entry)).collect(),
            unaligned: 0,
        }
    }
}

impl LargeEntry {
    fn of(entry: &Entry) -> Self {
        Self {
            name: entry.name.clone(),
            size: entry.size,
            packed_size: entry.packed_size,
            compression: match entry.compression {
                Compression::Stored => "stored",
                Compression::Deflated => "deflated",
                Compression::Other => "other",
            },
        }
    }
}

fn vm(
    apk: &Apk<&dyn ReadAt>,
    abis: &BTreeMap<String, Vec<String>>,
    signers: usize,
    refused: bool,
    has_manifest: bool,
) -> VmFacts {
    let mut obstacles = Vec::new();
    if refused {
        obstacles.push("it does not verify".to_owned());
    } else if signers != 1 {
        obstacles.push(format!("it has {signers} signers, and a VM is known by one"));
    }
    if !has_manifest {
        obstacles.push("its manifest cannot be read".to_owned());
    }
    if abis.is_empty() {
        obstacles.push("there are no libraries in lib/<abi>".to_owned());
    }
    let mut configs = Vec::new();
    let is_config =
        |entry: &&Entry| entry.name.starts_with("assets/vm_config") && entry.name.ends_with(".json");
    for entry in apk.entries().iter().filter(is_config).take(MAX_CONFIGS) {
        let path = entry.name.clone();
        let parsed = apk
            .read(&path, config::MAX_LEN)
            .map_err(|error| causes(&error).join(": "))
            .and_then(|json| PayloadConfig::parse(&json).map_err(|error| error.to_string()));
        let config = match parsed {
            Ok((config, _)) => config,
            Err(problem) => {
                obstacles.push(format!("{path}: {problem}"));
                continue;
            }
        };
        if let Some(task) = config.task.as_ref().filter(|task| task.kind == TaskType::MicrodroidLauncher) {
            let lacks = abis.iter().filter(|(_, libraries)| !libraries.contains(&task.command));
            for (abi, _) in lacks.take(MAX_LINES.saturating_sub(obstacles.len())) {
                obstacles.push(format!("{path}: {} is not in lib/{abi}", task.command));
            }
        }
        let command = config.task.map(|task| task.command);
        configs.push(ConfigFacts { path, os: config.os.map(|os| os.name), command });
    }
    VmFacts { accepts: obstacles.is_empty(), obstacles, configs }
}

impl ApkFacts {
    /// Draws them.
    pub fn draw(&self, page: &mut Page) {
        page.field("package", self.package.as_deref().unwrap_or("unknown"));
        page.field("version", &self.version());
        let entries = &self.entries;
        let deflated = entries.count - entries.stored;
        let packed = match deflated {
            0 => "all stored".to_owned(),
            _ => format!("{deflated} compressed, {} when unpacked", size(entries.unpacked_size)),
        };
        let aligned = match entries.unaligned {
            0 => "aligned".to_owned(),
            some => format!("{some} not aligned"),
        };
        page.field("entries", &format!("{}, {packed}, {aligned}", count(entries.count as u64, "file")));
        for (index, (abi, libraries)) in self.abis.iter().take(MAX_LINES).enumerate() {
            let name = if index == 0 { "ABIs" } else { "" };
            page.field(name, &format!("{abi}: {}", libraries.join(", ")));
        }
        if let Some(more) = self.abis.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
            page.field("", &format!("and {more} more"));
        }
        page.gap();
        self.draw_map(page);
        page.gap();
        let rows: Vec<_> = entries
            .largest
            .iter()
            .map(|entry| (entry.name.clone(), entry.packed_size, size(entry.packed_size)))
            .collect();
        page.bars(&rows);
        page.gap();
        self.signatures.draw(page);
        page.gap();
        self.draw_vm(page);
    }

    fn version(&self) -> String {
        let Some(code) = self.version_code else { return "unknown".into() };
        let mut text = code.to_string();
        if let Some(name) = self.version_name.as_ref().filter(|name| **name != text) {
            text.push_str(&format!(" ({name})"));
        }
        if let Some(sdk) = self.min_sdk {
            text.push_str(&format!(", for Android API {sdk} and later"));
        }
        if let Some(sdk) = self.target_sdk {
            text.push_str(&format!(", made for {sdk}"));
        }
        text
    }

    fn draw_map(&self, page: &mut Page) {
        let at = &self.sections;
        let mut segments = vec![segment("entries", at.entries_end, false)];
        if at.entries_end < at.central_directory {
            segments.push(segment("signatures", at.central_directory - at.entries_end, true));
        }
        segments.push(segment("directory", at.end - at.central_directory, true));
        page.map(&segments, ("0", &size(at.end)));
    }

    fn draw_vm(&self, page: &mut Page) {
        if self.vm.accepts {
            let commands: Vec<String> = self
                .vm
                .configs
                .iter()
                .map(|config| match &config.command {
                    Some(command) => format!("{} runs {command}", config.path),
                    None => format!("{} runs nothing", config.path),
                })
                .collect();
            let how =
                if commands.is_empty() { "no configuration inside".into() } else { commands.join(", ") };
            page.mark("VM", Mark::Good, &format!("takes it: one signer, {how}"));
        }
        for (index, obstacle) in self.vm.obstacles.iter().enumerate() {
            match index {
                0 => page.mark("VM", Mark::Note, &format!("does not take it: {obstacle}")),
                _ => page.mark("", Mark::Note, obstacle),
            }
        }
        if self.refusal.is_none() && self.entries.unaligned > 0 {
            page.mark("VM", Mark::Note, "entries that are not aligned cannot be mapped from the archive");
        }
    }
}

fn segment(tag: &str, len: u64, frame: bool) -> Segment {
    Segment { tag: tag.into(), len, used: len, frame }
}
