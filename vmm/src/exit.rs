//! How a VM ended, what that means, and the exit status of the command (formats: sections 8, "Exit status").

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use devices::PowerEvent;
use guest_api::{DeathReason, ErrorCode};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::failure::Failure;

/// Status when the VM died without an exit code.
pub const STATUS_DIED: u8 = 125;
/// Status of bad usage and bad input.
pub const STATUS_USAGE: u8 = 2;

/// Why the vCPUs stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// The guest asked for a reset.
    Reset,
    /// The guest switched itself off.
    PowerOff,
    /// The guest's kernel said that it cannot go on.
    Panic,
    /// The guest faulted while handling a fault while handling a fault.
    TripleFault,
    /// KVM could not go on.
    InternalError {
        /// KVM's suberror; 1 is an instruction that it could not emulate.
        suberror: u32,
        /// Where the vCPU was.
        rip: Option<u64>,
        /// The instruction bytes, where KVM gave them.
        instruction: Vec<u8>,
    },
    /// The processor refused the guest's state.
    EntryFailed {
        /// The hardware's reason.
        reason: u64,
    },
    /// An exit that this VMM does not handle, or a KVM call that failed.
    Unhandled(String),
    /// A signal to this process.
    Signal(i32),
    /// The payload did not start in time.
    StartTimeout {
        /// The time it had, in seconds.
        seconds: u64,
    },
    /// The embedder asked for it.
    Stopped,
}

impl From<PowerEvent> for StopCause {
    fn from(event: PowerEvent) -> Self {
        match event {
            PowerEvent::Reset => Self::Reset,
            PowerEvent::PowerOff => Self::PowerOff,
            PowerEvent::Panic => Self::Panic,
        }
    }
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("the guest reset itself"),
            Self::PowerOff => f.write_str("the guest switched itself off"),
            Self::Panic => f.write_str("the guest's kernel panicked"),
            Self::TripleFault => f.write_str("triple fault: the guest had no handler for a fault"),
            Self::InternalError { suberror, rip, instruction } => {
                write!(f, "KVM internal error, suberror {suberror}")?;
                if *suberror == 1 {
                    f.write_str(" (an instruction it cannot emulate)")?;
                }
                if let Some(rip) = rip {
                    write!(f, ", rip {rip:#x}")?;
                }
                if !instruction.is_empty() {
                    f.write_str(", instruction bytes")?;
                    for byte in instruction {
                        write!(f, " {byte:02x}")?;
                    }
                }
                Ok(())
            }
            Self::EntryFailed { reason } => write!(f, "KVM could not enter the guest, reason {reason:#x}"),
            Self::Unhandled(what) => f.write_str(what),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::StartTimeout { seconds } => write!(f, "the payload did not start within {seconds} s"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Where threads leave the cause of the stop: the first one counts, and the event loop is woken.
pub struct StopSlot {
    state: Mutex<StopState>,
    wake: EventFd,
}

#[derive(Default)]
struct StopState {
    cause: Option<StopCause>,
    grace: Option<Duration>,
}

impl StopSlot {
    /// An empty slot.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { state: Mutex::default(), wake: EventFd::new(EFD_NONBLOCK)? })
    }

    fn lock(&self) -> MutexGuard<'_, StopState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_up(&self) {
        // Fails only when the counter is full: then the loop is being woken already.
        let _ = self.wake.write(1);
    }

    /// Stops the VM.
    pub fn stop(&self, cause: StopCause) {
        self.lock().cause.get_or_insert(cause);
        self.wake_up();
    }

    /// Has the guest asked to end within `grace`.
    pub fn ask(&self, grace: Duration) {
        self.lock().grace = Some(grace);
        self.wake_up();
    }

    /// Readable once a stop was asked for, in either way.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// The cause, once there is one.
    pub fn cause(&self) -> Option<StopCause> {
        self.lock().cause.clone()
    }

    /// The time that the guest is to be given, once for each time it is asked for.
    pub fn take_grace(&self) -> Option<Duration> {
        self.lock().grace.take()
    }
}

