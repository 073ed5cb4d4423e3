//! The payload's process: who it is, what it has, and its beginning.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use payload::apk::config::{Task, TaskType};
use payload::labels::APK_MOUNT;

use super::report::check;
use crate::paths::PAYLOAD_ID;

/// The program that loads a library and calls its entry point.
pub const LAUNCHER: &str = "/bin/payload-launcher";

/// The directory of native libraries in an APK for this machine.
pub const LIBRARIES: &str = if cfg!(target_arch = "aarch64") { "lib/arm64-v8a" } else { "lib/x86_64" };

/// What the payload finds in its environment; nothing else of PID 1's gets there.
const PATH: &str = "/bin";

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its path in the VM.
    pub path: String,
    /// What follows its name.
    pub args: Vec<String>,
}

impl Program {
    /// What runs `task`.
    #[must_use]
    pub fn of(task: &Task) -> Self {
        match task.kind {
            TaskType::MicrodroidLauncher => {
                let library = format!("{APK_MOUNT}/{}", Self::file_in_apk(task));
                let args = std::iter::once(library).chain(task.args.iter().cloned()).collect();
                Self { path: LAUNCHER.to_owned(), args }
            }
            TaskType::Executable => {
                Self { path: format!("{APK_MOUNT}/{}", Self::file_in_apk(task)), args: task.args.clone() }
            }
        }
    }

    /// The entry of the APK that `task` runs. A configuration may name it by the path it has in the VM.
    #[must_use]
    pub fn file_in_apk(task: &Task) -> String {
        match task.kind {
            TaskType::MicrodroidLauncher => format!("{LIBRARIES}/{}", task.command),
            TaskType::Executable => {
                let inside = task.command.strip_prefix(APK_MOUNT).unwrap_or(&task.command);
                inside.trim_start_matches('/').to_owned()
            }
        }
    }

    /// Starts it as the payload: user and group 6000, no other groups, no capabilities and no way to get any, a session of
    /// its own, standard input empty, and no descriptor but the three.
    ///
    /// # Errors
    /// Those of fork and exec, and of whatever takes privileges away: a payload never runs with any.
    pub fn start(&self, output: Stdio, errors: Stdio) -> io::Result<libc::pid_t> {
        let libraries = format!("{APK_MOUNT}/{LIBRARIES}");
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .env_clear()
            .envs([
                ("PATH", OsStr::new(PATH)),
                ("HOME", OsStr::new("/")),
                ("LD_LIBRARY_PATH", OsStr::new(&libraries)),
            ])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        // SAFETY: PID 1 has one thread, so the child may do anything; what it does is system calls without allocation.
        unsafe { command.pre_exec(|| become_unprivileged(PAYLOAD_ID)) };
        let child = command.spawn()?;
        libc::pid_t::try_from(child.id()).map_err(io::Error::other)
    }
}

/// Turns this process into one of `id` (user and group) with nothing but its three standard descriptors after exec.
///
/// # Errors
/// errno of the first step that fails; the process must then end.
pub fn become_unprivileged(id: u32) -> io::Result<()> {
    // SAFETY: all of these are system calls on numbers, but for three that read or write the plain old data they are given.
    unsafe {
        // Marked, not closed: the standard library's own pipe, which tells the parent of a failed exec, must live till then.
        check_long(libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC))?;
        check(libc::setsid())?;
        libc::umask(0o022);
        let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const nothing))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        drop_bounding_set()?;
        check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))?;
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(id, id, id))?;
        check(libc::setresuid(id, id, id))?;
        clear_capabilities()?;
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    Ok(())
}

/// Takes every capability there is out of the bounding set; the kernel says where they end.
fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: takes numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Empties the effective, permitted and inheritable sets (`capset`, version 3).
fn clear_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let sets: [u32; 6] = [0; 6];
    // SAFETY: header and sets are laid out as the call wants them: version and pid; three words for each half.
    check_long(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

fn check_long(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Forks a process of PID 1's own that is called `name`, runs as `id` without privileges and ends with `body`. Of PID 1's
/// descriptors it has those in `keep`; its standard ones lead nowhere.
///
/// # Errors
/// Those of fork(2).
pub fn fork_service(
    name: &CStr,
    id: u32,
    keep: &[RawFd],
    body: impl FnOnce() -> io::Result<()>,
) -> io::Result<libc::pid_t> {
    // SAFETY: PID 1 has one thread, so that the child is a whole process.
    let child = check(unsafe { libc::fork() })?;
    if child != 0 {
        return Ok(child);
    }
    // SAFETY: a terminated name.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    // A payload that eats all memory is not to take its own files away.
    _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let ended = keep_descriptors(keep).and_then(|()| become_unprivileged(id)).and_then(|()| body());
    // SAFETY: takes a number, does not return; nothing of PID 1's is cleaned up by its copy.
    unsafe { libc::_exit(if ended.is_ok() { 0 } else { 1 }) }
}

/// Closes every descriptor that is not in `keep`. Only for a process that never comes back to their owners.
fn keep_descriptors(keep: &[RawFd]) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut keep: Vec<libc::c_uint> = keep.iter().map(|fd| fd.cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first: libc::c_uint = 3;
    // SAFETY: takes numbers. The owners of the descriptors are never run again in this process.
    unsafe {
        for standard in 0..3 {
            check(libc::dup2(null.as_raw_fd(), standard))?;
        }
        for fd in keep.into_iter().filter(|&fd| fd >= 3) {
            if fd > first {
                check_long(libc::syscall(libc::SYS_close_range, first, fd - 1, 0))?;
            }
            first = fd + 1;
        }
        check_long(libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0))?;
    }
    // Closed just now.
    mem::forget(null);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(kind: TaskType, command: &str) -> Task {
        Task { kind, command: command.into(), args: vec!["x".into()] }
    }

    #[test]
    fn a_library_is_run_by_the_launcher() {
        let library = task(TaskType::MicrodroidLauncher, "libsample.so");
        assert_eq!(Program::file_in_apk(&library), format!("{LIBRARIES}/libsample.so"));
        let program = Program::of(&library);
        assert_eq!(program.path, LAUNCHER);
        assert_eq!(program.args, [format!("/mnt/apk/{LIBRARIES}/libsample.so"), "x".into()]);
    }

    #[test]
    fn an_executable_is_run_from_the_verified_mount_however_it_is_named() {
        for command in ["bin/tool", "/mnt/apk/bin/tool", "/bin/tool"] {
            let executable = task(TaskType::Executable, command);
            assert_eq!(Program::file_in_apk(&executable), "bin/tool");
            assert_eq!(
                Program::of(&executable),
                Program { path: "/mnt/apk/bin/tool".into(), args: vec!["x".into()] }
            );
        }
    }
}
