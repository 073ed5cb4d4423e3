//! Payloads and plain kernels in VMs with Linux: on the host's KVM where it is real, else inside the software host.
//!
//! Each guest half is a C program of the same subject in `tests/guests`; `make-test-apks` makes what is run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "linux/block_device.rs"]
mod block_device;
#[path = "linux/clock.rs"]
mod clock;
#[path = "linux/console.rs"]
mod console;
#[path = "linux/faults.rs"]
mod faults;
#[path = "linux/hostile.rs"]
mod hostile;
#[path = "linux/stock.rs"]
mod stock;
#[path = "linux/stop.rs"]
mod stop;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use serde_json::json;
use sha2::{Digest, Sha256};
use tests::linux::{App, Files, Life};
use tests::process::{Running, vmm_executable};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Who virtualises the processor that this test runs on: CPUID leaf 0x40000000.
fn hypervisor_here() -> String {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    let name: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
    String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
}

/// What the descriptors of a process are.
fn descriptors(process: &Running) -> Vec<String> {
    let dir = format!("/proc/{}/fd", process.id());
    let links = std::fs::read_dir(dir).unwrap().map(|entry| std::fs::read_link(entry.unwrap().path()));
    links.flatten().map(|target| target.display().to_string()).collect()
}

#[test]
fn the_payload_is_the_one_in_the_apk() {
    let Some(files) = Files::find("the_payload_is_the_one_in_the_apk") else { return };
    let nonce = String::from_utf8(files.read("nonce")).unwrap();
    let want = format!("nonce={nonce}\nsha256={}\ncpuid=KVMKVMKVM\n", sha256(&files.read("blob")));
    let code = i32::from(Sha256::digest(&nonce)[0]);
    // Once with the tree made in memory, once with the one in a file.
    for idsig in [json!(null), json!(files.apks.join("nonce.idsig"))] {
        let life = App::new(&files, &files.apks.join("nonce.apk")).with("idsig", idsig).run();
        assert_eq!(life.ended.text(), want, "{life:?}");
        assert_eq!(life.ended.status, code);
        let names: Vec<_> = life.names().into_iter().filter(|name| *name != "booted").collect();
        assert_eq!(names, ["created", "payload_started", "payload_ready", "payload_finished", "died"]);
        assert!(life.text("payload_finished").ends_with(&code.to_string()));
        assert_eq!(life.death_reason(), Some(3), "SHUTDOWN");
    }
}

#[test]
fn the_payload_runs_in_the_vm_of_this_vmm_and_stops_with_it() {
    let Some(files) = Files::find("the_payload_runs_in_the_vm_of_this_vmm_and_stops_with_it") else { return };
    let running = App::new(&files, &files.apks.join("wait.apk")).start().wait_for("WAITING\n");
    let open = descriptors(&running);
    for kind in ["/dev/kvm", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0"] {
        assert!(open.iter().any(|fd| fd == kind), "no {kind} in {open:?}");
    }
    running.signal(libc::SIGTERM);
    let life = Life::of(running.wait());
    assert_eq!(
        (life.ended.text().as_str(), life.ended.status),
        ("cpuid=KVMKVMKVM\nWAITING\n", 143),
        "{life:?}"
    );
    assert_eq!(life.death_reason(), Some(1), "KILLED");
    // Where QEMU emulates this machine, the payload saw another one: KVM's, which only the VMM can have made.
    if hypervisor_here().starts_with("TCG") {
        assert_ne!(hypervisor_here(), "KVMKVMKVM");
    }
}

