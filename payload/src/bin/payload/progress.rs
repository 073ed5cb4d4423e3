//! A bar for what takes longer than people wait for without a sign.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use payload::ReadAt;

/// How long nothing is shown, so that short work leaves no trace.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes of work done, shown on standard error when that is a terminal.
pub struct Progress {
    bar: ProgressBar,
    begun: Instant,
    shown: AtomicBool,
}

impl Progress {
    /// Work on `total` bytes, called `what`.
    pub fn new(what: &str, total: u64, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let style = "{msg}  {bar:30}  {binary_bytes} of {binary_total_bytes}  {eta}";
        let style = ProgressStyle::with_template(style).expect("the template is well-formed");
        bar.set_style(style.progress_chars("#>-"));
        bar.set_message(what.to_owned());
        Self { bar, begun: Instant::now(), shown: AtomicBool::new(quiet) }
    }

    /// Counts `bytes` as done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.begun.elapsed() > PATIENCE && !self.shown.swap(true, Ordering::Relaxed) {
            // Hidden where standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// `inner`, whose reads count as work.
    pub fn watch<R: ReadAt>(&self, inner: R) -> Watched<'_, R> {
        Watched { inner, progress: self }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A source that drives a bar.
#[derive(Clone, Copy)]
pub struct Watched<'a, R> {
    inner: R,
    progress: &'a Progress,
}

impl<R: ReadAt> ReadAt for Watched<'_, R> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buffer, offset)?;
        self.progress.add(buffer.len() as u64);
        Ok(())
    }
}
