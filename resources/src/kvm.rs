//! Whether this machine's KVM can run Linux guests.

use std::fmt;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

/// Where VMs that boot Linux run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Here.
    Native,
    /// In the software host, and why.
    Software(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => write!(f, "The VM runs on this machine's KVM."),
            Self::Software(why) => write!(f, "The VM runs inside the software host (QEMU, emulated): {why}."),
        }
    }
}

/// Looks at this machine.
pub fn host() -> Host {
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    decide(device.err().map(|error| error.kind()), |name| Path::new("/sys/module").join(name).exists())
}

fn decide(device: Option<ErrorKind>, module: impl Fn(&str) -> bool) -> Host {
    let why = match device {
        None if ["kvm_intel", "kvm_amd"].into_iter().any(module) => return Host::Native,
        // Emulated ones lack instructions that every Linux kernel uses.
        None => {
            "its /dev/kvm is not backed by the processor's virtualisation (neither kvm_intel nor kvm_amd is loaded)"
        }
        Some(ErrorKind::NotFound) => "there is no /dev/kvm",
        Some(ErrorKind::PermissionDenied) => {
            "/dev/kvm is not accessible (`sudo usermod -aG kvm $USER` and a new login mend that)"
        }
        Some(_) => "/dev/kvm cannot be opened",
    };
    Host::Software(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_processors_own_virtualisation_runs_linux() {
        for real in ["kvm_intel", "kvm_amd"] {
            assert_eq!(decide(None, |name| name == real), Host::Native);
        }
        let why = |device, modules: bool| match decide(device, |_| modules) {
            Host::Software(why) => why,
            Host::Native => panic!("not real"),
        };
        assert!(why(None, false).contains("kvm_intel"));
        assert!(why(Some(ErrorKind::NotFound), true).contains("no /dev/kvm"));
        assert!(why(Some(ErrorKind::PermissionDenied), true).contains("usermod"));
        assert!(why(Some(ErrorKind::Other), true).contains("cannot be opened"));
    }
}
