//! What a benchmark measured, side by side: bars for people, one line of JSON for programs.
//!
//! ```text
//!   4 KiB reads, one at a time, per second                      more is better
//!     vmm                 12661 ████████████████████████████████████████
//!     QEMU microvm         5660 █████████████████▉                        0.45
//! ```
//!
//! The last column is the row's value as a multiple of the first one's; where both were measured in rounds, the median of
//! the rounds' multiples, which noise that lasts longer than a round does not reach.

use std::fmt;

use serde_json::{Value, json};

/// Cells of the longest bar.
const WIDTH: usize = 40;

/// One quantity, measured of several programs.
#[derive(Clone, Debug)]
pub struct Figure {
    name: String,
    unit: String,
    more_is_better: bool,
    is_compared: bool,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    subject: String,
    value: f64,
    /// As a multiple of the first row's.
    ratio: f64,
}

impl Figure {
    /// A quantity of which more is better.
    pub fn more(name: &str, unit: &str) -> Self {
        let (name, unit) = (name.to_owned(), unit.to_owned());
        Self { name, unit, more_is_better: true, is_compared: true, rows: Vec::new() }
    }

    /// A quantity of which less is better.
    pub fn less(name: &str, unit: &str) -> Self {
        Self { more_is_better: false, ..Self::more(name, unit) }
    }

    /// The same, of rows that are no rivals: without ratios.
    #[must_use]
    pub fn apart(self) -> Self {
        Self { is_compared: false, ..self }
    }

    /// Adds what `subject` reached.
    pub fn push(&mut self, subject: &str, value: f64) {
        let ratio = self.rows.first().map_or(1.0, |first| value / first.value);
        self.rows.push(Row { subject: subject.to_owned(), value, ratio });
    }

    /// Adds the median of what `subject` reached in `rounds`, in each of which the first row's reached what `first` says.
    pub fn push_rounds(&mut self, subject: &str, rounds: &[f64], first: &[f64]) {
        let ratios: Vec<f64> = rounds.iter().zip(first).map(|(value, first)| value / first).collect();
        self.rows.push(Row { subject: subject.to_owned(), value: median(rounds), ratio: median(&ratios) });
    }

    /// The same, in one expression.
    #[must_use]
    pub fn with(mut self, subject: &str, value: f64) -> Self {
        self.push(subject, value);
        self
    }

    fn json(&self) -> Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| json!({ "subject": row.subject, "value": row.value, "ratio": row.ratio }))
            .collect();
        json!({ "figure": self.name, "unit": self.unit, "more_is_better": self.more_is_better, "rows": rows })
    }
}

/// A number with about four digits that count.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        v if v >= 1.0 => 3,
        _ => 4,
    };
    format!("{value:.digits$}")
}

/// `share` of the longest bar, to an eighth of a cell.
fn bar(share: f64) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let mut text = String::new();
    for cell in 0..WIDTH {
        let filled = share * (WIDTH * 8) as f64 - (cell * 8) as f64;
        text.push(if filled >= 8.0 {
            '█'
        } else {
            *EIGHTHS.iter().enumerate().rfind(|(n, _)| *n as f64 <= filled).map_or(&' ', |(_, eighth)| eighth)
        });
    }
    text
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.more_is_better { "more is better" } else { "less is better" };
        let subjects = self.rows.iter().map(|row| row.subject.chars().count()).max().unwrap_or(0);
        let title = format!("{}, {}", self.name, self.unit);
        writeln!(f, "{title:<w$} {direction}", w = subjects + WIDTH)?;
        let most = self.rows.iter().map(|row| row.value).fold(0.0, f64::max);
        for (n, Row { subject, value, ratio }) in self.rows.iter().enumerate() {
            let line = format!("  {subject:<subjects$} {:>9} {}", number(*value), bar(value / most));
            match n {
                1.. if self.is_compared => writeln!(f, "{line} {ratio:.2}")?,
                _ => writeln!(f, "{}", line.trim_end())?,
            }
        }
        Ok(())
    }
}

/// What one run of a benchmark measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was measured, under which conditions.
    pub title: String,
    /// All of it.
    pub figures: Vec<Figure>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), figures: Vec::new() }
    }

    /// Adds what `subject` reached to the figure `name`, made by `new` when it is the first.
    pub fn push(&mut self, subject: &str, figure: impl FnOnce() -> Figure, value: f64) {
        let new = figure();
        match self.figures.iter_mut().find(|known| known.name == new.name && known.unit == new.unit) {
            Some(known) => known.push(subject, value),
            None => self.figures.push(new.with(subject, value)),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "title": self.title, "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>() })
    }

    /// Shows it on stdout.
    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            println!("{self}");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        self.figures.iter().try_for_each(|figure| writeln!(f, "{figure}"))
    }
}

/// The middle one of `values`, the later of two; 0 when there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let figure = Figure::more("reads", "MB/s").with("vmm", 960.0).with("another", 480.0);
        let text = figure.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("reads, MB/s ") && lines[0].ends_with("more is better"), "{text}");
        assert_eq!(lines[1], format!("  vmm         960.0 {}", "█".repeat(40)));
        assert_eq!(lines[2], format!("  another     480.0 {}{} 0.50", "█".repeat(20), " ".repeat(20)));
    }

    #[test]
    fn a_bar_ends_within_a_cell_and_takes_any_value() {
        assert_eq!(bar(1.5 / 40.0), format!("█▌{}", " ".repeat(38)));
        for share in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            assert_eq!(bar(share), " ".repeat(40), "{share}");
        }
    }

    #[test]
    fn values_of_one_figure_meet() {
        let mut report = Report::new("title");
        for (subject, value) in [("a", 1.0), ("b", 2.0)] {
            report.push(subject, || Figure::less("time", "s"), value);
        }
        report.push("a", || Figure::less("time", "ratio"), 3.0);
        let json = report.json();
        assert_eq!(json["figures"].as_array().map(Vec::len), Some(2));
        assert_eq!(json["figures"][0]["rows"][1], json!({ "subject": "b", "value": 2.0, "ratio": 2.0 }));
        assert_eq!(json["figures"][0]["more_is_better"], json!(false));
    }

    #[test]
    fn ratios_of_rounds_are_of_the_same_round() {
        // The second round was disturbed, and both were.
        let (first, second) = ([1.0, 10.0, 1.0], [2.0, 20.0, 2.5]);
        let mut figure = Figure::less("time", "s");
        figure.push_rounds("a", &first, &first);
        figure.push_rounds("b", &second, &first);
        assert_eq!(figure.json()["rows"][1], json!({ "subject": "b", "value": 2.5, "ratio": 2.0 }));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[2.0, 1.0]), median(&[])), (2.0, 2.0, 0.0));
    }
}
