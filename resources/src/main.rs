//! Builds what a VM runs, and runs it: see `images --help`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

mod cache;
mod cargo;
mod cpio;
mod demo;
mod elf;
mod guest;
mod host;
mod kernel;
mod kvm;
mod packages;
mod place;
mod prepare;
mod run;
mod sample;
mod software_job;
mod steps;
mod stock;
mod test_all;

use host::image;
use place::Place;
use prepare::Part;
use run::Interrupted;

/// Builds what a VM runs, and runs it.
#[derive(Parser)]
#[command(name = "images", version)]
struct Cli {
    #[command(flatten)]
    general: General,
    #[command(subcommand)]
    command: Task,
}

/// How a command behaves, whatever it does.
#[derive(Args, Clone, Copy)]
struct General {
    /// Show no progress.
    #[arg(long, global = true)]
    quiet: bool,
    /// Install missing Debian packages without asking (as does CI=true).
    #[arg(long, global = true)]
    yes: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Set up everything and run the sample payload in a VM; the exit status is the payload's.
    Demo,
    /// Set up everything and run every test of the workspace.
    TestAll {
        /// Run the long tests too, and fuzz for hours.
        #[arg(long)]
        soak: bool,
    },
    /// Build some parts, all of them when none is named.
    Build {
        /// What to build.
        parts: Vec<Part>,
    },
    /// Run a program in the software host: an emulated machine whose Linux has a real /dev/kvm.
    Host(HostArgs),
}

/// Runs PROGRAM as root in the same directory, with its output on standard output and its exit status as this command's; 124 after
/// a time-out.
#[derive(Args)]
struct HostArgs {
    /// The host's memory in MiB; all files lie in it.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u64,
    /// How long PROGRAM may run, in seconds of the host's own time.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// A file or directory to take along, under its own absolute path or DEST; programs bring their libraries.
    #[arg(long = "file", value_name = "SRC[=DEST]", value_parser = image::parse_file)]
    files: Vec<(PathBuf, PathBuf)>,
    /// A variable of PROGRAM's environment, which is empty but for PATH, HOME and KAPSEL_SOFTWARE_HOST.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = image::parse_variable)]
    environment: Vec<(String, String)>,
    /// Build and install nothing: where something is missing, say so and exit with 2.
    #[arg(long)]
    no_build: bool,
    /// Let the host's kernel write its messages between PROGRAM's output.
    #[arg(long)]
    kernel_log: bool,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

fn main() -> ExitCode {
    if host::init::is_wanted() {
        host::init::main();
    }
    let cli = Cli::parse();
    run::watch_signals();
    match carry_out(cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let status = status_of(&error);
            eprint!("{}", explained(&error));
            ExitCode::from(status)
        }
    }
}

fn carry_out(cli: Cli) -> Result<u8> {
    let place = Place::find()?;
    match cli.command {
        Task::Demo => demo::run(&place, cli.general),
        Task::TestAll { soak } => test_all::run(&place, cli.general, soak),
        Task::Build { parts } => {
            let named = if parts.is_empty() { Part::value_variants() } else { &parts };
            prepare::prepare(&place, cli.general, &named.iter().copied().collect())?;
            Ok(0)
        }
        Task::Host(args) => run_host(&place, cli.general, args),
    }
}

fn run_host(place: &Place, general: General, args: HostArgs) -> Result<u8> {
    let mut words = args.program.into_iter();
    let program = PathBuf::from(words.next().unwrap_or_default());
    let program = host::find_program(&program)?;
    let mut job = host::Job {
        arguments: words.collect(),
        directory: std::env::current_dir().context("Find the current directory")?,
        environment: args.environment.into_iter().collect(),
        memory_mib: args.memory,
        timeout_s: args.timeout,
        kernel_log: args.kernel_log,
        ..host::Job::new(&program, &program)
    };
    job.files.extend(args.files);
    let parts = BTreeSet::from([Part::Host]);
    if args.no_build {
        prepare::check(place, &parts)?
    } else {
        drop(prepare::prepare(place, general, &parts)?)
    }
    let end = host::run(place, &place.host_kernel(), &job, &mut std::io::stdout().lock())?;
    Ok(software_job::status(&job, &end))
}

/// 2 for what the user can mend, 130 or 143 after a signal, else 1.
fn status_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Interrupted>() {
        Some(Interrupted(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        None if error.is::<packages::Missing>() || error.is::<prepare::NotBuilt>() => 2,
        None => 1,
    }
}

/// The error and the chain of its causes, a line each.
fn explained(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(|cause| format!("  caused by: {cause}\n"));
    std::iter::once(format!("Error: {error}\n")).chain(causes).collect()
}
