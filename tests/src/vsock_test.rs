//! `vsock_test` of the kernel's own tools, built from the sources in Debian's package with a control channel of ours. They are
//! GPL-2.0 and stay outside of this repository.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the package has them.
const ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";
const SOURCES: [&str; 5] =
    ["vsock_test.c", "vsock_test_zerocopy.c", "timeout.c", "util.c", "msg_zerocopy_common.c"];

/// The program, twice.
pub struct VsockTest {
    /// With AF_VSOCK: the guest's PID 1, and the host's end over vhost-vsock.
    pub vsock: Vec<u8>,
    /// With Unix sockets in the convention of the device in AF_VSOCK's place: the host's end over that.
    pub unix: Vec<u8>,
}

/// Compiles it, linked statically. None without the package. Unpacking takes a minute, so what was unpacked stays in `cache`.
///
/// # Errors
/// What tar or the compiler said.
pub fn build(cache: &Path) -> Result<Option<VsockTest>, String> {
    let Ok(archive) = std::fs::metadata(ARCHIVE) else { return Ok(None) };
    let sources = cache.join(format!("vsock-test-{}", archive.len()));
    if !sources.exists() {
        unpack(&sources)?;
    }
    let own = crate::compile::guests().join("vsock_test");
    let unix = ["-include".as_ref(), own.join("unix.h").as_os_str(), own.join("unix.c").as_os_str()]
        .map(OsStr::to_owned);
    Ok(Some(VsockTest { vsock: compile(&sources, &[])?, unix: compile(&sources, &unix)? }))
}

fn compile(sources: &Path, more: &[OsString]) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let program = dir.path().join("program");
    let own = crate::compile::guests().join("vsock_test");
    let mut cc = Command::new("cc");
    // As their Makefile, with what they take from the kernel's own headers for tools.
    cc.args(["-static", "-s", "-O2", "-w", "-D_GNU_SOURCE", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing"]);
    cc.args(["-fno-strict-overflow", "-include", "stdbool.h", "-DARRAY_SIZE(a)=(sizeof(a)/sizeof(*(a)))"]);
    cc.args(more).arg("-I").arg(sources).arg("-I").arg(&own).arg("-o").arg(&program);
    cc.args(SOURCES.map(|name| sources.join(name))).arg(own.join("control.c"));
    run(cc)?;
    std::fs::read(program).map_err(|e| e.to_string())
}

fn unpack(sources: &Path) -> Result<(), String> {
    let partial: PathBuf = sources.with_extension("partial");
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial).map_err(|e| format!("{}: {e}", partial.display()))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--file", ARCHIVE, "--strip-components=4", "--directory"]).arg(&partial);
    tar.args(["--wildcards", "*/tools/testing/vsock/*.[ch]"]);
    run(tar)?;
    std::fs::rename(&partial, sources).map_err(|e| format!("{}: {e}", sources.display()))
}

fn run(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
