//! The disk at native speed, on any KVM, an emulated one too: a guest without Linux (`ring3_guest.c`) drives the queue from
//! ring 3, which every KVM runs as it is, and polls it.
//!
//! `cargo bench -p tests --bench ring3 [-- --json] [ROUNDS]`: reads and writes of 4 KiB at random and of 128 KiB in sequence, 32 at a
//! time, and reads of 4 KiB one at a time, of a raw image of 64 MiB in memory (tmpfs); by `vmm`, by QEMU's microvm (aio=threads)
//! where it is installed, and by a loop of pread and pwrite in this process on the same file, which is the limit of any monitor with
//! one thread for the disk. Beside it the processor time that a request costs the monitor's threads, without the vCPU's: what else the
//! machine does hardly shows in that. All in turn, round by round; figures are medians. `KAPSEL_VMM` names another executable to
//! measure.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;
use tests::bench::BenchArgs;
use tests::figures::{Figure, Report};
use tests::peers::{PeerVm, Qemu};
use tests::process::{Place, use_shipped_vmm};
use tests::{compile, host};

const MEMORY_MIB: u64 = 128;
const DISK: u64 = 64 << 20;
const ROUNDS: usize = 9;
/// Requests of 4 KiB in a phase; the guest does a 16th of them with 128 KiB, a 32nd one at a time.
const REQUESTS: u32 = 96_000;
const SMALL: usize = 4 << 10;
const LARGE: usize = 128 << 10;
/// Where Linux has a tmpfs.
const TMPFS: &str = "/dev/shm";

/// One of the guest's phases.
struct Phase {
    /// The guest's name for it.
    name: &'static str,
    what: &'static str,
    len: usize,
    writes: bool,
    requests: u32,
    /// One request at a time.
    alone: bool,
}

const PHASES: [Phase; 5] = [
    Phase {
        name: "read-4k",
        what: "read 4 KiB at random, 32 at a time",
        len: SMALL,
        writes: false,
        requests: REQUESTS,
        alone: false,
    },
    Phase {
        name: "write-4k",
        what: "write 4 KiB at random, 32 at a time",
        len: SMALL,
        writes: true,
        requests: REQUESTS,
        alone: false,
    },
    Phase {
        name: "read-128k",
        what: "read 128 KiB in sequence, 32 at a time",
        len: LARGE,
        writes: false,
        requests: REQUESTS / 16,
        alone: false,
    },
    Phase {
        name: "write-128k",
        what: "write 128 KiB in sequence, 32 at a time",
        len: LARGE,
        writes: true,
        requests: REQUESTS / 16,
        alone: false,
    },
    Phase {
        name: "read-4k-single",
        what: "read 4 KiB at random, one at a time",
        len: SMALL,
        writes: false,
        requests: REQUESTS / 32,
        alone: true,
    },
];

/// What a phase took, in seconds.
#[derive(Clone, Copy)]
struct Taken {
    /// From the line before it to the line behind it.
    time: f64,
    /// Of all threads but the vCPU's.
    processor: f64,
}

/// Seconds for which a thread has run, of /proc.
fn processor_time(thread: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

/// The same of a monitor's threads, but for that of its vCPU.
fn processor_time_beside_vcpu(process: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let others = threads.filter(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        !["vcpu", "CPU "].iter().any(|vcpu| name.starts_with(vcpu))
    });
    others.filter_map(|thread| processor_time(&thread.path())).sum()
}

/// Runs a VM to its end: what each phase took.
fn guest(command: &mut Command) -> Vec<Taken> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut began, mut phases, mut text) = ((Instant::now(), 0.0), Vec::new(), String::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let (now, line) = ((Instant::now(), processor_time_beside_vcpu(child.id())), line.unwrap());
        match line.trim().split_once(' ') {
            Some(("BEGIN", name)) if PHASES.get(phases.len()).is_some_and(|phase| phase.name == name) => {
                began = now;
            }
            Some(("END", _)) => {
                phases.push(Taken { time: (now.0 - began.0).as_secs_f64(), processor: now.1 - began.1 })
            }
            _ => {}
        }
        text += &line;
        text.push('\n');
    }
    let ended = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && phases.len() == PHASES.len(), "{command:?}: {text}{errors}");
    phases
}

