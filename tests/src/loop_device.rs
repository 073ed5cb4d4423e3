//! A block device of the host whose bytes are a file: a loop device of the test's own.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

// linux/loop.h
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_SET_FD: libc::c_ulong = 0x4c00;
const LOOP_CLR_FD: libc::c_ulong = 0x4c01;

/// A loop device over a file, let go of when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    device: File,
}

impl LoopDevice {
    /// The first free device, over the file at `backing`.
    ///
    /// # Errors
    /// When this host has no loop devices, or keeps them from us.
    pub fn new(backing: &Path) -> io::Result<Self> {
        let open = |path: &Path| File::options().read(true).write(true).open(path);
        let control = open(Path::new("/dev/loop-control"))?;
        let backing = open(backing)?;
        loop {
            // SAFETY: the call takes nothing but the descriptor.
            let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path)?;
            // SAFETY: both are open descriptors.
            match check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD, backing.as_raw_fd()) }) {
                Ok(_) => return Ok(Self { path, device }),
                // Somebody else was faster.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open, and the device over it this one's own.
        unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_CLR_FD) };
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
