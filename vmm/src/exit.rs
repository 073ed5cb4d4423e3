//! How a VM ended, what that means, and the exit status of the command (formats: sections 8, "Exit status").

use std::fmt;
use std::sync::Mutex;

use guest_api::{DeathReason, ErrorCode};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Status when the VM died without an exit code.
pub const STATUS_DIED: u8 = 125;
/// Status of bad usage and bad input.
pub const STATUS_USAGE: u8 = 2;

/// Why the vCPUs stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// The guest asked for a reset.
    Reset,
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

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("the guest reset itself"),
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
    cause: Mutex<Option<StopCause>>,
    wake: EventFd,
}

impl StopSlot {
    /// An empty slot.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { cause: Mutex::new(None), wake: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Asks for a stop.
    pub fn stop(&self, cause: StopCause) {
        self.cause.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(cause);
        // Fails only when the counter is full: then the loop is being woken already.
        let _ = self.wake.write(1);
    }

    /// Readable once a stop was asked for.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// The cause, once there is one.
    pub fn cause(&self) -> Option<StopCause> {
        self.cause.lock().unwrap_or_else(|e| e.into_inner()).clone()
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
    /// What the guest's payload manager reported last; none for a VM without one.
    pub last_word: Option<LastWord>,
    /// Whether the VM was expected to run a payload.
    pub payload_expected: bool,
}

impl Outcome {
    /// The reason as callbacks get it (formats: section 8).
    pub fn death_reason(&self) -> DeathReason {
        match (&self.last_word, &self.cause) {
            (Some(LastWord::Finished { .. }), StopCause::Reset) => DeathReason::Shutdown,
            (Some(LastWord::Killed { .. }), _) => DeathReason::MicrodroidUnknownRuntimeError,
            (Some(LastWord::Error { code, .. }), _) => code.death_reason(),
            (_, StopCause::Signal(_) | StopCause::Stopped) => DeathReason::Killed,
            (_, StopCause::StartTimeout { .. }) => DeathReason::Hangup,
            // A reset that the payload manager did not announce is a panicked kernel.
            (_, StopCause::Reset) if self.payload_expected => DeathReason::Crash,
            (_, StopCause::Reset) => DeathReason::Reboot,
            (_, StopCause::TripleFault) => DeathReason::Crash,
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
        match (&self.cause, &self.last_word) {
            (StopCause::Signal(signal), _) => low_byte(128 + signal),
            (_, Some(LastWord::Finished { exit_code })) => low_byte(*exit_code),
            (_, Some(LastWord::Killed { signal })) => low_byte(128_i32.saturating_add(*signal)),
            (StopCause::Reset, None) if !self.payload_expected => 0,
            _ => STATUS_DIED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(cause: StopCause, last_word: Option<LastWord>) -> (u8, DeathReason) {
        let outcome = Outcome { cause, last_word, payload_expected: true };
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
    fn a_reset_ends_a_raw_vm_well_and_a_triple_fault_does_not() {
        let raw = |cause| Outcome { cause, last_word: None, payload_expected: false };
        assert_eq!(raw(StopCause::Reset).exit_status(), 0);
        assert_eq!(raw(StopCause::Reset).death_reason(), DeathReason::Reboot);
        assert_eq!(raw(StopCause::TripleFault).exit_status(), 125);
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
