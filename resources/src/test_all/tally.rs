//! Reads what test programs print, and keeps count.
//!
//! ```text
//! test name ... ok | FAILED | ignored, why       per test; what the test prints may stand in between
//! failures:                                      before the list of names, four blanks before each
//! test result: ok. 3 passed; 1 failed; ..        at the end of a program
//! kapsel-skip: name: why                         from a test that cannot run here, and passes
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};

/// The result of all test programs so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: usize,
    /// Program and test.
    failed: Vec<(String, String)>,
    /// Program and test, and why.
    skipped: BTreeMap<(String, String), String>,
}

impl Tally {
    /// Starts reading one program's output, which is passed on to `output`.
    pub fn program<W: Write>(&mut self, name: &str, output: W) -> Program<'_, W> {
        Program {
            tally: self,
            output,
            name: name.to_owned(),
            line: Vec::new(),
            expected: 0,
            counted: 0,
            failures: Vec::new(),
            reported: 0,
            listing: false,
            skips: 0,
        }
    }

    /// Counts something that is not a test program.
    pub fn count(&mut self, name: &str, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed.push((name.to_owned(), String::new()));
        }
    }

    /// Whether nothing failed, and anything ran.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty() && self.passed > 0
    }

    /// What was skipped and why, what failed, and, alone on the last line, how many of each.
    pub fn summary(&self) -> String {
        let full = |(program, test): &(String, String)| {
            if test.is_empty() { program.clone() } else { format!("{program}: {test}") }
        };
        let mut lines = Vec::new();
        if !self.skipped.is_empty() {
            lines.push("Skipped:".to_owned());
            lines.extend(self.skipped.iter().map(|(test, why)| format!("    {}: {why}", full(test))));
        }
        if !self.failed.is_empty() {
            lines.push("Failed:".to_owned());
            lines.extend(self.failed.iter().map(|test| format!("    {}", full(test))));
        }
        let (passed, failed, skipped) = (self.passed, self.failed.len(), self.skipped.len());
        lines.push(format!("{passed} passed, {failed} failed, {skipped} skipped"));
        lines.join("\n")
    }
}

/// One program's output on its way to the user.
pub struct Program<'a, W> {
    tally: &'a mut Tally,
    output: W,
    name: String,
    line: Vec<u8>,
    expected: usize,
    counted: usize,
    failures: Vec<String>,
    reported: usize,
    listing: bool,
    skips: usize,
}

impl<W: Write> Program<'_, W> {
    /// To be called when the program has ended, and how; a program that ended badly without a word about it has failed too.
    pub fn finish(mut self, ended_well: bool) {
        self.end_line();
        let missing = self.expected.saturating_sub(self.counted);
        if missing > 0 {
            let what = format!("ended before {missing} of its {} tests had", self.expected);
            self.failures.push(what);
        } else if !ended_well && self.reported == 0 {
            self.failures.push("ended with an error".to_owned());
        }
        self.report_failures();
        // They returned without having tested anything, which libtest counts as passed.
        self.tally.passed = self.tally.passed.saturating_sub(self.skips);
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end_matches('\r').to_owned();
        self.feed(&line);
    }

    fn feed(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once("kapsel-skip: ") {
            let (test, why) = rest.split_once(": ").unwrap_or((rest, "no reason given"));
            self.skip(test, why, 1);
        } else if let Some(count) = line.strip_prefix("running ").and_then(|rest| rest.split_once(" test")) {
            self.expected += count.0.parse::<usize>().unwrap_or(0);
        } else if line == "failures:" {
            self.listing = true;
            self.failures.clear();
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.result(rest);
        } else if let Some((test, state)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            if let Some(why) = state.strip_prefix("ignored") {
                self.skip(test, why.strip_prefix(", ").unwrap_or("ignored"), 0);
            }
        } else if self.listing
            && let Some(test) = line.strip_prefix("    ")
        {
            self.failures.push(test.to_owned());
        }
    }

    fn skip(&mut self, test: &str, why: &str, passed: usize) {
        let key = (self.name.clone(), test.to_owned());
        if self.tally.skipped.insert(key, why.to_owned()).is_none() {
            self.skips += passed;
        }
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    fn result(&mut self, text: &str) {
        self.listing = false;
        let count = |what: &str| -> usize {
            let mut words = text.split([' ', ';', '.']).filter(|word| !word.is_empty()).peekable();
            let mut found = 0;
            while let Some(word) = words.next() {
                if words.peek() == Some(&what) {
                    found = word.parse().unwrap_or(0);
                }
            }
            found
        };
        let (passed, failed) = (count("passed"), count("failed"));
        self.tally.passed += passed;
        self.counted += passed + failed + count("ignored") + count("measured");
        let unnamed = failed.saturating_sub(self.failures.len());
        self.failures.extend(std::iter::repeat_n("a test without a name".to_owned(), unnamed));
        self.report_failures();
    }

    fn report_failures(&mut self) {
        self.reported += self.failures.len();
        let name = &self.name;
        self.tally.failed.extend(self.failures.drain(..).map(|test| (name.clone(), test)));
    }
}

impl<W: Write> Write for Program<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write_all(bytes)?;
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests;
