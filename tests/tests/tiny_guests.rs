//! Guests of 100 bytes under the `vmm` executable, on the host's own KVM, emulated or not.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::json;
use tests::process::vmm_executable;
use tests::raw_vm::RawVm;
use tests::{elf, guests, host, skip};

/// Whether the host has a KVM to test with; if not, says so for the test `name`.
fn kvm_for(name: &str) -> bool {
    match host::open_kvm() {
        Ok(()) => true,
        Err(e) => {
            skip(name, &format!("/dev/kvm: {e}"));
            false
        }
    }
}

#[test]
fn output_is_exact_and_a_reset_is_a_good_end() {
    if !kvm_for("output_is_exact_and_a_reset_is_a_good_end") {
        return;
    }
    let ended = RawVm::new(&guests::hello()).run();
    assert_eq!((ended.text().as_str(), ended.status), ("HELLO\n", 0), "{ended:?}");
}

#[test]
fn a_string_instruction_writes_every_byte() {
    if !kvm_for("a_string_instruction_writes_every_byte") {
        return;
    }
    let text: Vec<u8> = (0..=255).collect();
    let ended = RawVm::new(&guests::print(&text)).run();
    assert_eq!((ended.stdout, ended.status), (text, 0), "{}", ended.stderr);
}

#[test]
fn a_string_instruction_reads_a_port_again_and_again() {
    if !kvm_for("a_string_instruction_reads_a_port_again_and_again") {
        return;
    }
    let ended = RawVm::new(&guests::string_input()).run();
    assert_eq!((ended.text().as_str(), ended.status), ("ZZZZZ\n", 0), "{ended:?}");
}

#[test]
fn much_output_arrives_whole_and_in_order() {
    if !kvm_for("much_output_arrives_whole_and_in_order") {
        return;
    }
    let line: Vec<u8> = (b' '..=b'~').cycle().take(1023).chain([b'\n']).collect();
    let ended = RawVm::new(&guests::print_often(&line, 64)).run();
    assert!(ended.stdout == line.repeat(64), "{} bytes, {}", ended.stdout.len(), ended.stderr);
    assert_eq!(ended.status, 0);
}

#[test]
fn the_failure_line_says_why_a_guest_ended() {
    if !kvm_for("the_failure_line_says_why_a_guest_ended") {
        return;
    }
    let ended = RawVm::new(&guests::say_failure(b"MICRODROID_PAYLOAD_HAS_CHANGED|another one\r\n")).run();
    assert_eq!((ended.text().as_str(), ended.status), ("", 125), "{ended:?}");
    assert!(
        ended.stderr.contains("reason 12 MICRODROID_PAYLOAD_HAS_CHANGED: another one"),
        "{}",
        ended.stderr
    );
}

#[test]
fn what_is_typed_reaches_the_guest() {
    if !kvm_for("what_is_typed_reaches_the_guest") {
        return;
    }
    let vm = RawVm::new(&guests::echo_line());
    let typed = vm.place.file("typed", b"\x01x is no way out of a file\nnot read");
    let ended = vm.start_reading(File::open(typed).unwrap().into()).wait();
    assert_eq!((ended.text().as_str(), ended.status), ("\x01x is no way out of a file\n", 0), "{ended:?}");
    // A guest that gets nothing is none that has come to an end.
    let running = vm.start_reading(Stdio::null());
    running.signal(libc::SIGTERM);
    assert_eq!(running.wait().status, 143);
}

#[test]
fn a_reader_that_is_absent_does_not_hold_the_guest_up() {
    if !kvm_for("a_reader_that_is_absent_does_not_hold_the_guest_up") {
        return;
    }
    let line: Vec<u8> = (b' '..=b'~').cycle().take(1023).chain([b'\n']).collect();
    // A pipe takes 64 KiB, and 64 more wait: the rest of 256 is dropped.
    let vm = RawVm::new(&guests::print_often(&line, 256));
    let pipe = vm.place.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let ended = vm.arg("--console=pipe").arg("--log=pipe").arg("--output-buffer=64").run();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stderr.contains(" bytes were dropped, its reader did not keep up"), "{}", ended.stderr);
}

