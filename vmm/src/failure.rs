//! The failure line: what the guest says on ttyS1 when it cannot tell the host's service why it ends
//! (formats: section 8): `NAME|detail` and a newline.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guest_api::DeathReason;

/// Longest line that is read; the rest of a longer one is not.
const MAX_LINE: usize = 1024;

/// Reasons that are the guest's to give: nobody but the host knows of the others.
const GIVEN_BY_GUESTS: [DeathReason; 7] = [
    DeathReason::PvmFirmwarePublicKeyMismatch,
    DeathReason::PvmFirmwareInstanceImageChanged,
    DeathReason::MicrodroidFailedToConnectToVirtualizationService,
    DeathReason::MicrodroidPayloadHasChanged,
    DeathReason::MicrodroidPayloadVerificationFailed,
    DeathReason::MicrodroidInvalidPayloadConfig,
    DeathReason::MicrodroidUnknownRuntimeError,
];

/// Why the guest ended, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub reason: DeathReason,
    /// What the guest added to it.
    pub detail: String,
}

/// What the second serial port transmits to; clones share the line.
#[derive(Clone, Default)]
pub struct FailureLine(Arc<Mutex<Vec<u8>>>);

impl FailureLine {
    /// What the guest said: its first line, when that is of the form and gives a reason of a guest's.
    pub fn failure(&self) -> Option<Failure> {
        let line = self.lock();
        let end = line.iter().position(|byte| *byte == b'\n')?;
        let text = String::from_utf8_lossy(&line[..end]);
        let (name, detail) = text.split_once('|')?;
        let reason = GIVEN_BY_GUESTS.into_iter().find(|reason| reason.name() == name)?;
        Some(Failure { reason, detail: detail.trim_end().to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for FailureLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut line = self.lock();
        let room = MAX_LINE - line.len();
        line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(said: &[u8]) -> Option<Failure> {
        let mut line = FailureLine::default();
        line.write_all(said).unwrap();
        line.failure()
    }

    #[test]
    fn the_first_line_counts() {
        let failure = Failure {
            reason: DeathReason::MicrodroidInvalidPayloadConfig,
            detail: "no task | none at all".to_owned(),
        };
        let said =
            b"MICRODROID_INVALID_PAYLOAD_CONFIG|no task | none at all\r\nMICRODROID_PAYLOAD_HAS_CHANGED|\n";
        assert_eq!(heard(said), Some(failure));
    }

    #[test]
    fn what_is_not_a_guests_to_say_is_not_believed() {
        for said in
            ["", "MICRODROID_INVALID_PAYLOAD_CONFIG|unfinished", "no bar\n", "SHUTDOWN|x\n", "KILLED|\n"]
        {
            assert_eq!(heard(said.as_bytes()), None, "{said:?}");
        }
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let mut line = FailureLine::default();
        line.write_all(&vec![b'x'; 1 << 20]).unwrap();
        line.write_all(b"\n").unwrap();
        assert_eq!(line.lock().len(), MAX_LINE);
        assert_eq!(line.failure(), None);
    }
}
