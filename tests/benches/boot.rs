//! Boot times in the virtual time of the software host, where a run takes the same time on every machine.
//!
//! `cargo bench -p tests --bench boot [-- --json]`, after `cargo demo` has built what it runs: exec to exit of a VM with an
//! uncompressed initramfs of 2.7 MB that reboots at once, for `vmm` and, where it is installed, for QEMU's microvm with the
//! same kernel and initramfs; and the steps of the sample payload's life, from main on.
//! The first run of each fills the page cache and is not counted.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tests::bench::{BenchArgs, InnerRun, image, root};
use tests::figures::{Figure, Report, median};
use tests::peers::{PeerVm, Qemu};
use tests::process::{Place, use_shipped_vmm};

/// Bytes of the initramfs, unpacked: what a guest with a C library and little else has.
const INITRAMFS: usize = 2_700_000;
const MEMORY_MIB: u64 = 128;
const RUNS: usize = 4;
const PARAMS: &str = "console=ttyS0 reboot=k panic=-1 quiet 8250.nr_uarts=0 tsc=reliable";

/// Ends the VM as soon as the kernel has started it.
const INIT: &str = "#include <sys/reboot.h>\nint main(void) { return reboot(RB_AUTOBOOT); }\n";

fn initramfs(place: &Place) -> PathBuf {
    let (source, program) = (place.file("init.c", INIT.as_bytes()), place.path().join("init"));
    let cc = Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(source).status();
    assert!(cc.unwrap().success(), "init.c does not build");
    let mut init = std::fs::read(&program).unwrap();
    // What lies behind an executable is not loaded, but it is unpacked.
    init.resize(init.len().max(INITRAMFS), 0x5a);
    place.file("bench.cpio", &tests::cpio::initramfs(&init))
}

/// On the machine: builds what is missing and runs this program again inside the software host.
fn outside(args: &BenchArgs) {
    let (vmm, place) = (use_shipped_vmm(), Place::new());
    image("os/microdroid.json");
    let (os, sample) = (root().join("target/images/os"), image("sample"));
    let initrd = initramfs(&place);
    let raw = json!({
        "kernel": os.join("vmlinux"), "initrd": initrd, "memory_mib": MEMORY_MIB, "params": PARAMS
    });
    let raw = place.file("raw.json", raw.to_string().as_bytes());
    // No life events, no console on the bench's own output: only what is said below.
    let app = r#"{"apk": "sample.apk", "config_path": "assets/vm_config.json", "memory_mib": 128, "debug_level": "LEVEL"}"#;
    let mut run = InnerRun::new(2048).file(&os).file(&sample).file(&raw).file(&initrd).file(&vmm).qemu();
    for level in ["none", "full"] {
        let config = place.file(&format!("{level}.json"), app.replace("LEVEL", level).as_bytes());
        run = run.file_to(&config, &sample.join(format!("{level}.json")));
    }
    run.run(args, &[vmm, raw, os, sample]);
}

/// Median seconds from exec to exit of the runs but the first.
fn exec_to_exit(what: &str, mut command: Command) -> f64 {
    let mut times = Vec::new();
    for run in 0..=RUNS {
        let start = Instant::now();
        let ended = command.stdin(Stdio::null()).output().unwrap();
        let time = start.elapsed().as_secs_f64();
        assert!(ended.status.success(), "{what}: {}", String::from_utf8_lossy(&ended.stderr));
        if run > 0 {
            times.push(time);
        }
    }
    median(&times)
}

/// In the software host.
fn inside(args: &BenchArgs, vmm: &str, raw: &str, os: &str, sample: &str) {
    let title = format!(
        "Boot, virtual time: 1 vCPU, {MEMORY_MIB} MiB, initramfs of {INITRAMFS} bytes, medians of {RUNS} runs after a first one"
    );
    let mut report = Report::new(title);
    let mut figure = Figure::less("exec to exit of a guest that reboots at once", "s");
    args.progress("vmm");
    let mut command = Command::new(vmm);
    command.args(["--quiet", "--raw-config", raw]);
    figure.push("vmm", exec_to_exit("vmm", command));
    if let Some(qemu) = Qemu::inside() {
        args.progress("QEMU microvm");
        let config: Value = serde_json::from_slice(&std::fs::read(raw).unwrap()).unwrap();
        let file = |key: &str| PathBuf::from(config[key].as_str().unwrap());
        let (kernel, initrd) = (file("kernel"), file("initrd"));
        let vm = PeerVm { initrd: Some(&initrd), ..PeerVm::new(&kernel, MEMORY_MIB, PARAMS) };
        figure.push("QEMU microvm", exec_to_exit("qemu", qemu.microvm(&vm)));
    }
    report.figures.push(figure);
    args.progress("sample payload");
    let (life, steps) = started(vmm, os, sample);
    report.figures.push(life);
    report.print(args.json);
    if let (Some(steps), false) = (steps, args.json) {
        println!("steps of the payload manager: {steps}");
    }
}

/// Runs the sample payload, with its events on stderr.
fn live(vmm: &str, os: &str, sample: &str, level: &str) -> (f64, Output) {
    let config = format!("{sample}/{level}.json");
    let start = Instant::now();
    let ended = Command::new(vmm).args(["--json", "--os-dir", os, "--app-config", &config]).output().unwrap();
    let whole = start.elapsed().as_secs_f64();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    (whole, ended)
}

/// Times of the sample's life, by the events that `vmm` reports, and the steps of the payload manager, as it tells them.
fn started(vmm: &str, os: &str, sample: &str) -> (Figure, Option<String>) {
    live(vmm, os, sample, "none");
    let (whole, ended) = live(vmm, os, sample, "none");
    let text = String::from_utf8_lossy(&ended.stderr);
    let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let at = |name: &str| {
        let event = events.iter().find(|event| event["event"] == name);
        event.and_then(|event| event["seconds"].as_f64()).unwrap()
    };
    let mut figure = Figure::less("sample payload, time since main", "s").apart();
    for (what, event) in [
        ("VM created", "created"),
        ("payload manager runs", "booted"),
        ("payload started", "payload_started"),
        ("payload ready", "payload_ready"),
        ("payload finished", "payload_finished"),
    ] {
        figure.push(what, at(event));
    }
    // Besides, exec, and the process's end.
    figure.push("exec to exit", whole);
    let (_, ended) = live(vmm, os, sample, "full");
    let console = String::from_utf8_lossy(&ended.stdout).into_owned();
    let steps = console.lines().find_map(|line| line.split_once("payload-manager:"));
    (figure, steps.map(|(_, steps)| steps.trim().to_owned()))
}

fn main() {
    let args = BenchArgs::parse();
    match args.inside.as_deref() {
        Some([vmm, raw, os, sample]) => inside(&args, vmm, raw, os, sample),
        Some(_) => panic!("--inside VMM RAW_CONFIG OS_DIR SAMPLE_DIR"),
        None => outside(&args),
    }
}