#[test]
fn where_nothing_is_reads_as_ones_and_takes_every_write() {
    if !kvm_for("where_nothing_is_reads_as_ones_and_takes_every_write") {
        return;
    }
    let ended = RawVm::new(&guests::touch_nothing()).run();
    assert_eq!((ended.text().as_str(), ended.status), ("OK\n", 0), "{ended:?}");
}

#[test]
fn the_guest_gets_the_parameters_and_its_devices() {
    if !kvm_for("the_guest_gets_the_parameters_and_its_devices") {
        return;
    }
    let ended = RawVm::new(&guests::print_cmdline()).with("params", json!("first=1  second")).run();
    let line = ended.text();
    assert!(line.starts_with("first=1  second "), "{ended:?}");
    // At least the entropy device, inside the window that the layout has for it.
    let devices: Vec<_> =
        line.trim_end().split(' ').filter_map(|word| word.strip_prefix("virtio_mmio.device=")).collect();
    assert!(!devices.is_empty(), "{ended:?}");
    for device in devices {
        let (_, place) = device.split_once("@0x").unwrap();
        let (base, gsi) = place.split_once(':').unwrap();
        let slot = u64::from_str_radix(base, 16).unwrap() - boot::layout::VIRTIO_MMIO_BASE;
        assert_eq!(slot % boot::layout::VIRTIO_MMIO_STRIDE, 0);
        let gsi: u32 = gsi.parse().unwrap();
        assert!((boot::layout::VIRTIO_GSI_FIRST..=boot::layout::VIRTIO_GSI_LAST).contains(&gsi));
    }
    assert_eq!(ended.status, 0);
}

#[test]
fn the_guest_gets_its_ramdisk() {
    if !kvm_for("the_guest_gets_its_ramdisk") {
        return;
    }
    let vm = RawVm::new(&guests::print_ramdisk()).with("initrd", json!("ramdisk"));
    let ramdisk: Vec<u8> = (0..4096_u32).flat_map(|n| n.to_le_bytes()).collect();
    vm.place.file("ramdisk", &ramdisk);
    let ended = vm.run();
    assert!(ended.stdout == ramdisk, "{} bytes, {}", ended.stdout.len(), ended.stderr);
    assert_eq!(ended.status, 0);
}

#[test]
fn a_triple_fault_is_told_as_one() {
    if !kvm_for("a_triple_fault_is_told_as_one") {
        return;
    }
    let ended = RawVm::new(&guests::triple_fault()).run();
    assert_eq!((ended.text().as_str(), ended.status), ("DYING\n", 125), "{ended:?}");
    assert!(ended.stderr.contains("triple fault"), "{}", ended.stderr);
}

#[test]
fn an_instruction_that_kvm_lacks_is_named() {
    if !kvm_for("an_instruction_that_kvm_lacks_is_named") {
        return;
    }
    let ended = RawVm::new(&guests::popcnt()).run();
    assert_eq!(ended.text(), "TRYING\n");
    if host::kvm_is_real() {
        assert_eq!(ended.status, 0, "{ended:?}");
    } else {
        let rip = tests::elf::LOAD_ADDRESS + guests::popcnt().len() as u64 - 11;
        assert_eq!(ended.status, 125, "{ended:?}");
        for part in ["internal error", "f3 0f b8 c1", &format!("{rip:#x}")] {
            assert!(ended.stderr.contains(part), "no {part:?} in {}", ended.stderr);
        }
    }
}

#[test]
fn a_jump_to_no_memory_ends_the_vm_with_a_message() {
    if !kvm_for("a_jump_to_no_memory_ends_the_vm_with_a_message") {
        return;
    }
    let ended = RawVm::new(&guests::jump_nowhere()).run();
    assert_eq!((ended.text().as_str(), ended.status), ("JUMPING\n", 125), "{ended:?}");
    assert!(!ended.stderr.is_empty());
}

#[test]
fn signals_end_a_vm_that_never_ends() {
    if !kvm_for("signals_end_a_vm_that_never_ends") {
        return;
    }
    for code in [guests::spin(), guests::halt()] {
        for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
            let vm = RawVm::new(&code);
            let running = vm.start().wait_for("READY\n");
            running.signal(signal);
            let ended = running.wait();
            assert_eq!((ended.text().as_str(), ended.status), ("READY\n", status), "{ended:?}");
            let left: Vec<_> = vm.files().into_iter().filter(|f| f.is_file()).collect();
            assert_eq!(left, [vm.place.path().join("kernel"), vm.place.path().join("vm.json")]);
        }
    }
}

