//! From three partitions to a verified archive and what to run of it.
//!
//! metadata and idsig are read once; everything about the APK is read through dm-verity, so that what was verified is what
//! is used, whatever the host does to the disk meanwhile.

use std::error::Error;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use payload::apk::config::{PayloadConfig, Task, TaskType};
use payload::apk::zip::archive_len;
use payload::apk::{Apk, SDK, config, verify};
use payload::idsig::Idsig;
use payload::labels::{APK, APK_IDSIG, APK_MOUNT, METADATA, METADATA_2021_06};
use payload::merkle;
use payload::metadata::{self, Metadata, Payload};
use payload::{ReadAt, Section};

use super::partitions::Partitions;
use super::steps::Steps;
use super::verity;
use crate::codes::ErrorCode;

/// The verified archive: shared by those who read it.
pub type Source = Arc<Section<File>>;

/// Why a payload cannot be run: what the host is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The published code.
    pub code: ErrorCode,
    /// What failed, causes and all, on one line.
    pub message: String,
}

impl Failure {
    /// `what` failed because of `error`.
    #[must_use]
    pub fn new(code: ErrorCode, what: &str, error: &dyn Error) -> Self {
        let mut message = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors say their cause themselves.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self { code, message }
    }

    fn config(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::PayloadInvalidConfig, message: message.into() }
    }
}

fn untrusted(what: &str, error: &dyn Error) -> Failure {
    Failure::new(ErrorCode::PayloadVerificationFailed, what, error)
}

/// A verified archive and its task.
pub struct Verified {
    /// All of the archive, and nothing behind it.
    pub source: Source,
    /// The descriptor behind it.
    pub device: RawFd,
    /// It, open.
    pub apk: Apk<Source>,
    /// What to run.
    pub task: Task,
    /// What in the configuration has no effect.
    pub warnings: Vec<String>,
}

/// Verifies the payload of the disk whose partitions these are.
///
/// # Errors
/// [`Failure`] with the code that the host is to be told.
pub fn verify_payload(partitions: &Partitions, steps: &mut Steps) -> Result<Verified, Failure> {
    let partition = partitions
        .get_either(METADATA, METADATA_2021_06)
        .map_err(|error| Failure::new(ErrorCode::PayloadInvalidConfig, "find the metadata", &error))?;
    let metadata = read_metadata(partition)?;
    steps.done("metadata");
    let (source, device) = map_apk(partitions, steps)?;
    steps.done("end of the APK");
    verify(&source, SDK).map_err(|error| untrusted("verify the APK", &error))?;
    steps.done("signature");
    let apk = Apk::open(Arc::clone(&source)).map_err(|error| untrusted("open the APK", &error))?;
    let (task, warnings) = task_of(&metadata, &apk)?;
    steps.done("config");
    Ok(Verified { source, device, apk, task, warnings })
}

fn read_metadata(path: &Path) -> Result<Metadata, Failure> {
    let failed =
        |error: &dyn Error| Failure::new(ErrorCode::PayloadInvalidConfig, "read the metadata", error);
    let partition = File::open(path).map_err(|error| failed(&error))?;
    let mut bytes = vec![0; 4];
    partition.read_exact_at(&mut bytes, 0).map_err(|error| failed(&error))?;
    let prefix = *bytes.first_chunk().expect("four bytes were read");
    let len = metadata::encoded_len(prefix).map_err(|error| failed(&error))?;
    bytes.resize(len, 0);
    // Behind the prefix, which is not read again: it could be another one now.
    partition.read_exact_at(&mut bytes[4..], 4).map_err(|error| failed(&error))?;
    metadata::decode(&bytes).map_err(|error| failed(&error))
}

