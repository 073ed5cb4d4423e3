//! A destination behind a ring: writers never wait, and what a slow reader misses is counted.
//!
//! ```text
//!   write ──> ring empty? ──yes──> destination, as much as it takes
//!                 │ no, or no room           │ rest
//!                 └────────> ring <──────────┘  8 MiB; when it is full, the oldest bytes go
//!                              └──> destination, when the event loop sees room
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_manager::{EventOps, EventSet, EventSubscriber, Events};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::destination::Destination;

/// Bytes that wait at most for a reader, where nobody asks for another number.
pub const RING_LEN: usize = 8 << 20;
/// Bytes of the end of the stream that are kept to explain how a VM died.
const TAIL_LEN: usize = 4096;

/// One stream's way out. `Write` for `&Sink` never waits and never fails.
pub struct Sink {
    state: Mutex<State>,
    /// Written when bytes begin to wait, so that the event loop watches for room.
    blocked: Option<EventFd>,
    fd: RawFd,
}

struct State {
    name: &'static str,
    to: Destination,
    ring: VecDeque<u8>,
    ring_len: usize,
    /// Bytes that were pushed out of the ring since the last word on them.
    dropped: u64,
    tail: VecDeque<u8>,
    failed: bool,
    watched: bool,
}

impl Sink {
    /// A sink that writes to `file`, for which at most `ring_len` bytes wait; `name` is how messages call the stream.
    pub fn new(name: &'static str, file: File, ring_len: usize) -> Arc<Self> {
        let to = Destination::new(file);
        let fd = to.fd();
        let state = State {
            name,
            to,
            ring: VecDeque::new(),
            ring_len,
            dropped: 0,
            tail: VecDeque::new(),
            failed: false,
            watched: false,
        };
        // Without the eventfd, waiting bytes leave with the next ones that are written.
        Arc::new(Self { state: Mutex::new(state), blocked: EventFd::new(EFD_NONBLOCK).ok(), fd })
    }

    /// Passes `bytes` on, or keeps them until they can be.
    pub fn put(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.remember(bytes);
        let waited = !state.ring.is_empty();
        let sent = if waited { 0 } else { state.send(bytes) };
        state.keep(&bytes[sent..]);
        if waited {
            state.pump();
        } else if !state.ring.is_empty()
            && let Some(blocked) = &self.blocked
        {
            // Fails only when the counter is full: then the loop is being told already.
            let _ = blocked.write(1);
        }
    }

    /// The last lines that were written: at most 4 KiB, whole lines where there are some.
    pub fn tail(&self) -> Vec<u8> {
        let state = self.lock();
        let bytes: Vec<u8> = state.tail.iter().copied().collect();
        if bytes.len() < TAIL_LEN {
            return bytes;
        }
        let start = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        bytes[start..].to_vec()
    }

    /// Whether bytes are left that the reader has no room for.
    pub fn is_waiting(&self) -> bool {
        let mut state = self.lock();
        state.pump();
        !state.ring.is_empty()
    }

    /// Waits until the reader has taken what is left; gives up on one that took nothing for `patience`, and on one that
    /// is gone. Says how much was lost.
    pub fn finish(&self, patience: Option<Duration>) {
        let mut state = self.lock();
        state.pump();
        while !state.ring.is_empty() && state.to.wait(patience) {
            let before = state.ring.len();
            state.pump();
            if state.ring.len() == before {
                break;
            }
        }
        state.dropped += state.ring.len() as u64;
        state.ring.clear();
        state.tell();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes what the destination takes now; the number of bytes that are done with.
    fn send(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && !self.failed {
            match self.to.write(&bytes[done..]) {
                Ok(0) => self.fail(&io::ErrorKind::WriteZero.into()),
                Ok(sent) => done += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return done,
                Err(error) => self.fail(&error),
            }
        }
        if self.failed { bytes.len() } else { done }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failed = true;
        self.ring = VecDeque::new();
        log::warn!("{}: its output is lost from here on: {error}", self.name);
    }

    fn keep(&mut self, bytes: &[u8]) {
        // Of more than fits, the end is what is kept.
        let bytes_lost = bytes.len().saturating_sub(self.ring_len);
        let bytes = &bytes[bytes_lost..];
        let oldest = (self.ring.len() + bytes.len()).saturating_sub(self.ring_len);
        self.ring.drain(..oldest);
        self.ring.extend(bytes);
        self.dropped += (bytes_lost + oldest) as u64;
    }

    /// Moves waiting bytes on, as far as there is room.
    fn pump(&mut self) {
        while !self.ring.is_empty() {
            let ring = std::mem::take(&mut self.ring);
            let sent = self.send(ring.as_slices().0);
            if self.failed {
                return;
            }
            self.ring = ring;
            self.ring.drain(..sent);
            if sent == 0 {
                return;
            }
        }
        // Memory that one burst took is not kept for ever.
        self.ring = VecDeque::new();
        self.tell();
    }

    fn tell(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            log::warn!("{}: {dropped} bytes were dropped, its reader did not keep up", self.name);
        }
    }

    fn remember(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_LEN)..];
        let oldest = (self.tail.len() + bytes.len()).saturating_sub(TAIL_LEN);
        self.tail.drain(..oldest);
        self.tail.extend(bytes);
    }
}

impl Write for &Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a device writes to.
pub struct Writer(pub Arc<Sink>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl EventSubscriber for Sink {
    fn init(&self, ops: &mut EventOps<'_>) {
        if let Some(blocked) = &self.blocked
            && let Err(error) = ops.add(Events::new(blocked, EventSet::IN))
        {
            log::error!("watch the output: {error}; what a slow reader left may be late");
        }
    }

    fn process(&self, events: Events, ops: &mut EventOps<'_>) {
        let mut state = self.lock();
        if let Some(blocked) = self.blocked.as_ref().filter(|it| it.as_raw_fd() == events.fd()) {
            let _ = blocked.read();
        }
        state.pump();
        // Once for each time that bytes wait: readers who keep up do not wake the loop. Files are refused, and never wait.
        let room = Events::new_raw(self.fd, EventSet::OUT | EventSet::ONE_SHOT);
        if !state.ring.is_empty() {
            let watched = if state.watched { ops.modify(room) } else { ops.add(room) };
            state.watched |= watched.is_ok();
        }
    }
}

#[cfg(test)]
mod tests;
