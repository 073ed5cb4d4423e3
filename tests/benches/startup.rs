//! Start-up and memory of `vmm` against the floor of a bare C program that asks the same of KVM (`floor.c`), and against the
//! peers that are there: alioth, and QEMU's microvm.
//!
//! `cargo bench -p tests --bench startup [-- --json] [ROUNDS]`: exec to the first byte that a tiny guest writes to COM1 and exec
//! to exit, with 512 MiB of guest memory, without devices and with two disks (256 MiB that the guest may only read, 64 MiB that it
//! may write), sockets on a Unix socket and an entropy device; all in turn, round by round. The last column is the ratio to the
//! floor, which has no devices in either case. Then the memory of each monitor beyond the guest's. Any KVM will do, an emulated
//! one too; absolute times are the machine's, ratios carry over. `KAPSEL_VMM` names another executable to measure.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::bench::BenchArgs;
use tests::figures::{Figure, Report};
use tests::peers::{Alioth, PeerVm, PeerVsock, Qemu, idle_terminal};
use tests::process::{Place, use_shipped_vmm, vmm_executable};
use tests::{elf, guests, host};

const MEMORY_MIB: u64 = 512;
const ROUNDS: usize = 50;
/// Before each run: the kernel is still busy with the VM before.
const SETTLE: Duration = Duration::from_millis(50);
/// Lengths of the two disks, in MiB.
const DISKS_MIB: [u64; 2] = [256, 64];

/// One run: when the first byte came, and when the process was gone.
struct Run {
    first_byte: Duration,
    exit: Duration,
}

fn run(command: &mut Command, stdin: &OwnedFd) -> Run {
    command.stdin(stdin.try_clone().unwrap());
    let start = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut output = vec![0; 1];
    let began = stdout.read_exact(&mut output);
    let first_byte = start.elapsed();
    stdout.read_to_end(&mut output).unwrap();
    let status = child.wait().unwrap();
    let exit = start.elapsed();
    let mut errors = String::new();
    stderr.read_to_string(&mut errors).unwrap();
    assert!(began.is_ok() && status.success() && output == b"HELLO\n", "{status:?}, {output:?}: {errors}");
    Run { first_byte, exit }
}

fn build_floor(place: &Place) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/floor.c");
    let program = place.path().join("floor");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Werror", "-static", "-o"]).arg(&program).arg(source);
    assert!(cc.status().unwrap().success(), "floor.c does not build");
    program
}

/// The files of the VMs, and who runs them.
struct Bench {
    place: Place,
    floor: PathBuf,
    alioth: Option<Alioth>,
    qemu: Option<Qemu>,
    /// alioth runs on a terminal only.
    terminal: (OwnedFd, OwnedFd),
}

impl Bench {
    fn new() -> Self {
        let place = Place::new();
        place.file("code", &guests::hello_anywhere());
        place.file("kernel", &elf::pvh(&guests::hello_anywhere()));
        place.file("halt", &elf::pvh(&guests::halt()));
        for (n, mib) in DISKS_MIB.iter().enumerate() {
            std::fs::File::create(place.path().join(format!("disk{n}"))).unwrap().set_len(mib << 20).unwrap();
        }
        let terminal = idle_terminal().unwrap();
        Self { floor: build_floor(&place), place, alioth: Alioth::find(), qemu: Qemu::find(), terminal }
    }

    fn floor(&self) -> Command {
        let mut command = Command::new(&self.floor);
        command.arg(self.place.path().join("code")).arg(MEMORY_MIB.to_string());
        command
    }

    fn vmm(&self, kernel: &str, devices: bool) -> Command {
        let mut config = json!({ "kernel": kernel, "memory_mib": MEMORY_MIB });
        if devices {
            config["disks"] = json!([{ "image": "disk0" }, { "image": "disk1", "writable": true }]);
            config["vsock"] = json!({ "backend": "user", "cid": 3, "socket": "vsock" });
        }
        let name = format!("{kernel}-{devices}.json");
        let mut command = Command::new(vmm_executable());
        command.arg("--raw-config").arg(self.place.file(&name, config.to_string().as_bytes()));
        command
    }

    /// What peers are asked for, in words of their own.
    fn peers(&self, kernel: &str, devices: bool) -> Vec<(&'static str, Command)> {
        let path = |name: &str| self.place.path().join(name);
        let (kernel, disks, socket) = (path(kernel), [path("disk0"), path("disk1")], path("peer"));
        let disks = [(disks[0].as_path(), true), (disks[1].as_path(), false)];
        let mut vm = PeerVm::new(&kernel, MEMORY_MIB, "");
        if devices {
            vm = PeerVm { disks: &disks, entropy: true, ..vm };
        }
        let mut peers = Vec::new();
        if let Some(alioth) = &self.alioth {
            let vsock = devices.then_some(PeerVsock::Unix(&socket));
            peers.push(("alioth", alioth.command(&PeerVm { vsock, ..vm })));
        }
        if let Some(qemu) = self.qemu {
            // It has no sockets where the kernel has none.
            let vhost = devices && Path::new("/dev/vhost-vsock").exists();
            let vsock = vhost.then_some(PeerVsock::Vhost(0x4b41));
            peers.push(("QEMU microvm", qemu.microvm(&PeerVm { vsock, ..vm })));
        }
        peers
    }

