//! What goes into an archive, found and checked before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use payload::ReadAt;
use payload::apk::abi::{Abi, HEADER_LEN};
use payload::apk::config::{self, PayloadConfig, TaskType};

use crate::cli::PackArgs;
use crate::input::Input;

/// Where the configuration is looked for when nothing else is said.
const CONFIG: &str = "assets/vm_config.json";
/// Directories in directories.
const MAX_DEPTH: usize = 64;

/// An entry to be.
pub enum Item {
    /// A file's content.
    File {
        /// Name in the archive.
        name: String,
        /// The file.
        input: Input,
    },
    /// These bytes.
    Bytes {
        /// Name in the archive.
        name: String,
        /// Its content.
        bytes: Vec<u8>,
    },
}

impl Item {
    /// Bytes of content.
    pub fn len(&self) -> u64 {
        match self {
            Self::File { input, .. } => input.len,
            Self::Bytes { bytes, .. } => bytes.len() as u64,
        }
    }

    /// The file it is read from while packing.
    pub fn input(&self) -> Option<&Input> {
        match self {
            Self::File { input, .. } => Some(input),
            Self::Bytes { .. } => None,
        }
    }
}

/// All entries in their order, and what is odd about them.
pub struct Plan {
    /// The configuration, assets, libraries; each by name.
    pub items: Vec<Item>,
    /// What will not work as it stands, and may be meant so.
    pub warnings: Vec<String>,
}

/// Names with the files that go there; two files for one name are an error.
#[derive(Default)]
struct Names(BTreeMap<String, PathBuf>);

impl Names {
    fn add(&mut self, name: String, path: PathBuf) -> Result<()> {
        if let Some(other) = self.0.get(&name) {
            bail!("{path:?} and {other:?} would both be {name:?}; leave one out or give it another name");
        }
        self.0.insert(name, path);
        Ok(())
    }
}

impl Plan {
    /// Finds and opens everything that is to be packed.
    pub fn new(args: &PackArgs) -> Result<Self> {
        let mut libraries = Names::default();
        for lib in &args.lib {
            add_lib(lib, &mut libraries).with_context(|| format!("Take --lib {lib:?}"))?;
        }
        let mut assets = Names::default();
        for asset in &args.asset {
            add_asset(asset, &mut assets).with_context(|| format!("Take --asset {asset:?}"))?;
        }
        let mut plan = Self { items: Vec::new(), warnings: Vec::new() };
        if let Some(path) = &args.config {
            let bytes = plan.check_config(path, &libraries)?;
            if let Some(other) = assets.0.get(CONFIG) {
                bail!("--config and --asset both give {CONFIG:?}; leave {other:?} out");
            }
            plan.items.push(Item::Bytes { name: CONFIG.into(), bytes });
        }
        for (name, path) in assets.0.into_iter().chain(libraries.0) {
            let input = Input::open(&path)?;
            if let Some(abi) = name.strip_prefix("lib/").and_then(|rest| rest.split('/').next()) {
                check_library(&input, abi)?;
            }
            plan.items.push(Item::File { name, input });
        }
        Ok(plan)
    }

    /// Reads the configuration; what it names must be packed for every ABI.
    fn check_config(&mut self, path: &Path, libraries: &Names) -> Result<Vec<u8>> {
        let json = Input::open(path)?.bytes(config::MAX_LEN)?;
        let (config, warnings) =
            PayloadConfig::parse(&json).with_context(|| format!("Read the configuration {path:?}"))?;
        self.warnings.extend(warnings.iter().map(|warning| format!("{path:?}: {warning}")));
        match &config.task {
            None => self.warnings.push(format!("{path:?}: no task; a VM would have nothing to run")),
            Some(task) if task.kind == TaskType::MicrodroidLauncher => {
                let abis: BTreeSet<&str> =
                    libraries.0.keys().filter_map(|name| name.split('/').nth(1)).collect();
                let missing: Vec<&str> = abis
                    .iter()
                    .copied()
                    .filter(|abi| !libraries.0.contains_key(&format!("lib/{abi}/{}", task.command)))
                    .collect();
                if abis.is_empty() || !missing.is_empty() {
                    let abi = missing.first().copied().unwrap_or(Abi::X86_64.name());
                    bail!(
                        "the configuration {path:?} runs {command:?}, which is not packed for {missing}; \
                         add --lib {abi}={command}",
                        command = task.command,
                        missing = if abis.is_empty() { "any ABI".into() } else { missing.join(", ") },
                    );
                }
            }
            Some(_) => {}
        }
        Ok(json)
    }
}

