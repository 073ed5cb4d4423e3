//! Sockets between host and guest with Linux at both ends, over the device of `vmm` and over the kernel's vhost-vsock: on the
//! host's KVM where it is real, else inside the software host.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use tests::linux::{App, Files};
use tests::raw_vm::RawVm;
use tests::vsock;

const CID: u32 = 4242;

/// Whether the kernel serves sockets of guests, or why the test `name` cannot run here, which is said.
fn has_vhost(name: &str) -> bool {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/vhost-vsock");
    if let Err(error) = &opened {
        tests::skip(name, &format!("/dev/vhost-vsock: {error}"));
    }
    opened.is_ok()
}

/// A plain VM with the guest kernel and the probe program, which does `probe`.
fn probe(files: &Files, probe: &str, vsock: &Value) -> RawVm {
    let params = format!("console=ttyS0 reboot=k panic=-1 8250.nr_uarts=1 tsc=reliable quiet probe={probe}");
    RawVm::new(&[])
        .with("kernel", json!(files.os_file("kernel")))
        .with("initrd", json!(files.apks.join("probe.cpio")))
        .with("memory_mib", json!(128))
        .with("params", json!(params))
        .with("vsock", vsock.clone())
}

fn vhost() -> Value {
    json!({ "backend": "vhost", "cid": CID })
}

#[test]
fn programs_of_the_host_and_the_guest_connect_over_vhost() {
    let name = "programs_of_the_host_and_the_guest_connect_over_vhost";
    let Some(files) = Files::find(name).filter(|_| has_vhost(name)) else { return };
    let from_guest = vsock::listen(libc::SOCK_STREAM, 6000).unwrap();
    let running = probe(&files, "vsock", &vhost()).start().wait_for("LISTENING");
    let stream = vsock::connect(libc::SOCK_STREAM, CID, 5000).unwrap();
    let data: Vec<u8> = (0..700_001_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    let mut echo = Vec::new();
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        let data = &data;
        scope.spawn(move || {
            writer.write_all(data).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        (&stream).read_to_end(&mut echo).unwrap();
    });
    assert!(echo == data, "{} of {} bytes came back", echo.len(), data.len());
    let mut greeting = String::new();
    vsock::accept(&from_guest).unwrap().read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "hello");
    let ended = running.wait();
    assert_eq!(ended.status, 0, "{ended:?}");
}

#[test]
fn a_context_id_is_one_vms_at_a_time() {
    let name = "a_context_id_is_one_vms_at_a_time";
    let Some(files) = Files::find(name).filter(|_| has_vhost(name)) else { return };
    let first = probe(&files, "vsock", &vhost()).start().wait_for("LISTENING");
    let second = probe(&files, "vsock", &vhost()).run();
    assert_eq!(second.status, 2, "{second:?}");
    assert!(second.stderr.contains("context id 4242 is in use by another VM"), "{second:?}");
    first.signal(libc::SIGTERM);
    assert_eq!(first.wait().status, 143);
    // It is free again.
    let third = probe(&files, "vsock", &vhost()).start().wait_for("LISTENING");
    third.signal(libc::SIGTERM);
    assert_eq!(third.wait().status, 143);
}

#[test]
fn a_payload_reports_over_vhost() {
    let name = "a_payload_reports_over_vhost";
    let Some(files) = Files::find(name).filter(|_| has_vhost(name)) else { return };
    let app = App::new(&files, &files.apks.join("return-42.apk"));
    let life = app.with("vsock", json!({ "backend": "vhost" })).run();
    assert_eq!(life.ended.status, 42, "{life:?}");
    let names = life.names();
    assert!(names.contains(&"payload_started") && names.contains(&"payload_finished"), "{life:?}");
}

