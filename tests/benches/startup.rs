//! Start-up and memory of `vmm` against the floor of a bare C program that asks the same of KVM (`floor.c`).
//!
//! `cargo bench -p tests --bench startup [-- ROUNDS]`: prints (a) exec to the first byte that a tiny guest writes to COM1 and
//! exec to exit, with 512 MiB of guest memory, as a ratio to the floor, both in alternating runs; (b) memory of the VMM beyond
//! the guest's. Absolute times are the machine's; ratios carry over. `KAPSEL_VMM` names another executable to measure.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::process::{Place, use_shipped_vmm, vmm_executable};
use tests::raw_vm::RawVm;
use tests::{guests, host};

const MEMORY_MIB: u64 = 512;
const ROUNDS: usize = 100;

/// One run: when the first byte came, and when the process was gone.
struct Run {
    first_byte: Duration,
    exit: Duration,
}

fn run(command: &mut Command) -> Run {
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut output = vec![0; 1];
    stdout.read_exact(&mut output).unwrap();
    let first_byte = start.elapsed();
    stdout.read_to_end(&mut output).unwrap();
    let status = child.wait().unwrap();
    let exit = start.elapsed();
    assert!(status.success() && output == b"HELLO\n", "{status:?}, {output:?}");
    Run { first_byte, exit }
}

/// Minimum, median and 90th percentile in milliseconds.
fn spread(mut times: Vec<Duration>) -> [f64; 3] {
    times.sort();
    [0, times.len() / 2, times.len() * 9 / 10].map(|at| times[at].as_secs_f64() * 1000.0)
}

fn show(what: &str, floor: &[Run], vmm: &[Run], time: impl Fn(&Run) -> Duration) {
    let [floor, vmm] = [floor, vmm].map(|runs| spread(runs.iter().map(&time).collect()));
    for (name, [min, median, p90]) in [("floor", floor), ("vmm", vmm)] {
        println!("  {what:24} {name:6} min {min:7.2}  median {median:7.2}  p90 {p90:7.2} ms");
    }
    println!("  {what:24} ratio of medians {:.2}, of minima {:.2}", vmm[1] / floor[1], vmm[0] / floor[0]);
}

fn build_floor(place: &Place) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/floor.c");
    let program = place.path().join("floor");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Werror", "-static", "-o"]).arg(&program).arg(source);
    assert!(cc.status().unwrap().success(), "floor.c does not build");
    program
}

fn startup(rounds: usize) {
    let place = Place::new();
    let floor = build_floor(&place);
    let code = place.file("code", &guests::hello());
    place.file("kernel", &tests::elf::flat(&guests::hello()));
    let config = format!(r#"{{"kernel": "kernel", "memory_mib": {MEMORY_MIB}}}"#);
    let config = place.file("vm.json", config.as_bytes());
    let run_floor = || run(Command::new(&floor).arg(&code).arg(MEMORY_MIB.to_string()));
    let run_vmm = || run(Command::new(vmm_executable()).arg("--raw-config").arg(&config));
    // The first run of each fills the page cache.
    run_floor();
    run_vmm();
    let (floor, vmm): (Vec<_>, Vec<_>) = (0..rounds).map(|_| (run_floor(), run_vmm())).unzip();
    println!("(a) start-up, {MEMORY_MIB} MiB, {rounds} alternating runs");
    show("exec to first byte", &floor, &vmm, |run| run.first_byte);
    show("exec to exit", &floor, &vmm, |run| run.exit);
}

/// Resident KiB of a process, and how many of them are its own (written, not shared with its executable): of its guest's memory, which is its only mapping of that size, and of
/// everything else.
fn memory(pid: u32) -> [[u64; 2]; 2] {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut sums = [[0; 2]; 2];
    let mut guest = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        let mut kib = || words.next().unwrap().parse::<u64>().unwrap();
        match first {
            "Size:" => guest = usize::from(kib() >= MEMORY_MIB << 10),
            "Rss:" => sums[guest][0] += kib(),
            "Anonymous:" => sums[guest][1] += kib(),
            _ => {}
        }
    }
    sums
}

fn residence() {
    let running =
        RawVm::new(&guests::halt()).with("memory_mib", MEMORY_MIB.into()).start().wait_for("READY\n");
    let [other, guest] = memory(running.id());
    running.signal(libc::SIGTERM);
    running.wait();
    println!("(b) memory with a halted guest of {MEMORY_MIB} MiB, KiB");
    println!("  guest's pages            resident {:6}", guest[0]);
    println!("  everything else          resident {:6}  private {:5}", other[0], other[1]);
    assert!(guest[0] > 0, "the guest's memory was not recognised in smaps");
}

fn main() {
    // `cargo bench` and `cargo test --benches` add arguments of their own.
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(ROUNDS);
    if let Err(error) = host::open_kvm() {
        tests::skip("startup", &format!("/dev/kvm: {error}"));
        return;
    }
    use_shipped_vmm();
    println!("KVM: {}", if host::kvm_is_real() { "real" } else { "emulated" });
    startup(rounds);
    residence();
}
