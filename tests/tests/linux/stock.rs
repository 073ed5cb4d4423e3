//! A distribution's kernel, unmodified, with its modules behind the probe program in the ramdisk and nothing on its command
//! line that would help it: found by ACPI are its devices, its processors, and how to end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tests::linux::Files;
use tests::raw_vm::RawVm;

use super::{line, sha256};

/// Where the stock kernel is, or why the test `name` cannot run, which is said.
pub fn stock_kernel(name: &str) -> Option<PathBuf> {
    let directory = std::env::var_os("KAPSEL_STOCK_KERNEL").map(PathBuf::from);
    if directory.is_none() {
        tests::skip(
            name,
            "KAPSEL_STOCK_KERNEL is not set: no stock kernel was downloaded (see cargo test-all)",
        );
    }
    directory
}

/// A VM of the stock kernel whose init does what `words` say.
fn stock(name: &str, words: &str) -> Option<RawVm> {
    let files = Files::find(name)?;
    let directory = stock_kernel(name)?;
    let initrd = [files.apks.join("probe.cpio"), directory.join("modules.cpio")];
    let vm = RawVm::new(&[])
        .with("kernel", json!(directory.join("vmlinuz")))
        .with("initrd", json!(initrd))
        .with("discovery", json!("acpi"))
        .with("memory_mib", json!(256))
        .with("params", json!(format!("console=ttyS0 panic=-1 quiet {words}")));
    Some(vm)
}

#[test]
fn a_stock_kernel_finds_everything_and_resets() {
    let name = "a_stock_kernel_finds_everything_and_resets";
    let words = "probe=devices,probe=disk,probe=random,probe=vsock end=reset";
    let words = &words.replace(",probe", " probe");
    let Some(vm) = stock(name, words) else { return };
    let vm = vm
        .with("cpu_topology", json!(2))
        .with("disks", json!([{ "image": "image" }]))
        .arg("--vsock")
        .arg("vsock");
    let image: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    vm.place.file("image", &image);
    let path = vm.place.path().join("vsock");
    let from_guest = UnixListener::bind(vm.place.path().join("vsock_6000")).unwrap();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let started = now();
    let running = vm.start().wait_for("LISTENING");
    let mut stream = BufReader::new(UnixStream::connect(&path).unwrap());
    stream.get_mut().write_all(b"CONNECT 5000\n").unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).unwrap();
    assert!(answer.starts_with("OK "), "{answer:?}");
    stream.get_mut().write_all(b"there and back").unwrap();
    stream.get_ref().shutdown(Shutdown::Write).unwrap();
    let mut echo = String::new();
    stream.read_to_string(&mut echo).unwrap();
    assert_eq!(echo, "there and back");
    let mut greeting = String::new();
    from_guest.accept().unwrap().0.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "hello");

    let ended = running.wait();
    let text = ended.text().replace('\r', "");
    let mut drivers: Vec<_> = line(&text, "virtio").split(' ').collect();
    drivers.sort_unstable();
    assert_eq!(
        drivers,
        ["virtio_blk", "virtio_console", "virtio_rng", "vmw_vsock_virtio_transport"],
        "{ended:?}"
    );
    assert_eq!(
        (line(&text, "cpus"), line(&text, "cores"), line(&text, "threads")),
        ("0-1", "0-1", "0"),
        "{ended:?}"
    );
    assert_eq!((line(&text, "clock"), line(&text, "seeded")), ("kvm-clock", "yes"), "{ended:?}");
    // By the clock of the board, read by the kernel's own driver, and by the hypervisor's.
    let seconds =
        |name| line(&text, name).parse::<u64>().unwrap_or_else(|e| panic!("{name}: {e}: {ended:?}"));
    assert!(seconds("rtc").abs_diff(seconds("time")) <= 1, "{ended:?}");
    assert!((started..=now()).contains(&seconds("time")), "{ended:?}");
    assert_eq!(line(&text, "cmdline"), format!("console=ttyS0 panic=-1 quiet {words}"));
    assert_eq!(line(&text, "vda"), format!("- {} {}", image.len(), sha256(&image)));
    assert!(text.lines().any(|l| l.len() == 64 && l.bytes().all(|b| b.is_ascii_hexdigit())), "{ended:?}");
    assert_eq!(ended.status, 0);
    assert!(ended.stderr.contains("REBOOT"), "{ended:?}");
}

#[test]
fn a_stock_kernel_hears_the_power_button_and_switches_itself_off() {
    let name = "a_stock_kernel_hears_the_power_button_and_switches_itself_off";
    let Some(vm) = stock(name, "probe=button end=poweroff") else { return };
    let running = vm.arg("--grace").arg("100").start().wait_for("WAITING");
    running.signal(libc::SIGTERM);
    let ended = running.wait();
    assert!(ended.text().contains("PRESSED"), "{ended:?}");
    assert_eq!(ended.status, 143);
    assert!(ended.stderr.contains("SHUTDOWN"), "{ended:?}");
}

#[test]
fn a_stock_kernel_that_ignores_the_power_button_is_stopped_after_the_grace() {
    let name = "a_stock_kernel_that_ignores_the_power_button_is_stopped_after_the_grace";
    // Its driver for the button is there, and nobody who would hear it.
    let Some(vm) = stock(name, "probe=devices probe=stuck") else { return };
    let running = vm.arg("--grace").arg("3").start().wait_for("seeded yes");
    running.signal(libc::SIGTERM);
    let ended = running.wait();
    assert_eq!(ended.status, 143, "{ended:?}");
    assert!(ended.stderr.contains("KILLED"), "{ended:?}");
}

#[test]
fn a_stock_kernel_whose_init_ends_is_a_crash() {
    // The panic is announced before the kernel resets, by the panic device that ACPI names.
    let name = "a_stock_kernel_whose_init_ends_is_a_crash";
    let Some(vm) = stock(name, "probe=none end=exit") else { return };
    let ended = vm.run();
    assert_eq!(ended.status, 125, "{ended:?}");
    assert!(ended.stderr.contains("CRASH") && ended.text().contains("Attempted to kill init"), "{ended:?}");
}

#[test]
fn a_stock_kernel_without_the_panic_device_resets_after_its_panic() {
    let name = "a_stock_kernel_without_the_panic_device_resets_after_its_panic";
    let Some(vm) = stock(name, "probe=none end=exit") else { return };
    let files = Files::find(name).unwrap();
    // No modules at all: nothing but the kernel itself.
    let ended = vm.with("initrd", json!(files.apks.join("probe.cpio"))).run();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stderr.contains("REBOOT") && ended.text().contains("Attempted to kill init"), "{ended:?}");
}
