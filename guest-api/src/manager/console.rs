//! The serial line: PID 1's own words until the payload starts, the payload's output after that.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

const DEVICE: &str = "/dev/ttyS0";

/// How long output of a payload that is gone may still take to leave: 2 s in steps of 1 ms.
const DRAIN_STEPS: u32 = 2000;

/// The serial line; in a VM that has none, words go nowhere.
#[derive(Debug)]
pub struct Console {
    /// Never blocks, or a payload that stops the line's flow would stop PID 1 as well.
    line: Option<File>,
}

impl Console {
    /// Opens the line and makes it pass bytes on as they are.
    #[must_use]
    pub fn open() -> Self {
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let line = OpenOptions::new().read(true).write(true).custom_flags(flags).open(DEVICE).ok();
        let console = Self { line };
        console.make_raw();
        console
    }

    /// Writes one line, as far as the device takes it at once.
    pub fn say(&self, text: &str) {
        if let Some(mut line) = self.line.as_ref() {
            // There is nobody to tell that the console does not work.
            _ = line.write_all(format!("payload-manager: {text}\n").as_bytes());
        }
    }

    /// What becomes standard output or error of the payload: it can write there, and no more.
    ///
    /// # Errors
    /// Those of open(2) for a line that is there.
    pub fn for_payload(&self) -> io::Result<Stdio> {
        if self.line.is_none() {
            return Ok(Stdio::null());
        }
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        Ok(OpenOptions::new().write(true).custom_flags(flags).open(DEVICE)?.into())
    }

    /// Waits until what the payload wrote is out, so that none of it is lost in the reset. Bounded, whatever state the
    /// payload left the line in.
    pub fn drain(&self) {
        let Some(line) = &self.line else { return };
        self.make_raw();
        // SAFETY: takes no memory; lets a line go on that was stopped.
        unsafe { libc::tcflow(line.as_raw_fd(), libc::TCOON) };
        for _ in 0..DRAIN_STEPS {
            let mut waiting: libc::c_int = 0;
            // SAFETY: the call fills the int it is given.
            let result = unsafe { libc::ioctl(line.as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) };
            if result != 0 || waiting == 0 {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn make_raw(&self) {
        let Some(line) = &self.line else { return };
        // SAFETY: termios is plain old data, for which zeros are valid; the calls read and fill it.
        unsafe {
            let mut settings: libc::termios = mem::zeroed();
            if libc::tcgetattr(line.as_raw_fd(), &raw mut settings) == 0 {
                libc::cfmakeraw(&raw mut settings);
                libc::tcsetattr(line.as_raw_fd(), libc::TCSANOW, &raw const settings);
            }
        }
    }
}