/// Sends messages of many sizes to the guest, which echoes each as one.
fn echo_messages(client: &UnixStream) {
    let sizes = [1, 2, 1000, 4052, 4053, 65_535, 100_000, 3];
    let message =
        |size: usize| -> Vec<u8> { (0..size).map(|n| n.to_le_bytes()[0] ^ size.to_le_bytes()[0]).collect() };
    let mut buffer = vec![0; 200_000];
    for size in sizes {
        assert_eq!((&mut &*client).write(&message(size)).unwrap(), size);
        let got = (&mut &*client).read(&mut buffer).unwrap();
        assert!(buffer[..got] == message(size), "{got} of {size} bytes came back");
    }
    // And all at once.
    for size in [7, 8, 9] {
        assert_eq!((&mut &*client).write(&message(size)).unwrap(), size);
    }
    for size in [7, 8, 9] {
        assert_eq!((&mut &*client).read(&mut buffer).unwrap(), size);
    }
    // The guest ends the VM when it hears of this: nothing may be under way any more.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&mut &*client).read(&mut buffer).unwrap_or(0), 0, "the end");
}

#[test]
fn messages_stay_whole_over_both_backends() {
    let name = "messages_stay_whole_over_both_backends";
    let Some(files) = Files::find(name) else { return };
    let vm = probe(&files, "messages", &json!({ "socket": "sock" }));
    let path = vm.place.path().join("sock.seqpacket");
    let running = vm.start().wait_for("LISTENING");
    let client = vsock::connect_seqpacket(&path).unwrap();
    (&mut &client).write_all(b"CONNECT 5001\n").unwrap();
    let mut answer = [0; 32];
    let got = (&mut &client).read(&mut answer).unwrap();
    assert!(answer[..got].starts_with(b"OK ") && answer[..got].ends_with(b"\n"));
    echo_messages(&client);
    drop(client);
    assert_eq!(running.wait().status, 0);
    assert!(!path.exists(), "the socket is gone with the VM");
    if has_vhost(name) {
        let running = probe(&files, "messages", &vhost()).start().wait_for("LISTENING");
        echo_messages(&vsock::connect(libc::SOCK_SEQPACKET, CID, 5001).unwrap());
        assert_eq!(running.wait().status, 0);
    }
}

#[test]
fn a_client_that_the_guest_refuses_is_turned_away() {
    let name = "a_client_that_the_guest_refuses_is_turned_away";
    let Some(files) = Files::find(name) else { return };
    let vm = probe(&files, "vsock", &json!({ "socket": "sock" }));
    let path = vm.place.path().join("sock");
    let running = vm.start().wait_for("LISTENING");
    let mut client = BufReader::new(UnixStream::connect(&path).unwrap());
    client.get_mut().write_all(b"CONNECT 5555\n").unwrap();
    let mut answer = String::new();
    assert_eq!(client.read_line(&mut answer).unwrap_or(0), 0, "{answer:?}");
    running.signal(libc::SIGTERM);
    assert_eq!(running.wait().status, 143);
}

