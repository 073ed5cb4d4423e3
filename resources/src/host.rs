//! The software host: QEMU emulates a processor with AMD-V, and a Linux in it has a real `/dev/kvm`.
//!
//! ```text
//!   images host -- PROGRAM
//!     initramfs: /init (this program again), PROGRAM, its libraries, --file files, the order what to do
//!     QEMU, counting instructions as time ── ttyS0 ──> standard output, byte for byte
//!                                         `─ ttyS1 ──> a file: "tick 3", .. "end exit 0"   (`report`)
//! ```
//!
//! Time inside is virtual: 2 ns an instruction, the same on every machine. Time-outs are measured in it, inside; out here
//! only a host whose virtual time stands still is given up.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::place::Place;
use crate::run::{self, Running};

pub mod image;
pub mod init;
pub mod report;

pub use image::Job;
pub use report::End;

/// A virtual second takes 5 to 30 real ones, more on a loaded machine; without one in this time the host hangs.
const STANDSTILL: Duration = Duration::from_secs(300);
/// Kernel, page tables and what programs use, beside the files.
const SPARE_MIB: u64 = 128;

/// Runs a job in the software host with this kernel; what it writes goes to `output`.
///
/// # Errors
/// When something of it is missing, QEMU fails, or the host ends or hangs without saying what became of the program.
pub fn run(place: &Place, kernel: &Path, job: &Job, output: &mut dyn Write) -> Result<End> {
    fs::create_dir_all(&place.images).with_context(|| format!("Create {}", place.images.display()))?;
    let dir = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(&place.images)
        .context("Make a directory for the run")?;
    let initrd = dir.path().join("initramfs.cpio");
    let file = File::create(&initrd).with_context(|| format!("Create {}", initrd.display()))?;
    let size = job.archive()?.write(BufWriter::new(file))?;
    // The kernel holds the archive and what it unpacks from it at the same time.
    let least = 2 * size.div_ceil(1 << 20) + SPARE_MIB;
    ensure!(
        job.memory_mib >= least,
        "The files are {} MiB, which takes a software host of {least} MiB at least: give --memory {least} or more",
        size >> 20
    );
    let reports = dir.path().join("reports");
    let errors = dir.path().join("errors");
    let mut qemu = command(job, kernel, &initrd, &reports);
    let stderr = File::create(&errors).with_context(|| format!("Create {}", errors.display()))?;
    let (console, writer) = std::io::pipe().context("Make a pipe")?;
    qemu.stdin(Stdio::null()).stdout(writer).stderr(stderr);
    let mut running = Running::start(&mut qemu)
        .context("Start the software host, which needs QEMU (Debian package qemu-system-x86)")?;
    drop(qemu);
    let stalled = running.watched(standstill(&reports), || run::copy(console, output))?;
    let status = running.wait()?;
    run::check_interrupted()?;
    let text = fs::read_to_string(&reports).unwrap_or_default();
    if let Some(end) = report::end(&text) {
        return Ok(end);
    }
    let seconds = report::ticks(&text);
    ensure!(
        !stalled,
        "The software host hangs: its time stood still at {seconds} s for {} s",
        STANDSTILL.as_secs()
    );
    let errors = fs::read_to_string(&errors).unwrap_or_default();
    if status.success() {
        bail!(
            "The software host ended at {seconds} s without an exit status; --kernel-log shows what its kernel says"
        )
    }
    bail!("QEMU {}: {}", run::ended(status), errors.trim())
}

/// The machine that is known to work, and nothing that would depend on real time.
fn command(job: &Job, kernel: &Path, initrd: &Path, reports: &Path) -> Command {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        "-M",
        "q35",
        "-accel",
        "tcg",
        "-cpu",
        "max,+svm,+npt,-erms,-fsrm",
        "-icount",
        "shift=1,sleep=off",
    ]);
    qemu.arg("-m").arg(job.memory_mib.to_string()).args([
        "-smp",
        "1",
        "-display",
        "none",
        "-nodefaults",
        "-no-reboot",
    ]);
    qemu.args(["-serial", "stdio", "-serial"]).arg(format!("file:{}", reports.display()));
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    let quiet = if job.kernel_log { "loglevel=7" } else { "quiet loglevel=1" };
    qemu.arg("-append").arg(format!("console=ttyS0 panic=-1 {quiet}"));
    qemu
}

/// Says when the reports have not grown for so long that the host must hang.
fn standstill(reports: &Path) -> impl FnMut() -> bool + Send {
    let (mut seen, mut since) = (0, Instant::now());
    move || {
        let now = fs::metadata(reports).map_or(0, |metadata| metadata.len());
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        since.elapsed() > STANDSTILL
    }
}

/// A program as one names it on a command line: a path, or a name to look up.
///
/// # Errors
/// When there is none.
pub fn find_program(name: &Path) -> Result<PathBuf> {
    let candidates = if name.components().count() > 1 {
        vec![name.to_path_buf()]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(name)).collect()
    };
    let found = candidates.iter().find(|path| path.is_file());
    let found = found.with_context(|| format!("There is no program {}", name.display()))?;
    std::path::absolute(found).with_context(|| format!("Make {} absolute", found.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_path_or_name() {
        let shell = find_program(Path::new("sh")).unwrap();
        assert!(shell.is_absolute() && shell.ends_with("sh"));
        assert_eq!(find_program(&shell).unwrap(), shell);
        for absent in ["no-such-program-anywhere", "/no/such/program", "./no-such-program"] {
            let error = find_program(Path::new(absent)).unwrap_err().to_string();
            assert!(error.contains(absent), "{error}");
        }
    }

    #[test]
    fn the_machine_has_no_clock_but_its_instructions() {
        let job = Job { memory_mib: 512, ..Job::new("/bin/true".as_ref(), "/bin/true".as_ref()) };
        let line = run::shown(&command(&job, Path::new("/k"), Path::new("/i"), Path::new("/r")));
        for part in
            ["-icount shift=1,sleep=off", "-smp 1", "-m 512", "-kernel /k", "-initrd /i", "file:/r", "quiet"]
        {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
