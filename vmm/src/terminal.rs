//! The user's terminal as the VM's console: raw while the VM runs, and `Ctrl-A x` to leave.

use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use crate::Vm;
use crate::vm::{ConsoleInput, VmHandle};

/// Ctrl-A.
const ESCAPE: u8 = 0x01;
/// How long input waits for a guest that does not read, before it is offered again.
const PAUSE: Duration = Duration::from_millis(10);

/// Standard input connected to a VM; the terminal is as it was before when this is dropped.
pub struct Terminal {
    restore: Option<(OwnedFd, libc::termios)>,
}

impl Terminal {
    /// Passes standard input on to `vm`'s console, from a thread that ends with the process. A terminal is put
    /// into raw mode; anything else is passed on to its end.
    ///
    /// # Errors
    /// When standard input is closed, or no thread can be made.
    pub fn connect(vm: &Vm) -> io::Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let terminal = Self { restore: if stdin.is_terminal() { Some(make_raw(stdin)?) } else { None } };
        let (input, stop) = (vm.console_input(), vm.handle());
        let is_terminal = terminal.restore.is_some();
        thread::Builder::new()
            .name("console input".to_owned())
            .spawn(move || pass_on(io::stdin().lock(), is_terminal, &input, &stop))?;
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some((terminal, settings)) = &self.restore {
            // SAFETY: the settings were filled by tcgetattr.
            unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSAFLUSH, settings) };
        }
    }
}

fn make_raw(terminal: OwnedFd) -> io::Result<(OwnedFd, libc::termios)> {
    // SAFETY: termios is plain old data, for which zeros are valid; the calls read and fill it.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        if libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut raw = settings;
        libc::cfmakeraw(&raw mut raw);
        // Messages of ours still end their lines properly; a guest's carriage returns are its own.
        raw.c_oflag |= libc::OPOST | libc::ONLCR;
        if libc::tcsetattr(terminal.as_raw_fd(), libc::TCSAFLUSH, &raw const raw) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((terminal, settings))
    }
}

fn pass_on(mut from: impl Read, escapes: bool, to: &ConsoleInput, stop: &VmHandle) {
    let mut keys = Keys { escapes, escaped: false };
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let (bytes, leave) = keys.translate(&buffer[..count]);
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            left = &left[to.type_in(left)..];
            if !left.is_empty() {
                thread::sleep(PAUSE);
            }
        }
        if leave {
            return stop.stop();
        }
    }
}

/// What keys mean: Ctrl-A x leaves, Ctrl-A Ctrl-A is Ctrl-A, everything else is itself.
struct Keys {
    escapes: bool,
    escaped: bool,
}

impl Keys {
    /// The bytes for the guest, and whether the user wants to leave after them.
    fn translate(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if !self.escapes {
            return (typed.to_vec(), false);
        }
        let mut bytes = Vec::with_capacity(typed.len());
        for byte in typed {
            match (std::mem::take(&mut self.escaped), *byte) {
                (true, b'x' | b'X') => return (bytes, true),
                (true, ESCAPE) => bytes.push(ESCAPE),
                (true, other) => bytes.extend([ESCAPE, other]),
                (false, ESCAPE) => self.escaped = true,
                (false, other) => bytes.push(other),
            }
        }
        (bytes, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_reach_the_guest_but_for_the_way_out() {
        let mut keys = Keys { escapes: true, escaped: false };
        assert_eq!(keys.translate(b"ls\r\x03"), (b"ls\r\x03".to_vec(), false));
        assert_eq!(keys.translate(b"a\x01"), (b"a".to_vec(), false), "it may come in two reads");
        assert_eq!(keys.translate(b"\x01\x01bc"), (b"\x01\x01bc".to_vec(), false));
        assert_eq!(keys.translate(b"d\x01xe"), (b"d".to_vec(), true));
    }

    #[test]
    fn what_is_no_terminal_is_passed_on_as_it_is() {
        let mut keys = Keys { escapes: false, escaped: false };
        assert_eq!(keys.translate(b"\x01x"), (b"\x01x".to_vec(), false));
    }
}
