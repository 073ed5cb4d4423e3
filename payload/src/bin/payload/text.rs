//! Text from outside made fit for a terminal, and numbers made fit for people.

use std::fmt::Write;

/// `text` with everything escaped that would not print as itself: control characters, and those that change the
/// direction or the width of what follows.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Formatting characters: they are not control characters, and deceive as well.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Cuts `text` to `width` characters, the last of them the sign that something is missing.
pub fn cut(text: &str, width: usize, unicode: bool) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let sign = if unicode { "…" } else { "~" };
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push_str(sign);
    out
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("strings take everything");
        out
    })
}

/// Bytes of hexadecimal digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.iter().all(u8::is_ascii_hexdigit) || !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
}

/// A size in at most six characters and its unit: whole where it is whole, else with one digit behind the point.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 2)) > 0 {
        unit += 1;
    }
    let shift = 10 * (unit + 1);
    let whole = bytes >> shift;
    // Ten times the fraction, cut off: never more than there is.
    let tenths = (((bytes - (whole << shift)) >> (shift - 10)) * 10) >> 10;
    if tenths == 0 && bytes == whole << shift {
        return format!("{whole} {}", UNITS[unit]);
    }
    format!("{whole}.{tenths} {}", UNITS[unit])
}

/// A count with its noun, which takes an s.
pub fn count(number: u64, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_does_more_than_print() {
        assert_eq!(clean("Grüße 日本 a b"), "Grüße 日本 a b");
        assert_eq!(clean("\u{1b}[31m\r\n\t\0\u{7f}\u{9b}"), "\\u{1b}[31m\\r\\n\\t\\u{0}\\u{7f}\\u{9b}");
        assert_eq!(clean("txt.\u{202e}kpa"), "txt.\\u{202e}kpa");
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        assert!(clean(&all).chars().all(|c| !c.is_control() && !is_invisible(c)));
    }

    #[test]
    fn sizes_are_short_and_never_more_than_there_is() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (4095, "3.9 KiB"),
            (10 << 20, "10 MiB"),
            ((10 << 20) + 1, "10.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn counts_and_cuts() {
        assert_eq!((count(1, "entry"), count(0, "entry")), ("1 entry".into(), "0 entries".into()));
        assert_eq!(count(2, "block"), "2 blocks");
        assert_eq!((cut("abcdef", 4, true), cut("abcd", 4, false)), ("abc…".into(), "abcd".into()));
    }

    #[test]
    fn hexadecimal_both_ways() {
        assert_eq!(unhex(&hex(&[0, 0xab, 255])), Some(vec![0, 0xab, 255]));
        for bad in ["a", "0g", "+1", "ä"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
