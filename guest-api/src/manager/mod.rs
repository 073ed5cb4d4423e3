//! PID 1 of the VM: verifies the payload, runs it, tells the host how it went, and ends the VM.
//!
//! ```text
//!   mounts ► report connection ► partitions ► metadata ► idsig ► dm-verity ► signature ► configuration
//!          ► FUSE server (child) ► payload's socket ► Started, Ack ► payload (child)
//!          ► Ready .. ► Finished | Killed | Error, Ack ► reset
//! ```
//!
//! Whatever fails is reported with a code and a sentence. Without a host there is nothing to do but to reset.

pub mod console;
pub mod contents;
pub mod dm;
pub mod launch;
pub mod loopback;
pub mod mount;
pub mod partitions;
pub mod payload_socket;
pub mod report;
pub mod steps;
pub mod supervise;
pub mod verify;
pub mod verity;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use self::console::Console;
use self::contents::tree::Tree;
use self::launch::Program;
use self::partitions::Partitions;
use self::payload_socket::PayloadSocket;
use self::report::{Host, HostGone};
use self::steps::Steps;
use self::supervise::{ChildEvents, Children, End};
use self::verify::{Failure, Verified};
use crate::codes::{DeathReason, ErrorCode};
use crate::paths::{APK_CONTENTS, PAYLOAD_ID, PAYLOAD_SOCKET};
use crate::report::{Message, Report};

const _: () = assert!(APK_CONTENTS.len() == payload::labels::APK_MOUNT.len());

/// Word of the kernel's command line that makes PID 1 say how long its steps took; `kapsel.debug=full` does as well.
const TIMES: [&str; 2] = ["kapsel.times", "kapsel.debug=full"];

/// Runs the VM over the connection that `connect` makes. Only PID 1 of a VM may call this: it ends by resetting the machine.
pub fn run(connect: impl FnOnce() -> io::Result<Host>) -> ! {
    let mut steps = Steps::begin();
    // SAFETY: takes constants. Writing to whoever is gone is to be an error, not the end.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let mounted = mount::mount_all();
    let console = Console::open();
    steps.done("mounts");
    let mut host = match connect() {
        Ok(host) => host,
        Err(error) => {
            let reason = DeathReason::MicrodroidFailedToConnectToVirtualizationService;
            console.fail(reason, &format!("connect to the host: {error}"));
            mount::reset()
        }
    };
    report_panics(host.as_fd().as_raw_fd());
    steps.done("host");
    let ended = match mounted {
        Ok(()) => live(&mut host, &console, steps),
        Err(error) => Ok(Err(Failure::new(ErrorCode::Unknown, "mount", &error))),
    };
    supervise::kill_all();
    if let Ok(result) = ended {
        let last = match result {
            Ok(report) => report,
            Err(Failure { code, message }) => Report::Error { code, message },
        };
        console.drain();
        mount::sync();
        if host.send_and_wait(&last).is_err() {
            console.say(&format!("the host did not hear this: {last:?}"));
        }
    }
    mount::reset()
}

/// Everything between the report connection and the last report.
fn live(host: &mut Host, console: &Console, mut steps: Steps) -> Result<Result<Report, Failure>, HostGone> {
    let prepared = match prepare(console, &mut steps) {
        Ok(prepared) => prepared,
        Err(failure) => return Ok(Err(failure)),
    };
    if TIMES.iter().any(|word| has_word(word)) {
        console.say(&steps.line());
    }
    if !host.send_and_wait(&Report::Started)? {
        // Stopped before there was a payload to stop.
        return Err(HostGone);
    }
    prepared.run(host, console)
}

struct Prepared {
    program: Program,
    contents: libc::pid_t,
    socket: PayloadSocket,
    events: ChildEvents,
}