/// Bytes of a process that are in memory.
fn resident(process: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn memory_that_the_guest_frees_goes_back_to_the_host() {
    let Some(files) = Files::find("memory_that_the_guest_frees_goes_back_to_the_host") else { return };
    let running = App::new(&files, &files.apks.join("memory.apk")).start().wait_for("FREED\n");
    // The guest reports when it has nothing better to do, after some seconds, and what hangs together in 2 MiB: more than
    // half of the 48. The runner ends a VM that never does.
    let mut most = 0;
    loop {
        let now = resident(&running);
        most = most.max(now);
        if most - now > 24 << 20 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    running.signal(libc::SIGTERM);
    assert_eq!(running.wait().status, 143);
}

#[test]
fn an_end_of_the_payload_is_the_end_of_the_command() {
    let Some(files) = Files::find("an_end_of_the_payload_is_the_end_of_the_command") else { return };
    for (name, status, reason) in [
        ("return-0", 0, 3),
        ("return-42", 42, 3),
        ("return-255", 255, 3),
        ("return-256", 0, 3),
        ("exit-7", 7, 3),
        ("signal-6", 134, 15),
        ("signal-9", 137, 15),
        ("signal-11", 139, 15),
    ] {
        let life = App::new(&files, &files.apks.join(format!("{name}.apk"))).run();
        assert_eq!((life.ended.status, life.death_reason()), (status, Some(reason)), "{name}: {life:?}");
        assert!(life.names().contains(&"payload_started"), "{name}: {life:?}");
    }
}

#[test]
fn the_log_has_every_byte_as_it_was_written() {
    let Some(files) = Files::find("the_log_has_every_byte_as_it_was_written") else { return };
    let life = App::new(&files, &files.apks.join("output.apk")).run();
    let want: Vec<u8> = (0..=255).cycle().take(256 * 256).collect();
    assert!(life.ended.stdout == want, "{} bytes; {}", life.ended.stdout.len(), life.ended.stderr);
    assert_eq!(life.ended.status, 0);
}

#[test]
fn a_payload_may_do_nothing_but_run() {
    let Some(files) = Files::find("a_payload_may_do_nothing_but_run") else { return };
    let life = App::new(&files, &files.apks.join("identity.apk")).run();
    let text = life.ended.text();
    assert!(text.contains("user: ok\n"), "{life:?}");
    assert!(!text.contains("FAILED"), "{text}");
    assert_eq!(life.ended.status, 0, "{text}");
}

#[test]
fn a_library_that_does_not_load_is_a_payload_that_failed() {
    let Some(files) = Files::find("a_library_that_does_not_load_is_a_payload_that_failed") else { return };
    let life = App::new(&files, &files.apks.join("missing_symbol.apk")).run();
    assert_eq!(life.ended.status, 1, "{life:?}");
    assert!(
        life.names().contains(&"payload_started") && life.names().contains(&"payload_finished"),
        "{life:?}"
    );
    assert!(life.ended.text().contains("Failed to dlopen"), "{life:?}");
}

/// Runs a damaged APK or idsig and checks what the guest says of it.
fn expect_verification_failure(app: &App) {
    let life = app.run();
    assert_eq!((life.ended.status, life.death_reason()), (125, Some(13)), "{life:?}");
    assert!(life.text("error").starts_with("error 1 PAYLOAD_VERIFICATION_FAILED"), "{life:?}");
    assert!(!life.names().contains(&"payload_started"), "{life:?}");
    assert_eq!(life.ended.text(), "", "nothing of the payload ran");
}

#[test]
fn a_flipped_byte_is_found_in_the_vm() {
    let Some(files) = Files::find("a_flipped_byte_is_found_in_the_vm") else { return };
    let (apk, blob) = (files.read("nonce.apk"), files.read("blob"));
    let at = apk.windows(64).position(|window| window == &blob[..64]).unwrap();
    for with_idsig in [false, true] {
        for offset in [at, at + blob.len() - 1] {
            let mut app = App::new(&files, Path::new("flipped.apk"));
            if with_idsig {
                app = app.with("idsig", json!(files.apks.join("nonce.idsig")));
            }
            let mut flipped = apk.clone();
            flipped[offset] ^= 1;
            app.place.file("flipped.apk", &flipped);
            expect_verification_failure(&app);
        }
    }
}

#[test]
fn a_damaged_tree_is_found_in_the_vm() {
    let Some(files) = Files::find("a_damaged_tree_is_found_in_the_vm") else { return };
    let idsig = files.read("nonce.idsig");
    let app = App::new(&files, &files.apks.join("nonce.apk")).with("idsig", json!("damaged.idsig"));
    // The last byte that counts: the tree's last block is padded with zeros.
    let last = idsig.iter().rposition(|byte| *byte != 0).unwrap();
    for at in [last, idsig.len() - 4096] {
        let mut damaged = idsig.clone();
        damaged[at] ^= 1;
        app.place.file("damaged.idsig", &damaged);
        expect_verification_failure(&app);
    }
}

/// An OS directory whose initial ramdisk is the probe program.
fn probe_os(files: &Files, app: &App) {
    let description = json!({
        "kernel": files.os_file("kernel"), "initrd": files.apks.join("probe.cpio"), "glibc": "2.99", "version": "test",
    });
    app.place.file("microdroid.json", description.to_string().as_bytes());
}

#[test]
fn a_guest_that_never_starts_its_payload_is_given_up() {
    let Some(files) = Files::find("a_guest_that_never_starts_its_payload_is_given_up") else { return };
    let app = App::new(&files, &files.apks.join("nonce.apk")).args(&["--start-timeout", "5"]);
    probe_os(&files, &app);
    let directory = app.place.path().to_path_buf();
    let life = app.os_dir(&directory).run();
    assert_eq!((life.ended.status, life.death_reason()), (125, Some(16)), "HANGUP: {life:?}");
    assert!(!life.names().contains(&"payload_started"));
}

/// A plain VM with the guest kernel and the probe program, which does `probe`.
fn probe(files: &Files, probe: &str, extra: &serde_json::Value) -> tests::raw_vm::RawVm {
    let params = format!("console=ttyS0 reboot=k panic=-1 8250.nr_uarts=1 tsc=reliable quiet probe={probe}");
    let mut vm = tests::raw_vm::RawVm::new(&[])
        .with("kernel", json!(files.os_file("kernel")))
        .with("initrd", json!(files.apks.join("probe.cpio")))
        .with("memory_mib", json!(128))
        .with("params", json!(params));
    for (key, value) in extra.as_object().unwrap() {
        vm = vm.with(key, value.clone());
    }
    vm
}

/// The line of a device or partition in the probe's output, without its name.
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("")
}

#[test]
fn a_composite_disk_reads_back_byte_for_byte() {
    let Some(files) = Files::find("a_composite_disk_reads_back_byte_for_byte") else { return };
    check_disks(&files);
}

/// Runs a VM that reads a composite disk and writes another.
fn check_disks(files: &Files) {
    let disk = json!({ "disks": [
        { "partitions": [
            { "label": "first", "path": "a" },
            { "label": "joined", "paths": ["b", "a"], "filler": "zero" },
            { "label": "sized", "path": "c", "filler": "size" },
        ] },
        { "image": "image", "writable": true },
    ] });
    let vm = probe(files, "disk", &disk);
    let content = |len: usize, seed: usize| -> Vec<u8> {
        (0..len).map(|n| u8::try_from((n * 7 + n / 251 + seed) % 256).unwrap()).collect()
    };
    let (a, b, c) = (content(100_001, 1), content(8192, 2), content(8189, 3));
    let image = content(1 << 20, 4);
    for (name, bytes) in [("a", &a), ("b", &b), ("c", &c), ("image", &image)] {
        vm.place.file(name, bytes);
    }
    let ended = vm.run();
    let text = ended.text();
    let padded = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes
    };
    let joined = padded(&[b, a.clone()].concat());
    let mut sized = c;
    sized.resize(12288 - 4, 0);
    sized.extend(8189_i32.to_be_bytes());
    for (device, label, want) in
        [("vda1", "first", padded(&a)), ("vda2", "joined", joined), ("vda3", "sized", sized)]
    {
        assert_eq!(line(&text, device), format!("{label} {} {}", want.len(), sha256(&want)), "{ended:?}");
    }
    assert_eq!(line(&text, "vdb"), format!("- {} {}", image.len(), sha256(&image)), "{ended:?}");
    let written: Vec<u8> = (0..image.len()).map(|n| b'A' + u8::try_from(n / 4096 % 26).unwrap()).collect();
    assert!(
        std::fs::read(vm.place.path().join("image")).unwrap() == written,
        "what the guest wrote is there"
    );
    assert_eq!(std::fs::read(vm.place.path().join("a")).unwrap(), a);
    assert_eq!(ended.status, 0);
}

