//! Devices at native speed, on any KVM, an emulated one too: a guest without Linux (`ring3_guest.c`) drives their queues from
//! ring 3, which every KVM runs as it is, and polls them.
//!
//! `cargo bench -p tests --bench ring3 [-- --json] [ROUNDS]`: reads and writes of 4 KiB at random and of 128 KiB in sequence, 32 at a
//! time, and reads of 4 KiB one at a time, of a raw image of 64 MiB in memory (tmpfs); streams in packets of 64 KiB, and round trips
//! of a byte, to and from a thread of this process behind a Unix socket. By `vmm`; the disk by QEMU's microvm (aio=threads) too, where
//! it is installed; and by a thread of this process that makes the same calls on the same file and on a socket pair, which is the
//! limit of any monitor with one thread for the device. Beside it the processor time that a request costs the monitor's threads, without
//! that in the guest, in which it hardly shows what else the machine does. All in turn, round by round; figures are medians. `KAPSEL_VMM` names another executable to measure.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;
use tests::bench::{BenchArgs, serve_stream};
use tests::figures::{Figure, Report};
use tests::peers::{PeerVm, Qemu};
use tests::process::{Place, use_shipped_vmm};
use tests::{compile, host};

const MEMORY_MIB: u64 = 128;
const DISK: u64 = 64 << 20;
const ROUNDS: usize = 9;
/// What the guest is told, of which it derives the number of requests in each phase.
const REQUESTS: u32 = 96_000;
const LARGE: usize = 128 << 10;
const CHUNK: usize = 64 << 10;
/// Chunks of a stream.
const CHUNKS: u32 = REQUESTS / 16;
const PORT: u32 = 7000;
/// Where Linux has a tmpfs.
const TMPFS: &str = "/dev/shm";
/// This process.
const LIMIT: &str = "calls alone";

/// What a phase does.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Reads of the disk of so many bytes, 32 at a time.
    Read(usize),
    /// Writes to it.
    Write(usize),
    /// Reads of 4 KiB, one at a time. That is about kicks, of which the calls alone have none.
    ReadAlone,
    /// A stream, by the byte that asks the host's end for it.
    Stream(u8),
}

/// The guest's name for a phase, a reader's, what it does, and how often.
type Phase = (&'static str, &'static str, Kind, u32);

const PHASES: [Phase; 8] = [
    ("read-4k", "read 4 KiB at random, 32 at a time", Kind::Read(4 << 10), REQUESTS),
    ("write-4k", "write 4 KiB at random, 32 at a time", Kind::Write(4 << 10), REQUESTS),
    ("read-128k", "read 128 KiB in sequence, 32 at a time", Kind::Read(LARGE), REQUESTS / 16),
    ("write-128k", "write 128 KiB in sequence, 32 at a time", Kind::Write(LARGE), REQUESTS / 16),
    ("read-4k-single", "read 4 KiB at random, one at a time", Kind::ReadAlone, REQUESTS / 32),
    ("stream-out", "stream 64 KiB to the host", Kind::Stream(b'o'), CHUNKS),
    ("stream-in", "stream 64 KiB to the guest", Kind::Stream(b'i'), CHUNKS),
    ("round-trip", "round trip of a byte", Kind::Stream(b'p'), REQUESTS / 32),
];

/// What a phase took, in seconds.
#[derive(Clone, Copy)]
struct Taken {
    /// From the line before it to the line behind it.
    time: f64,
    /// Of all threads, without that in the guest.
    processor: f64,
}

/// What each of [`PHASES`] took; none that was not run.
type Round = [Option<Taken>; PHASES.len()];

/// Does one round.
type Series<'a> = Box<dyn FnMut() -> Round + 'a>;

