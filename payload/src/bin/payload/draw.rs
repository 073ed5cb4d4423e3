//! Pictures in a terminal: fields, tables, and what is drawn to scale.

use crate::screen::Screen;
use crate::text::{clean, cut};

/// What a mark in front of a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Good,
    /// Not as it must be.
    Bad,
    /// Worth knowing.
    Note,
}

/// A colour, where there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Of good marks.
    Green,
    /// Of bad ones.
    Red,
    /// Of notes.
    Yellow,
    /// Of one half of the neighbours on a map.
    Blue,
    /// Of the other half.
    Cyan,
    /// Of what matters less.
    Dim,
}

/// A piece of a map.
#[derive(Clone, Debug)]
pub struct Segment {
    /// What stands in it; short.
    pub tag: String,
    /// Its bytes.
    pub len: u64,
    /// Those of them, at its beginning, that are more than filler.
    pub used: u64,
    /// Whether it belongs to what is around the others: tables, records.
    pub frame: bool,
}

/// A picture in the making.
pub struct Page {
    screen: Screen,
    out: String,
}

const INDENT: usize = 2;
/// Characters of a field's name.
const NAME: usize = 10;
/// Most lines of one value that is shown, and of one that is judged: a digest has two, a reason four.
const FIELD_LINES: usize = 3;
/// Most rows of a table: two for each partition that a disk usually can have.
const ROWS: usize = 256;
const MARK_LINES: usize = 12;

impl Page {
    /// An empty one.
    pub fn new(screen: Screen) -> Self {
        Self { screen, out: String::new() }
    }

    /// All lines.
    pub fn finish(self) -> String {
        self.out
    }

    /// The first line: a name, and what it is.
    pub fn title(&mut self, name: &str, what: &str) {
        let (name, what) = (self.fit(name), self.fit(what));
        self.line(&format!("{name}: {what}"));
    }

    /// An empty line.
    pub fn gap(&mut self) {
        self.out.push('\n');
    }