/// The payload's last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastWord {
    /// It returned.
    Finished {
        /// Its exit code.
        exit_code: i32,
    },
    /// A signal ended it.
    Killed {
        /// The signal.
        signal: i32,
    },
    /// The guest's payload manager could not run it.
    Error {
        /// What kind of error.
        code: ErrorCode,
        /// In words.
        message: String,
    },
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why the vCPUs stopped.
    pub cause: StopCause,
    /// What had asked the guest to end before it did: a signal to this process, or the embedder.
    pub asked: Option<StopCause>,
    /// What the guest's payload manager reported last; none for a VM without one.
    pub last_word: Option<LastWord>,
    /// What the guest said on its failure line; none for one that could report, or had nothing to.
    pub failure: Option<Failure>,
    /// Whether the VM was expected to run a payload.
    pub payload_expected: bool,
}

impl Outcome {
    /// The reason as callbacks get it (formats: section 8).
    pub fn death_reason(&self) -> DeathReason {
        let ended = matches!(self.cause, StopCause::Reset | StopCause::PowerOff);
        let word_is_due = self.payload_expected && self.last_word.is_none();
        if let (None, true, Some(failure)) = (&self.last_word, ended, &self.failure) {
            return failure.reason;
        }
        match (&self.last_word, &self.cause) {
            (Some(LastWord::Finished { .. }), _) if ended => DeathReason::Shutdown,
            // Asked to end, it did, one way or the other.
            (Some(LastWord::Killed { .. }), _) if self.asked.is_some() => DeathReason::Killed,
            (None, _) if ended && self.asked.is_some() => {
                if word_is_due {
                    DeathReason::Killed
                } else {
                    DeathReason::Shutdown
                }
            }
            (Some(LastWord::Killed { .. }), _) => DeathReason::MicrodroidUnknownRuntimeError,
            (Some(LastWord::Error { code, .. }), _) => code.death_reason(),
            (_, StopCause::Signal(_) | StopCause::Stopped) => DeathReason::Killed,
            (_, StopCause::StartTimeout { .. }) => DeathReason::Hangup,
            // An end that the payload manager did not announce is a panicked kernel.
            (_, StopCause::Reset | StopCause::PowerOff) if self.payload_expected => DeathReason::Crash,
            (_, StopCause::Reset) => DeathReason::Reboot,
            (_, StopCause::PowerOff) => DeathReason::Shutdown,
            (_, StopCause::TripleFault | StopCause::Panic) => DeathReason::Crash,
            (
                _,
                StopCause::InternalError { .. } | StopCause::EntryFailed { .. } | StopCause::Unhandled(_),
            ) => DeathReason::InfrastructureError,
        }
    }