fn prepare(console: &Console, steps: &mut Steps) -> Result<Prepared, Failure> {
    let failed = |what: &'static str| move |error: io::Error| Failure::new(ErrorCode::Unknown, what, &error);
    let partitions = Partitions::scan().map_err(|error| {
        Failure::new(ErrorCode::PayloadVerificationFailed, "find the payload's disk", &error)
    })?;
    steps.done("partitions");
    let verified = verify::verify_payload(&partitions, steps)?;
    for warning in &verified.warnings {
        console.say(warning);
    }
    let program = Program::of(&verified.task);
    let events = ChildEvents::new().map_err(failed("watch children"))?;
    let contents = serve_contents(verified)?;
    steps.done("contents");
    let socket = PayloadSocket::listen(Path::new(PAYLOAD_SOCKET), PAYLOAD_ID)
        .map_err(failed("listen to the payload"))?;
    let path = CString::new(PAYLOAD_SOCKET).expect("a constant without zeros");
    mount::give_to_payload_group(&path, 0o660).map_err(failed("open the socket to the payload"))?;
    steps.done("socket");
    Ok(Prepared { program, contents, socket, events })
}

/// Mounts the APK's contents and starts their server.
fn serve_contents(verified: Verified) -> Result<libc::pid_t, Failure> {
    let Verified { source, device: verity, apk, task, .. } = verified;
    let entries = apk.entries().iter().map(|entry| (entry.name.as_str(), entry.directory));
    let tree = Tree::new(entries).map_err(|error| {
        Failure::new(ErrorCode::PayloadVerificationFailed, "list the APK's contents", &error)
    })?;
    let failed = |error| Failure::new(ErrorCode::Unknown, "mount the APK's contents", &error);
    let target = CString::new(APK_CONTENTS).expect("a constant without zeros");
    let device = contents::mount(&target).map_err(failed)?;
    let program = Program::file_in_apk(&task);
    let keep = [device.as_raw_fd(), verity];
    launch::fork_service(c"apk-contents", contents::CONTENTS_ID, &keep, move || {
        contents::serve(device, tree, apk, source, Some(program))
    })
    .map_err(failed)
}

impl Prepared {
    fn run(mut self, host: &mut Host, console: &Console) -> Result<Result<Report, Failure>, HostGone> {
        let payload = console.for_payload().and_then(|output| {
            let errors = console.for_payload()?;
            self.program.start(output, errors)
        });
        let payload = match payload {
            Ok(payload) => payload,
            Err(error) => {
                let what = format!("start {:?}", self.program.path);
                return Ok(Err(Failure::new(ErrorCode::Unknown, &what, &error)));
            }
        };
        let children = Children { payload, contents: self.contents };
        Ok(match supervise::supervise(host, &mut self.socket, &self.events, children)? {
            End::Exited(exit_code) => Ok(Report::Finished { exit_code }),
            End::Killed(signal) => Ok(Report::Killed { signal }),
            End::ContentsLost => {
                let message = "the server of the APK's contents ended".to_owned();
                Err(Failure { code: ErrorCode::Unknown, message })
            }
        })
    }
}

fn has_word(word: &str) -> bool {
    std::fs::read_to_string("/proc/cmdline")
        .is_ok_and(|line| line.split_ascii_whitespace().any(|it| it == word))
}

/// The report connection, for a panic: -1 until there is one.
static REPORTS: AtomicI32 = AtomicI32::new(-1);

/// Makes a panic of PID 1 a report and a reset. Its children, which share the hook, just end.
fn report_panics(reports: RawFd) {
    REPORTS.store(reports, Ordering::Relaxed);
    std::panic::set_hook(Box::new(|panic| {
        if std::process::id() != 1 {
            // SAFETY: takes a number, does not return.
            unsafe { libc::_exit(101) };
        }
        let message = format!("payload-manager: {panic}");
        let frame = Report::Error { code: ErrorCode::Unknown, message }.to_frame();
        let reports = REPORTS.load(Ordering::Relaxed);
        let mut answer = libc::pollfd { fd: reports, events: libc::POLLIN, revents: 0 };
        // SAFETY: pointers and lengths belong together. Whatever comes back within a second is taken for the Ack.
        unsafe {
            libc::write(reports, frame.as_ptr().cast(), frame.len());
            libc::poll(&raw mut answer, 1, 1000);
        }
        mount::reset()
    }));
}
