//! The VM's own file systems.

use std::ffi::{CStr, CString};
use std::io;

use crate::paths::PAYLOAD_ID;

/// Flags of every mount here: nothing outside the image grants rights.
const PLAIN: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// What is mounted, in this order: target, type, flags, options.
const MOUNTS: [(&CStr, &CStr, libc::c_ulong, &CStr); 6] = [
    // Device nodes are what this one is for.
    (c"/dev", c"devtmpfs", libc::MS_NOSUID | libc::MS_NOEXEC, c"mode=0755"),
    // Processes of other users, PID 1 among them, are not the payload's business.
    (c"/proc", c"proc", PLAIN, c"hidepid=invisible"),
    (c"/sys", c"sysfs", PLAIN, c""),
    (c"/run", c"tmpfs", PLAIN, c"mode=0755"),
    (c"/tmp", c"tmpfs", PLAIN, c"mode=1777"),
    // For glibc's shm_open and sem_open.
    (c"/dev/shm", c"tmpfs", PLAIN, c"mode=1777"),
];

/// Directories made before anything is mounted on them: path, mode.
const DIRECTORIES: [(&CStr, libc::mode_t); 6] = [
    (c"/dev", 0o755),
    (c"/proc", 0o555),
    (c"/sys", 0o555),
    (c"/run", 0o755),
    (c"/tmp", 0o755),
    (c"/mnt", 0o755),
];

/// Why the VM has no file systems.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A directory cannot be made.
    #[error("make directory {path:?}")]
    Directory {
        /// Its path.
        path: CString,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file system cannot be mounted.
    #[error("mount {target:?}")]
    Mount {
        /// Where.
        target: CString,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Mounts everything the VM has besides its image and the payload's contents.
///
/// # Errors
/// [`MountError`] for the first that fails; what is mounted already is left.
pub fn mount_all() -> Result<(), MountError> {
    // SAFETY: a terminated path. The image's packer may have left any mode on `/`, without which user 6000 reaches nothing.
    unsafe { libc::chmod(c"/".as_ptr(), 0o755) };
    for (path, mode) in DIRECTORIES {
        make_directory(path, mode)?;
    }
    for (target, kind, flags, options) in MOUNTS {
        if target == c"/dev/shm" {
            make_directory(target, 0o755)?;
        }
        let source = kind;
        mount_at(source, target, kind, flags, options)
            .map_err(|source| MountError::Mount { target: target.to_owned(), source })?;
    }
    make_directory(c"/run/kapsel", 0o755)?;
    make_directory(c"/mnt/apk", 0o755)
}

/// mount(2).
///
/// # Errors
/// Those of the call.
pub fn mount_at(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    options: &CStr,
) -> io::Result<()> {
    // SAFETY: all five are valid for the call; file systems here take a string as their data.
    let result = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a directory unless it is there.
fn make_directory(path: &CStr, mode: libc::mode_t) -> Result<(), MountError> {
    // SAFETY: a terminated path.
    if unsafe { libc::mkdir(path.as_ptr(), mode) } == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    if source.kind() == io::ErrorKind::AlreadyExists {
        return Ok(());
    }
    Err(MountError::Directory { path: path.to_owned(), source })
}

/// Gives `path` to root and the payload's group with `mode`.
///
/// # Errors
/// Those of chown(2) and chmod(2).
pub fn give_to_payload_group(path: &CStr, mode: libc::mode_t) -> io::Result<()> {
    // SAFETY: a terminated path.
    let result = unsafe {
        match libc::chown(path.as_ptr(), 0, PAYLOAD_ID) {
            0 => libc::chmod(path.as_ptr(), mode),
            failed => failed,
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes cached data of every file system to its disk.
pub fn sync() {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::sync() }
}

/// Ends the VM by a reset, which on a machine without ACPI is the only way out. Never returns.
pub fn reset() -> ! {
    // The kernel would announce the restart as an emergency, which even a quiet console shows, behind the payload's log.
    // From its command line the level cannot be 0: panics would be silent too.
    let _ = std::fs::write("/proc/sys/kernel/printk", "0");
    // SAFETY: takes a constant; does not return when it works.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    let _ = std::fs::write("/proc/sys/kernel/printk", "7");
    // Only without CAP_SYS_BOOT, which PID 1 has. The end of PID 1 is a panic, and a panic is a reset.
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(1) }
}
