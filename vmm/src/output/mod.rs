//! Where a VM's output goes: the console's bytes (kernel and PID 1) and the payload's log, each by a [`Sink`].
//!
//! ```text
//!   ttyS0 ──> console sink ─┐ a ring of 8 MiB before each: the guest never waits for a reader
//!   hvc0  ──> log sink ─────┴──> file, pipe, terminal, socket
//! ```

mod destination;
mod sink;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

pub use sink::{RING_LEN, Sink, Writer};

/// The two streams of a VM; clones share them.
#[derive(Clone)]
pub struct Output {
    console: Arc<Sink>,
    log: Arc<Sink>,
}

impl Output {
    /// Console and log apart, each behind a ring of `ring_len` bytes; see [`RING_LEN`].
    pub fn new(console: File, log: File, ring_len: usize) -> Self {
        Self { console: Sink::new("console", console, ring_len), log: Sink::new("log", log, ring_len) }
    }

    /// Both to one place, in the order in which they were written.
    pub fn together(file: File, ring_len: usize) -> Self {
        let sink = Sink::new("output", file, ring_len);
        Self { console: Arc::clone(&sink), log: sink }
    }

    /// What the kernel and PID 1 print.
    pub fn console(&self) -> &Arc<Sink> {
        &self.console
    }

    /// What the payload prints.
    pub fn log(&self) -> &Arc<Sink> {
        &self.log
    }

    /// Each sink once.
    pub(crate) fn sinks(&self) -> Vec<Arc<Sink>> {
        if Arc::ptr_eq(&self.console, &self.log) {
            return vec![Arc::clone(&self.console)];
        }
        vec![Arc::clone(&self.console), Arc::clone(&self.log)]
    }

    /// Whether something is left that a reader has not taken.
    pub fn is_waiting(&self) -> bool {
        self.sinks().iter().any(|sink| sink.is_waiting())
    }

    /// Waits until readers have taken what is left. Gives up on one that took nothing for `patience`; without a limit,
    /// only on one that is gone.
    pub fn finish(&self, patience: Option<Duration>) {
        for sink in self.sinks() {
            sink.finish(patience);
        }
    }
}
