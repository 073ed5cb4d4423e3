//! The host's half of the payload's state: one privileged vsock connection from the guest's payload manager.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use guest_api::ports::may_report;
use guest_api::report::Message;
use guest_api::{Command, Decoder, PayloadState, Report};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::exit::LastWord;

/// What happens to a VM and its payload, in the order in which it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifeEvent {
    /// The VM is built; its vCPUs start to run.
    Created,
    /// The guest's payload manager runs and reached the host.
    Booted,
    /// The payload is verified and is about to run.
    PayloadStarted,
    /// The payload says that it is ready.
    PayloadReady,
    /// The payload ended, or the guest could not run it.
    PayloadEnded(LastWord),
}

/// Hands the one connection that counts from the vsock device to the event loop.
pub struct Door {
    connection: Mutex<DoorState>,
    wake: EventFd,
}

enum DoorState {
    Open,
    Taken(UnixStream),
    Closed,
}

impl Door {
    /// A door that lets one connection in.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { connection: Mutex::new(DoorState::Open), wake: EventFd::new(EFD_NONBLOCK)? }))
    }

    /// Answers a connection from the guest's `source_port`: the device's end of a stream, or none to refuse.
    /// Payloads cannot bind ports under 1024, so they can neither take the place of the manager nor follow it.
    pub fn knock(&self, source_port: u32) -> Option<UnixStream> {
        let (ours, device) = UnixStream::pair().ok()?;
        ours.set_nonblocking(true).ok()?;
        self.admit(source_port, ours).then_some(device)
    }

    /// The same of a connection that is there already and does not block; false when it is refused.
    pub fn admit(&self, source_port: u32, stream: UnixStream) -> bool {
        let mut state = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = may_report(source_port) && matches!(*state, DoorState::Open);
        if admitted {
            *state = DoorState::Taken(stream);
            // Fails only when the counter is full.
            let _ = self.wake.write(1);
        }
        admitted
    }

    /// Readable once a connection came in.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// The connection, once.
    pub fn take(&self) -> Option<UnixStream> {
        let _ = self.wake.read();
        let mut state = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, DoorState::Closed) {
            DoorState::Taken(stream) => Some(stream),
            other => {
                *state = other;
                None
            }
        }
    }
}

