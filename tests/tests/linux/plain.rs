//! What else a Linux guest finds: random numbers, sockets, processors; and what becomes of its panic.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::json;
use tests::linux::{App, Files};

use super::{line, probe};

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