/// Runs the kernel's own cases with one end in a guest in this mode and the other here. `skipped` cases, by number, are left
/// out at the host's end, which makes the guest's leave them out too.
fn kernel_cases(files: &Files, vsock: &Value, [guest_mode, host_mode]: [&str; 2], skipped: &[&str]) {
    let params =
        format!("console=ttyS0 reboot=k panic=-1 8250.nr_uarts=1 tsc=reliable quiet vsocktest={guest_mode}");
    let vm = RawVm::new(&[])
        .with("kernel", json!(files.os_file("kernel")))
        .with("initrd", json!(files.apks.join("vsock_test.cpio")))
        .with("memory_mib", json!(256))
        .with("params", json!(params))
        .with("vsock", vsock.clone());
    let name = if vsock["backend"] == "vhost" { "vsock_test" } else { "vsock_test_unix" };
    let program = vm.place.path().join(name);
    std::fs::copy(files.apks.join(name), &program).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cid = CID.to_string();
    let mut host = std::process::Command::new(&program);
    host.args(["--mode", host_mode, "--control-host", &cid, "--control-port", "1235", "--peer-cid", &cid]);
    host.args(skipped.iter().flat_map(|number| ["--skip", number]));
    host.env("VSOCK_PATH", vm.place.path().join("sock")).env("VSOCK_CID", &cid);
    let running = vm.start();
    let host = host.output().unwrap();
    let (here, errors) = (String::from_utf8_lossy(&host.stdout), String::from_utf8_lossy(&host.stderr));
    if !host.status.success() {
        running.signal(libc::SIGTERM);
        let guest = running.wait();
        panic!("host as {host_mode}: {here}\n{errors}\nguest: {}\n{}", guest.text(), guest.stderr);
    }
    let there = running.wait().text();
    for output in [&*here, &there] {
        let count = |word: &str| output.lines().filter(|line| line.trim_end().ends_with(word)).count();
        assert!(count("...ok") > 26 - skipped.len(), "{output}");
        assert_eq!(count("...skipped"), skipped.len(), "{output}");
        assert!(output.contains("All tests have been executed"), "{output}");
    }
}

/// Whether the programs were built, else why the test `name` cannot run, which is said.
fn has_kernel_cases(name: &str, files: &Files) -> bool {
    let built = files.apks.join("vsock_test").exists();
    if !built {
        tests::skip(name, "the Debian package linux-source-6.12 was not there when the tests were built");
    }
    built
}

#[test]
fn the_kernels_own_cases_pass_over_vhost() {
    let name = "the_kernels_own_cases_pass_over_vhost";
    let Some(files) = Files::find(name).filter(|files| has_vhost(name) && has_kernel_cases(name, files))
    else {
        return;
    };
    kernel_cases(&files, &vhost(), ["client", "server"], &[]);
    kernel_cases(&files, &vhost(), ["server", "client"], &[]);
}

/// Cases that Unix sockets at the host's end have no part in, and why.
const NOT_WITH_UNIX_SOCKETS: [(&str, &str); 4] = [
    ("6", "msg bounds: wants 2 MiB of room at the peer, and MSG_EOR"),
    ("18", "MSG_ZEROCOPY: Unix sockets have none"),
    ("19", "MSG_ZEROCOPY: Unix sockets have none"),
    ("20", "MSG_ZEROCOPY: Unix sockets have none"),
];
/// The same of the host as the one that connects.
const NOT_AT_A_UNIX_CLIENT: [(&str, &str); 1] =
    [("10", "SO_RCVLOWAT: poll of a Unix socket does not heed it")];
/// The same of the host as the one that listens.
const NOT_AT_A_UNIX_SERVER: [(&str, &str); 3] = [
    ("17", "SHUT_RD: a Unix socket shows it to its peer only when that sends"),
    ("22", "SO_RCVLOWAT, and the credit of an AF_VSOCK socket"),
    ("23", "SO_RCVLOWAT, and the credit of an AF_VSOCK socket"),
];

#[test]
fn the_kernels_own_cases_pass_over_unix_sockets() {
    let name = "the_kernels_own_cases_pass_over_unix_sockets";
    let Some(files) = Files::find(name).filter(|files| has_kernel_cases(name, files)) else { return };
    let device = json!({ "cid": CID, "socket": "sock" });
    for (modes, more) in
        [(["server", "client"], &NOT_AT_A_UNIX_CLIENT[..]), (["client", "server"], &NOT_AT_A_UNIX_SERVER[..])]
    {
        let skipped: Vec<_> = NOT_WITH_UNIX_SOCKETS.iter().chain(more).collect();
        for (number, reason) in &skipped {
            tests::skip(name, &format!("guest as {}: case {number}: {reason}", modes[0]));
        }
        let numbers: Vec<&str> = skipped.iter().map(|(number, _)| *number).collect();
        kernel_cases(&files, &device, modes, &numbers);
    }
}
