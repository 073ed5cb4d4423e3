//! What the terminal is like: its width, whether it shows Unicode, whether it shows colours.

use std::env;
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};

/// Where pictures are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Characters in a line.
    pub width: usize,
    /// Whether box-drawing and block characters print as such.
    pub unicode: bool,
    /// Whether colours do.
    pub colour: bool,
}

/// Lines are never narrower or wider than this.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=160;
const USUAL_WIDTH: usize = 80;

impl Screen {
    /// Standard output, as it and the environment say.
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let told = env::var("COLUMNS").ok().and_then(|columns| columns.trim().parse().ok());
        let asked = || {
            let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
            (size.ws_col > 0).then_some(usize::from(size.ws_col))
        };
        let width = told.or_else(asked).unwrap_or(USUAL_WIDTH).clamp(*WIDTHS.start(), *WIDTHS.end());
        Self { width, unicode: is_unicode(|name| env::var(name).ok()), colour: terminal && wants_colour() }
    }
}

/// Whether the locale's characters are UTF-8 (POSIX: the first that is set of three).
fn is_unicode(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| variable(name)).find(|v| !v.is_empty());
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// See <https://no-color.org>.
fn wants_colour() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|it| it != "dumb")
}

/// Writes to standard output; that nobody reads it any more is no error.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("Write to standard output"),
    }
}

/// Writes to standard error, where nobody could be told that it failed.
pub fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_locale_that_is_set_decides() {
        let with = |all: &'static str, ctype: &'static str, lang: &'static str| {
            is_unicode(move |name| {
                let value = match name {
                    "LC_ALL" => all,
                    "LC_CTYPE" => ctype,
                    _ => lang,
                };
                (value != "-").then(|| value.to_owned())
            })
        };
        assert!(with("-", "-", "de_DE.UTF-8"));
        assert!(with("C.utf8", "C", "C"));
        assert!(with("", "C.UTF-8", "C"));
        assert!(!with("C", "C.UTF-8", "C.UTF-8"));
        assert!(!with("-", "-", "-"));
    }
}