    /// All of them, `rounds` times in turn, each time another first.
    fn start_up(&self, rounds: usize, devices: bool) -> Vec<(&'static str, Vec<Run>)> {
        let mut commands = vec![("floor", self.floor()), ("vmm", self.vmm("kernel", devices))];
        commands.extend(self.peers("kernel", devices));
        let mut runs: Vec<_> = commands.iter().map(|(subject, _)| (*subject, Vec::new())).collect();
        for round in 0..=rounds {
            for turn in 0..commands.len() {
                let turn = (round + turn) % commands.len();
                // A socket that is left behind is in the way of whoever made it.
                let _ = std::fs::remove_file(self.place.path().join("peer"));
                std::thread::sleep(SETTLE);
                let run = run(&mut commands[turn].1, &self.terminal.1);
                // The first round fills the page cache.
                if round > 0 {
                    runs[turn].1.push(run);
                }
            }
        }
        runs
    }
}

fn figures(report: &mut Report, what: &str, runs: &[(&'static str, Vec<Run>)]) {
    type Time = fn(&Run) -> Duration;
    let times: [(&str, Time); 2] =
        [("exec to first byte", |run| run.first_byte), ("exec to exit", |run| run.exit)];
    for (name, time) in times {
        let mut medians = Figure::less(&format!("{name}, {what}, median"), "ms");
        let mut minima = Figure::less(&format!("{name}, {what}, least"), "ms");
        let times =
            |runs: &[Run]| -> Vec<f64> { runs.iter().map(|run| time(run).as_secs_f64() * 1000.0).collect() };
        for (subject, of_subject) in runs {
            medians.push_rounds(subject, &times(of_subject), &times(&runs[0].1));
            minima.push(subject, times(of_subject).iter().copied().fold(f64::INFINITY, f64::min));
        }
        report.figures.extend([medians, minima]);
    }
}

/// Resident KiB of a process beside its guest's memory, which is its only mapping of that size, and how many of them are its own
/// (written, not shared with its executable).
fn memory(pid: u32) -> [f64; 2] {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut resident, mut own, mut of_guest, mut guest_seen) = (0, 0, false, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        let mut kib = || words.next().unwrap().parse::<u64>().unwrap();
        match first {
            "Size:" => {
                of_guest = kib() >= (MEMORY_MIB << 10) * 3 / 4;
                guest_seen |= of_guest;
            }
            "Rss:" if !of_guest => resident += kib(),
            "Anonymous:" if !of_guest => own += kib(),
            _ => {}
        }
    }
    assert!(guest_seen, "the guest's memory was not recognised in smaps");
    [resident, own].map(|kib| kib as f64 / 1024.0)
}

/// Memory of each with a guest that has said that it halts.
fn residence(bench: &Bench, report: &mut Report) {
    let names = ["resident memory beyond the guest's", "of it private"];
    let [mut resident, mut own] = names.map(|name| Figure::less(name, "MiB"));
    let mut commands = vec![("vmm", bench.vmm("halt", true))];
    commands.extend(bench.peers("halt", true));
    for (subject, mut command) in commands {
        let _ = std::fs::remove_file(bench.place.path().join("peer"));
        let stdin = bench.terminal.1.try_clone().unwrap();
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null());
        // Whatever becomes of this process, no guest that halts for ever stays behind.
        // SAFETY: prctl with these arguments may be called between fork and exec, and touches no memory.
        child = unsafe { child.pre_exec(|| check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))) };
        let mut child = child.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let [all, private] = memory(child.id());
        resident.push(subject, all);
        own.push(subject, private);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    report.figures.extend([resident, own]);
}

fn check(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn main() {
    let args = BenchArgs::parse();
    if let Err(error) = host::open_kvm() {
        tests::skip("startup", &format!("/dev/kvm: {error}"));
        return;
    }
    use_shipped_vmm();
    let (rounds, bench) = (args.count.unwrap_or(ROUNDS), Bench::new());
    let kvm = if host::kvm_is_real() { "real" } else { "emulated" };
    let mut report =
        Report::new(format!("Start-up: {kvm} KVM, {MEMORY_MIB} MiB, 1 vCPU, {rounds} rounds in turn"));
    for (what, devices) in [("no devices", false), ("two disks, sockets, entropy", true)] {
        args.progress(what);
        figures(&mut report, what, &bench.start_up(rounds, devices));
    }
    residence(&bench, &mut report);
    report.print(args.json);
}
