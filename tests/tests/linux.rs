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
#[path = "linux/disks.rs"]
mod disks;
#[path = "linux/faults.rs"]
mod faults;
#[path = "linux/hostile.rs"]
mod hostile;
#[path = "linux/payload.rs"]
mod payload;
#[path = "linux/plain.rs"]
mod plain;
#[path = "linux/stock.rs"]
mod stock;
#[path = "linux/stop.rs"]
mod stop;

use serde_json::json;
use sha2::{Digest, Sha256};
use tests::linux::{App, Files};
use tests::process::Running;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What the descriptors of a process are.
fn descriptors(process: &Running) -> Vec<String> {
    let dir = format!("/proc/{}/fd", process.id());
    let links = std::fs::read_dir(dir).unwrap().map(|entry| std::fs::read_link(entry.unwrap().path()));
    links.flatten().map(|target| target.display().to_string()).collect()
}

/// Bytes of a process that are in memory.
fn resident(process: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// An OS directory whose initial ramdisk is the probe program.
fn probe_os(files: &Files, app: &App) {
    let description = json!({
        "kernel": files.os_file("kernel"), "initrd": files.apks.join("probe.cpio"), "glibc": "2.99", "version": "test",
    });
    app.place.file("microdroid.json", description.to_string().as_bytes());
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