    /// A named value; a long one goes on in further lines, and a very long one is cut.
    pub fn field(&mut self, name: &str, value: &str) {
        let room = self.screen.width.saturating_sub(INDENT + NAME);
        let value = cut(&self.fit(value), room * FIELD_LINES, self.screen.unicode);
        for (index, line) in wrap(&value, room).iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            self.line(&format!("{:INDENT$}{name:NAME$}{line}", ""));
        }
    }

    /// A field whose value is judged.
    pub fn mark(&mut self, name: &str, mark: Mark, value: &str) {
        let (sign, colour) = match (mark, self.screen.unicode) {
            (Mark::Good, true) => ("✓", Colour::Green),
            (Mark::Good, false) => ("+", Colour::Green),
            (Mark::Bad, true) => ("✗", Colour::Red),
            (Mark::Bad, false) => ("x", Colour::Red),
            (Mark::Note, true) => ("•", Colour::Yellow),
            (Mark::Note, false) => ("*", Colour::Yellow),
        };
        let sign = self.paint(colour, sign);
        let room = self.screen.width.saturating_sub(INDENT + NAME + 2);
        let value = cut(&self.fit(value), room * MARK_LINES, self.screen.unicode);
        let mut lines = wrap(&value, room).into_iter();
        let first = lines.next().unwrap_or_default();
        self.line(&format!("{:INDENT$}{name:NAME$}{sign} {first}", ""));
        for more in lines {
            self.line(&format!("{:width$}{more}", "", width = INDENT + NAME + 2));
        }
    }

    /// Rows of cells under a head, each column as wide as it must be. Columns whose head begins with `>` are aligned to
    /// the right; a cell more than there are columns gets a line of its own.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let left_off = rows.len().saturating_sub(ROWS);
        let rows: Vec<Vec<String>> =
            rows.iter().take(ROWS).map(|row| row.iter().map(|cell| self.fit(cell)).collect()).collect();
        let width_of = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([head[column].trim_start_matches('>').len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width_of).collect();
        let names: Vec<String> = head.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        let lines = std::iter::once(&names).chain(&rows);
        for (index, row) in lines.enumerate() {
            let mut line = " ".repeat(INDENT);
            for (column, cell) in row.iter().take(head.len()).enumerate() {
                let pad = widths[column].saturating_sub(cell.chars().count());
                let (before, after) = if head[column].starts_with('>') { (pad, 0) } else { (0, pad) };
                line.push_str(&format!("{:before$}{cell}{:after$}  ", "", ""));
            }
            let line = cut(line.trim_end(), self.screen.width, self.screen.unicode);
            let line = if index == 0 { self.paint(Colour::Dim, &line) } else { line };
            self.line(&line);
            if let Some(note) = row.get(head.len()) {
                let note = format!("{:indent$}{note}", "", indent = INDENT + widths[0].min(3) + 2);
                self.line(&cut(&note, self.screen.width, self.screen.unicode));
            }
        }
        if left_off > 0 {
            self.line(&format!("{:INDENT$}and {left_off} more", ""));
        }
    }

    /// Named bars, each as long as its number is; none is without a piece of bar but that of zero.
    pub fn bars(&mut self, rows: &[(String, u64, String)]) {
        let most = rows.iter().map(|row| row.1).max().unwrap_or(0).max(1);
        let name_width = rows.iter().map(|row| self.fit(&row.0).chars().count()).max().unwrap_or(0).min(30);
        let note_width = rows.iter().map(|row| self.fit(&row.2).chars().count()).max().unwrap_or(0);
        let room = self.screen.width.saturating_sub(INDENT + name_width + note_width + 4).max(8);
        for (name, number, note) in rows {
            let name = cut(&self.fit(name), name_width, self.screen.unicode);
            let pad = name_width - name.chars().count();
            let eighths =
                usize::try_from(u128::from(*number) * 8 * room as u128 / u128::from(most)).unwrap_or(0);
            let eighths = if *number > 0 { eighths.max(1) } else { 0 };
            let (bar, cells) = self.bar(eighths);
            let bar = self.paint(Colour::Blue, &bar);
            let note = self.fit(note);
            let line =
                format!("{:INDENT$}{name}{:pad$}  {bar}{:rest$}  {note}", "", "", "", rest = room - cells);
            self.line(line.trim_end());
        }
    }

    /// So many eighths of a character, and how many characters they take.
    fn bar(&self, eighths: usize) -> (String, usize) {
        let (whole, rest) = (eighths / 8, eighths % 8);
        if !self.screen.unicode {
            let cells = eighths.div_ceil(8);
            return ("#".repeat(cells), cells);
        }
        let mut bar = "█".repeat(whole);
        bar.push_str(["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][rest]);
        (bar, whole + usize::from(rest > 0))
    }

    /// Segments side by side, drawn to scale as far as each keeps room for its tag; where there are too many,
    /// neighbours are drawn as one.
    pub fn map(&mut self, segments: &[Segment], ends: (&str, &str)) {
        let room = self.screen.width - INDENT;
        let segments = merge(segments, room, if self.screen.unicode { "…" } else { "~" });
        if segments.is_empty() {
            return;
        }
        let least: Vec<usize> = segments.iter().map(|segment| segment.tag.chars().count().max(1)).collect();
        let lens: Vec<u64> = segments.iter().map(|segment| segment.len).collect();
        let widths = cells(&lens, &least, room - segments.len() - 1);
        let [left, across, down, right, side] = match self.screen.unicode {
            true => ["┌┬┐", "─", "└┴┘", "│", "█░▒"],
            false => ["+++", "-", "+++", "|", "#.="],
        };
        let edge = |corners: &str| {
            let corner: Vec<char> = corners.chars().collect();
            let runs: Vec<String> = widths.iter().map(|width| across.repeat(*width)).collect();
            format!("{:INDENT$}{}{}{}", "", corner[0], runs.join(&corner[1].to_string()), corner[2])
        };
        self.line(&edge(left));
        let mut tags = format!("{:INDENT$}{right}", "");
        let mut fill = tags.clone();
        let shades: Vec<String> = side.chars().map(String::from).collect();
        for (index, (segment, width)) in segments.iter().zip(&widths).enumerate() {
            let pad = width - segment.tag.chars().count();
            tags.push_str(&format!("{}{:pad$}{right}", segment.tag, ""));
            let used = share(segment.used.min(segment.len), segment.len, *width);
            let run = match segment.frame {
                true => shades[2].repeat(*width),
                false => shades[0].repeat(used) + &shades[1].repeat(width - used),
            };
            let colour = match (segment.frame, index % 2) {
                (true, _) => Colour::Dim,
                (_, 0) => Colour::Blue,
                _ => Colour::Cyan,
            };
            fill.push_str(&self.paint(colour, &run));
            fill.push_str(right);
        }
        self.line(&tags);
        self.line(&fill);
        self.line(&edge(down));
        let (begin, end) = ends;
        let pad = room.saturating_sub(begin.chars().count() + end.chars().count() + 2);
        self.line(&format!("{:INDENT$} {begin}{:pad$}{end}", "", ""));
    }

    fn line(&mut self, line: &str) {
        self.out.push_str(line.trim_end());
        self.out.push('\n');
    }

    /// Text that this terminal prints as it is.
    fn fit(&self, text: &str) -> String {
        let clean = clean(text);
        if self.screen.unicode || clean.is_ascii() {
            return clean;
        }
        clean
            .chars()
            .map(|c| if c.is_ascii() { c.to_string() } else { c.escape_default().to_string() })
            .collect()
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        if !self.screen.colour || text.is_empty() {
            return text.into();
        }
        let number = match colour {
            Colour::Green => 32,
            Colour::Red => 31,
            Colour::Yellow => 33,
            Colour::Blue => 34,
            Colour::Cyan => 36,
            Colour::Dim => 2,
        };
        format!("\u{1b}[{number}m{text}\u{1b}[0m")
    }
}

/// Lines of at most `width` characters, broken at spaces where there are any.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        let line = lines.last_mut().expect("there is a first line");
        if !line.is_empty() {
            if line.chars().count() + 1 + word.len() <= width {
                line.push(' ');
            } else {
                lines.push(String::new());
            }
        }
        while word.len() > width {
            let rest = word.split_off(width);
            lines.last_mut().expect("there is a first line").extend(word);
            lines.push(String::new());
            word = rest;
        }
        lines.last_mut().expect("there is a first line").extend(word);
    }
    lines
}

