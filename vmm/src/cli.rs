//! The command line: `vmm --app-config app.json`, `vmm --raw-config vm.json`, `vmm info`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::build_error::BuildError;
use crate::builder;
use crate::config::app::AppConfig;
use crate::config::raw::RawConfig;
use crate::event_loop::StopSignals;
use crate::exit::{STATUS_DIED, STATUS_USAGE};
use crate::host::{self, HostKind};
use crate::outputs::Outputs;
use crate::prepare::{self, Prepared};
use crate::report::Report;
use crate::terminal::Terminal;
use crate::{logger, os, software};

/// Runs the native code of a signed app bundle (APK) as the only program of its own virtual machine.
///
/// The payload's output goes to stdout, the VM's life to stderr. The exit status is the payload's; 128 + N when
/// signal N killed it; 130 and 143 after SIGINT and SIGTERM to this command; 125 when the VM died without an
/// exit code; 2 for bad usage and bad input, found before the VM starts.
#[derive(Debug, Parser)]
#[command(name = "vmm", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(after_help = "Example:\n  vmm --app-config target/images/sample/app.json")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what this host can run.
    Info {
        /// For machines.
        #[arg(long)]
        json: bool,
    },
}

/// Where the VM runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Host {
    /// This host's KVM.
    #[default]
    Kvm,
    /// An emulated machine with a KVM of its own: works everywhere, slowly. Needs the `images` command of this
    /// project beside `vmm` or in PATH.
    Software,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Run the payload that this JSON file describes: {"apk": "a.apk", "config_path": "assets/vm_config.json"}.
    #[arg(long, value_name = "FILE", conflicts_with = "raw_config")]
    app_config: Option<PathBuf>,
    /// Run the VM that this JSON file describes: {"kernel": "vmlinux", "initrd": "root.cpio", "params": ".."}.
    #[arg(long, value_name = "FILE")]
    raw_config: Option<PathBuf>,
    /// The guest operating systems, one JSON file each [default: $KAPSEL_OS_DIR, else `os` beside this program].
    #[arg(long, value_name = "DIR")]
    os_dir: Option<PathBuf>,
    /// Where the guest's console goes (kernel and PID 1) [default: stdout].
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// Where the payload's output goes [default: stdout].
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// KiB of console, and of log, kept for a reader who is slow; of more, the oldest are dropped and counted.
    #[arg(long, value_name = "KIB", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    output_buffer: u32,
    /// Give the terminal to the VM's console: what is typed goes to its "console_input_device" (ttyS0 where the
    /// configuration does not say), Ctrl-A x ends the VM.
    #[arg(long, short = 'i', conflicts_with = "app_config")]
    interactive: bool,
    /// Connect host programs to the guest's vsock through this Unix socket: send "CONNECT <port>\n"; the
    /// guest's connections to port N of the host go to FILE_N. For messages connect to FILE.seqpacket.
    #[arg(long, value_name = "FILE")]
    vsock: Option<PathBuf>,
    /// Which host runs the VM.
    #[arg(long, value_enum, default_value_t)]
    host: Host,
    /// Seconds the payload has to start [default: 30, 300 on a software host].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    start_timeout: Option<u64>,
    /// Seconds the guest has to end by itself after SIGTERM or SIGINT; a second signal stops it at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    grace: u64,
    /// Print the VM's life as JSON lines.
    #[arg(long)]
    json: bool,
    /// Print nothing but the guest's output and errors.
    #[arg(long, short, conflicts_with = "verbose")]
    quiet: bool,
    /// Print debug messages.
    #[arg(long, short)]
    verbose: bool,
}

/// An error of the command, with its exit status.
struct Failure {
    error: Box<dyn Error>,
    status: u8,
}

impl Failure {
    fn usage(error: impl Into<Box<dyn Error>>) -> Self {
        Self { error: error.into(), status: STATUS_USAGE }
    }
}

/// Runs the command with the process's arguments.
pub fn main() -> ExitCode {
    let start = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { STATUS_USAGE } else { 0 });
        }
    };
    logger::start(cli.run.verbose);
    let done = match cli.command {
        Some(Command::Info { json }) => info(json),
        None => run(&cli.run, start),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            print_error(failure.error.as_ref());
            ExitCode::from(failure.status)
        }
    }
}

/// The error and what caused it, a line each; a cause that an error has told itself is not told again.
fn chain(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut text = format!("Error: {told}\n");
    let mut cause = error.source();
    while let Some(e) = cause {
        let line = e.to_string();
        if !told.ends_with(&line) {
            text.push_str(&format!("  caused by: {line}\n"));
        }
        told = line;
        cause = e.source();
    }
    text
}

fn print_error(error: &dyn Error) {
    eprint!("{}", crate::report::printable(&chain(error)));
}

