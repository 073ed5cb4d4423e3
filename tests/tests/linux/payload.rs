//! Payloads in their VMs, from the report of their start to their exit status.

use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};
use tests::linux::{App, Files, Life};

use super::{descriptors, probe_os, resident, sha256};

/// Who virtualises the processor that this test runs on: CPUID leaf 0x40000000.
fn hypervisor_here() -> String {
    let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
    let name: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
    String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
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
