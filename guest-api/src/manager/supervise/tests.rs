//! A child as payload, a socket pair as the host. PID 1 has one thread and takes every child that ends, so the cases run in a
//! process of their own, forked off the test.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command as Process;

use super::*;
use crate::report::Message;

struct Case {
    host: Host,
    peer: UnixStream,
    socket: PayloadSocket,
    events: ChildEvents,
    _dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (guest, peer) = UnixStream::pair().unwrap();
        // SAFETY: takes nothing, cannot fail.
        let user = unsafe { libc::getuid() };
        Self {
            host: Host::over(File::from(OwnedFd::from(guest))),
            peer,
            socket: PayloadSocket::listen(&dir.path().join("s"), user).unwrap(),
            events: ChildEvents::new().unwrap(),
            _dir: dir,
        }
    }

    fn run(&mut self, payload: libc::pid_t, contents: libc::pid_t) -> Result<End, HostGone> {
        supervise(&mut self.host, &mut self.socket, &self.events, Children { payload, contents })
    }
}

#[allow(clippy::zombie_processes, reason = "`supervise` waits for it")]
fn shell(script: &str) -> libc::pid_t {
    let child = Process::new("/bin/sh").args(["-c", script]).spawn().unwrap();
    libc::pid_t::try_from(child.id()).unwrap()
}

const NOBODY: libc::pid_t = libc::pid_t::MAX;

#[test]
fn a_payloads_life() {
    if !Path::new("/bin/sh").exists() {
        let line = b"kapsel-skip: a_payloads_life: no /bin/sh\n";
        std::io::stderr().write_all(line).unwrap();
        return;
    }
    // SAFETY: the child has one thread and uses nothing that other threads of the test could have locked but the allocator,
    // which glibc makes usable after fork.
    let child = check(unsafe { libc::fork() }).unwrap();
    if child == 0 {
        let passed = std::panic::catch_unwind(|| {
            exits_and_signals_are_told_apart();
            a_stop_is_a_request_first_and_an_order_after_the_grace();
            the_end_of_the_contents_is_the_end();
            a_host_that_hangs_up_is_noticed();
        });
        // SAFETY: takes a number, does not return: the test's other threads are not there to be ended.
        unsafe { libc::_exit(i32::from(passed.is_err())) }
    }
    let mut status = 0;
    // SAFETY: the call fills the int it is given.
    check(unsafe { libc::waitpid(child, &raw mut status, 0) }).unwrap();
    assert_eq!(end_of(status), End::Exited(0));
}

fn exits_and_signals_are_told_apart() {
    let mut case = Case::new();
    assert_eq!(case.run(shell("exit 77"), NOBODY).unwrap(), End::Exited(77));
    assert_eq!(case.run(shell("kill -SEGV $$"), NOBODY).unwrap(), End::Killed(libc::SIGSEGV));
    assert_eq!(case.run(shell("(exit 3) & exit 4"), NOBODY).unwrap(), End::Exited(4), "not the orphan's");
}

fn a_stop_is_a_request_first_and_an_order_after_the_grace() {
    let mut case = Case::new();
    let polite = shell("trap 'exit 9' TERM; echo > /dev/null; while :; do sleep 0.05; done");
    case.peer.write_all(&Command::Stop { grace_ms: u32::MAX }.to_frame()).unwrap();
    let end = case.run(polite, NOBODY).unwrap();
    assert!(matches!(end, End::Exited(9) | End::Killed(libc::SIGTERM)), "{end:?}");

    let mut case = Case::new();
    let stubborn = shell("trap '' TERM; while :; do sleep 0.05; done");
    case.peer.write_all(&Command::Stop { grace_ms: 100 }.to_frame()).unwrap();
    case.peer.write_all(&Command::Stop { grace_ms: u32::MAX }.to_frame()).unwrap();
    let end = case.run(stubborn, NOBODY).unwrap();
    assert!(matches!(end, End::Killed(libc::SIGKILL | libc::SIGTERM)), "{end:?}");
}

fn the_end_of_the_contents_is_the_end() {
    let mut case = Case::new();
    let payload = shell("exec sleep 1000");
    assert_eq!(case.run(payload, shell("exit 0")).unwrap(), End::ContentsLost);
    signal(payload, libc::SIGKILL);
    assert_eq!(case.run(payload, NOBODY).unwrap(), End::Killed(libc::SIGKILL));
}

fn a_host_that_hangs_up_is_noticed() {
    let mut case = Case::new();
    let payload = shell("exec sleep 1000");
    let (other, gone) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut case.peer, other));
    assert!(case.run(payload, NOBODY).is_err());
    drop(gone);
    signal(payload, libc::SIGKILL);
    reap(Children { payload, contents: NOBODY });
}
