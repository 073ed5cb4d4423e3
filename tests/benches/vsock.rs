//! Sockets between guest and host, in the virtual time of the software host: a run takes the same time on every machine.
//!
//! `cargo bench -p tests --bench vsock [-- --json]`, after `cargo demo` has built what it runs: the guest connects to the host and
//! measures the round trip of one byte, and streams of 8 MiB in writes of 64 KiB each way, three times after a first one;
//! with the device of `vmm`, with `vmm` and the kernel's vhost-vsock, and where it is installed with QEMU's microvm and
//! vhost-vsock, all with the same kernel and initramfs. The host's end is a thread that reads and writes as the guest does.
//! Where alioth was installed, all of them again with Debian's kernel, which knows PCI, and alioth with vhost-vsock; its Unix
//! sockets are not measured.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tests::bench::{BenchArgs, InnerRun, serve_stream};
use tests::figures::{Figure, Report, median};
use tests::peers::{Alioth, Discovery, PeerVm, PeerVsock, Qemu, idle_terminal};
use tests::process::Place;
use tests::{compile, vsock};

const TOTAL: usize = 8 << 20;
const CHUNK: usize = 64 << 10;
const PORT: u32 = 7000;
const CID: u32 = 3;
const PARAMS: &str = "console=ttyS0 reboot=k panic=-1 quiet 8250.nr_uarts=1 tsc=reliable";
const MEMORY_MIB: u64 = 256;

/// On the machine: runs this program again inside the software host.
fn outside(args: &BenchArgs) {
    InnerRun::beside_peers(args, 2048, &compile::program(&compile::guests().join("vsock_bench.c")).unwrap());
}

/// The host's end of one connection; the guest, too, says when it has everything.
fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    serve_stream(&mut stream, CHUNK, TOTAL / CHUNK)?;
    stream.read_exact(&mut [0])
}

fn serve_all(mut accept: impl FnMut() -> std::io::Result<UnixStream> + Send + 'static) {
    std::thread::spawn(move || {
        while let Ok(stream) = accept() {
            // The guest measures, and misses what went wrong. Its last words may be lost when it resets itself, and
            // not every monitor tells that it closed.
            std::thread::spawn(move || serve(stream));
        }
    });
}

/// One series of runs inside the software host.
struct Series<'a> {
    args: &'a BenchArgs,
    report: Report,
}

impl Series<'_> {
    fn measure(&mut self, subject: &str, command: &mut Command) {
        self.args.progress(subject);
        let ended = command.output().unwrap();
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
        let median = |name: &str| {
            let lines = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(' '));
            let values: Vec<f64> = lines.filter_map(|value| value.parse().ok()).collect();
            assert!(!values.is_empty(), "{subject}: {text}\n{errors}");
            median(&values)
        };
        let report = &mut self.report;
        report.push(subject, || Figure::less("round trip of a byte", "us"), median("round_trip_us"));
        report.push(subject, || Figure::more("guest to host", "MB/s"), median("out_mb_s"));
        report.push(subject, || Figure::more("host to guest", "MB/s"), median("in_mb_s"));
    }
}

/// Where the host listens.
struct Host {
    place: Place,
    socket: PathBuf,
}

impl Host {
    fn new() -> Self {
        let place = Place::new();
        let socket: PathBuf = place.path().join("v");
        let listener = UnixListener::bind(place.path().join(format!("v_{PORT}"))).unwrap();
        serve_all(move || listener.accept().map(|(stream, _)| stream));
        let listener: OwnedFd = vsock::listen(libc::SOCK_STREAM, PORT).unwrap();
        serve_all(move || vsock::accept(&listener));
        Self { place, socket }
    }

    /// The VM of `vmm`, with either backend.
    fn vmm(&self, series: &mut Series<'_>, program: &Path, [kernel, initrd]: [&Path; 2], discovery: &str) {
        let user = json!({ "backend": "user", "socket": self.socket });
        let vhost = json!({ "backend": "vhost", "cid": CID });
        for (subject, backend) in [("vmm, Unix sockets", user), ("vmm, vhost", vhost)] {
            let config = json!({
                "kernel": kernel, "initrd": initrd, "memory_mib": MEMORY_MIB, "params": PARAMS,
                "discovery": discovery, "vsock": backend
            });
            let config = self.place.file("raw.json", config.to_string().as_bytes());
            series.measure(subject, Command::new(program).args(["--quiet", "--raw-config"]).arg(config));
        }
    }
}

/// In the software host.
fn inside(args: &BenchArgs, words: &[&Path]) {
    let [program, kernel, initrd, stock @ ..] = words else {
        panic!("--inside VMM KERNEL INITRD [STOCK_KERNEL STOCK_INITRD ALIOTH]")
    };
    let title = format!(
        "Sockets, virtual time: 1 vCPU, {MEMORY_MIB} MiB, kernel and initramfs the same, medians of 3"
    );
    let (mut series, host) = (Series { args, report: Report::new(&title) }, Host::new());
    host.vmm(&mut series, program, [kernel, initrd], "cmdline");
    let peer = PeerVm {
        initrd: Some(initrd),
        vsock: Some(PeerVsock::Vhost(CID)),
        ..PeerVm::new(kernel, MEMORY_MIB, PARAMS)
    };
    if let Some(qemu) = Qemu::inside() {
        series.measure("QEMU microvm, vhost", &mut qemu.microvm(&peer));
    }
    series.report.print(args.json);
    let [kernel, initrd, alioth] = stock else { return };
    series.report = Report::new(format!("{title}: Debian's"));
    let peer = PeerVm { kernel, initrd: Some(initrd), discovery: Discovery::Acpi, ..peer };
    host.vmm(&mut series, program, [kernel, initrd], "acpi");
    if let Some(qemu) = Qemu::inside() {
        series.measure("QEMU microvm, vhost", &mut qemu.microvm(&peer));
    }
    let (alioth, terminal) = (Alioth::at(*alioth), idle_terminal().unwrap());
    series.measure("alioth, PCI, vhost", alioth.command(&peer).stdin(terminal.1));
    series.report.print(args.json);
}

fn main() {
    let args = BenchArgs::parse();
    match &args.inside {
        Some(words) => inside(&args, &words.iter().map(Path::new).collect::<Vec<_>>()),
        None => outside(&args),
    }
}
