//! Sockets between guest and host, in the virtual time of the software host: a run takes the same time on every machine.
//!
//! `cargo bench -p tests --bench vsock [-- --json]`, after `cargo demo` has built what it runs: the guest connects to the host and
//! measures the round trip of one byte, and streams of 8 MiB in writes of 64 KiB each way, three times after a first one;
//! with the device of `vmm`, with `vmm` and the kernel's vhost-vsock, and where it is installed with QEMU's microvm and
//! vhost-vsock, all with the same kernel and initramfs. The host's end is a thread that reads and writes as the guest does.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tests::bench::{BenchArgs, InnerRun, image};
use tests::figures::{Figure, Report, median};
use tests::peers::{PeerVm, PeerVsock, Qemu};
use tests::process::{Place, use_shipped_vmm};
use tests::{compile, cpio, vsock};

const TOTAL: usize = 8 << 20;
const CHUNK: usize = 64 << 10;
const PORT: u32 = 7000;
const CID: u32 = 3;
const PARAMS: &str = "console=ttyS0 reboot=k panic=-1 quiet 8250.nr_uarts=1 tsc=reliable";
const MEMORY_MIB: u64 = 256;

/// On the machine: builds what is missing and runs this program again inside the software host.
fn outside(args: &BenchArgs) {
    let (vmm, place, kernel) = (use_shipped_vmm(), Place::new(), image("os/vmlinux"));
    let guest = compile::program(&compile::guests().join("vsock_bench.c")).unwrap();
    let initrd = place.file("vsock.cpio", &cpio::initramfs(&guest));
    let run = InnerRun::new(2048).file(&kernel).file(&initrd).file(&vmm).qemu();
    run.run(args, &[&vmm, &kernel, &initrd]);
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

/// One series of runs inside the software host.
struct Series<'a> {
    args: &'a BenchArgs,
    report: Report,
}

impl Series<'_> {
    fn measure(&mut self, subject: &str, mut command: Command) {
        self.args.progress(subject);
        let ended = command.stdin(Stdio::null()).output().unwrap();
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
fn inside(args: &BenchArgs, program: &str, kernel: &str, initrd: &str) {
    let place = Place::new();
    let path: PathBuf = place.path().join("v");
    let listener = UnixListener::bind(place.path().join(format!("v_{PORT}"))).unwrap();
    serve_all(move || listener.accept().map(|(stream, _)| stream));
    let listener: OwnedFd = vsock::listen(libc::SOCK_STREAM, PORT).unwrap();
    serve_all(move || vsock::accept(&listener));
    let title = format!(
        "Sockets, virtual time: 1 vCPU, {MEMORY_MIB} MiB, kernel and initramfs the same, medians of 3"
    );
    let mut series = Series { args, report: Report::new(title) };
    let user = format!(r#"{{"backend": "user", "socket": "{}"}}"#, path.display());
    series.measure("vmm, Unix sockets", vmm(&place, program, kernel, initrd, &user));
    let vhost = format!(r#"{{"backend": "vhost", "cid": {CID}}}"#);
    series.measure("vmm, vhost", vmm(&place, program, kernel, initrd, &vhost));
    if let Some(qemu) = Qemu::inside() {
        let vm = PeerVm {
            initrd: Some(Path::new(initrd)),
            vsock: Some(PeerVsock::Vhost(CID)),
            ..PeerVm::new(Path::new(kernel), MEMORY_MIB, PARAMS)
        };
        series.measure("QEMU microvm, vhost", qemu.microvm(&vm));
    }
    series.report.print(args.json);
}

fn main() {
    let args = BenchArgs::parse();
    match args.inside.as_deref() {
        Some([vmm, kernel, initrd]) => inside(&args, vmm, kernel, initrd),
        Some(_) => panic!("--inside VMM KERNEL INITRD"),
        None => outside(&args),
    }
}
