//! PID 1 of the software host: this program again, run as `/init`.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::image::{ORDER, Order};
use super::report::{self, End};
use crate::run::unblock_signals;

/// Whether this process is to be the init of a software host. In a container this program may be PID 1 too.
pub fn is_wanted() -> bool {
    std::process::id() == 1
        && std::env::args_os().next().is_some_and(|name| name == "/init")
        && Path::new(ORDER).is_file()
}

/// Sets up the machine, carries out the order, says what came of it and ends the machine.
pub fn main() -> ! {
    let set_up = set_up();
    let reports = open_serial("/dev/ttyS1");
    let end = match (set_up, &reports) {
        (Err(error), _) => End::Error(format!("set up the software host: {error}")),
        (Ok(()), Ok(reports)) => carry_out(reports).unwrap_or_else(|error| End::Error(error.to_string())),
        (Ok(()), Err(error)) => End::Error(error.to_string()),
    };
    match reports {
        Ok(reports) => say(&reports, &end.to_string()),
        // The console is all there is left to say it on.
        Err(_) => eprintln!("{end}"),
    }
    // The kernel would announce the restart even on a quiet console, in the midst of the program's output.
    let _ = fs::write("/proc/sys/kernel/printk", "0");
    // SAFETY: neither touches memory of this process.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    // Not reached; the kernel panics, and so reboots, should PID 1 ever end.
    std::process::exit(1)
}

fn set_up() -> io::Result<()> {
    let (plain, secure) = (libc::MS_NOSUID, libc::MS_NOSUID | libc::MS_NODEV);
    mount("proc", "/proc", secure, "")?;
    mount("sysfs", "/sys", secure, "")?;
    mount("devtmpfs", "/dev", plain, "mode=0755")?;
    for (dir, mode) in [("/dev/shm", "mode=1777"), ("/run", "mode=0755"), ("/tmp", "mode=1777")] {
        fs::create_dir_all(dir)?;
        // What was packed below it would be hidden.
        if fs::read_dir(dir)?.next().is_none() {
            mount("tmpfs", dir, secure, mode)?;
        }
    }
    fs::create_dir_all("/dev/pts")?;
    mount("devpts", "/dev/pts", libc::MS_NOSUID, "ptmxmode=0666,mode=620")?;
    mount("cgroup2", "/sys/fs/cgroup", secure, "")?;
    for (link, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        std::os::unix::fs::symlink(format!("/proc/self/{target}"), format!("/dev/{link}"))?;
    }
    let name = b"software-host";
    // SAFETY: the pointer is to as many bytes as the length says.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) })?;
    loopback_up()
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn mount(kind: &str, target: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let (kind_c, target_c, data_c) = (CString::new(kind)?, CString::new(target)?, CString::new(data)?);
    // SAFETY: all four are NUL-terminated strings that outlive the call.
    let result = unsafe {
        libc::mount(kind_c.as_ptr(), target_c.as_ptr(), kind_c.as_ptr(), flags, data_c.as_ptr().cast())
    };
    check(result).map_err(|error| io::Error::new(error.kind(), format!("mount {kind} on {target}: {error}")))
}

fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an ifreq is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes_with_nul()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(libc::c_short::MAX);
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which this is, with a terminated name.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// A serial port that passes bytes on as they are.
fn open_serial(path: &str) -> io::Result<File> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("open {path}: {error}"));
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).map_err(named)?;
    let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: tcgetattr fills in the whole structure when it succeeds, which is checked before it is used.
    let settings = unsafe {
        check(libc::tcgetattr(file.as_raw_fd(), settings.as_mut_ptr())).map_err(named)?;
        let mut settings = settings.assume_init();
        libc::cfmakeraw(&raw mut settings);
        libc::cfsetspeed(&raw mut settings, libc::B115200);
        settings
    };
    // SAFETY: the structure is initialised and outlives the call.
    check(unsafe { libc::tcsetattr(file.as_raw_fd(), libc::TCSANOW, &raw const settings) }).map_err(named)?;
    Ok(file)
}

fn say(mut port: &File, line: &str) {
    // Nobody is left to tell when this fails; outside, the missing end is seen.
    let _ = port.write_all(line.as_bytes());
    drain(port);
}

fn drain(port: &File) {
    // SAFETY: no memory is involved.
    unsafe { libc::tcdrain(port.as_raw_fd()) };
}

fn carry_out(reports: &File) -> io::Result<End> {
    let order: Order = serde_json::from_slice(&fs::read(ORDER)?)?;
    let console = open_serial("/dev/ttyS0")?;
    let mut command = Command::new(&order.program);
    command
        .args(&order.arguments)
        .env_clear()
        .envs(&order.environment)
        .process_group(0)
        .current_dir(&order.directory);
    command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console.try_clone()?);
    let ended = child_signal()?;
    unblock_signals(&mut command);
    let since = Instant::now();
    let child = command
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("start {}: {error}", order.program)))?;
    let child = i32::try_from(child.id()).map_err(io::Error::other)?;
    let (mut seconds, limit) = (0, Duration::from_secs(order.timeout_s));
    let end = loop {
        if let Some(end) = reap(child)? {
            break end;
        }
        if since.elapsed() >= limit {
            break End::Timeout;
        }
        let next = Duration::from_secs(seconds + 1);
        wait_for(&ended, next.min(limit).saturating_sub(since.elapsed()))?;
        if since.elapsed() >= next {
            seconds += 1;
            say(reports, &report::tick(seconds));
        }
    };
    // Whatever it left behind must not write on.
    // SAFETY: no memory is involved; -1 is every process but this one.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    drain(&console);
    Ok(end)
}

/// Blocks SIGCHLD in this thread, the only one, so that it can be waited for.
fn child_signal() -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; the others only read and change it, and this thread's mask.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        Ok(set)
    }
}

/// Waits until the signal has come or the time is over.
fn wait_for(signals: &libc::sigset_t, time: Duration) -> io::Result<()> {
    let tv_sec = libc::time_t::try_from(time.as_secs()).map_err(io::Error::other)?;
    let timeout = libc::timespec { tv_sec, tv_nsec: libc::c_long::from(time.subsec_nanos().cast_signed()) };
    // SAFETY: both pointers are to live values; no signal information is asked for.
    match check(unsafe {
        libc::sigtimedwait(std::ptr::from_ref(signals), std::ptr::null_mut(), &raw const timeout)
    }) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Err(error),
        _ => Ok(()),
    }
}

/// Collects every process that has ended, orphans too; the end of `child`, if it is among them.
fn reap(child: i32) -> io::Result<Option<End>> {
    let mut end = None;
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a live integer.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return Ok(end);
        }
        if pid == child {
            let number = |n: i32| u8::try_from(n).map_err(io::Error::other);
            end = Some(if libc::WIFSIGNALED(status) {
                End::Signal(number(libc::WTERMSIG(status))?)
            } else {
                End::Exit(number(libc::WEXITSTATUS(status))?)
            });
        }
    }
}