/// The same requests by this thread, one after the other: what each phase took.
fn limit(file: &File) -> Vec<Taken> {
    let own = || processor_time(Path::new("/proc/thread-self")).unwrap();
    let mut buffers = vec![0x5a; 32 * LARGE];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let phases = PHASES.iter().map(|phase| {
        let (len, places) = (phase.len as u64, DISK / phase.len as u64);
        let (start, before) = (Instant::now(), own());
        for n in 0..phase.requests {
            let place = if phase.len == SMALL {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % places
            } else {
                u64::from(n) % places
            };
            // As the guest's: each of a batch has its own.
            let buffer = &mut buffers[n as usize % 32 * LARGE..][..phase.len];
            match phase.writes {
                false => file.read_exact_at(buffer, place * len).unwrap(),
                true => file.write_all_at(buffer, place * len).unwrap(),
            }
        }
        Taken { time: start.elapsed().as_secs_f64(), processor: own() - before }
    });
    phases.collect()
}

fn vmm(place: &Place, executable: &Path, kernel: &Path, image: &Path, params: &str) -> Command {
    let config = json!({
        "kernel": kernel, "memory_mib": MEMORY_MIB, "params": params, "discovery": "cmdline",
        "disks": [{ "image": image, "writable": true }]
    });
    let mut command = Command::new(executable);
    command.arg("--raw-config").arg(place.file("vm.json", config.to_string().as_bytes()));
    command
}

fn report(title: String, runs: &[(&str, Vec<Vec<Taken>>)]) -> Report {
    let mut report = Report::new(title);
    let rate = |phase: &Phase, taken: &Taken| match phase.len {
        SMALL => f64::from(phase.requests) / taken.time,
        _ => f64::from(phase.requests) * phase.len as f64 / 1e6 / taken.time,
    };
    let cost = |phase: &Phase, taken: &Taken| taken.processor / f64::from(phase.requests) * 1e6;
    for (n, phase) in PHASES.iter().enumerate() {
        let unit = if phase.len == SMALL { "per second" } else { "MB/s" };
        let mut rates = Figure::more(phase.what, unit);
        let mut costs = Figure::less(&format!("processor time to {}", phase.what), "us");
        // One at a time is about kicks, of which the loop has none.
        let compared = if phase.alone { &runs[1..] } else { runs };
        for (figure, value) in [(&mut rates, &rate as &dyn Fn(&Phase, &Taken) -> f64), (&mut costs, &cost)] {
            let values = |rounds: &[Vec<Taken>]| -> Vec<f64> {
                rounds.iter().map(|round| value(phase, &round[n])).collect()
            };
            for (subject, rounds) in compared {
                figure.push_rounds(subject, &values(rounds), &values(&compared[0].1));
            }
        }
        report.figures.extend([rates, costs]);
    }
    report
}

/// Does one round: what each phase took.
type Series<'a> = Box<dyn FnMut() -> Vec<Taken> + 'a>;

const LIMIT: &str = "pread, pwrite";

fn main() {
    let args = BenchArgs::parse();
    if let Err(error) = host::open_kvm() {
        tests::skip("ring3", &format!("/dev/kvm: {error}"));
        return;
    }
    let (executable, place) = (use_shipped_vmm(), Place::new());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/ring3_guest.c");
    let kernel = place.file("kernel", &compile::kernel(&source).unwrap());
    let file = tempfile::NamedTempFile::new_in(TMPFS).unwrap_or_else(|e| panic!("{TMPFS}: {e}"));
    // Pages of its own, not holes.
    (0..DISK >> 20).for_each(|mib| file.as_file().write_all_at(&vec![0x5a; 1 << 20], mib << 20).unwrap());
    let params = format!("requests={REQUESTS}");
    let rounds = args.count.unwrap_or(ROUNDS);
    let mut subjects: Vec<(&str, Series<'_>)> = vec![(LIMIT, Box::new(|| limit(file.as_file())))];
    let mut command = vmm(&place, &executable, &kernel, file.path(), &params);
    subjects.push(("vmm", Box::new(move || guest(&mut command))));
    if let Some(qemu) = Qemu::find() {
        let disks = [(file.path(), false)];
        let vm = PeerVm { disks: &disks, ..PeerVm::new(&kernel, MEMORY_MIB, &params) };
        let mut command = qemu.microvm(&vm);
        subjects.push(("QEMU microvm", Box::new(move || guest(&mut command))));
    }
    let mut runs: Vec<(&str, Vec<Vec<Taken>>)> =
        subjects.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for round in 0..rounds {
        args.progress(&format!("round {} of {rounds}", round + 1));
        for turn in 0..subjects.len() {
            let turn = (round + turn) % subjects.len();
            let seconds = subjects[turn].1();
            runs[turn].1.push(seconds);
        }
    }
    drop(subjects);
    let kvm = if host::kvm_is_real() { "real" } else { "emulated" };
    let title = format!(
        "Disk from ring 3, polled: {kvm} KVM, 1 vCPU, {} MiB on tmpfs, {rounds} rounds in turn, medians",
        DISK >> 20
    );
    report(title, &runs).print(args.json);
}
