//! `images demo`: everything from nothing to a payload's exit status.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::General;
use crate::host::{self, End, Job};
use crate::kvm::{self, Host};
use crate::place::Place;
use crate::prepare::{self, Part};
use crate::run::unblock_signals;

/// Where the files are inside the software host.
pub const VMM: &str = "/usr/bin/vmm";
pub const OS_DIR: &str = "/os";
const SAMPLE_DIR: &str = "/sample";

/// Builds what is missing and runs the sample payload; the exit status is the payload's.
///
/// # Errors
/// When something cannot be built or started.
pub fn run(place: &Place, general: General) -> Result<u8> {
    let machine = kvm::host();
    let mut parts = BTreeSet::from([Part::Guest, Part::Sample, Part::Vmm]);
    if machine != Host::Native {
        parts.insert(Part::Host);
    }
    prepare::prepare(place, general, &parts)?;
    eprintln!("{machine}");
    let app = place.sample_dir().join("app.json");
    if machine == Host::Native {
        let mut vmm = Command::new(place.vmm());
        vmm.arg("--os-dir").arg(place.os_dir()).arg("--app-config").arg(app);
        // It takes this process's place: signals and the exit status need no passing on.
        return Err(unblock_signals(&mut vmm).exec())
            .with_context(|| format!("Start {}", place.vmm().display()));
    }
    let mut job = software_job(place, &place.vmm(), Path::new(VMM));
    take_along(&mut job, &place.sample_dir(), &["sample.apk", "app.json"], SAMPLE_DIR);
    job.arguments = ["--os-dir", OS_DIR, "--app-config", "/sample/app.json"].map(str::to_owned).to_vec();
    let end = host::run(place, &place.host_kernel(), &job, &mut std::io::stdout().lock())?;
    Ok(status(&job, &end))
}

/// A job of this program with the guest's kernel and image beside it.
pub fn software_job(place: &Place, program: &Path, to: &Path) -> Job {
    let mut job = Job::new(program, to);
    take_along(&mut job, &place.os_dir(), &["microdroid.json", "vmlinux", "initramfs.cpio"], OS_DIR);
    job
}

fn take_along(job: &mut Job, dir: &Path, names: &[&str], into: &str) {
    job.files.extend(names.iter().map(|name| (dir.join(name), PathBuf::from(into).join(name))));
}

/// The exit status for how a job ended, and a line about it where it did not end by itself.
pub fn status(job: &Job, end: &End) -> u8 {
    match end {
        End::Timeout => eprintln!("{} ran for longer than {} s", job.program.display(), job.timeout_s),
        End::Error(why) => eprintln!("Error: {why}"),
        End::Exit(_) | End::Signal(_) => {}
    }
    end.status()
}
