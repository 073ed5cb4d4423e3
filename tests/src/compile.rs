//! Compiles the payloads and programs of `tests/guests`, with the C compiler of the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the guests' sources.
pub fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests")
}

fn guest_api() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-api")
}

/// Compiles the payload library of `source`, linked against the stub of `libvm_payload.so` as any payload is.
///
/// # Errors
/// What the compiler said.
pub fn payload(source: &Path) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (api, stub) = (guest_api(), dir.path().join("libvm_payload.so"));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-Wl,-soname,libvm_payload.so"]);
    cc.arg(format!("-Wl,--version-script={}", api.join("libvm_payload.map.txt").display()));
    cc.arg("-I").arg(api.join("include")).arg("-o").arg(&stub).arg(api.join("stub/stub.c"));
    run(cc)?;
    let library = dir.path().join("payload.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-I"]).arg(api.join("include"));
    cc.arg("-o").arg(&library).arg(source).arg("-L").arg(dir.path()).arg("-lvm_payload");
    run(cc)?;
    std::fs::read(library).map_err(|e| e.to_string())
}

/// Compiles the program of `source`, a file or a directory of files, linked statically: it runs alone in an initramfs.
///
/// # Errors
/// What the compiler said.
pub fn program(source: &Path) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let program = dir.path().join("program");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-s", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .args(sources(source)?);
    run(cc)?;
    std::fs::read(program).map_err(|e| e.to_string())
}

/// The C files of a program.
fn sources(source: &Path) -> Result<Vec<PathBuf>, String> {
    if source.is_file() {
        return Ok(vec![source.to_path_buf()]);
    }
    let failed = |e: std::io::Error| format!("{}: {e}", source.display());
    let entries = source.read_dir().map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "c"));
    files.sort();
    Ok(files)
}

/// Compiles the kernel of `source`, which stands alone: an ELF64 entered at `_start`, loaded at 61 MiB: low memory is its to play with.
///
/// # Errors
/// What the compiler said.
pub fn kernel(source: &Path) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let kernel = dir.path().join("kernel");
    let mut cc = Command::new("cc");
    cc.args([
        "-ffreestanding",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-fno-pic",
        "-mno-red-zone",
        "-mgeneral-regs-only",
    ]);
    cc.args([
        "-fno-stack-protector",
        "-fcf-protection=none",
        "-fno-asynchronous-unwind-tables",
        "-Wl,--build-id=none",
    ]);
    cc.args([
        "-Wl,-Ttext-segment=0x3d00000",
        "-Wl,-z,noseparate-code",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
    ]);
    cc.arg(&kernel).arg(source);
    run(cc)?;
    std::fs::read(kernel).map_err(|e| e.to_string())
}

fn run(mut cc: Command) -> Result<(), String> {
    let output = cc.output().map_err(|e| format!("{cc:?}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{cc:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
