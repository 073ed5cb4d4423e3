//! The guest's clocks while its VM is paused: they go on, so that they are right when it runs again.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tests::linux::Files;
use vmm::VmHandle;
use vmm::config::CpuTopology;
use vmm::config::raw::RawConfig;
use vmm::exit::{Outcome, StopCause};
use vmm::output::Output;

use super::stock::stock_kernel;

/// Longer than any watchdog of Linux has patience, the one for stalls of RCU too.
const PAUSE: Duration = Duration::from_secs(100);
/// Between the guest's look at its clock and ours: a thread has to run.
const TOLERANCE: Duration = Duration::from_millis(200);
/// How wrong a clock is that Linux has set by the board's, which knows whole seconds: it takes the middle of one.
const HALF_A_SECOND: Duration = Duration::from_millis(500);
/// Lines looked at before and after a pause.
const LINES: usize = 20;

struct Guest {
    lines: BufReader<PipeReader>,
    console: String,
    handle: VmHandle,
    thread: JoinHandle<Outcome>,
}

/// One line of the guest's, and when it came.
#[derive(Clone, Copy, Debug)]
struct Times {
    here: Duration,
    real: Duration,
    monotonic: Duration,
}

impl Times {
    /// Nanoseconds that the guest is ahead of us.
    fn ahead(self) -> i128 {
        let nanos = |time: Duration| i128::try_from(time.as_nanos()).unwrap();
        nanos(self.real) - nanos(self.here)
    }
}

impl Guest {
    fn start(config: &RawConfig) -> Self {
        let prepared = vmm::prepare::raw(Path::new("vm.json"), config).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let log = File::options().write(true).open("/dev/null").unwrap();
        let output = Output::new(File::from(OwnedFd::from(writer)), log, 1 << 20);
        let mut vm = vmm::builder::build(&vmm::host::open_kvm().unwrap(), prepared.spec, output).unwrap();
        let handle = vm.handle();
        let thread = thread::spawn(move || vm.run(None, Box::new(|_| {})).unwrap());
        Self { lines: BufReader::new(reader), console: String::new(), handle, thread }
    }

    fn next(&mut self) -> Times {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "the guest ended: {}", self.console);
            self.console.push_str(&line);
            let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let Some(numbers) = line.trim_end().strip_prefix("TIME ") else { continue };
            let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
            let [real, monotonic, _] = numbers[..] else { panic!("{line:?}") };
            return Times {
                here,
                real: Duration::from_nanos(real),
                monotonic: Duration::from_nanos(monotonic),
            };
        }
    }

    /// Some lines in a row, all of them as far ahead as `first`.
    fn check(&mut self, first: Times, mut last: Times) -> Times {
        for _ in 0..LINES {
            let now = self.next();
            let drift = now.ahead().abs_diff(first.ahead());
            assert!(drift < TOLERANCE.as_nanos(), "the guest's time is wrong: {first:?}, then {now:?}");
            let (real, monotonic) = (now.real - last.real, now.monotonic - last.monotonic);
            assert!(real.abs_diff(monotonic) < Duration::from_millis(1), "{last:?}, then {now:?}");
            // Each sleeps 50 ms: a timer that does not fire is a line that does not come.
            assert!(
                monotonic >= Duration::from_millis(50) && monotonic < TOLERANCE,
                "{last:?}, then {now:?}"
            );
            last = now;
        }
        last
    }
}

/// Pauses a VM whose clock may be wrong by `error` before.
fn check(config: &RawConfig, error: Duration) {
    let mut guest = Guest::start(config);
    let first = guest.next();
    let most = (error + TOLERANCE).as_nanos();
    assert!(first.ahead().unsigned_abs() < most, "the guest's time is wrong: {first:?}");
    let before = guest.check(first, first);
    guest.handle.pause();
    thread::sleep(PAUSE);
    guest.handle.resume();
    // What was written before the pause comes first.
    let mut last = before;
    let after = loop {
        let now = guest.next();
        assert!(
            now.monotonic > last.monotonic && now.real > last.real,
            "a clock goes back: {last:?}, {now:?}"
        );
        if now.monotonic - before.monotonic >= PAUSE {
            break now;
        }
        last = now;
    };
    assert!(after.monotonic - last.monotonic < PAUSE + TOLERANCE, "{last:?}, then {after:?}");
    guest.check(first, after);
    for word in ["lockup", "stall", "unstable", "hung"] {
        assert!(!guest.console.contains(word), "{}", guest.console);
    }
    guest.handle.stop();
    assert_eq!(guest.thread.join().unwrap().cause, StopCause::Stopped);
}

fn config(kernel: PathBuf, initrd: Vec<PathBuf>, params: &str) -> RawConfig {
    RawConfig {
        kernel: Some(kernel),
        initrd,
        params: Some(format!("console=ttyS0 reboot=k panic=-1 {params} quiet probe=time")),
        cpu_topology: CpuTopology::Count(2),
        ..RawConfig::default()
    }
}

#[test]
fn the_clocks_are_right_after_a_pause() {
    let Some(files) = Files::find("the_clocks_are_right_after_a_pause") else { return };
    let initrd = vec![files.apks.join("probe.cpio")];
    check(&config(files.os_file("kernel"), initrd, "8250.nr_uarts=1 tsc=reliable"), Duration::ZERO);
}

#[test]
fn a_stock_kernel_has_nothing_to_say_of_a_pause() {
    // It has watchdogs, which find nobody stuck.
    let name = "a_stock_kernel_has_nothing_to_say_of_a_pause";
    let Some(files) = Files::find(name) else { return };
    let Some(directory) = stock_kernel(name) else { return };
    let initrd = vec![files.apks.join("probe.cpio"), directory.join("modules.cpio")];
    check(&config(directory.join("vmlinuz"), initrd, ""), HALF_A_SECOND);
}