/// The part `of` in `whole`, of `cells` cells: at least one where it is anything, and not all where it is not all.
fn share(of: u64, whole: u64, cells: usize) -> usize {
    if of == whole {
        return cells;
    }
    let exact = usize::try_from(u128::from(of) * cells as u128 / u128::from(whole.max(1))).unwrap_or(cells);
    exact.clamp(usize::from(of > 0).min(cells), cells.saturating_sub(1).max(usize::from(of > 0)).min(cells))
}

/// How `room` cells are shared out by `lens`, none getting fewer than its `least`; the least must fit.
fn cells(lens: &[u64], least: &[usize], room: usize) -> Vec<usize> {
    let mut widths = least.to_vec();
    let mut free: Vec<usize> = (0..lens.len()).collect();
    let mut room = room;
    loop {
        let total: u128 = free.iter().map(|index| u128::from(lens[*index])).sum();
        let exact = |index: usize| match total {
            0 => room as u128 / free.len().max(1) as u128,
            _ => u128::from(lens[index]) * room as u128 / total,
        };
        // Those that would get too little take their least, and the others share what is left.
        let (small, large): (Vec<usize>, Vec<usize>) =
            free.iter().partition(|index| exact(**index) < least[**index] as u128);
        if small.is_empty() {
            for index in &large {
                widths[*index] = usize::try_from(exact(*index)).unwrap_or(0);
            }
            let rest = room - large.iter().map(|index| widths[*index]).sum::<usize>();
            let mut by_len = large;
            by_len.sort_by_key(|index| std::cmp::Reverse(lens[*index]));
            for index in by_len.iter().cycle().take(if by_len.is_empty() { 0 } else { rest }) {
                widths[*index] += 1;
            }
            return widths;
        }
        room = room.saturating_sub(small.iter().map(|index| least[*index]).sum());
        free = large;
    }
}

/// Draws neighbours as one until all of them fit.
fn merge(segments: &[Segment], room: usize, sign: &str) -> Vec<Segment> {
    let mut segments = segments.to_vec();
    let needed =
        |all: &[Segment]| all.iter().map(|segment| segment.tag.chars().count().max(1) + 1).sum::<usize>() + 1;
    // Far too many are halved first: the search below looks at all of them for each one that goes.
    while segments.len() > 8 * room {
        segments = segments.chunks(2).map(|pair| join(pair, sign)).collect();
    }
    while segments.len() > 1 && needed(&segments) > room {
        let smallest = (0..segments.len() - 1)
            .min_by_key(|at| segments[*at].len.saturating_add(segments[*at + 1].len))
            .expect("there are two");
        segments[smallest] = join(&segments[smallest..smallest + 2], sign);
        segments.remove(smallest + 1);
    }
    segments
}

