//! An open file that can be written without waiting for whoever reads it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::Duration;

/// Bytes handed to a terminal at a time that cannot be made non-blocking: it takes this many when it says it takes any.
const TERMINAL_CHUNK: usize = 128;
/// The same for a pipe (`PIPE_BUF`).
const PIPE_CHUNK: usize = 4096;

/// How long an end of the VM waits for the reader of a named pipe that may have none.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where bytes go.
pub struct Destination {
    file: File,
    kind: Kind,
    /// What was given. Of a named pipe it is the reading end too, so that a reader may come and go.
    given: Option<File>,
}

enum Kind {
    /// Takes what there is room for: a file, or what was opened without blocking.
    Ready,
    /// A socket, which is asked each time not to block.
    Socket,
    /// Would block; so many bytes go in at once after poll(2) said that there is room.
    Polled(usize),
}

impl Destination {
    /// Whoever shares the open file with us, the shell for example, must not find it non-blocking: pipes and terminals
    /// are opened anew, and where that is not allowed, asked first and written in small pieces.
    pub fn new(file: File) -> Self {
        let kind = match file.metadata().map(|metadata| metadata.file_type()) {
            Ok(kind) if kind.is_socket() => Kind::Socket,
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
                if let Ok(anew) = File::options().write(true).custom_flags(flags).open(path) {
                    return Self { file: anew, kind: Kind::Ready, given: Some(file) };
                }
                Kind::Polled(if kind.is_fifo() { PIPE_CHUNK } else { TERMINAL_CHUNK })
            }
            _ => Kind::Ready,
        };
        Self { file, kind, given: None }
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; everything else is the end of the destination.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.kind {
            Kind::Ready => (&self.file).write(bytes),
            Kind::Socket => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: pointer and length are those of `bytes`.
                let sent = unsafe { libc::send(self.fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
                usize::try_from(sent).map_err(|_| io::Error::last_os_error())
            }
            Kind::Polled(most) => {
                if !self.wait(Some(Duration::ZERO)) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                (&self.file).write(&bytes[..bytes.len().min(most)])
            }
        }
    }

    /// Waits until there is room, or an error to be had; false when there is none within `limit`. Where we are a
    /// reader ourselves nothing tells that the others are gone: there the limit is [`PATIENCE`].
    pub fn wait(&self, limit: Option<Duration>) -> bool {
        let limit =
            if self.reads_itself() { Some(limit.map_or(PATIENCE, |it| it.min(PATIENCE))) } else { limit };
        let mut ready = libc::pollfd { fd: self.fd(), events: libc::POLLOUT, revents: 0 };
        let limit = limit.map_or(-1, |limit| i32::try_from(limit.as_millis()).unwrap_or(i32::MAX));
        // SAFETY: one valid entry.
        unsafe { libc::poll(&raw mut ready, 1, limit) > 0 }
    }

    fn reads_itself(&self) -> bool {
        self.given.as_ref().is_some_and(|given| {
            // SAFETY: asks for the flags of an open descriptor.
            let flags = unsafe { libc::fcntl(given.as_raw_fd(), libc::F_GETFL) };
            let is_pipe = given.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
            is_pipe && flags & libc::O_ACCMODE == libc::O_RDWR
        })
    }

    /// To watch it with.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
