//! The states of a payload.

use std::fmt;

/// How far a payload has come. States only move forward; comparing two of them says which is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PayloadState {
    /// The VM boots; the payload does not run yet.
    Starting,
    /// Everything was verified and the payload's process is being launched.
    Started,
    /// The payload said that it is ready to serve.
    Ready,
    /// The payload has ended by itself.
    Finished,
    /// The VM is gone.
    Hangup,
}

impl PayloadState {
    /// The name users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Started => "Started",
            Self::Ready => "Ready",
            Self::Finished => "Finished",
            Self::Hangup => "Hangup",
        }
    }

    /// Moves on to `next`. False, and nothing changes, when that is not forward.
    pub fn advance(&mut self, next: Self) -> bool {
        let forward = next > *self;
        if forward {
            *self = next;
        }
        forward
    }
}

impl fmt::Display for PayloadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::PayloadState::{Finished, Hangup, Ready, Started, Starting};

    #[test]
    fn states_are_ordered_and_never_go_back() {
        let all = [Starting, Started, Ready, Finished, Hangup];
        assert!(all.is_sorted_by(|a, b| a < b));
        for (i, from) in all.into_iter().enumerate() {
            for (j, to) in all.into_iter().enumerate() {
                let mut state = from;
                assert_eq!(state.advance(to), j > i);
                assert_eq!(state, if j > i { to } else { from });
            }
        }
    }
}
