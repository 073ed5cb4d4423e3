//! A file system that is soon full: a tmpfs in a mount namespace of the test's own, which nobody else sees.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

/// Does `work`, and what it starts, where a file system with room for `bytes` bytes is mounted at `directory`.
///
/// # Errors
/// When this process may not have a mount namespace of its own.
///
/// # Panics
/// When `work` does.
pub fn with<T: Send>(directory: &Path, bytes: usize, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let directory = CString::new(directory.as_os_str().as_bytes())?;
    thread::scope(|scope| {
        // A namespace belongs to a thread and to the processes that it starts, and goes with them.
        let thread = scope.spawn(move || mount(&directory, bytes).map(|()| work()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mount(directory: &CString, bytes: usize) -> io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let options = CString::new(format!("size={bytes}"))?;
    let none = std::ptr::null();
    // SAFETY: all strings end with a zero and outlive the calls; only this thread leaves its namespace.
    unsafe {
        check(libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS))?;
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
        let kind = c"tmpfs".as_ptr();
        check(libc::mount(kind, directory.as_ptr(), kind, 0, options.as_ptr().cast()))
    }
}
