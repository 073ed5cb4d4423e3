//! What this host can run.

use std::fs::File;
use std::io;
use std::path::Path;

/// Whether `/dev/kvm` can be opened, or why not.
///
/// # Errors
/// What opening it said.
pub fn open_kvm() -> io::Result<()> {
    File::options().read(true).write(true).open("/dev/kvm").map(|_| ())
}

/// Whether KVM uses the processor's virtualization, so that ring 0 of a guest has every instruction.
pub fn kvm_is_real() -> bool {
    ["/sys/module/kvm_intel", "/sys/module/kvm_amd"].iter().any(|module| Path::new(module).exists())
}
