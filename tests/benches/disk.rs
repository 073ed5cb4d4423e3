//! Disk figures in the virtual time of the software host, where a run takes the same time on every machine.
//!
//! `cargo bench -p tests --bench disk [-- --json]`, after `cargo demo` has built what it runs: a guest (`disk_guest.c`) reads and
//! writes 16 MiB on tmpfs with O_DIRECT, sequentially by 1 MiB and at random by 4 KiB, one and 32 at a time: as a raw image with
//! each engine and as a composite disk of 20 partitions with `vmm`, and as a raw image with QEMU's microvm (aio=threads) where it
//! is installed, all with the same kernel and initramfs. Where alioth was installed, all of them again with Debian's kernel, which
//! knows PCI; alioth has devices over PCI only. `KAPSEL_VMM` names another executable to measure.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::bench::{BenchArgs, InnerRun};
use tests::compile;
use tests::figures::{Figure, Report};
use tests::peers::{Alioth, Discovery, PeerVm, Qemu, idle_terminal};
use tests::process::Place;

const PARAMS: &str = "console=ttyS0 reboot=k panic=-1 quiet 8250.nr_uarts=1 tsc=reliable";
const MEMORY_MIB: u64 = 256;
const DISK: usize = 16 << 20;
const PARTITIONS: usize = 20;
/// Bytes of one partition: whole pages, so that no filler parts them.
const PARTITION: usize = DISK / PARTITIONS / 4096 * 4096;

/// What the guest calls its figures, and what they are.
const FIGURES: [(&str, &str, Unit); 6] = [
    ("seq-read", "read 1 MiB, sequential", Unit::Bytes),
    ("seq-write", "write 1 MiB, sequential", Unit::Bytes),
    ("rand-read-1", "read 4 KiB at random, one at a time", Unit::Operations),
    ("rand-write-1", "write 4 KiB at random, one at a time", Unit::Operations),
    ("rand-read-32", "read 4 KiB at random, 32 at a time", Unit::Operations),
    ("rand-write-32", "write 4 KiB at random, 32 at a time", Unit::Operations),
];

#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Operations,
}

/// On the machine: runs this program again inside the software host.
fn outside(args: &BenchArgs) {
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/disk_guest.c");
    InnerRun::beside_peers(args, 1024, &compile::program(&guest).unwrap());
}

/// What a guest printed after its first round, which meets cold caches: for each of [`FIGURES`] operations or MB in a second.
fn rates(console: &str) -> Vec<f64> {
    let warm = console.split("disk round 1").nth(1).unwrap_or_default();
    let rate = |name: &str, unit: Unit| {
        let mut lines = warm.lines().filter_map(|line| line.trim().strip_prefix("disk ")?.strip_prefix(name));
        let mut numbers = lines.find(|rest| rest.starts_with(' '))?.trim().split(' ').map(str::parse::<f64>);
        let mut number = || numbers.next()?.ok();
        let (operations, bytes, nanoseconds) = (number()?, number()?, number()?);
        Some(match unit {
            Unit::Bytes => bytes / 1e6 / (nanoseconds / 1e9),
            Unit::Operations => operations / (nanoseconds / 1e9),
        })
    };
    FIGURES.iter().filter_map(|(name, _, unit)| rate(name, *unit)).collect()
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
        let console = String::from_utf8_lossy(&ended.stdout);
        let rates = rates(&console);
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && rates.len() == FIGURES.len(), "{subject}: {console}{errors}");
        for ((_, name, unit), rate) in FIGURES.iter().zip(rates) {
            let unit = match unit {
                Unit::Bytes => "MB/s",
                Unit::Operations => "per second",
            };
            self.report.push(subject, || Figure::more(name, unit), rate);
        }
    }
}

/// The image that all read and write, and the configurations of `vmm` that show it: by name.
fn disks(place: &Place) -> (PathBuf, Vec<(&'static str, Value)>) {
    let bytes: Vec<u8> = (0..DISK).map(|i| (i * 31 + i / 4096).to_le_bytes()[0]).collect();
    let image = place.file("disk.img", &bytes);
    let partitions: Vec<_> = (0..PARTITIONS)
        .map(|n| {
            let part = place.file(&format!("part{n}.img"), &bytes[n * PARTITION..][..PARTITION]);
            json!({ "label": format!("part{n}"), "path": part, "writable": true })
        })
        .collect();
    let raw = |engine: &str| json!({ "image": image, "writable": true, "engine": engine });
    let disks = vec![
        ("vmm", raw("auto")),
        ("vmm, io_uring", raw("io_uring")),
        ("vmm, threads", raw("threads")),
        ("vmm, 20 partitions", json!({ "partitions": partitions, "writable": true })),
    ];
    (image, disks)
}

/// A VM of `vmm`.
fn vmm(place: &Place, vmm: &Path, [kernel, initrd]: [&Path; 2], disk: &Value) -> Command {
    let config = json!({
        "kernel": kernel, "initrd": initrd, "memory_mib": MEMORY_MIB, "params": PARAMS, "disks": [disk]
    });
    let config = place.file("vm.json", config.to_string().as_bytes());
    let mut command = Command::new(vmm);
    command.args(["--quiet", "--raw-config"]).arg(config);
    command
}

/// In the software host.
fn inside(args: &BenchArgs, words: &[&Path]) {
    let [program, kernel, initrd, stock @ ..] = words else {
        panic!("--inside VMM KERNEL INITRD [STOCK_KERNEL STOCK_INITRD ALIOTH]")
    };
    let title = format!(
        "Disks, virtual time: 1 vCPU, {MEMORY_MIB} MiB, {} MiB on tmpfs, O_DIRECT, kernel and initramfs the same",
        DISK >> 20
    );
    let (mut series, place) = (Series { args, report: Report::new(&title) }, Place::new());
    let (image, disks) = disks(&place);
    for (subject, disk) in &disks {
        series.measure(subject, &mut vmm(&place, program, [kernel, initrd], disk));
    }
    let peer =
        PeerVm { initrd: Some(initrd), disks: &[(&image, false)], ..PeerVm::new(kernel, MEMORY_MIB, PARAMS) };
    if let Some(qemu) = Qemu::inside() {
        series.measure("QEMU microvm", &mut qemu.microvm(&peer));
    }
    series.report.print(args.json);
    let [kernel, initrd, alioth] = stock else { return };
    series.report = Report::new(format!("{title}: Debian's"));
    let peer = PeerVm { kernel, initrd: Some(initrd), discovery: Discovery::Acpi, ..peer };
    let terminal = idle_terminal().unwrap();
    series.measure("vmm", &mut vmm(&place, program, [kernel, initrd], &disks[0].1));
    if let Some(qemu) = Qemu::inside() {
        series.measure("QEMU microvm", &mut qemu.microvm(&peer));
    }
    let alioth = &mut Alioth::at(*alioth).command(&peer);
    series.measure("alioth, PCI", alioth.stdin(terminal.1));
    series.report.print(args.json);
}

fn main() {
    let args = BenchArgs::parse();
    match &args.inside {
        Some(words) => inside(&args, &words.iter().map(Path::new).collect::<Vec<_>>()),
        None => outside(&args),
    }
}
