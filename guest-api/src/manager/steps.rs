//! How long each step before Started took: the benchmark's view into the guest.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// A clock that is read after each step.
#[derive(Debug)]
pub struct Steps {
    last: Instant,
    taken: Vec<(&'static str, Duration)>,
}

impl Steps {
    /// Begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self { last: Instant::now(), taken: Vec::with_capacity(16) }
    }

    /// The step that ends now.
    pub fn done(&mut self, name: &'static str) {
        let now = Instant::now();
        self.taken.push((name, now - self.last));
        self.last = now;
    }

    /// `mounts 0.31 ms, host 0.52 ms, ..`
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = String::new();
        for (name, time) in &self.taken {
            let separator = if line.is_empty() { "" } else { ", " };
            let micros = time.as_micros();
            // Writing to a string cannot fail.
            _ = write!(line, "{separator}{name} {}.{:02} ms", micros / 1000, micros % 1000 / 10);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_every_step_in_order() {
        let mut steps = Steps::begin();
        assert_eq!(steps.line(), "");
        steps.taken.push(("mounts", Duration::from_micros(1_310)));
        steps.taken.push(("host", Duration::from_nanos(59_999)));
        assert_eq!(steps.line(), "mounts 1.31 ms, host 0.05 ms");
    }
}
