//! Fixtures of the tests that see every crate: tiny guests, a runner for the `vmm` executable, skips that are seen.
//!
//! ```text
//!   guests::hello() ── code ──> elf::flat() ── kernel file ──> RawVm ── vmm --raw-config ──> Ended {status, stdout, stderr}
//! ```

pub mod apk;
pub mod bench;
pub mod compile;
pub mod cpio;
pub mod elf;
pub mod figures;
pub mod guests;
pub mod host;
pub mod linux;
pub mod loop_device;
pub mod peers;
pub mod process;
pub mod raw_vm;
pub mod small_fs;
pub mod vsock;
pub mod vsock_test;

use std::io::Write;

/// Tells that the test `name` cannot run here and why; the caller then returns. The line goes straight to stderr, past
/// the capture of the test harness, and `images test-all` counts it.
pub fn skip(name: &str, reason: &str) {
    // One write, so that lines of parallel tests do not mix; nobody is left to tell if stderr is closed.
    let _ = std::io::stderr().write_all(format!("kapsel-skip: {name}: {reason}\n").as_bytes());
}
