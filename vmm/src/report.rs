//! What the command tells of a VM's life: a line per event on stderr, for people or as JSON.

use std::io::Write;
use std::time::Instant;

use guest_api::DeathReason;

use crate::exit::{LastWord, Outcome, StopCause};
use crate::guest::LifeEvent;

/// Prints events with the time since the command began.
#[derive(Clone, Copy)]
pub struct Report {
    start: Instant,
    json: bool,
    quiet: bool,
}

/// `text` with every control character but the newline made visible: what a guest says cannot move the cursor
/// of the terminal that shows it.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Enough for what a kernel says when it panics.
const LAST_LINES: usize = 24;

fn last_lines(console: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(console);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| printable(line)).collect()
}

impl Report {
    /// A report that counts time from `start`.
    pub fn new(start: Instant, json: bool, quiet: bool) -> Self {
        Self { start, json, quiet }
    }

    /// Prints one event of the VM's life.
    pub fn event(&mut self, event: &LifeEvent) {
        let (name, text) = match event {
            LifeEvent::Created => ("created", "VM created".to_string()),
            LifeEvent::Booted => ("booted", "guest booted".to_string()),
            LifeEvent::PayloadStarted => ("payload_started", "payload started".to_string()),
            LifeEvent::PayloadReady => ("payload_ready", "payload ready".to_string()),
            LifeEvent::PayloadEnded(LastWord::Finished { exit_code }) => {
                ("payload_finished", format!("payload finished with exit code {exit_code}"))
            }
            LifeEvent::PayloadEnded(LastWord::Killed { signal }) => {
                ("payload_killed", format!("payload killed by signal {signal}"))
            }
            LifeEvent::PayloadEnded(LastWord::Error { code, message }) => {
                ("error", format!("error {} {}: {message}", code.number(), code.name()))
            }
        };
        self.line(name, &text, serde_json::Map::new());
    }

    /// Prints how the VM ended; after a crash, with the last lines of its console.
    pub fn ended(&self, outcome: &Outcome, console: &[u8]) {
        let reason = outcome.death_reason();
        let mut fields = serde_json::Map::new();
        fields.insert("death_reason".into(), reason.number().into());
        fields.insert("status".into(), outcome.exit_status().into());
        let why = match outcome.cause {
            StopCause::Reset if let Some(failure) = outcome.failure.as_ref() => {
                format!(": {}", failure.detail)
            }
            // How a VM ends that has done its work: nothing to explain.
            StopCause::Reset | StopCause::PowerOff => String::new(),
            ref cause => format!(": {cause}"),
        };
        let last_lines = if reason == DeathReason::Crash { last_lines(console) } else { Vec::new() };
        if !last_lines.is_empty() {
            fields.insert("console".into(), last_lines.clone().into());
        }
        self.line("died", &format!("VM ended, reason {} {}{why}", reason.number(), reason.name()), fields);
        // An end that nobody wanted is told even to those who asked for quiet.
        if self.quiet
            && !matches!(
                outcome.cause,
                StopCause::Reset | StopCause::PowerOff | StopCause::Signal(_) | StopCause::Stopped
            )
        {
            self.print(&format!("vmm: VM ended, reason {} {}{why}", reason.number(), reason.name()));
        }
        self.show(&last_lines);
    }

    /// For people; machines have them in the event.
    fn show(&self, last_lines: &[String]) {
        if !self.json && !last_lines.is_empty() {
            self.print("the console's last lines:");
            last_lines.iter().for_each(|line| self.print(&format!("  | {line}")));
        }
    }

    fn line(&self, name: &str, text: &str, mut fields: serde_json::Map<String, serde_json::Value>) {
        if self.quiet {
            return;
        }
        let elapsed = self.start.elapsed();
        if self.json {
            fields.insert("event".into(), name.into());
            fields.insert("seconds".into(), elapsed.as_secs_f64().into());
            fields.insert("text".into(), text.into());
            self.print(&serde_json::Value::Object(fields).to_string());
        } else {
            self.print(&format!("[{:8.3} s] {text}", elapsed.as_secs_f64()));
        }
    }

    fn print(&self, line: &str) {
        // A closed stderr is no reason to stop the VM.
        let _ = writeln!(std::io::stderr().lock(), "{}", printable(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_ones_that_say_something() {
        let console: String = (0..100).map(|n| format!("line {n}\r\n\r\n")).collect();
        let lines = last_lines(console.as_bytes());
        assert_eq!(lines.len(), LAST_LINES);
        assert_eq!((lines[0].as_str(), lines[LAST_LINES - 1].as_str()), ("line 76", "line 99"));
        assert!(last_lines(b"").is_empty());
        assert_eq!(last_lines(b"\x1b[2J"), ["\u{fffd}[2J"]);
    }

    #[test]
    fn control_characters_of_a_guest_are_not_printed() {
        assert_eq!(printable("a\x1b[2Jb\r\nc\u{9b}"), "a\u{fffd}[2Jb\u{fffd}\nc\u{fffd}");
    }
}
