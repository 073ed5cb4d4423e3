//! A guest that does everything wrong beside one that does its work.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::linux::Files;
use tests::process::{Ended, Running};
use tests::raw_vm::RawVm;

use super::disks::check_disks;
use super::{descriptors, resident};

/// Ten seconds of the software host's time, and a minute of it.
const ROUNDS: u64 = 200_000;
const ROUNDS_SOAK: u64 = 1_200_000;
/// What a guest that ends itself at once counts for, so that the test ends too.
const LEAST: u64 = 1000;
/// What the allocator may keep of what it had at some time.
const SLACK: u64 = 4 << 20;
/// Of messages: one a second for each kind would be less.
const MAX_MESSAGES: usize = 64 << 10;
/// A guest that gets no further for so long runs something else than its program.
const STILL: Duration = Duration::from_secs(60);
/// Between two looks at the monitor.
const LOOK: Duration = Duration::from_millis(500);
/// Of processor time, in ticks of 10 ms, while the guest halts for [`LOOK`].
const IDLE_TICKS: u64 = 25;

/// Processor time that a process has used, in ticks of 10 ms.
fn ticks(process: &Running) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    // The name, in parentheses, is the only field that may hold spaces.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn hostile_vm(files: &Files, seed: u64, rounds: u64) -> RawVm {
    let vm = RawVm::new(&[])
        .with("kernel", json!(files.apks.join("hostile")))
        .with("params", json!(format!("rounds={rounds} seed={seed}")))
        .with(
            "disks",
            json!([
                { "image": "image", "writable": true },
                { "partitions": [{ "label": "a", "path": "image.ro" }, { "label": "b", "paths": ["x", "image.ro"] }] },
            ]),
        )
        .arg("--vsock=vsock")
        .arg("--log=log");
    vm.place.file("image", &vec![0; 1 << 20]);
    vm.place.file("image.ro", &vec![1; (1 << 20) + 77]);
    vm.place.file("x", b"x");
    vm
}

/// How far the guest says that it is.
fn rounds_of(text: &str) -> u64 {
    let last = text.lines().rev().find_map(|line| line.strip_prefix("AT ")?.parse().ok());
    last.unwrap_or(0)
}

/// What was seen of all monitors of hostile guests, while they were warm.
#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    guests: u32,
    /// Guests that had a device overwrite the program that they are: they fault, or run something else.
    ended_themselves: u32,
    lost_themselves: u32,
    looks: u32,
    neighbours: u32,
    /// Most bytes that one has grown by.
    growth: i64,
    resident: u64,
    descriptors: usize,
    /// Most ticks while a guest halted.
    idle_ticks: u64,
    messages: usize,
}

/// Looks at the monitor of a warm guest until the guest is done, ends, or stands still; a neighbour compares what it reads and
/// writes meanwhile.
fn watch(files: &Files, hostile: &mut Running, figures: &mut Figures) {
    let (memory, open) = (resident(hostile), descriptors(hostile));
    figures.resident = figures.resident.max(memory);
    figures.descriptors = figures.descriptors.max(open.len());
    let mut moved = (rounds_of(&hostile.written()), Instant::now());
    // One neighbour at once, then one for every so many looks.
    for look in 0_u32.. {
        if look % 10 == 0 {
            check_disks(files);
            figures.neighbours += 1;
        }
        let is_done = hostile.writes_within("DONE\n", LOOK);
        if hostile.is_over() {
            return;
        }
        let (now, open_now) = (resident(hostile), descriptors(hostile));
        assert!(now <= memory + SLACK, "{memory} bytes were resident, {now} are");
        assert_eq!(open_now.len(), open.len(), "{open:?}, then {open_now:?}");
        figures.growth = figures.growth.max(now.cast_signed() - memory.cast_signed());
        figures.looks += 1;
        if is_done {
            return;
        }
        let rounds = rounds_of(&hostile.written());
        if rounds > moved.0 {
            moved = (rounds, Instant::now());
        } else if moved.1.elapsed() > STILL {
            return;
        }
    }
}

/// Ends a guest that is done and halts, or that has lost itself: its monitor has to hear us.
fn stop(hostile: Running, figures: &mut Figures) -> Ended {
    if hostile.writes_within("DONE\n", Duration::ZERO) {
        // Its devices are reset and its processor halts: whoever runs now, spins.
        let before = ticks(&hostile);
        std::thread::sleep(LOOK);
        let spent = ticks(&hostile) - before;
        assert!(spent < IDLE_TICKS, "the VMM spins: {spent} ticks of 10 ms in {LOOK:?}");
        figures.idle_ticks = figures.idle_ticks.max(spent);
    } else {
        figures.lost_themselves += 1;
    }
    hostile.signal(libc::SIGTERM);
    let ended = hostile.wait();
    assert_eq!(ended.status, 143, "{ended:?}");
    ended
}

/// One guest, to the end of its rounds or to its own.
fn live_beside_a_neighbour(files: &Files, rounds: u64, figures: &mut Figures) {
    figures.guests += 1;
    let vm = hostile_vm(files, figures.guests.into(), rounds);
    let mut hostile = vm.start();
    if hostile.writes_within("WARM\n", STILL) {
        watch(files, &mut hostile, figures);
    }
    let ended = if hostile.is_over() {
        let ended = hostile.wait();
        assert_eq!(ended.status, 125, "a guest that ends itself crashes: {ended:?}");
        figures.ended_themselves += 1;
        ended
    } else {
        stop(hostile, figures)
    };
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert!(ended.stderr.len() < MAX_MESSAGES, "{} bytes of messages", ended.stderr.len());
    assert_eq!(std::fs::read(vm.place.path().join("image.ro")).unwrap(), vec![1; (1 << 20) + 77]);
    let text = ended.text();
    let done = if text.contains("DONE\n") { rounds } else { rounds_of(&text) };
    figures.messages = figures.messages.max(ended.stderr.len());
    figures.rounds += done.max(LEAST);
}

#[test]
fn a_hostile_guest_hurts_neither_its_vmm_nor_its_neighbour() {
    let Some(files) = Files::find("a_hostile_guest_hurts_neither_its_vmm_nor_its_neighbour") else { return };
    let soak = std::env::var_os("KAPSEL_SOAK").is_some();
    let rounds = if soak { ROUNDS_SOAK } else { ROUNDS };
    let (mut figures, start) = (Figures::default(), Instant::now());
    while figures.rounds < rounds {
        live_beside_a_neighbour(&files, rounds - figures.rounds, &mut figures);
    }
    assert!(figures.neighbours > 0 && figures.looks > 0, "nobody looked: {figures:?}");
    // Past the capture of the test harness: the figures are worth reading when all is well.
    let _ = writeln!(std::io::stderr(), "hostile guests, {:?}: {figures:?}", start.elapsed());
}
