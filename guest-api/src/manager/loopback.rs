//! Loop devices: a part of a file, at any byte offset, as a block device (`linux/loop.h`).
//!
//! ```text
//!   struct loop_config: 0 fd (u32) | 4 block size (u32) | 8 loop_info64 (232) | 240 reserved (64)
//!   struct loop_info64: 24 offset (u64) | 32 size limit (u64) | 52 flags (u32) | 56 file name (64) | ..
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::report::check;

const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

const CONFIG: usize = 304;
const OFFSET: usize = 8 + 24;
const SIZE_LIMIT: usize = 8 + 32;
const FLAGS: usize = 8 + 52;

/// A loop device. It is gone when this and every other user of it is.
#[derive(Debug)]
pub struct Loop {
    /// Its node, `/dev/loopN`.
    pub node: PathBuf,
    _open: File,
}

impl Loop {
    /// The `len` bytes of `backing` from byte `offset` on, read-only.
    ///
    /// # Errors
    /// Those of the ioctls.
    pub fn attach(backing: &File, offset: u64, len: u64) -> io::Result<Self> {
        let open =
            |path: &str| OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path);
        let control = open("/dev/loop-control")?;
        // PID 1 makes all loop devices, one after the other: nobody takes the free one in between.
        // SAFETY: the ioctl takes no memory.
        let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
        let node = format!("/dev/loop{number}");
        let device = open(&node)?;
        let config = config(backing, offset, len)?;
        // SAFETY: the kernel reads a loop_config, which the array is laid out and sized as.
        check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, config.as_ptr()) })?;
        Ok(Self { node: node.into(), _open: device })
    }
}

fn config(backing: &File, offset: u64, len: u64) -> io::Result<[u8; CONFIG]> {
    let mut bytes = [0; CONFIG];
    let fd = u32::try_from(backing.as_raw_fd()).map_err(io::Error::other)?;
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &fd.to_le_bytes());
    put(OFFSET, &offset.to_le_bytes());
    put(SIZE_LIMIT, &len.to_le_bytes());
    put(FLAGS, &(READ_ONLY | AUTOCLEAR).to_le_bytes());
    Ok(bytes)
}