/// Seconds for which a thread has run, of /proc.
fn processor_time(thread: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

/// The same without the time in the guest, which the kernel counts in ticks (proc(5): utime, stime, guest_time).
fn processor_time_beside_guest(thread: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(thread.join("stat")).ok()?;
    // The second field may have spaces, but ends with the last bracket.
    let fields: Vec<f64> = text.rsplit_once(')')?.1.split_whitespace().flat_map(str::parse).collect();
    let [user, system, guest] = [14, 15, 43].map(|field: usize| fields.get(field - FIRST_NUMBER).copied());
    Some((user? + system? - guest?) / TICKS)
}

/// The first field behind the brackets that is a number.
const FIRST_NUMBER: usize = 4;
/// Ticks of /proc in a second: the same on every Linux.
const TICKS: f64 = 100.0;

/// The time of all threads of a monitor, without that in the guest.
fn monitor_time(process: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let times = threads.filter_map(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let runs_the_guest = ["vcpu", "CPU "].iter().any(|vcpu| name.starts_with(vcpu));
        let time = if runs_the_guest { processor_time_beside_guest } else { processor_time };
        time(&thread.path())
    });
    times.sum()
}

/// Runs a VM to its end.
fn guest(command: &mut Command) -> Round {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut began, mut round, mut text) = ((Instant::now(), 0.0), Round::default(), String::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let (now, line) = ((Instant::now(), monitor_time(child.id())), line.unwrap());
        match line.trim().split_once(' ') {
            Some(("BEGIN", _)) => began = now,
            Some(("END", name)) => {
                let at = PHASES.iter().position(|phase| phase.0 == name).unwrap();
                let time = (now.0 - began.0).as_secs_f64();
                round[at] = Some(Taken { time, processor: now.1 - began.1 });
            }
            _ => {}
        }
        text += &line;
        text.push('\n');
    }
    let ended = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && text.contains("DONE"), "{command:?}: {text}{errors}");
    round
}

/// The host's end of a stream.
fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    serve_stream(&mut stream, CHUNK, CHUNKS as usize)
}

/// The same as the guest's end of it, by the calls that a device makes.
fn stream(purpose: u8, count: u32) {
    let (mut stream, host) = UnixStream::pair().unwrap();
    let host = std::thread::spawn(move || serve(host));
    let mut buffer = vec![0x5a; CHUNK];
    buffer[0] = purpose;
    stream.write_all(&buffer[..1]).unwrap();
    stream.read_exact(&mut buffer[..1]).unwrap();
    match purpose {
        b'o' => {
            (0..count).for_each(|_| stream.write_all(&buffer).unwrap());
            stream.read_exact(&mut buffer[..1]).unwrap();
        }
        b'i' => (0..count).for_each(|_| stream.read_exact(&mut buffer).unwrap()),
        _ => (0..count).for_each(|_| {
            stream.write_all(&buffer[..1]).unwrap();
            stream.read_exact(&mut buffer[..1]).unwrap();
        }),
    }
    drop(stream);
    // Round trips end when this side closes.
    let _ = host.join();
}

fn disk(file: &File, kind: Kind, count: u32, buffers: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let (Kind::Read(size) | Kind::Write(size)) = kind else { return };
    let (len, places) = (size as u64, DISK / size as u64);
    for n in 0..count {
        let place = if size == LARGE {
            u64::from(n) % places
        } else {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % places
        };
        // As the guest's: each of a batch has its own.
        let buffer = &mut buffers[n as usize % 32 * LARGE..][..size];
        match kind {
            Kind::Read(_) => file.read_exact_at(buffer, place * len).unwrap(),
            _ => file.write_all_at(buffer, place * len).unwrap(),
        }
    }
}

/// The same requests by this thread, one after the other.
fn limit(file: &File) -> Round {
    let own = || processor_time(Path::new("/proc/thread-self")).unwrap();
    let mut buffers = vec![0x5a; 32 * LARGE];
    PHASES.map(|(_, _, kind, count)| {
        let (start, before) = (Instant::now(), own());
        match kind {
            Kind::Read(_) | Kind::Write(_) => disk(file, kind, count, &mut buffers),
            Kind::Stream(purpose) => stream(purpose, count),
            Kind::ReadAlone => return None,
        }
        Some(Taken { time: start.elapsed().as_secs_f64(), processor: own() - before })
    })
}

/// The host's end of the guest's streams.
fn listen(place: &Place) {
    let listener = UnixListener::bind(place.path().join(format!("v_{PORT}"))).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // What goes wrong here is missing there.
            std::thread::spawn(move || serve(stream));
        }
    });
}

