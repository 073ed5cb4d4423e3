//! `images demo`: everything from nothing to a payload's exit status.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::General;
use crate::host;
use crate::kvm::{self, Host};
use crate::place::Place;
use crate::prepare::{self, Part};
use crate::run::unblock_signals;
use crate::software_job::{self, OS_DIR, VMM};

/// Where the sample is inside the software host.
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
    let mut job = software_job::with_os(place, &place.vmm(), Path::new(VMM));
    software_job::take_along(&mut job, &place.sample_dir(), &["sample.apk", "app.json"], SAMPLE_DIR);
    job.arguments = ["--os-dir", OS_DIR, "--app-config", "/sample/app.json"].map(str::to_owned).to_vec();
    let end = host::run(place, &place.host_kernel(), &job, &mut std::io::stdout().lock())?;
    Ok(software_job::status(&job, &end))
}
