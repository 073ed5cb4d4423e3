//! Boot times in the virtual time of the software host, where a run takes the same time on every machine.
//!
//! `cargo bench -p tests --bench boot`, after `cargo demo` has built what it runs: prints (c) exec to exit of a VM with an
//! uncompressed initramfs of 2.7 MB that reboots at once, for `vmm` and, where it is installed, for QEMU's microvm with the
//! same kernel and initramfs; and exec to payload Started, split into VMM, kernel and payload manager.
//! The first run of each fills the page cache and is not counted.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use tests::process::{Place, use_shipped_vmm};

/// Bytes of the initramfs, unpacked: what a guest with a C library and little else has.
const INITRAMFS: usize = 2_700_000;
const RUNS: usize = 4;
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const PARAMS: &str = "console=ttyS0 reboot=k panic=-1 quiet 8250.nr_uarts=0 tsc=reliable";

/// Ends the VM as soon as the kernel has started it.
const INIT: &str = "#include <sys/reboot.h>\nint main(void) { return reboot(RB_AUTOBOOT); }\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

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
fn outside() {
    let vmm = use_shipped_vmm();
    let (target, place) = (root().join("target"), Place::new());
    let (os, sample) = (target.join("images/os"), target.join("images/sample"));
    assert!(os.join("microdroid.json").exists(), "run `cargo demo` first: it builds what this measures");
    // No life events, no console on the bench's own output: only what is said below.
    let raw = format!(
        r#"{{"kernel": "{}", "initrd": "{}", "memory_mib": 128, "params": "{PARAMS}"}}"#,
        os.join("vmlinux").display(),
        initramfs(&place).display()
    );
    let raw = place.file("raw.json", raw.as_bytes());
    let app = r#"{"apk": "sample.apk", "config_path": "assets/vm_config.json", "memory_mib": 128, "debug_level": "LEVEL"}"#;
    let mut images = Command::new(target.join("images/images"));
    images.args(["host", "--quiet", "--no-build", "--memory", "2048"]);
    for level in ["none", "full"] {
        let config = place.file(&format!("{level}.json"), app.replace("LEVEL", level).as_bytes());
        images.arg("--file").arg(format!("{}={}/{level}.json", config.display(), sample.display()));
    }
    for file in [&os, &sample, &raw, &place.path().join("bench.cpio"), &vmm] {
        images.arg("--file").arg(file);
    }
    if Path::new(QEMU).exists() {
        images.arg("--file").arg(QEMU);
        for rom in ["qboot.rom", "linuxboot_dma.bin", "pvh.bin"] {
            let path = std::fs::canonicalize(Path::new("/usr/share/qemu").join(rom)).unwrap();
            images.arg("--file").arg(format!("{}=/usr/share/qemu/{rom}", path.display()));
        }
    } else {
        println!("peer skipped: {QEMU} is not installed (Debian package qemu-system-x86)");
    }
    images.arg("--").arg(std::env::current_exe().unwrap()).arg("--inside");
    images.args([&vmm, &raw, &os, &sample]);
    assert!(images.status().unwrap().success(), "the software host failed");
}

/// Seconds from exec to exit, of each run but the first.
fn times(what: &str, command: impl Fn() -> Command) -> Vec<f64> {
    let mut times = Vec::new();
    for run in 0..=RUNS {
        let start = Instant::now();
        let ended = command().stdin(Stdio::null()).output().unwrap();
        let time = start.elapsed().as_secs_f64();
        assert!(ended.status.success(), "{what}: {}", String::from_utf8_lossy(&ended.stderr));
        if run > 0 {
            times.push(time);
        }
    }
    times
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// In the software host.
fn inside(vmm: &str, raw: &str, os: &str, sample: &str) {
    println!(
        "(c) virtual seconds, {RUNS} runs after a first one, 1 vCPU, 128 MiB, initramfs of {INITRAMFS} bytes"
    );
    let ours = times("vmm", || {
        let mut command = Command::new(vmm);
        command.args(["--quiet", "--raw-config", raw]);
        command
    });
    println!("  exec to exit, vmm            {:.4}   runs {ours:.4?}", median(ours.clone()));
    if Path::new(QEMU).exists() {
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(raw).unwrap()).unwrap();
        let file = |key: &str| config[key].as_str().unwrap().to_owned();
        let machine = "microvm,accel=kvm,acpi=off,pic=off,pit=off,rtc=off,x-option-roms=off,isa-serial=on";
        let peer = times("qemu", || {
            let mut command = Command::new(QEMU);
            command.args(["-M", machine, "-cpu", "host", "-m", "128", "-nodefaults", "-no-user-config"]);
            command.args(["-display", "none", "-serial", "null", "-no-reboot"]);
            command.args(["-kernel", &file("kernel"), "-initrd", &file("initrd")]);
            command.arg("-append").arg(PARAMS.replace("reboot=k", "reboot=t"));
            command
        });
        println!("  exec to exit, QEMU microvm   {:.4}   runs {peer:.4?}", median(peer.clone()));
    }
    started(vmm, os, sample);
}

/// Times of the sample's life, by the events that `vmm` reports.
fn started(vmm: &str, os: &str, sample: &str) {
    let life = |level: &str| {
        let config = format!("{sample}/{level}.json");
        let start = Instant::now();
        let ended =
            Command::new(vmm).args(["--json", "--os-dir", os, "--app-config", &config]).output().unwrap();
        let whole = start.elapsed().as_secs_f64();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        (whole, ended)
    };
    life("none");
    let (whole, ended) = life("none");
    let text = String::from_utf8_lossy(&ended.stderr);
    let events: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let at = |name: &str| {
        let event = events.iter().find(|event| event["event"] == name);
        event.and_then(|event| event["seconds"].as_f64()).unwrap()
    };
    // What passes before main and after the last event is exec, dynamic linking and the process's end.
    println!("  sample payload, seconds since main: exec to exit {whole:.4}");
    println!("    VMM     VM created       {:.4}", at("created"));
    println!("    kernel  manager reports  {:.4}  (+{:.4})", at("booted"), at("booted") - at("created"));
    println!(
        "    manager payload started  {:.4}  (+{:.4})",
        at("payload_started"),
        at("payload_started") - at("booted")
    );
    println!("    payload ready            {:.4}", at("payload_ready"));
    println!("    payload finished         {:.4}", at("payload_finished"));
    let (_, ended) = life("full");
    let console = String::from_utf8_lossy(&ended.stdout).into_owned();
    if let Some(steps) = console.lines().find(|line| line.contains("payload-manager:")) {
        println!("    its steps: {}", steps.trim());
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().position(|arg| arg == "--inside") {
        Some(at) => match &args[at + 1..] {
            [vmm, raw, os, sample, ..] => inside(vmm, raw, os, sample),
            _ => panic!("--inside VMM RAW_CONFIG OS_DIR SAMPLE_DIR"),
        },
        None => outside(),
    }
}