fn run(args: &RunArgs, start: Instant) -> Result<u8, Failure> {
    let config = match (&args.app_config, &args.raw_config) {
        (Some(path), _) => Config::App(path, AppConfig::read(path).map_err(Failure::usage)?),
        (None, Some(path)) => Config::Raw(path, RawConfig::read(path).map_err(Failure::usage)?),
        (None, None) => {
            return Err(Failure::usage("give --app-config FILE or --raw-config FILE; see --help"));
        }
    };
    let mut prepared = config.prepare(args)?;
    if args.host == Host::Software {
        if args.console.is_some() || args.log.is_some() || args.vsock.is_some() {
            let message = "--console, --log and --vsock name files of the machine the VM runs on, and --host \
                           software runs it on another: redirect stdout instead";
            return Err(Failure::usage(message));
        }
        return Err(Failure::usage(software::exec(&prepared.files)));
    }
    for warning in &prepared.warnings {
        log::warn!("{warning}");
    }
    let kvm = host::open_kvm().map_err(Failure::usage)?;
    if matches!(config, Config::App(..)) && host::kind(&kvm).map_err(Failure::usage)? == HostKind::Emulated {
        return Err(Failure::usage(host::HostError::CannotRunLinux));
    }
    if let (Some(seconds), Some(timeout)) = (args.start_timeout, &mut prepared.spec.payload_timeout) {
        *timeout = std::time::Duration::from_secs(seconds);
    }
    host::raise_descriptor_limit();
    // Before the first thread: each inherits the mask.
    let signals = StopSignals::block(std::time::Duration::from_secs(args.grace)).map_err(Failure::usage)?;
    let outputs = Outputs::open(args.console.as_deref(), args.log.as_deref()).map_err(Failure::usage)?;
    let mut vm = builder::build(&kvm, prepared.spec, outputs.output(ring_len(args)).map_err(Failure::usage)?)
        .map_err(|error| {
            let status = if is_bad_input(&error) { STATUS_USAGE } else { STATUS_DIED };
            Failure { error: error.into(), status }
        })?;
    outputs.keep();
    let terminal = args
        .interactive
        .then(|| Terminal::connect(&vm))
        .transpose()
        .map_err(|source| Failure { error: source.into(), status: STATUS_USAGE })?;
    let report = Report::new(start, args.json, args.quiet);
    let mut events = report;
    let outcome = vm
        .run(Some(signals), Box::new(move |event| events.event(event)))
        .map_err(|e| Failure { error: e.into(), status: STATUS_DIED })?;
    if vm.output().is_waiting() {
        // Whoever reads our output may take his time, or end us.
        StopSignals::unblock();
    }
    vm.output().finish(None);
    drop(terminal);
    report.ended(&outcome, &vm.output().console().tail());
    // The process ends now: unmapping the guest and closing the VM first would only take time.
    std::mem::forget(vm);
    Ok(outcome.exit_status())
}

fn ring_len(args: &RunArgs) -> usize {
    usize::try_from(args.output_buffer).unwrap_or(usize::MAX).saturating_mul(1024)
}

fn is_bad_input(error: &BuildError) -> bool {
    matches!(
        error,
        BuildError::Boot { .. } | BuildError::Cmdline(_) | BuildError::TooManyDisks(_) | BuildError::Vsock(_)
    )
}

enum Config<'a> {
    App(&'a Path, AppConfig),
    Raw(&'a Path, RawConfig),
}

impl Config<'_> {
    fn prepare(&self, args: &RunArgs) -> Result<Prepared, Failure> {
        let mut prepared = match self {
            Self::App(path, config) => {
                prepare::app(path, config, args.os_dir.as_deref()).map_err(Failure::usage)?
            }
            Self::Raw(path, config) => prepare::raw(path, config).map_err(Failure::usage)?,
        };
        prepared.spec.use_socket(args.vsock.clone()).map_err(Failure::usage)?;
        Ok(prepared)
    }
}

fn info(json: bool) -> Result<u8, Failure> {
    let opened = host::open_kvm();
    let kind = opened.as_ref().ok().map(host::kind);
    let can_run_linux = matches!(kind, Some(Ok(HostKind::Real)));
    let (kvm, advice) = match (&opened, &kind) {
        (Err(e), _) | (_, Some(Err(e))) => ("none".to_string(), Some(e.to_string())),
        (_, Some(Ok(HostKind::Emulated))) => {
            (HostKind::Emulated.to_string(), Some(host::HostError::CannotRunLinux.to_string()))
        }
        (_, Some(Ok(kind))) => (kind.to_string(), None),
        (Ok(_), None) => ("none".to_string(), None),
    };
    let memory = host::total_memory().map_err(Failure::usage)? >> 20;
    let os_dir = os::directory(None).ok();
    if json {
        let value = serde_json::json!({
            "kvm": kvm, "can_run_linux": can_run_linux, "advice": advice, "memory_mib": memory, "os_dir": os_dir,
        });
        println!("{value}");
        return Ok(0);
    }
    println!("KVM:              {kvm}");
    println!("Linux guests:     {}", if can_run_linux { "yes" } else { "no" });
    println!("Memory:           {memory} MiB");
    println!("OS directory:     {}", os_dir.map_or("none found".to_string(), |d| d.display().to_string()));
    if let Some(advice) = advice {
        println!("\n{advice}");
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open \"a\"")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("read it: {0}")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn each_cause_is_told_once() {
        let error = Outer(Middle(std::io::Error::other("no such luck")));
        assert_eq!(chain(&error), "Error: open \"a\"\n  caused by: read it: no such luck\n");
    }
}