/// Neighbours as one segment.
fn join(parts: &[Segment], sign: &str) -> Segment {
    let sum = |of: fn(&Segment) -> u64| parts.iter().map(of).fold(0, u64::saturating_add);
    Segment {
        tag: sign.to_owned(),
        len: sum(|part| part.len),
        used: sum(|part| part.used),
        frame: parts.iter().all(|part| part.frame),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Screen = Screen { width: 60, unicode: true, colour: false };

    fn segment(tag: &str, len: u64, used: u64, frame: bool) -> Segment {
        Segment { tag: tag.into(), len, used, frame }
    }

    #[test]
    fn a_map() {
        let mut page = Page::new(PLAIN);
        let parts = [
            segment("GPT", 20, 20, true),
            segment("1", 8, 1, false),
            segment("2", 100, 60, false),
            segment("GPT", 33, 33, true),
        ];
        page.map(&parts, ("0", "161"));
        let expected = "
  ┌───────┬──┬─────────────────────────────────┬───────────┐
  │GPT    │1 │2                                │GPT        │
  │▒▒▒▒▒▒▒│█░│███████████████████░░░░░░░░░░░░░░│▒▒▒▒▒▒▒▒▒▒▒│
  └───────┴──┴─────────────────────────────────┴───────────┘
   0                                                    161
";
        assert_eq!(page.finish(), expected.trim_start_matches('\n'));
        let mut page = Page::new(Screen { unicode: false, ..PLAIN });
        page.map(&parts[..2], ("0", "28"));
        assert!(page.finish().is_ascii());
    }

    #[test]
    fn colours_are_of_zero_width_and_only_where_wanted() {
        let draw = |colour| {
            let mut page = Page::new(Screen { colour, ..PLAIN });
            page.map(&[segment("a", 1, 1, false), segment("b", 2, 1, true)], ("0", "3"));
            page.mark("name", Mark::Bad, "value");
            page.finish()
        };
        let coloured = draw(true);
        assert!(coloured.contains("\u{1b}[31m"));
        let mut plain = String::new();
        let mut escape = false;
        for c in coloured.chars() {
            escape |= c == '\u{1b}';
            if !escape {
                plain.push(c);
            }
            escape &= c != 'm';
        }
        assert_eq!(plain, draw(false));
    }

    #[test]
    fn bars_and_fields() {
        let mut page = Page::new(PLAIN);
        page.bars(&[("a".into(), 8, "8".into()), ("bb".into(), 1, "1".into()), ("c".into(), 0, "0".into())]);
        page.field("name", &"x".repeat(1000));
        page.mark("name", Mark::Good, "it is \u{1b}[2J good");
        let lines = page.finish();
        assert!(lines.lines().all(|line| line.chars().count() <= 60), "{lines}");
        assert!(lines.contains("…\n") && lines.contains("✓ it is \\u{1b}[2J good"), "{lines}");
    }

    proptest! {
        #[test]
        fn maps_fit_the_width_whatever_is_on_them(
            lens in prop::collection::vec((0..u64::MAX / 2048, 0..u64::MAX), 1..300),
            width in 60usize..160,
            unicode: bool,
        ) {
            let segments: Vec<Segment> = lens.iter().enumerate()
                .map(|(index, (len, used))| segment(&index.to_string(), *len, *used, index % 7 == 0))
                .collect();
            let mut page = Page::new(Screen { width, unicode, colour: false });
            page.map(&segments, ("0", "end"));
            let picture = page.finish();
            let lines: Vec<&str> = picture.lines().collect();
            prop_assert_eq!(lines.len(), 5);
            for line in &lines[..4] {
                prop_assert_eq!(line.chars().count(), width);
            }
        }

        #[test]
        fn long_tables_are_cut(rows in 0usize..600) {
            let mut page = Page::new(PLAIN);
            page.table(&[">#"], &(0..rows).map(|row| vec![row.to_string()]).collect::<Vec<_>>());
            let lines = page.finish().lines().count();
            prop_assert_eq!(lines, 1 + rows.min(ROWS) + usize::from(rows > ROWS));
        }

        #[test]
        fn cells_are_all_given_away(lens in prop::collection::vec(any::<u32>(), 1..40), room in 120usize..200) {
            let lens: Vec<u64> = lens.into_iter().map(u64::from).collect();
            let least = vec![3; lens.len()];
            let widths = cells(&lens, &least, room);
            prop_assert_eq!(widths.iter().sum::<usize>(), room);
            prop_assert!(widths.iter().all(|width| *width >= 3));
        }

        #[test]
        fn wrapping_keeps_every_word(text in "[a-z ]{0,200}", width in 1usize..40) {
            let lines = wrap(&text, width);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width));
            let bare = |text: &str| text.replace(' ', "");
            prop_assert_eq!(bare(&lines.concat()), bare(&text));
        }
    }
}
