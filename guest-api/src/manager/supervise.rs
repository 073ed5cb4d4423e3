//! The payload's life: one thread, one poll.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use super::payload_socket::PayloadSocket;
use super::report::{Host, HostGone, check};
use crate::report::{Command, Report};
use crate::requests::{Request, Status};

/// How a payload's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It returned, or called exit.
    Exited(i32),
    /// A signal ended it.
    Killed(i32),
    /// The server of its files is gone, and so is the payload.
    ContentsLost,
}

/// PID 1's children.
#[derive(Clone, Copy, Debug)]
pub struct Children {
    /// The payload's process.
    pub payload: libc::pid_t,
    /// The server of the APK's contents.
    pub contents: libc::pid_t,
}

/// SIGCHLD as a descriptor. Children begun after this inherit a blocked SIGCHLD and have to unblock it.
#[derive(Debug)]
pub struct ChildEvents(OwnedFd);

impl ChildEvents {
    /// Blocks SIGCHLD in this thread and makes the descriptor.
    ///
    /// # Errors
    /// Those of the calls.
    pub fn new() -> io::Result<Self> {
        // SAFETY: sigset_t is plain old data that sigemptyset fills; the descriptor is new and owned by nobody else.
        unsafe {
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()))?;
            let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Forgets what has come; whoever ended is found by waitpid.
    fn clear(&self) {
        let mut events = [0_u8; 1024];
        // SAFETY: pointer and length belong together.
        while unsafe { libc::read(self.0.as_raw_fd(), events.as_mut_ptr().cast(), events.len()) } > 0 {}
    }
}

/// Serves the payload and the host until the payload has ended.
///
/// # Errors
/// [`HostGone`]; the children are left as they are.
pub fn supervise(
    host: &mut Host,
    socket: &mut PayloadSocket,
    events: &ChildEvents,
    children: Children,
) -> Result<End, HostGone> {
    let mut deadline: Option<Instant> = None;
    let mut ready = false;
    loop {
        while let Some(command) = host.next_command()? {
            if let Command::Stop { grace_ms } = command {
                signal(children.payload, libc::SIGTERM);
                let end = Instant::now() + Duration::from_millis(u64::from(grace_ms));
                deadline = Some(deadline.map_or(end, |earlier| earlier.min(end)));
            }
        }
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            signal(children.payload, libc::SIGKILL);
            deadline = None;
            continue;
        }
        if wait(host, socket, events, left) {
            host.fill()?;
        }
        let mut gone = Ok(());
        socket.serve(|Request::NotifyReady| {
            if !ready {
                ready = true;
                gone = host.send(&Report::Ready);
            }
            if gone.is_ok() { Status::Ok } else { Status::Failed }
        });
        gone?;
        events.clear();
        if let Some(end) = reap(children) {
            return Ok(end);
        }
    }
}

/// Waits for anything to happen; whether the host is part of it.
fn wait(host: &Host, socket: &PayloadSocket, events: &ChildEvents, left: Option<Duration>) -> bool {
    let entry = |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut sources: Vec<_> =
        [host.as_fd(), events.0.as_fd()].into_iter().chain(socket.sources()).map(entry).collect();
    // Up to the next whole millisecond, so that no time is spent on waking too early.
    let timeout = left.map_or(-1, |left| i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    let count = libc::nfds_t::try_from(sources.len()).expect("a few");
    // SAFETY: pointer and count belong together. An error (a signal) leaves every `revents` zero.
    unsafe { libc::poll(sources.as_mut_ptr(), count, timeout) };
    sources[0].revents != 0
}

/// Collects every child that has ended, orphans of the payload among them.
fn reap(children: Children) -> Option<End> {
    let mut payload = None;
    let mut contents = false;
    loop {
        let mut status = 0;
        // SAFETY: the call fills the int it is given.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            pid if pid == children.payload => payload = Some(end_of(status)),
            pid if pid == children.contents => contents = true,
            pid if pid <= 0 => break,
            _ => {}
        }
    }
    payload.or(contents.then_some(End::ContentsLost))
}

fn end_of(status: libc::c_int) -> End {
    if libc::WIFSIGNALED(status) {
        End::Killed(libc::WTERMSIG(status))
    } else {
        End::Exited(libc::WEXITSTATUS(status))
    }
}

/// Ends every process but PID 1, so that nothing of the payload outlives it. Does nothing where this is not PID 1.
pub fn kill_all() {
    if std::process::id() == 1 {
        signal(-1, libc::SIGKILL);
    }
}

fn signal(process: libc::pid_t, number: libc::c_int) {
    // SAFETY: takes numbers. The process is a child that was not reaped, so its number is still its own.
    unsafe { libc::kill(process, number) };
}

#[cfg(test)]
mod tests;
