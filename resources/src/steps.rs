//! Progress: one line per step, with the time it took.
//!
//! On a terminal a running step is a spinner with the seconds so far and what it is doing; elsewhere plain lines.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Where there is no spinner, a step that takes longer than this is announced before it is done.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Display {
    Terminal,
    Lines,
    Nothing,
}

/// The steps of one command.
pub struct Steps {
    display: Display,
    bars: MultiProgress,
    total: usize,
    begun: AtomicUsize,
}

impl Steps {
    /// For a command of `total` steps.
    pub fn new(total: usize, quiet: bool) -> Self {
        let display = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Display::Nothing,
            (false, true) => Display::Terminal,
            (false, false) => Display::Lines,
        };
        Self { display, bars: MultiProgress::new(), total, begun: AtomicUsize::new(0) }
    }

    /// Does one step. Steps may run side by side.
    ///
    /// # Errors
    /// What `work` fails with, with the step's name around it.
    pub fn run<T>(&self, what: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let title = title(number, self.total, what);
        let since = Instant::now();
        let step = Step { bar: self.bar(&title), announced: self.announce(&title) };
        let result = work(&step);
        drop(step.announced);
        if let Some(bar) = &step.bar {
            bar.finish_and_clear();
        }
        let colour = self.display == Display::Terminal && colours();
        self.say(&format!("{title} ... {}", outcome(result.is_ok(), since.elapsed(), colour)));
        result.with_context(|| what.to_owned())
    }

    /// Says something between the steps.
    pub fn say(&self, line: &str) {
        match self.display {
            // Fails only where the terminal is gone, and then there is nobody to tell.
            Display::Terminal => drop(self.bars.println(line)),
            Display::Lines => eprintln!("{line}"),
            Display::Nothing => {}
        }
    }

    fn bar(&self, title: &str) -> Option<ProgressBar> {
        let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}").ok()?;
        (self.display == Display::Terminal).then(|| {
            let bar =
                self.bars.add(ProgressBar::new_spinner().with_style(style).with_prefix(title.to_owned()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        })
    }

    /// The thread ends when what is returned is dropped.
    fn announce(&self, title: &str) -> Option<Sender<()>> {
        (self.display == Display::Lines).then(|| {
            let (sender, receiver) = mpsc::channel();
            let line = format!("{title} ...");
            std::thread::spawn(move || {
                if receiver.recv_timeout(SILENT_FOR) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("{line}");
                }
            });
            sender
        })
    }
}

/// A step that is being done.
pub struct Step {
    bar: Option<ProgressBar>,
    announced: Option<Sender<()>>,
}

impl Step {
    /// Shows what it is doing just now; seen on terminals only.
    pub fn doing(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.trim().chars().filter(|c| !c.is_control()).take(200).collect::<String>());
        }
    }
}

/// Whether colours are wanted where they can be shown (https://no-color.org).
pub fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn title(number: usize, total: usize, what: &str) -> String {
    format!("[{number}/{total}] {what}")
}

fn outcome(ok: bool, time: Duration, colour: bool) -> String {
    let (word, code) = if ok { ("done", 32) } else { ("failed", 31) };
    let word = if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() };
    format!("{word} in {}", duration(time))
}

/// A duration as people say it.
pub fn duration(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line() {
        assert_eq!(title(2, 7, "Build it"), "[2/7] Build it");
        assert_eq!(outcome(true, Duration::from_secs(12), false), "done in 12 s");
        assert_eq!(outcome(false, Duration::from_millis(1250), false), "failed in 1.2 s");
        assert_eq!(outcome(true, Duration::from_secs(125), true), "\x1b[32mdone\x1b[0m in 2 min 5 s");
    }

    #[test]
    fn a_failed_step_is_named_in_the_error() {
        let steps = Steps::new(2, true);
        assert_eq!(steps.run("One", |_| Ok(5)).unwrap(), 5);
        let error = steps.run("Two", |step| {
            step.doing("nothing");
            anyhow::bail!("why") as Result<()>
        });
        assert_eq!(format!("{:#}", error.unwrap_err()), "Two: why");
    }
}