/// Puts dm-verity over the APK's partition and cuts off what is behind the archive.
fn map_apk(partitions: &Partitions, steps: &mut Steps) -> Result<(Source, RawFd), Failure> {
    let labelled = |label| partitions.get(label).map_err(|error| untrusted("find the APK", &error));
    let (data, idsig) = (labelled(APK)?, labelled(APK_IDSIG)?);
    let hashes = File::open(idsig).map_err(|error| untrusted("open the idsig", &error))?;
    let tree = Idsig::read(&hashes).map_err(|error| untrusted("read the idsig", &error))?;
    let len =
        File::open(data).and_then(|data| data.len()).map_err(|error| untrusted("open the APK", &error))?;
    check_tree_len(&tree, len)?;
    steps.done("idsig");
    let device = verity::map("apk", data, len / verity::BLOCK, (&hashes, &tree), steps)
        .and_then(File::open)
        .map_err(|error| untrusted("map the APK", &error))?;
    steps.done("verity");
    let len = archive_len(&device, len).map_err(|error| untrusted("find the APK's end", &error))?;
    let fd = device.as_raw_fd();
    let source = Arc::new(Section::new(device, 0, len).map_err(|error| untrusted("read the APK", &error))?);
    tree.check_apk(&source).map_err(|error| untrusted("compare the idsig with the APK", &error))?;
    Ok((source, fd))
}

/// The kernel computes the tree's shape from the partition's size, so that it has to be the one the tree was made for.
fn check_tree_len(tree: &Idsig, partition_len: u64) -> Result<(), Failure> {
    let whole = partition_len != 0 && partition_len.is_multiple_of(verity::BLOCK);
    let expected = merkle::tree_len(partition_len).ok().and_then(|len| u64::try_from(len).ok());
    if whole && expected == Some(tree.tree_len) {
        return Ok(());
    }
    let message =
        format!("the idsig's tree of {} bytes is not over a partition of {partition_len}", tree.tree_len);
    Err(Failure { code: ErrorCode::PayloadVerificationFailed, message })
}

/// What the archive is to run, by its own configuration or by the name of a library.
fn task_of<R: ReadAt + Clone>(metadata: &Metadata, apk: &Apk<R>) -> Result<(Task, Vec<String>), Failure> {
    if !metadata.apexes.is_empty() {
        return Err(Failure::config("the metadata names APEXes, which this guest cannot mount"));
    }
    let (task, warnings) = match &metadata.payload {
        Some(Payload::Config(named)) => {
            if named.extra_apk_count != 0 {
                return Err(Failure::config("the metadata counts extra APKs, which this guest cannot mount"));
            }
            let command = named.payload_binary_name.clone();
            if command.is_empty() || command.contains(['/', '\0']) {
                return Err(Failure::config(format!("payload_binary_name {command:?} is no file name")));
            }
            (Task { kind: TaskType::MicrodroidLauncher, command, args: Vec::new() }, Vec::new())
        }
        Some(Payload::ConfigPath(path)) => configured_task(path, apk)?,
        None => return Err(Failure::config("the metadata names neither a configuration nor a library")),
    };
    if task.kind == TaskType::Executable {
        let file = super::launch::Program::file_in_apk(&task);
        if apk.entry(&file).is_none_or(|entry| entry.directory) {
            return Err(Failure::config(format!("task.command: the APK has no file {file:?}")));
        }
    }
    Ok((task, warnings))
}

fn configured_task<R: ReadAt + Clone>(path: &str, apk: &Apk<R>) -> Result<(Task, Vec<String>), Failure> {
    let inside = path
        .strip_prefix(APK_MOUNT)
        .and_then(|rest| rest.strip_prefix('/'))
        .ok_or_else(|| Failure::config(format!("the configuration {path:?} is not in {APK_MOUNT}")))?;
    let invalid =
        |error: &dyn Error| Failure::new(ErrorCode::PayloadInvalidConfig, &format!("read {inside:?}"), error);
    let json = apk.read(inside, config::MAX_LEN).map_err(|error| invalid(&error))?;
    let (config, warnings) = PayloadConfig::parse(&json).map_err(|error| invalid(&error))?;
    if !config.apexes.is_empty() {
        return Err(Failure::config(format!("{inside}: apexes: this guest cannot mount APEXes")));
    }
    if !config.extra_apks.is_empty() {
        return Err(Failure::config(format!("{inside}: extra_apks: this guest cannot mount extra APKs")));
    }
    let task = config.task.ok_or_else(|| Failure::config(format!("{inside}: task: missing")))?;
    let warnings = warnings.iter().map(|warning| format!("{inside}: {warning}")).collect();
    Ok((task, warnings))
}

#[cfg(test)]
mod tests;