/// Why the connection to the payload manager is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Reading or writing failed.
    #[error("connection to the payload manager")]
    Io(#[from] io::Error),
    /// Not a frame of the protocol.
    #[error("report of the payload manager")]
    Frame(#[from] guest_api::FrameError),
    /// A state that is not later than the one before.
    #[error("the payload manager reported {next:?} after {state:?}")]
    Order {
        /// The state before.
        state: PayloadState,
        /// The report that does not follow it.
        next: Report,
    },
}

/// The payload's state as the manager reports it; moves forward only.
pub struct GuestLink {
    stream: UnixStream,
    decoder: Decoder<Report>,
    state: PayloadState,
}

impl GuestLink {
    /// Listens to the manager on `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::new(), state: PayloadState::Starting }
    }

    /// The descriptor to watch.
    pub fn fd(&self) -> std::os::fd::RawFd {
        self.stream.as_raw_fd()
    }

    /// Reads what is there, calls `each` for every state change, then acknowledges it. `Ok(false)` at the end
    /// of the stream.
    ///
    /// # Errors
    /// When the guest breaks the protocol: nothing it says after that counts.
    pub fn receive(&mut self, mut each: impl FnMut(LifeEvent)) -> Result<bool, GuestError> {
        let mut bytes = [0; 4096];
        // One read per wake-up: a chatty guest does not keep the event loop from its other work.
        let n = match self.stream.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(e) => return Err(e.into()),
        };
        self.decoder.push(&bytes[..n]);
        while let Some(report) = self.decoder.pop()? {
            let acknowledge = report != Report::Ready;
            let event = self.advance(report)?;
            each(event);
            if acknowledge {
                self.stream.write_all(&Command::Ack.to_frame())?;
            }
        }
        Ok(true)
    }

    /// Has the manager end the payload: SIGTERM now, SIGKILL after `grace`.
    ///
    /// # Errors
    /// When the manager does not take it.
    pub fn stop(&mut self, grace: Duration) -> io::Result<()> {
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        self.stream.write_all(&Command::Stop { grace_ms }.to_frame())
    }

    fn advance(&mut self, report: Report) -> Result<LifeEvent, GuestError> {
        let (next, event) = match &report {
            Report::Started => (PayloadState::Started, LifeEvent::PayloadStarted),
            Report::Ready => (PayloadState::Ready, LifeEvent::PayloadReady),
            Report::Finished { exit_code } => (
                PayloadState::Finished,
                LifeEvent::PayloadEnded(LastWord::Finished { exit_code: *exit_code }),
            ),
            Report::Killed { signal } => {
                (PayloadState::Finished, LifeEvent::PayloadEnded(LastWord::Killed { signal: *signal }))
            }
            Report::Error { code, message } => (
                PayloadState::Finished,
                LifeEvent::PayloadEnded(LastWord::Error { code: *code, message: message.clone() }),
            ),
        };
        let follows = match report {
            Report::Ready | Report::Finished { .. } | Report::Killed { .. } => {
                self.state >= PayloadState::Started
            }
            Report::Started | Report::Error { .. } => true,
        };
        if !follows || !self.state.advance(next) {
            return Err(GuestError::Order { state: self.state, next: report });
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> (GuestLink, UnixStream) {
        let (host, guest) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        (GuestLink::new(host), guest)
    }

    fn send(guest: &mut UnixStream, report: &Report) {
        guest.write_all(&report.to_frame()).unwrap();
    }

    #[test]
    fn only_one_privileged_connection_is_let_in() {
        let door = Door::new().unwrap();
        assert!(door.knock(1024).is_none(), "a payload can bind 1024");
        assert!(door.take().is_none());
        assert!(door.knock(1023).is_some());
        assert!(door.knock(1000).is_none(), "a second one is refused while the first waits");
        assert!(door.take().is_some());
        assert!(door.knock(1000).is_none(), "and after it was taken");
    }

    #[test]
    fn states_move_forward_only() {
        let (mut host, mut guest) = link();
        send(&mut guest, &Report::Started);
        send(&mut guest, &Report::Ready);
        let mut events = Vec::new();
        assert!(host.receive(|e| events.push(e)).unwrap());
        assert_eq!(events, [LifeEvent::PayloadStarted, LifeEvent::PayloadReady]);
        let mut ack = [0; 64];
        let n = guest.read(&mut ack).unwrap();
        assert_eq!(ack[..n], Command::Ack.to_frame(), "Started is acknowledged, Ready is not");
        send(&mut guest, &Report::Started);
        assert!(matches!(host.receive(|_| panic!("no event")), Err(GuestError::Order { .. })));
    }

    #[test]
    fn nothing_is_ready_or_finished_before_it_started() {
        for report in [Report::Ready, Report::Finished { exit_code: 0 }, Report::Killed { signal: 9 }] {
            let (mut host, mut guest) = link();
            send(&mut guest, &report);
            assert!(matches!(host.receive(|_| panic!("no event")), Err(GuestError::Order { .. })));
        }
    }

    #[test]
    fn an_error_may_come_first_and_is_the_last_word() {
        let (mut host, mut guest) = link();
        let error =
            Report::Error { code: guest_api::ErrorCode::PayloadVerificationFailed, message: "bad".into() };
        send(&mut guest, &error);
        send(&mut guest, &Report::Finished { exit_code: 0 });
        let mut events = Vec::new();
        assert!(matches!(host.receive(|e| events.push(e)), Err(GuestError::Order { .. })));
        assert!(matches!(&events[..], [LifeEvent::PayloadEnded(LastWord::Error { .. })]));
    }

    #[test]
    fn the_end_of_the_stream_is_told() {
        let (mut host, guest) = link();
        assert!(host.receive(|_| {}).unwrap(), "nothing yet");
        drop(guest);
        assert!(!host.receive(|_| {}).unwrap());
    }
}
