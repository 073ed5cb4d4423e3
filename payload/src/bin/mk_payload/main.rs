//! `mk_payload`: a payload disk from a list of files.

mod options;
mod staged;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use payload::ReadAt;
use payload::disk::composite::{CompositeFiles, CompositeVersion};
use payload::disk::config::{MAX_CONFIG_LEN, PayloadConfig};
use payload::disk::{
    self, Apex, Application, DiskPlan, GuidSource, Layout, Part, PayloadDisk, open_file, write_flat,
};
use payload::metadata::{self, ApexPayload, Payload};

use options::Options;
use staged::Staged;

/// What takes longer than this shows how far it is.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("Error: {error}\n");
            error.chain().skip(1).for_each(|cause| text.push_str(&format!("  caused by: {cause}\n")));
            // Where nobody listens, the exit status says it.
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let config = read_config(options)?;
    // Names in a specification outlive this directory being the current one.
    let out = std::path::absolute(&options.out)
        .with_context(|| format!("find the directory of {}", options.out.display()))?;
    let mut staged = Staged::default();
    keep_inputs(&mut staged, options, &config);
    staged.check(&out)?;
    if options.metadata_only {
        let bytes = metadata::encode(&payload_disk(options.layout, &config, &named)?.metadata());
        staged.add(&out, &mut |file| file.write_all(&bytes).map_err(Into::into))?;
        return staged.commit(&out);
    }
    let disk = payload_disk(options.layout, &config, &found)?;
    let guids = options.seed.as_ref().map_or(GuidSource::Random, |seed| GuidSource::Seed(seed.as_bytes()));
    let plan = disk::plan(&disk.partitions(), guids)
        .with_context(|| format!("make a disk of {}", options.config.display()))?;
    if options.raw {
        write_raw(&mut staged, &plan, &out, options.quiet)?;
    } else {
        write_composite(&mut staged, &plan, &out, options.layout)?;
    }
    staged.commit(&out)
}

fn read_config(options: &Options) -> anyhow::Result<PayloadConfig> {
    let path = &options.config;
    let read = || -> anyhow::Result<Vec<u8>> {
        let file = open_file(path, false)?;
        let len = ReadAt::len(&file)?;
        if len > MAX_CONFIG_LEN {
            bail!("it has {len} bytes, expected a configuration of at most {MAX_CONFIG_LEN}");
        }
        let mut bytes = vec![0; usize::try_from(len)?];
        ReadAt::read_exact_at(&file, &mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| format!("read {}", path.display()))?;
    let config = std::path::absolute(path)?;
    let apex_dir = options.apex_dir.as_deref().map(std::path::absolute).transpose()?;
    PayloadConfig::parse(&bytes)
        .and_then(|it| it.resolve(config.parent().unwrap_or(Path::new("/")), apex_dir.as_deref()))
        .with_context(|| format!("read {}", path.display()))
}

/// How a file becomes part of the disk.
type Find = dyn Fn(&str, &Path) -> anyhow::Result<Part>;

/// The disk that the configuration wants, of the files that `part` finds.
fn payload_disk(layout: Layout, config: &PayloadConfig, part: &Find) -> anyhow::Result<PayloadDisk> {
    let apexes = config
        .apexes
        .iter()
        .map(|apex| {
            let about = ApexPayload { name: apex.name.clone(), ..ApexPayload::default() };
            Ok(Apex { about, image: part("APEX", &apex.path)? })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let apk = match &config.apk {
        Some(apk) => Some(Application {
            name: apk.name.clone(),
            apk: part("APK", &apk.path)?,
            idsig: part("idsig", &apk.idsig_path)?,
        }),
        None => None,
    };
    let payload = config.payload_config_path.clone().map(Payload::ConfigPath);
    Ok(PayloadDisk { layout, apexes, apk, extra_apks: Vec::new(), payload })
}

/// A file as it is now.
fn found(what: &str, path: &Path) -> anyhow::Result<Part> {
    let len = || {
        let len = ReadAt::len(&open_file(path, false)?)?;
        if len == 0 {
            bail!("the file is empty");
        }
        Ok(len)
    };
    let len = len().with_context(|| format!("open {what} {}", path.display()))?;
    Ok(Part::File { path: path.to_path_buf(), len })
}

/// A file that nobody looks at: the metadata says only that it is there.
#[expect(clippy::unnecessary_wraps, reason = "stands where a file may not be found")]
fn named(_what: &str, path: &Path) -> anyhow::Result<Part> {
    Ok(Part::File { path: path.to_path_buf(), len: 0 })
}

/// Lets no output replace a file that it is made from.
fn keep_inputs(staged: &mut Staged, options: &Options, config: &PayloadConfig) {
    let apk = config.apk.iter().flat_map(|apk| [&apk.path, &apk.idsig_path]);
    let inputs = config.apexes.iter().map(|apex| &apex.path).chain(apk).chain([&options.config]);
    for input in inputs {
        // What is not there is told when it is needed, and cannot be replaced.
        if let Ok(found) = std::fs::metadata(input) {
            staged.keep(input, &found);
        }
    }
}

fn write_raw(staged: &mut Staged, plan: &DiskPlan, out: &Path, quiet: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut bar: Option<ProgressBar> = None;
    let mut progress = |done| {
        if !quiet && bar.is_none() && begun.elapsed() > PATIENCE && std::io::stderr().is_terminal() {
            bar = Some(progress_bar(plan.len));
        }
        if let Some(bar) = &bar {
            bar.set_position(done);
        }
    };
    let written =
        staged.add(out, &mut |file| write_flat(&plan.extents, file, &mut progress).map_err(Into::into));
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    written
}

fn progress_bar(len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}");
    ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr())
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn write_composite(staged: &mut Staged, plan: &DiskPlan, out: &Path, layout: Layout) -> anyhow::Result<()> {
    // The first readers knew only the first version.
    let version = match layout {
        Layout::V2021_06 => CompositeVersion::Absolute,
        Layout::V2021_08 | Layout::Kapsel => CompositeVersion::Relative,
    };
    let made = CompositeFiles::of_plan(plan, out, version)
        .with_context(|| format!("make the composite disk {}", out.display()))?;
    let spec = made.spec.to_bytes().with_context(|| format!("make the composite disk {}", out.display()))?;
    for new in &made.files {
        staged.add(&new.path, &mut |file| new.write(file).map_err(Into::into))?;
    }
    staged.add(out, &mut |file| file.write_all(&spec).map_err(Into::into))
}