#[test]
fn a_second_signal_does_not_change_the_end() {
    if !kvm_for("a_second_signal_does_not_change_the_end") {
        return;
    }
    let running = RawVm::new(&guests::spin()).start().wait_for("READY\n");
    running.signal(libc::SIGTERM);
    running.signal(libc::SIGTERM);
    assert_eq!(running.wait().status, 143);
}

#[test]
fn a_bzimage_is_entered_behind_its_setup_code() {
    if !kvm_for("a_bzimage_is_entered_behind_its_setup_code") {
        return;
    }
    let vm = RawVm::new(&[]).with("params", json!("from a bzImage")).with("discovery", json!("acpi"));
    vm.place.file("kernel", &elf::bzimage(&guests::print_cmdline()));
    let ended = vm.run();
    assert_eq!((ended.text().as_str(), ended.status), ("from a bzImage\n", 0), "{ended:?}");
}

#[test]
fn a_pvh_kernel_gets_its_start_info() {
    if !kvm_for("a_pvh_kernel_gets_its_start_info") {
        return;
    }
    let vm = RawVm::new(&[]).with("params", json!("from pvh")).with("discovery", json!("acpi"));
    vm.place.file("kernel", &elf::pvh(&guests::pvh()));
    let ended = vm.run();
    assert_eq!(ended.stdout, b"\x78\xc5\x6e\x33from pvh\n", "{ended:?}");
    assert_eq!(ended.status, 0);
    // As a boot loader it is started in the same way.
    let vm = vm.with("kernel", json!(null)).with("bootloader", json!("kernel"));
    let ended = vm.run();
    assert_eq!(ended.stdout, b"\x78\xc5\x6e\x33from pvh\n", "{ended:?}");
}

#[test]
fn a_rom_starts_at_the_reset_vector() {
    if !kvm_for("a_rom_starts_at_the_reset_vector") {
        return;
    }
    let vm = RawVm::new(&[]).with("kernel", json!(null)).with("bootloader", json!("rom"));
    let rom = guests::rom();
    assert!(rom.len() <= 110, "{} bytes", rom.len());
    vm.place.file("rom", &rom);
    let ended = vm.run();
    assert_eq!((ended.text().as_str(), ended.status), ("hello from the shadow\nROM\n", 0), "{ended:?}");
}

#[test]
fn several_ramdisks_and_a_bootconfig_are_one() {
    if !kvm_for("several_ramdisks_and_a_bootconfig_are_one") {
        return;
    }
    let vm = RawVm::new(&guests::print_ramdisk())
        .with("initrd", json!(["first", "second"]))
        .with("bootconfig", json!({ "kapsel.test": 7 }));
    vm.place.file("first", b"one");
    vm.place.file("second", b"two!");
    let ended = vm.run();
    let text = b"kapsel.test = 7\n";
    let sum: u32 = text.iter().map(|byte| u32::from(*byte)).sum();
    let mut want = [&b"one\0two!"[..], text].concat();
    want.extend(16_u32.to_le_bytes());
    want.extend(sum.to_le_bytes());
    want.extend(b"#BOOTCONFIG\n");
    assert_eq!((ended.stdout, ended.status), (want, 0), "{}", ended.stderr);
    // A kernel looks for it only when it is told to.
    let vm = RawVm::new(&guests::print_cmdline()).with("bootconfig", json!({ "a": null }));
    assert!(vm.run().text().starts_with("bootconfig "));
}

