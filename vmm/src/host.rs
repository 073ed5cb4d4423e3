//! What this host can run: found out before anything is built, said in one line.

use std::fmt;
use std::io;

use kvm_ioctls::Kvm;

use crate::arch;

/// The device through which VMs are made.
pub const KVM_DEVICE: &str = "/dev/kvm";

/// What kind of KVM this host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// Hardware virtualisation: runs everything.
    Real,
    /// A KVM whose guest kernel mode lacks instructions: tiny guests run, Linux does not.
    Emulated,
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Real => "KVM with hardware virtualisation",
            Self::Emulated => "KVM without hardware virtualisation",
        })
    }
}

/// Why no VM can be made here.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No such device.
    #[error(
        "{KVM_DEVICE} does not exist: load the module (modprobe kvm_intel or kvm_amd), enable virtualisation in the firmware, or use --host software"
    )]
    NoKvm,
    /// The device may not be opened.
    #[error(
        "{KVM_DEVICE}: permission denied: add your user to the group that owns it (usually: sudo usermod -aG kvm $USER, then log in again)"
    )]
    Permission,
    /// Another failure to open it.
    #[error("{KVM_DEVICE} cannot be opened")]
    Open(#[source] kvm_ioctls::Error),
    /// Not the stable KVM API.
    #[error("{KVM_DEVICE} speaks KVM API version {0}, expected 12")]
    ApiVersion(i32),
    /// The probe guest could not be run.
    #[error("probe what KVM can run")]
    Probe(#[from] ProbeError),
    /// Linux guests do not work here.
    #[error(
        "this host's KVM runs guest kernels in an interpreter that lacks instructions Linux needs (int3, popcnt in kernel mode): it cannot boot a Linux guest. Use --host software, or a machine with hardware virtualisation (kvm_intel, kvm_amd)"
    )]
    CannotRunLinux,
}

/// Why the probe guest could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A KVM call failed.
    #[error("{what}")]
    Kvm {
        /// The call.
        what: &'static str,
        /// Its error.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// No memory for the probe guest.
    #[error("memory of the probe guest: {0}")]
    Memory(String),
}

/// Opens KVM.
///
/// # Errors
/// With what to do about it.
pub fn open_kvm() -> Result<Kvm, HostError> {
    let kvm = Kvm::new().map_err(|e| match io::Error::from(e).kind() {
        io::ErrorKind::NotFound => HostError::NoKvm,
        io::ErrorKind::PermissionDenied => HostError::Permission,
        _ => HostError::Open(e),
    })?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        version => Err(HostError::ApiVersion(version)),
    }
}

/// The kind of this host's KVM: by its module where that tells, else by a guest of a few instructions.
///
/// # Errors
/// When the probe guest could not be run.
pub fn kind(kvm: &Kvm) -> Result<HostKind, HostError> {
    if arch::kvm_modules_are_real() || arch::probe_kernel_mode(kvm)? {
        Ok(HostKind::Real)
    } else {
        Ok(HostKind::Emulated)
    }
}

/// Bytes of RAM that this host has.
///
/// # Errors
/// When the kernel does not tell.
pub fn total_memory() -> io::Result<u64> {
    // SAFETY: sysconf takes no pointer.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    match (u64::try_from(pages), u64::try_from(size)) {
        (Ok(pages), Ok(size)) => Ok(pages.saturating_mul(size)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets this process have as many descriptors as it is allowed: each vsock connection is one, and what is given by
/// default is meant for programs that use select().
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives across both calls, which only read or write it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            // Fails only where something forbids it, and then fewer connections fit.
            let _ = libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