/// `ABI=FILE`, or a directory of directories named as ABIs.
fn add_lib(argument: &str, names: &mut Names) -> Result<()> {
    if let Some((abi, path)) = argument.split_once('=')
        && !Path::new(argument).is_dir()
    {
        let abi: Abi = abi.parse()?;
        return add_library(abi, PathBuf::from(path), names);
    }
    let directory = Path::new(argument);
    if !fs::metadata(directory)?.is_dir() {
        bail!("it is neither ABI=FILE nor a directory of libraries");
    }
    let inner = directory.join("lib");
    let directory = if inner.is_dir() { inner } else { directory.to_path_buf() };
    let mut found = false;
    for entry in sorted(&directory)? {
        if !entry.is_dir() {
            continue;
        }
        let abi: Abi = file_name(&entry)?.parse().with_context(|| format!("Read {directory:?}"))?;
        for library in
            sorted(&entry)?.into_iter().filter(|path| path.extension().is_some_and(|it| it == "so"))
        {
            add_library(abi, library, names)?;
            found = true;
        }
    }
    if !found {
        bail!("there is no ABI/NAME.so in {directory:?}");
    }
    Ok(())
}

fn add_library(abi: Abi, path: PathBuf, names: &mut Names) -> Result<()> {
    let name = file_name(&path)?;
    if !name.ends_with(".so") {
        bail!("the library {path:?} is not named NAME.so, and would not be found");
    }
    names.add(format!("lib/{abi}/{name}"), path)
}

/// `FILE`, `FILE=PATH`, or a directory.
fn add_asset(argument: &str, names: &mut Names) -> Result<()> {
    let whole = Path::new(argument);
    let (path, name) = match argument.rsplit_once('=') {
        Some((path, name)) if !whole.exists() => (Path::new(path), Some(name)),
        _ => (whole, None),
    };
    let below = |name: &str| match name.starts_with("assets/") {
        true => name.to_owned(),
        false => format!("assets/{name}"),
    };
    if fs::metadata(path)?.is_dir() {
        let name = name.map_or_else(|| "assets".to_owned(), below);
        return add_directory(path, &name, 0, names);
    }
    let name = match name {
        Some(name) => below(name),
        None => format!("assets/{}", file_name(path)?),
    };
    names.add(name, path.to_path_buf())
}

/// All files below a directory; links to files are followed, links to directories are not.
fn add_directory(directory: &Path, name: &str, depth: usize, names: &mut Names) -> Result<()> {
    if depth > MAX_DEPTH {
        bail!("{directory:?} lies more than {MAX_DEPTH} directories deep");
    }
    for path in sorted(directory)? {
        let name = format!("{name}/{}", file_name(&path)?);
        if fs::symlink_metadata(&path)?.is_dir() {
            add_directory(&path, &name, depth + 1, names)?;
        } else if path.is_dir() {
            bail!("{path:?} is a symbolic link to a directory; name what is in it by an --asset of its own");
        } else {
            names.add(name, path)?;
        }
    }
    Ok(())
}

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths =
            fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    read().with_context(|| format!("Read the directory {directory:?}"))
}

fn file_name(path: &Path) -> Result<&str> {
    let name = path.file_name().ok_or_else(|| anyhow!("{path:?} is no name of a file"))?;
    name.to_str().ok_or_else(|| anyhow!("the name of {path:?} is not UTF-8"))
}

fn check_library(input: &Input, abi: &str) -> Result<()> {
    let abi: Abi = abi.parse()?;
    let mut header = vec![0; usize::try_from(input.len).unwrap_or(usize::MAX).min(HEADER_LEN)];
    input.file.read_exact_at(&mut header, 0).with_context(|| format!("Read {:?}", input.path))?;
    abi.check(&header).with_context(|| format!("Take the library {:?} for {abi}", input.path))
}
