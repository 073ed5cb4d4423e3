//! Device mapper: just enough of its ioctls to make one mapped device (`linux/dm-ioctl.h`, interface version 4.0.0).
//!
//! ```text
//!   0    version 4, 0, 0          (3 x u32)        40   device number            (u64)
//!   12   size of all of this      (u32)            48   name                     (128, zero-terminated)
//!   16   where the targets begin  (u32, = 312)     176  uuid                     (129, zero-terminated)
//!   20   how many targets         (u32)            305  padding                  (7)
//!   24   open count               (i32)            312  targets:
//!   28   flags                    (u32)              0    first sector, sectors  (2 x u64)
//!   32   event number, padding    (2 x u32)         16    status, next target    (2 x u32)
//!                                                   24    type                   (16, zero-terminated)
//!                                                   40    parameters             (zero-terminated, padded to 8)
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::report::check;

const HEADER: usize = 312;
const TARGET: usize = 40;
const READONLY: u32 = 1;

/// `_IOWR(0xfd, number, struct dm_ioctl)`.
const fn ioctl_number(number: libc::c_ulong) -> libc::c_ulong {
    (3 << 30) | ((HEADER as libc::c_ulong) << 16) | (0xfd << 8) | number
}

const DEV_CREATE: libc::c_ulong = ioctl_number(3);
/// Without the suspend flag it resumes, which makes a loaded table live.
const DEV_SUSPEND: libc::c_ulong = ioctl_number(6);
const TABLE_LOAD: libc::c_ulong = ioctl_number(9);

/// The one target of a device's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The kernel's name for the type.
    pub kind: &'static str,
    /// Size of the device in sectors of 512 bytes.
    pub sectors: u64,
    /// What the type wants to know.
    pub parameters: String,
}

/// Makes the read-only device `name` with one target, and gives its node, `/dev/dm-N`.
///
/// # Errors
/// Those of the ioctls; `InvalidInput` for names and parameters that do not fit.
pub fn create_readonly(name: &str, target: &Target) -> io::Result<PathBuf> {
    let flags = libc::O_CLOEXEC;
    let control =
        OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/mapper/control")?;
    request(&control, DEV_CREATE, &mut message(name, 0, None)?)?;
    request(&control, TABLE_LOAD, &mut message(name, READONLY, Some(target))?)?;
    let mut resume = message(name, 0, None)?;
    request(&control, DEV_SUSPEND, &mut resume)?;
    Ok(PathBuf::from(format!("/dev/dm-{}", minor(&resume))))
}

fn request(control: &File, number: libc::c_ulong, message: &mut [u8]) -> io::Result<()> {
    // SAFETY: the message has the length that it says itself, and the kernel writes no further than that.
    check(unsafe { libc::ioctl(control.as_raw_fd(), number, message.as_mut_ptr()) })?;
    Ok(())
}

/// A whole ioctl message.
fn message(name: &str, flags: u32, target: Option<&Target>) -> io::Result<Vec<u8>> {
    if name.is_empty() || name.len() >= 128 || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = vec![0; HEADER];
    if let Some(target) = target {
        if target.kind.len() >= 16 || target.parameters.contains('\0') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        bytes.resize(HEADER + TARGET, 0);
        put(&mut bytes, HEADER + 8, &target.sectors.to_le_bytes());
        put(&mut bytes, HEADER + 24, target.kind.as_bytes());
        bytes.extend_from_slice(target.parameters.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let next = u32::try_from(bytes.len() - HEADER).map_err(io::Error::other)?;
        put(&mut bytes, HEADER + 20, &next.to_le_bytes());
    }
    let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    put(&mut bytes, 0, &4_u32.to_le_bytes());
    put(&mut bytes, 12, &size.to_le_bytes());
    put(&mut bytes, 16, &312_u32.to_le_bytes());
    put(&mut bytes, 20, &u32::from(target.is_some()).to_le_bytes());
    put(&mut bytes, 28, &flags.to_le_bytes());
    put(&mut bytes, 48, name.as_bytes());
    Ok(bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The minor number in a message that the kernel has answered: bits 0 to 7 and 20 to 31 of the device number.
fn minor(message: &[u8]) -> u64 {
    let device = message[40..48].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    (device & 0xff) | ((device >> 12) & !0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        assert_eq!((DEV_CREATE, DEV_SUSPEND, TABLE_LOAD), (0xc138_fd03, 0xc138_fd06, 0xc138_fd09));
    }

    #[test]
    fn a_table_message_is_laid_out_as_drawn() {
        let target = Target { kind: "verity", sectors: 0x1234, parameters: "1 a".into() };
        let bytes = message("apk", READONLY, Some(&target)).unwrap();
        assert_eq!(bytes.len(), 312 + 40 + 8);
        assert_eq!(
            bytes[..24],
            [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x68, 1, 0, 0, 0x38, 1, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(bytes[28], 1);
        assert_eq!(&bytes[48..52], b"apk\0");
        assert_eq!(bytes[312..328], [0, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[332..336], [48, 0, 0, 0], "the next target would begin behind the padding");
        assert_eq!(&bytes[336..352], b"verity\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&bytes[352..], b"1 a\0\0\0\0\0");
        let bare = message("apk", 0, None).unwrap();
        assert_eq!((bare.len(), bare[20]), (312, 0));
    }

    #[test]
    fn names_and_parameters_that_do_not_fit_are_refused() {
        let target = |kind, parameters: &str| Target { kind, sectors: 1, parameters: parameters.into() };
        assert!(message(&"x".repeat(127), 0, None).is_ok());
        for name in ["", "a\0", &"x".repeat(128)] {
            assert!(message(name, 0, None).is_err());
        }
        assert!(message("a", 0, Some(&target("sixteen letters!", ""))).is_err());
        assert!(message("a", 0, Some(&target("verity", "1\0"))).is_err());
    }

    #[test]
    fn minors_over_255_are_put_together() {
        let mut answer = message("apk", 0, None).unwrap();
        put(&mut answer, 40, &0x0010_fd02_u64.to_le_bytes());
        assert_eq!(minor(&answer), 0x102);
    }
}