#[test]
fn the_log_tells_who_waits_for_a_disk() {
    if !kvm_for("the_log_tells_who_waits_for_a_disk") {
        return;
    }
    let disk = |engine: &str| json!({ "image": "image", "engine": engine });
    let vm = RawVm::new(&guests::hello())
        .with("disks", json!([disk("sync"), disk("threads")]))
        .with("cpu_topology", json!(2))
        .arg("--verbose");
    vm.place.file("image", &[0; 4096]);
    let ended = vm.run();
    assert_eq!(ended.status, 0, "{ended:?}");
    for (name, engine) in [("disk0", "synchronous"), ("disk1", "threads")] {
        let line = ended.stderr.lines().find(|line| line.starts_with(&format!("vmm: info: disk {name}: ")));
        assert!(
            line.is_some_and(|line| line.ends_with(&format!("{engine} I/O, queues: 2"))),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn every_processor_starts_and_stops() {
    if !kvm_for("every_processor_starts_and_stops") {
        return;
    }
    for count in [1_u8, 2, 5, 32] {
        let ended = RawVm::new(&guests::processors(count - 1)).with("cpu_topology", json!(count)).run();
        assert_eq!((ended.text(), ended.status), (format!("ALL {}\n", count - 1), 0), "{ended:?}");
    }
    // Processors that nobody started wait, and are stopped all the same.
    let running = RawVm::new(&guests::spin()).with("cpu_topology", json!(3)).start().wait_for("READY\n");
    running.signal(libc::SIGTERM);
    assert_eq!(running.wait().status, 143);
}

#[test]
fn nothing_runs_on_after_a_reset() {
    if !kvm_for("nothing_runs_on_after_a_reset") {
        return;
    }
    for _ in 0..5 {
        let ended = RawVm::new(&guests::run_on_after_reset()).run();
        assert_eq!((ended.text().as_str(), ended.status), ("RESET\n", 0), "{ended:?}");
    }
}

#[test]
fn soft_off_and_a_panic_end_the_vm() {
    if !kvm_for("soft_off_and_a_panic_end_the_vm") {
        return;
    }
    // SLP_EN with the type of S5.
    let ended = RawVm::new(&guests::sleep_state(1 << 13 | 5 << 10)).run();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stderr.contains("SHUTDOWN"), "{ended:?}");
    let ended = RawVm::new(&guests::panic_events(1)).run();
    assert_eq!(ended.status, 125, "{ended:?}");
    assert!(ended.stderr.contains("CRASH") && ended.stderr.contains("panicked"), "{ended:?}");
}

#[test]
fn a_guest_that_listens_is_asked_before_it_is_stopped() {
    if !kvm_for("a_guest_that_listens_is_asked_before_it_is_stopped") {
        return;
    }
    let running = RawVm::new(&guests::power_button()).arg("--grace").arg("300").start().wait_for("READY\n");
    running.signal(libc::SIGTERM);
    let ended = running.wait();
    assert_eq!((ended.text().as_str(), ended.status), ("READY\nPRESSED\n", 143), "{ended:?}");
    assert!(ended.stderr.contains("SHUTDOWN"), "{ended:?}");
    // Without a grace nobody is asked.
    let running = RawVm::new(&guests::power_button()).arg("--grace").arg("0").start().wait_for("READY\n");
    running.signal(libc::SIGINT);
    let ended = running.wait();
    assert_eq!((ended.text().as_str(), ended.status), ("READY\n", 130), "{ended:?}");
}

#[test]
fn memory_above_the_gap_is_memory() {
    if !kvm_for("memory_above_the_gap_is_memory") {
        return;
    }
    // 4 GiB, of which one lies above the gap; only what is touched costs the host anything.
    let ended = RawVm::new(&guests::hello()).with("memory_mib", json!(4096)).run();
    if ended.status == 2 && ended.stderr.contains("memory_mib") {
        skip("memory_above_the_gap_is_memory", "the host has less than 4 GiB");
        return;
    }
    assert_eq!((ended.text().as_str(), ended.status), ("HELLO\n", 0), "{ended:?}");
}

#[test]
fn a_vm_runs_without_any_standard_stream() {
    if !kvm_for("a_vm_runs_without_any_standard_stream") {
        return;
    }
    let vm = RawVm::new(&guests::hello());
    vm.place.file("vm.json", br#"{"kernel": "kernel", "memory_mib": 64}"#);
    let mut command = Command::new(vmm_executable());
    command.args(["--raw-config", "vm.json"]).current_dir(vm.place.path());
    // SAFETY: close is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for fd in 0..3 {
                libc::close(fd);
            }
            Ok(())
        });
    }
    // Descriptors that it opens take the numbers 0 to 2: guest output must not end up in one of its files.
    let status = command.status().unwrap();
    assert!(status.code().is_some_and(|c| c == 0 || c == 2), "{status:?}");
    assert_eq!(std::fs::read(vm.place.path().join("kernel")).unwrap(), tests::elf::flat(&guests::hello()));
}