fn vmm(place: &Place, kernel: &Path, image: &Path, params: &str) -> Command {
    let config = json!({
        "kernel": kernel, "memory_mib": MEMORY_MIB, "params": params, "discovery": "cmdline",
        "disks": [{ "image": image, "writable": true }],
        "vsock": { "backend": "user", "socket": place.path().join("v") }
    });
    let mut command = Command::new(use_shipped_vmm());
    command.arg("--raw-config").arg(place.file("vm.json", config.to_string().as_bytes()));
    command
}

fn report(title: String, runs: &[(&str, Vec<Round>)]) -> Report {
    let mut report = Report::new(title);
    for (n, (_, what, kind, count)) in PHASES.into_iter().enumerate() {
        let count = f64::from(count);
        let (unit, amount) = match kind {
            Kind::Read(LARGE) | Kind::Write(LARGE) => ("MB/s", count * LARGE as f64 / 1e6),
            Kind::Stream(b'o' | b'i') => ("MB/s", count * CHUNK as f64 / 1e6),
            _ => ("per second", count),
        };
        let rate = |taken: &Taken| amount / taken.time;
        let cost = |taken: &Taken| taken.processor / count * 1e6;
        let mut rates = Figure::more(what, unit);
        let mut costs = Figure::less(&format!("processor time: {what}"), "us");
        let ran: Vec<(&str, Vec<Taken>)> = runs
            .iter()
            .map(|(subject, rounds)| (*subject, rounds.iter().filter_map(|round| round[n]).collect()))
            .filter(|(_, taken): &(_, Vec<_>)| !taken.is_empty())
            .collect();
        for (figure, value) in [(&mut rates, &rate as &dyn Fn(&Taken) -> f64), (&mut costs, &cost)] {
            let values = |taken: &[Taken]| -> Vec<f64> { taken.iter().map(value).collect() };
            for (subject, taken) in &ran {
                figure.push_rounds(subject, &values(taken), &values(&ran[0].1));
            }
        }
        report.figures.extend([rates, costs]);
    }
    report
}

fn main() {
    let args = BenchArgs::parse();
    if let Err(error) = host::open_kvm() {
        tests::skip("ring3", &format!("/dev/kvm: {error}"));
        return;
    }
    let place = Place::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/ring3_guest.c");
    let kernel = place.file("kernel", &compile::kernel(&source).unwrap());
    let file = tempfile::NamedTempFile::new_in(TMPFS).unwrap_or_else(|e| panic!("{TMPFS}: {e}"));
    // Pages of its own, not holes.
    (0..DISK >> 20).for_each(|mib| file.as_file().write_all_at(&vec![0x5a; 1 << 20], mib << 20).unwrap());
    let params = format!("requests={REQUESTS}");
    let rounds = args.count.unwrap_or(ROUNDS);
    let mut subjects: Vec<(&str, Series<'_>)> = vec![(LIMIT, Box::new(|| limit(file.as_file())))];
    listen(&place);
    let mut command = vmm(&place, &kernel, file.path(), &params);
    subjects.push(("vmm", Box::new(move || guest(&mut command))));
    if let Some(qemu) = Qemu::find() {
        let disks = [(file.path(), false)];
        let vm = PeerVm { disks: &disks, ..PeerVm::new(&kernel, MEMORY_MIB, &params) };
        let mut command = qemu.microvm(&vm);
        subjects.push(("QEMU microvm", Box::new(move || guest(&mut command))));
    }
    let mut runs: Vec<(&str, Vec<Round>)> = subjects.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for round in 0..rounds {
        args.progress(&format!("round {} of {rounds}", round + 1));
        for turn in 0..subjects.len() {
            let turn = (round + turn) % subjects.len();
            let taken = subjects[turn].1();
            runs[turn].1.push(taken);
        }
    }
    drop(subjects);
    let kvm = if host::kvm_is_real() { "real" } else { "emulated" };
    let title =
        format!("Devices driven from ring 3 and polled: {kvm} KVM, 1 vCPU, {rounds} rounds in turn, medians");
    report(title, &runs).print(args.json);
}
