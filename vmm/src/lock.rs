//! No disk file is written by one VM while another uses it: locks that belong to the open file (OFD locks), so that they
//! end with the last descriptor of it, however a process ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

fn call(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: an all-zero flock is valid: from the file's first byte to its end, wherever that is.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::c_short::try_from(kind).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SEEK_SET is 0, and l_pid has to be.
    // SAFETY: the descriptor is open, and `range` is of the type that the call reads.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut range) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Locks an open disk file: alone for one that is `writable`, with other readers else. A file system without locks is
/// taken as it is, with a line in the log.
///
/// # Errors
/// When another VM uses the file in a way that excludes this one; the text says what to do.
pub fn lock(file: &File, writable: bool) -> io::Result<()> {
    match call(file, if writable { libc::F_WRLCK } else { libc::F_RDLCK }) {
        Ok(()) => Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            let text = if writable {
                "in use, and a disk that is written must be used alone: stop the VM that has it, give this one a copy, \
                 or name the file once"
            } else {
                "another VM writes to it: stop that VM, or give this one a copy"
            };
            Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
        }
        Err(e) => {
            log::warn!("a disk file cannot be locked against use by another VM: {e}");
            Ok(())
        }
    }
}

/// Lets calls wait for the device again: io_uring takes a file that was opened not to wait at its word.
///
/// # Errors
/// When the kernel refuses.
pub fn allow_waiting(file: &File) -> io::Result<()> {
    // SAFETY: plain numbers are passed.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives up the lock of a file that is about to be opened again for writing.
pub fn unlock(file: &File) {
    // Fails only where there are no locks.
    let _ = call(file, libc::F_UNLCK);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_alone_and_readers_share() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [0; 16]).unwrap();
        let open = |writable| File::options().read(true).write(writable).open(&path).unwrap();
        let (a, b, c) = (open(false), open(false), open(true));
        lock(&a, false).unwrap();
        lock(&b, false).unwrap();
        assert!(lock(&c, true).unwrap_err().to_string().contains("stop the VM that has it"));
        unlock(&a);
        drop(b);
        lock(&c, true).unwrap();
        assert!(lock(&a, false).unwrap_err().to_string().contains("another VM writes to it"));
        assert_eq!(lock(&open(true), true).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(c);
        lock(&open(true), true).unwrap();
    }
}