    /// The exit status of the command: the payload's, 128 + signal when one killed it, 130 and 143 after
    /// SIGINT and SIGTERM to the command, 125 when the VM died without an exit code.
    pub fn exit_status(&self) -> u8 {
        let low_byte = |code: i32| code.to_le_bytes()[0];
        let ended = matches!(self.cause, StopCause::Reset | StopCause::PowerOff);
        match (self.asked.as_ref().unwrap_or(&self.cause), &self.last_word) {
            (StopCause::Signal(signal), _) => low_byte(128 + signal),
            (_, Some(LastWord::Finished { exit_code })) => low_byte(*exit_code),
            (_, Some(LastWord::Killed { signal })) => low_byte(128_i32.saturating_add(*signal)),
            (_, None) if ended && !self.payload_expected && self.failure.is_none() => 0,
            _ => STATUS_DIED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(cause: StopCause, last_word: Option<LastWord>) -> (u8, DeathReason) {
        let outcome = Outcome { cause, asked: None, last_word, failure: None, payload_expected: true };
        (outcome.exit_status(), outcome.death_reason())
    }

    #[test]
    fn section_8_statuses_and_reasons() {
        let finished = |exit_code| Some(LastWord::Finished { exit_code });
        let error = |code| Some(LastWord::Error { code, message: String::new() });
        assert_eq!(outcome(StopCause::Reset, finished(7)), (7, DeathReason::Shutdown));
        assert_eq!(outcome(StopCause::Reset, finished(0)), (0, DeathReason::Shutdown));
        assert_eq!(
            outcome(StopCause::Reset, Some(LastWord::Killed { signal: 11 })),
            (139, DeathReason::MicrodroidUnknownRuntimeError)
        );
        for (code, reason) in [
            (ErrorCode::Unknown, DeathReason::MicrodroidUnknownRuntimeError),
            (ErrorCode::PayloadVerificationFailed, DeathReason::MicrodroidPayloadVerificationFailed),
            (ErrorCode::PayloadChanged, DeathReason::MicrodroidPayloadHasChanged),
            (ErrorCode::PayloadInvalidConfig, DeathReason::MicrodroidInvalidPayloadConfig),
        ] {
            assert_eq!(outcome(StopCause::Reset, error(code)), (125, reason));
        }
        assert_eq!(outcome(StopCause::Reset, None), (125, DeathReason::Crash));
        assert_eq!(outcome(StopCause::TripleFault, None), (125, DeathReason::Crash));
        assert_eq!(outcome(StopCause::StartTimeout { seconds: 30 }, None), (125, DeathReason::Hangup));
        assert_eq!(outcome(StopCause::Signal(libc::SIGINT), None), (130, DeathReason::Killed));
        assert_eq!(outcome(StopCause::Signal(libc::SIGTERM), None), (143, DeathReason::Killed));
    }

    #[test]
    fn section_8_the_failure_line_speaks_where_nothing_was_reported() {
        let failure = Failure {
            reason: DeathReason::MicrodroidFailedToConnectToVirtualizationService,
            detail: "no vsock".to_owned(),
        };
        let outcome = |cause, last_word| {
            let failure = Some(failure.clone());
            let outcome = Outcome { cause, asked: None, last_word, failure, payload_expected: true };
            (outcome.exit_status(), outcome.death_reason().number())
        };
        assert_eq!(outcome(StopCause::Reset, None), (125, 11));
        assert_eq!(outcome(StopCause::Reset, Some(LastWord::Finished { exit_code: 0 })), (0, 3));
        assert_eq!(outcome(StopCause::Signal(libc::SIGINT), None), (130, 1));
    }

    #[test]
    fn a_reset_ends_a_raw_vm_well_and_a_triple_fault_does_not() {
        let raw =
            |cause| Outcome { cause, asked: None, last_word: None, failure: None, payload_expected: false };
        assert_eq!(raw(StopCause::Reset).exit_status(), 0);
        assert_eq!(raw(StopCause::Reset).death_reason(), DeathReason::Reboot);
        assert_eq!(raw(StopCause::PowerOff).exit_status(), 0);
        assert_eq!(raw(StopCause::PowerOff).death_reason(), DeathReason::Shutdown);
        for crash in [StopCause::TripleFault, StopCause::Panic] {
            assert_eq!(
                (raw(crash.clone()).exit_status(), raw(crash).death_reason()),
                (125, DeathReason::Crash)
            );
        }
    }

    #[test]
    fn an_end_that_was_asked_for_is_no_crash() {
        let ended = |asked, cause, last_word, payload_expected| {
            let outcome = Outcome { cause, asked: Some(asked), last_word, failure: None, payload_expected };
            (outcome.exit_status(), outcome.death_reason())
        };
        let (term, stopped) = (StopCause::Signal(libc::SIGTERM), StopCause::Stopped);
        let killed = Some(LastWord::Killed { signal: libc::SIGTERM });
        let finished = Some(LastWord::Finished { exit_code: 7 });
        for end in [StopCause::PowerOff, StopCause::Reset] {
            assert_eq!(ended(term.clone(), end.clone(), None, false), (143, DeathReason::Shutdown));
            assert_eq!(ended(stopped.clone(), end.clone(), None, false), (0, DeathReason::Shutdown));
            assert_eq!(
                ended(term.clone(), end.clone(), finished.clone(), true),
                (143, DeathReason::Shutdown)
            );
            assert_eq!(
                ended(stopped.clone(), end.clone(), finished.clone(), true),
                (7, DeathReason::Shutdown)
            );
            assert_eq!(ended(term.clone(), end.clone(), killed.clone(), true), (143, DeathReason::Killed));
            assert_eq!(ended(stopped.clone(), end, None, true), (125, DeathReason::Killed));
        }
        assert_eq!(ended(term.clone(), term, None, false), (143, DeathReason::Killed));
        assert_eq!(ended(stopped, StopCause::Panic, None, false), (125, DeathReason::Crash));
    }

    #[test]
    fn the_first_cause_counts() {
        let slot = StopSlot::new().unwrap();
        assert_eq!(slot.cause(), None);
        slot.stop(StopCause::TripleFault);
        slot.stop(StopCause::Reset);
        assert_eq!(slot.cause(), Some(StopCause::TripleFault));
        assert_eq!(slot.wake().read().unwrap(), 2);
    }
}