#[test]
fn a_disk_of_mk_payload_is_the_disk_in_the_vm() {
    let Some(files) = Files::find("a_disk_of_mk_payload_is_the_disk_in_the_vm") else { return };
    let vm = probe(&files, "disk", &json!({ "disks": [{ "image": "disk.img" }] }));
    let (apk, idsig) = (files.read("nonce.apk"), files.read("nonce.idsig"));
    vm.place.file("a.apk", &apk);
    vm.place.file("a.idsig", &idsig);
    let config = br#"{ "apk": { "name": "sample", "path": "a.apk", "idsigPath": "a.idsig", },
                       "payload_config_path": "/mnt/apk/assets/vm_config.json", }"#;
    vm.place.file("payload.json", config);
    // It is shipped beside the monitor.
    let mut mk_payload = Command::new(vmm_executable().with_file_name("mk_payload"));
    let made = vm.place.command(mk_payload.args(["payload.json", "disk.img"])).wait();
    assert_eq!(made.status, 0, "{made:?}");
    let ended = vm.run();
    let text = ended.text();
    for (device, label, mut want) in
        [("vda2", "microdroid-apk", apk), ("vda3", "microdroid-apk-idsig", idsig)]
    {
        want.resize(want.len().next_multiple_of(4096), 0);
        assert_eq!(line(&text, device), format!("{label} {} {}", want.len(), sha256(&want)), "{ended:?}");
    }
    assert!(line(&text, "vda1").starts_with("payload-metadata 4096 "), "{ended:?}");
    assert_eq!(ended.status, 0);
}

