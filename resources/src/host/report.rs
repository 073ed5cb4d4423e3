//! What the init of the software host says on its second serial port, line by line.
//!
//! ```text
//! tick SECONDS          once a virtual second, so that a hang is seen
//! end exit CODE | end signal NUMBER | end timeout | end error WHY
//! ```

use std::fmt;

/// What became of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited.
    Exit(u8),
    /// A signal killed it.
    Signal(u8),
    /// It ran for longer than it may, in virtual time.
    Timeout,
    /// It could not be started.
    Error(String),
}

impl End {
    /// The exit status that says so, as a shell would give it; 124 for a time-out, 125 when it was not started.
    pub fn status(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            Self::Signal(signal) => 128_u8.saturating_add(*signal),
            Self::Timeout => 124,
            Self::Error(_) => 125,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => writeln!(f, "end exit {code}"),
            Self::Signal(signal) => writeln!(f, "end signal {signal}"),
            Self::Timeout => writeln!(f, "end timeout"),
            Self::Error(why) => writeln!(f, "end error {}", why.replace('\n', " ")),
        }
    }
}

/// The line of one more second.
pub fn tick(seconds: u64) -> String {
    format!("tick {seconds}\n")
}

/// The last second that was reported.
pub fn ticks(text: &str) -> u64 {
    text.lines().rev().find_map(|line| line.strip_prefix("tick ")?.parse().ok()).unwrap_or(0)
}

/// The end, if it was reported whole.
pub fn end(text: &str) -> Option<End> {
    let line = text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
        .find_map(|l| l.strip_prefix("end "))?;
    match line.split_once(' ') {
        Some(("exit", code)) => code.parse().ok().map(End::Exit),
        Some(("signal", signal)) => signal.parse().ok().map(End::Signal),
        Some(("error", why)) => Some(End::Error(why.to_owned())),
        None if line == "timeout" => Some(End::Timeout),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_reads_back() {
        for (written, status) in [
            (End::Exit(0), 0),
            (End::Exit(255), 255),
            (End::Signal(9), 137),
            (End::Timeout, 124),
            (End::Error("no such file".into()), 125),
        ] {
            let text = format!("{}{}{written}", tick(1), tick(2));
            assert_eq!(end(&text), Some(written.clone()));
            assert_eq!(ticks(&text), 2);
            assert_eq!(written.status(), status);
        }
        assert_eq!(end(&End::Error("a\nb".into()).to_string()), Some(End::Error("a b".into())));
    }

    #[test]
    fn a_cut_or_unknown_line_is_no_end() {
        for text in
            ["", "tick 1\n", "end exit 1", "end exit 256\n", "end exit\n", "end never\n", "tick 1\nend"]
        {
            assert_eq!(end(text), None, "{text:?}");
        }
        assert_eq!(ticks(""), 0);
    }
}
