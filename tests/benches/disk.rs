//! Disk figures in the virtual time of the software host, where a run takes the same time on every machine.
//!
//! `cargo bench -p tests --bench disk`, after `cargo demo` has built what it runs: a guest (`disk_guest.c`) reads and writes
//! 16 MiB on tmpfs with O_DIRECT, sequentially by 1 MiB and at random by 4 KiB, one and 32 at a time: as a raw image and as a
//! composite disk of 20 partitions with `vmm`, and as a raw image with QEMU's microvm (aio=threads) where it is installed, all
//! with the same kernel and initramfs. `KAPSEL_VMM` names another executable to measure.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use tests::process::{Place, use_shipped_vmm};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const PARAMS: &str = "console=ttyS0 reboot=k panic=-1 quiet 8250.nr_uarts=1 tsc=reliable";
const MEMORY_MIB: u64 = 256;
const DISK: usize = 16 << 20;
const PARTITIONS: usize = 20;
/// Bytes of one partition: whole pages, so that no filler parts them.
const PARTITION: usize = DISK / PARTITIONS / 4096 * 4096;
const ENGINES: [&str; 3] = ["auto", "io_uring", "threads"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn initramfs(place: &Place) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/disk_guest.c");
    let program = place.path().join("init");
    let cc = Command::new("cc").args(["-O2", "-static", "-o"]).arg(&program).arg(source).status();
    assert!(cc.unwrap().success(), "disk_guest.c does not build");
    place.file("disk.cpio", &tests::cpio::initramfs(&std::fs::read(&program).unwrap()))
}

/// On the machine: builds what is missing and runs this program again inside the software host.
fn outside() {
    let vmm = use_shipped_vmm();
    let (target, place) = (root().join("target"), Place::new());
    let kernel = target.join("images/os/vmlinux");
    assert!(kernel.exists(), "run `cargo demo` first: it builds what this measures");
    let initrd = initramfs(&place);
    let mut images = Command::new(target.join("images/images"));
    images.args(["host", "--quiet", "--no-build", "--memory", "1024"]);
    for file in [&kernel, &initrd, &vmm] {
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
    images.arg("--").arg(std::env::current_exe().unwrap()).arg("--inside").args([&vmm, &kernel, &initrd]);
    assert!(images.status().unwrap().success(), "the software host failed");
}

/// One figure of a guest.
struct Figure {
    name: String,
    operations: f64,
    bytes: f64,
    seconds: f64,
}

/// What a guest printed after its first round, which meets cold caches.
fn figures(console: &str) -> Vec<Figure> {
    let warm = console.split("disk round 1").nth(1).unwrap_or_default();
    let lines = warm.lines().filter_map(|line| {
        let mut words = line.trim().strip_prefix("disk ")?.split(' ');
        let (name, mut number) = (words.next()?.to_owned(), || words.next()?.parse::<f64>().ok());
        Some(Figure { name, operations: number()?, bytes: number()?, seconds: number()? / 1e9 })
    });
    lines.collect()
}

fn measure(what: &str, command: &mut Command) -> Vec<Figure> {
    let ended = command.stdin(Stdio::null()).output().unwrap();
    let console = String::from_utf8_lossy(&ended.stdout);
    let figures = figures(&console);
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && figures.len() == 6, "{what}: {console}{errors}");
    println!("  {what}");
    for Figure { name, operations, bytes, seconds } in &figures {
        println!(
            "    {name:14} {:8.0}/s  {:7.1} MB/s  {:8.2} us each",
            operations / seconds,
            bytes / seconds / 1e6,
            seconds / operations * 1e6
        );
    }
    figures
}

/// In the software host.
fn inside(vmm: &str, kernel: &str, initrd: &str) {
    println!("disk figures in virtual time: 1 vCPU, {MEMORY_MIB} MiB, {} MiB on tmpfs, O_DIRECT", DISK >> 20);
    let place = Place::new();
    let bytes: Vec<u8> = (0..DISK).map(|i| (i * 31 + i / 4096).to_le_bytes()[0]).collect();
    let image = place.file("disk.img", &bytes);
    let partitions: Vec<_> = (0..PARTITIONS)
        .map(|n| {
            let part = place.file(&format!("part{n}.img"), &bytes[n * PARTITION..][..PARTITION]);
            json!({ "label": format!("part{n}"), "path": part, "writable": true })
        })
        .collect();
    let run = |what: &str, disk: serde_json::Value| {
        let config = json!({
            "kernel": kernel, "initrd": initrd, "memory_mib": MEMORY_MIB, "params": PARAMS, "disks": [disk]
        });
        let config = place.file("vm.json", config.to_string().as_bytes());
        measure(what, Command::new(vmm).args(["--quiet", "--raw-config"]).arg(config))
    };
    let mut raw = Vec::new();
    for engine in ENGINES {
        let disk = json!({ "image": image, "writable": true, "engine": engine });
        let figures = run(&format!("vmm, raw image, engine {engine}"), disk);
        if raw.is_empty() {
            raw = figures;
        }
    }
    let composite =
        run("vmm, composite of 20 partitions", json!({ "partitions": partitions, "writable": true }));
    for (raw, composite) in raw.iter().zip(&composite) {
        let cost = composite.seconds / composite.bytes / (raw.seconds / raw.bytes) - 1.0;
        println!("    {:14} composite against raw {:+.1} %", raw.name, cost * 100.0);
    }
    if Path::new(QEMU).exists() {
        let machine = "microvm,accel=kvm,acpi=off,pic=off,pit=off,rtc=off,x-option-roms=off,isa-serial=on";
        let mut qemu = Command::new(QEMU);
        qemu.args(["-M", machine, "-cpu", "host", "-m", &MEMORY_MIB.to_string(), "-nodefaults"]);
        qemu.args(["-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        qemu.args(["-global", "virtio-mmio.force-legacy=false"]);
        qemu.arg("-drive").arg(format!("id=d,if=none,format=raw,aio=threads,file={}", image.display()));
        qemu.args(["-device", "virtio-blk-device,drive=d", "-kernel", kernel, "-initrd", initrd, "-append"]);
        let peer = measure("QEMU microvm, raw image", qemu.arg(PARAMS.replace("reboot=k", "reboot=t")));
        for (ours, peer) in raw.iter().zip(&peer) {
            println!("    {:14} vmm is {:.2} times as fast", ours.name, peer.seconds / ours.seconds);
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().position(|arg| arg == "--inside") {
        Some(at) => match &args[at + 1..] {
            [vmm, kernel, initrd, ..] => inside(vmm, kernel, initrd),
            _ => panic!("--inside VMM KERNEL INITRD"),
        },
        None => outside(),
    }
}
