//! Two ways out: the serial line for PID 1's own words, and a port of the virtio console for what the payload prints.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::codes::DeathReason;

const CONSOLE: &str = "/dev/ttyS0";
const LOG: &str = "/dev/hvc0";
const FAILURE: &str = "/dev/ttyS1";

/// How long output of a payload that is gone may still take to leave: 2 s in steps of 1 ms.
const DRAIN_STEPS: u32 = 2000;

/// The serial line and the log's port; in a VM that has none, words go nowhere.
#[derive(Debug)]
pub struct Console {
    /// Never blocks: whoever reads it may be slow.
    line: Option<File>,
    /// Held open, so that its settings stay; never blocks, whatever the payload does to it.
    log: Option<File>,
}

impl Console {
    /// Opens both and makes them pass bytes on as they are.
    #[must_use]
    pub fn open() -> Self {
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let open = |device| {
            let device = OpenOptions::new().read(true).write(true).custom_flags(flags).open(device).ok()?;
            make_raw(&device);
            Some(device)
        };
        Self { line: open(CONSOLE), log: open(LOG) }
    }

    /// Writes one line, as far as the device takes it at once.
    pub fn say(&self, text: &str) {
        if let Some(mut line) = self.line.as_ref() {
            // There is nobody to tell that the console does not work.
            _ = line.write_all(format!("payload-manager: {text}\n").as_bytes());
        }
    }

    /// Tells the host, which did not hear of it otherwise, why the VM ends (formats: section 8).
    pub fn fail(&self, reason: DeathReason, detail: &str) {
        self.say(detail);
        let line = format!("{}|{}\n", reason.name(), detail.replace('\n', " "));
        if let Ok(mut failure) = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(FAILURE) {
            make_raw(&failure);
            _ = failure.write_all(line.as_bytes());
            // SAFETY: takes no memory; waits until the line is out, at the speed of a port that takes all.
            unsafe { libc::tcdrain(failure.as_raw_fd()) };
        }
    }

    /// What becomes standard output or error of the payload: it can write there, and no more.
    ///
    /// # Errors
    /// Those of open(2) for a port that is there.
    pub fn for_payload(&self) -> io::Result<Stdio> {
        if self.log.is_none() {
            return Ok(Stdio::null());
        }
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        Ok(OpenOptions::new().write(true).custom_flags(flags).open(LOG)?.into())
    }

    /// Waits until what the payload wrote is out, so that none of it is lost in the reset. Bounded, whatever state the
    /// payload left the line in.
    pub fn drain(&self) {
        let Some(log) = &self.log else { return };
        make_raw(log);
        // SAFETY: takes no memory; lets a port go on that was stopped.
        unsafe { libc::tcflow(log.as_raw_fd(), libc::TCOON) };
        for _ in 0..DRAIN_STEPS {
            let mut waiting: libc::c_int = 0;
            // SAFETY: the call fills the int it is given.
            let result = unsafe { libc::ioctl(log.as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) };
            if result != 0 || waiting == 0 {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn make_raw(terminal: &File) {
    // SAFETY: termios is plain old data, for which zeros are valid; the calls read and fill it.
    unsafe {
        let mut settings: libc::termios = mem::zeroed();
        if libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) == 0 {
            libc::cfmakeraw(&raw mut settings);
            libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const settings);
        }
    }
}
