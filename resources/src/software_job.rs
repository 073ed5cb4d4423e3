//! Jobs of the software host that run VMs: the guest's OS goes with them.

use std::path::{Path, PathBuf};

use crate::host::{End, Job};
use crate::place::Place;

/// Where the monitor is inside the software host.
pub const VMM: &str = "/usr/bin/vmm";
/// Where the guest's OS is.
pub const OS_DIR: &str = "/os";

/// A job of this program with the guest's kernel and image beside it.
pub fn with_os(place: &Place, program: &Path, to: &Path) -> Job {
    let mut job = Job::new(program, to);
    take_along(&mut job, &place.os_dir(), &["microdroid.json", "vmlinux", "initramfs.cpio"], OS_DIR);
    job
}

/// Takes the files `names` of `dir` along, into `into`.
pub fn take_along(job: &mut Job, dir: &Path, names: &[&str], into: &str) {
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