#[test]
fn the_guest_gets_random_numbers() {
    let Some(files) = Files::find("the_guest_gets_random_numbers") else { return };
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let outputs: Vec<_> =
        (0..2).map(|_| first_line(probe(&files, "random", &json!({})).run().text())).collect();
    for output in &outputs {
        assert_eq!(output.len(), 64, "{outputs:?}");
    }
    assert_ne!(outputs[0], outputs[1]);
}

#[test]
fn host_and_guest_connect_over_vsock_both_ways() {
    let Some(files) = Files::find("host_and_guest_connect_over_vsock_both_ways") else { return };
    let vm = probe(&files, "vsock", &json!({})).arg("--vsock").arg("vsock");
    let path = vm.place.path().join("vsock");
    let from_guest = UnixListener::bind(vm.place.path().join("vsock_6000")).unwrap();
    let running = vm.start().wait_for("LISTENING");

    let mut stream = BufReader::new(UnixStream::connect(&path).unwrap());
    stream.get_mut().write_all(b"CONNECT 5000\n").unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).unwrap();
    assert!(answer.starts_with("OK "), "{answer:?}");
    // More than any window or buffer on the way, so that credit has to flow in both directions.
    let data: Vec<u8> = (0..700_001_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    let mut echo = Vec::new();
    std::thread::scope(|scope| {
        let mut writer = stream.get_ref().try_clone().unwrap();
        let data = &data;
        scope.spawn(move || {
            writer.write_all(data).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut echo).unwrap();
    });
    assert!(echo == data, "{} of {} bytes came back", echo.len(), data.len());

    let mut greeting = String::new();
    from_guest.accept().unwrap().0.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "hello");
    let ended = running.wait();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(!path.exists(), "the socket is gone with the VM");
}

#[test]
fn a_kernel_that_panics_is_a_crash() {
    let Some(files) = Files::find("a_kernel_that_panics_is_a_crash") else { return };
    let app = App::new(&files, &files.apks.join("nonce.apk"));
    // A root without /init: the kernel finds nothing to run.
    let description =
        json!({ "kernel": files.os_file("kernel"), "initrd": "empty", "glibc": "2.99", "version": "test" });
    app.place.file("microdroid.json", description.to_string().as_bytes());
    app.place.file("empty", b"");
    let directory = app.place.path().to_path_buf();
    let life = app.os_dir(&directory).run();
    assert_eq!((life.ended.status, life.death_reason()), (125, Some(6)), "CRASH: {life:?}");
    assert!(life.console.contains("panic"), "{life:?}");
    assert_eq!(life.ended.text(), "");
}

#[test]
fn a_guest_has_its_processors_seed_and_bootconfig() {
    let Some(files) = Files::find("a_guest_has_its_processors_seed_and_bootconfig") else { return };
    let extra = json!({ "cpu_topology": 2, "bootconfig": { "kapsel.test": "a b" } });
    let ended = probe(&files, "devices", &extra).run();
    let text = ended.text();
    assert_eq!(
        (line(&text, "cpus"), line(&text, "cores"), line(&text, "threads")),
        ("0-1", "0-1", "0"),
        "{ended:?}"
    );
    assert_eq!((line(&text, "clock"), line(&text, "seeded")), ("kvm-clock", "yes"), "{ended:?}");
    assert_eq!(line(&text, "bootconfig"), "kapsel.test = \"a b\"");
    assert_eq!(ended.status, 0);
}
