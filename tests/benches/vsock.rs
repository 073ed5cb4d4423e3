//! Sockets between guest and host, in the virtual time of the software host: a run takes the same time on every machine.
//!
//! `cargo bench -p tests --bench vsock`, after `cargo demo` has built what it runs: the guest connects to the host and
//! measures the round trip of one byte, and streams of 8 MiB in writes of 64 KiB each way, three times after a first one;
//! with the device of `vmm`, with `vmm` and the kernel's vhost-vsock, and where it is installed with QEMU's microvm and
//! vhost-vsock, all with the same kernel and initramfs. The host's end is a thread that reads and writes as the guest does.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tests::process::{Place, use_shipped_vmm};
use tests::{compile, cpio, vsock};

const TOTAL: usize = 8 << 20;
const CHUNK: usize = 64 << 10;
const PORT: u32 = 7000;
const CID: u32 = 3;
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const PARAMS: &str = "console=ttyS0 reboot=k panic=-1 quiet 8250.nr_uarts=1 tsc=reliable";
const MEMORY_MIB: u32 = 256;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// On the machine: builds what is missing and runs this program again inside the software host.
fn outside() {
    let vmm = use_shipped_vmm();
    let (target, place) = (root().join("target"), Place::new());
    let kernel = target.join("images/os/vmlinux");
    assert!(kernel.exists(), "run `cargo demo` first: it builds what this measures");
    let guest = compile::program(&compile::guests().join("vsock_bench.c")).unwrap();
    let initrd = place.file("vsock.cpio", &cpio::initramfs(&guest));
    let mut images = Command::new(target.join("images/images"));
    images.args(["host", "--quiet", "--no-build", "--memory", "2048", "--timeout", "300"]);
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
    images.arg("--").arg(std::env::current_exe().unwrap()).arg("--inside");
    images.args([&vmm, &kernel, &initrd]);
    assert!(images.status().unwrap().success(), "the software host failed");
}

/// The host's end of one connection.
fn serve(mut stream: UnixStream) {
    let mut buffer = vec![0; CHUNK];
    stream.read_exact(&mut buffer[..1]).unwrap();
    let wanted = buffer[0];
    stream.write_all(&[wanted]).unwrap();
    match wanted {
        b'o' => {
            let mut left = TOTAL;
            while left > 0 {
                left -= stream.read(&mut buffer).unwrap();
            }
            stream.write_all(b"x").unwrap();
        }
        b'i' => {
            for _ in 0..TOTAL / CHUNK {
                stream.write_all(&buffer).unwrap();
            }
            stream.read_exact(&mut buffer[..1]).unwrap();
        }
        _ => {
            while let Ok(1) = stream.read(&mut buffer[..1]) {
                stream.write_all(&buffer[..1]).unwrap();
            }
        }
    }
}

fn serve_all(mut accept: impl FnMut() -> std::io::Result<UnixStream> + Send + 'static) {
    std::thread::spawn(move || {
        while let Ok(stream) = accept() {
            serve(stream);
        }
    });
}

fn measure(what: &str, mut command: Command) {
    let ended = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    let values = |name: &str| -> Vec<f64> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(' '));
        lines.filter_map(|value| value.parse().ok()).collect()
    };
    let median = |name: &str| {
        let mut values = values(name);
        values.sort_by(f64::total_cmp);
        *values.get(values.len() / 2).unwrap_or_else(|| panic!("{what}: {text}\n{errors}"))
    };
    println!(
        "  {what:<24} {:>9.1} {:>14.1} {:>14.1}   runs {:.1?} {:.1?} {:.1?}",
        median("round_trip_us"),
        median("out_mb_s"),
        median("in_mb_s"),
        values("round_trip_us"),
        values("out_mb_s"),
        values("in_mb_s"),
    );
}

/// A program that measures with the backend in its configuration.
fn vmm(place: &Place, vmm: &str, kernel: &str, initrd: &str, backend: &str) -> Command {
    let config = format!(
        r#"{{"kernel": "{kernel}", "initrd": "{initrd}", "memory_mib": {MEMORY_MIB}, "params": "{PARAMS}",
            "discovery": "cmdline", "vsock": {backend}}}"#
    );
    let mut command = Command::new(vmm);
    command.args(["--quiet", "--raw-config"]).arg(place.file("raw.json", config.as_bytes()));
    command
}

/// In the software host.
fn inside(program: &str, kernel: &str, initrd: &str) {
    let place = Place::new();
    let path: PathBuf = place.path().join("v");
    let listener = UnixListener::bind(place.path().join(format!("v_{PORT}"))).unwrap();
    serve_all(move || listener.accept().map(|(stream, _)| stream));
    let listener: OwnedFd = vsock::listen(libc::SOCK_STREAM, PORT).unwrap();
    serve_all(move || vsock::accept(&listener));
    println!("vsock, virtual time, 1 vCPU, {MEMORY_MIB} MiB");
    println!("  {:<24} {:>9} {:>14} {:>14}", "", "round trip", "to host", "to guest");
    println!("  {:<24} {:>9} {:>14} {:>14}", "", "us", "MB/s", "MB/s");
    let user = format!(r#"{{"backend": "user", "socket": "{}"}}"#, path.display());
    measure("vmm", vmm(&place, program, kernel, initrd, &user));
    let vhost = format!(r#"{{"backend": "vhost", "cid": {CID}}}"#);
    measure("vmm, vhost", vmm(&place, program, kernel, initrd, &vhost));
    if Path::new(QEMU).exists() {
        let machine = "microvm,accel=kvm,acpi=off,pic=off,pit=off,rtc=off,x-option-roms=off,isa-serial=on";
        let mut command = Command::new(QEMU);
        command.args(["-M", machine, "-cpu", "host", "-m", &MEMORY_MIB.to_string(), "-nodefaults"]);
        command.args(["-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        command.args(["-device", &format!("vhost-vsock-device,guest-cid={CID}")]);
        command.args([
            "-kernel",
            kernel,
            "-initrd",
            initrd,
            "-append",
            &PARAMS.replace("reboot=k", "reboot=t"),
        ]);
        measure("QEMU microvm, vhost", command);
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
