//! A guest that does everything wrong beside one that does its work.

use serde_json::json;
use tests::linux::Files;
use tests::process::Running;
use tests::raw_vm::RawVm;

use super::{check_disks, descriptors, resident};

/// Ten seconds of the software host's time, and a minute of it.
const ROUNDS: u64 = 100_000;
const ROUNDS_SOAK: u64 = 600_000;
/// What the allocator may keep of what it had at some time.
const SLACK: u64 = 4 << 20;
/// Of messages: one a second for each kind would be less.
const MAX_MESSAGES: usize = 64 << 10;

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

/// Whether the guest came to the end of its rounds; it may have had a device overwrite the program that it is.
fn live_beside_a_neighbour(files: &Files, seed: u64, rounds: u64) -> bool {
    let vm = hostile_vm(files, seed, rounds);
    let hostile = vm.start().wait_for("WARM\n");
    let (memory, open) = (resident(&hostile), descriptors(&hostile).len());
    // The neighbour compares what it reads and writes.
    check_disks(files);
    let (ended, whole) = match hostile.try_wait_for("DONE\n") {
        Ok(hostile) => {
            assert!(
                resident(&hostile) <= memory + SLACK,
                "{memory} bytes were resident, {}",
                resident(&hostile)
            );
            assert_eq!(descriptors(&hostile).len(), open, "{:?}", descriptors(&hostile));
            // Its devices are reset and its processor halts: whoever runs now, spins.
            let before = ticks(&hostile);
            std::thread::sleep(std::time::Duration::from_millis(500));
            assert!(ticks(&hostile) - before < 25, "the VMM spins");
            hostile.signal(libc::SIGTERM);
            let ended = hostile.wait();
            assert_eq!(ended.status, 143, "{ended:?}");
            (ended, true)
        }
        Err(ended) => {
            assert_eq!(ended.status, 125, "{ended:?}");
            assert!(ended.stderr.contains("triple fault"), "{ended:?}");
            (ended, false)
        }
    };
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert!(ended.stderr.len() < MAX_MESSAGES, "{} bytes of messages", ended.stderr.len());
    assert_eq!(std::fs::read(vm.place.path().join("image.ro")).unwrap(), vec![1; (1 << 20) + 77]);
    whole
}

#[test]
fn a_hostile_guest_hurts_neither_its_vmm_nor_its_neighbour() {
    let Some(files) = Files::find("a_hostile_guest_hurts_neither_its_vmm_nor_its_neighbour") else { return };
    let soak = std::env::var_os("KAPSEL_SOAK").is_some();
    let rounds = if soak { ROUNDS_SOAK } else { ROUNDS };
    let survived = (1..=3).any(|seed| live_beside_a_neighbour(&files, seed, rounds));
    assert!(survived, "every one of these guests ended itself");
}
