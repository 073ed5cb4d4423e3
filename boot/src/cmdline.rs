//! The kernel's command line, built word by word and checked.

use std::fmt::Write;

/// A command line that a kernel would not get as it was meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// Longer than the kernel keeps.
    #[error("{len} bytes, expected at most {max}")]
    TooLong {
        /// Bytes there would be.
        len: usize,
        /// Bytes the kernel keeps.
        max: usize,
    },
    /// A character that is not printable ASCII: the kernel's parser and its log are bytes.
    #[error("byte {byte:#04x} at position {at}, expected printable ASCII")]
    NotPrintable {
        /// The byte.
        byte: u8,
        /// Its position in the text it came in.
        at: usize,
    },
    /// A word with a blank, a quote or, in a key, an equals sign would be read as something else.
    #[error("{word:?} has a character that would split it")]
    NotAWord {
        /// The key or value.
        word: String,
    },
    /// An empty key, or an empty window of a device.
    #[error("empty {what}")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
}

/// A kernel command line under construction, never longer than its cap and printable throughout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    text: String,
    max: usize,
}

impl Cmdline {
    /// An empty command line of at most `max` bytes, see [`crate::layout::CMDLINE_MAX`].
    pub fn new(max: usize) -> Self {
        Self { text: String::new(), max }
    }

    /// Appends text as it is: words separated by blanks, such as a user wrote them.
    ///
    /// # Errors
    /// When it is not printable ASCII or the line would be too long.
    pub fn append(&mut self, text: &str) -> Result<&mut Self, CmdlineError> {
        let text = text.trim_matches(' ');
        check_printable(text)?;
        if text.is_empty() {
            return Ok(self);
        }
        let blank = usize::from(!self.text.is_empty());
        let len = self.text.len().saturating_add(blank).saturating_add(text.len());
        if len > self.max {
            return Err(CmdlineError::TooLong { len, max: self.max });
        }
        if blank == 1 {
            self.text.push(' ');
        }
        self.text.push_str(text);
        Ok(self)
    }

    /// Appends the single word `word`.
    ///
    /// # Errors
    /// As [`Self::append`], and when it is empty or would not be read as one word.
    pub fn word(&mut self, word: &str) -> Result<&mut Self, CmdlineError> {
        check_word(word, "word", false)?;
        self.append(word)
    }

    /// Appends `key=value`.
    ///
    /// # Errors
    /// As [`Self::append`], and when key or value would not be read as what they are.
    pub fn insert(&mut self, key: &str, value: &str) -> Result<&mut Self, CmdlineError> {
        check_word(key, "key", true)?;
        check_word(value, "value", false)?;
        self.append(&format!("{key}={value}"))
    }

    /// Announces a virtio-mmio device: `size` bytes of registers at `base`, interrupt `gsi`
    /// (Linux: drivers/virtio/virtio_mmio.c, parameter `device`).
    ///
    /// # Errors
    /// When `size` is 0 or the line would be too long.
    pub fn virtio_mmio(&mut self, size: u64, base: u64, gsi: u32) -> Result<&mut Self, CmdlineError> {
        if size == 0 {
            return Err(CmdlineError::Empty { what: "window of a device" });
        }
        let mut value = String::new();
        // Linux reads K as KiB; a String takes every write.
        let _ = match size % 1024 {
            0 => write!(value, "{}K@{base:#x}:{gsi}", size / 1024),
            _ => write!(value, "{size}@{base:#x}:{gsi}"),
        };
        self.insert("virtio_mmio.device", &value)
    }

    /// The line so far.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Checks a whole command line that was not built here.
pub fn check(text: &str, max: usize) -> Result<(), CmdlineError> {
    if text.len() > max {
        return Err(CmdlineError::TooLong { len: text.len(), max });
    }
    check_printable(text)
}

fn check_printable(text: &str) -> Result<(), CmdlineError> {
    match text.bytes().enumerate().find(|(_, b)| !matches!(b, b' '..=b'~')) {
        Some((at, byte)) => Err(CmdlineError::NotPrintable { byte, at }),
        None => Ok(()),
    }
}

fn check_word(word: &str, what: &'static str, is_key: bool) -> Result<(), CmdlineError> {
    if word.is_empty() && what != "value" {
        return Err(CmdlineError::Empty { what });
    }
    check_printable(word)?;
    if word.contains([' ', '"']) || (is_key && word.contains('=')) {
        return Err(CmdlineError::NotAWord { word: word.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_separated_by_one_blank() {
        let mut line = Cmdline::new(100);
        line.append(" ").unwrap().insert("console", "ttyS0").unwrap().word("quiet").unwrap();
        line.append("  a=1 b ").unwrap().insert("empty", "").unwrap();
        assert_eq!(line.as_str(), "console=ttyS0 quiet a=1 b empty=");
    }

    #[test]
    fn devices_are_written_as_linux_reads_them() {
        let mut line = Cmdline::new(100);
        line.virtio_mmio(0x1000, 0xd000_0000, 5).unwrap().virtio_mmio(0x200, 0xd000_1000, 23).unwrap();
        assert_eq!(line.as_str(), "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=512@0xd0001000:23");
        assert_eq!(line.virtio_mmio(0, 1, 1), Err(CmdlineError::Empty { what: "window of a device" }));
    }

    #[test]
    fn what_would_be_read_otherwise_is_refused() {
        let mut line = Cmdline::new(100);
        for (key, value) in [("a b", "c"), ("a", "b c"), ("a=b", "c"), ("a", "\"b"), ("a\"", "b")] {
            assert!(matches!(line.insert(key, value), Err(CmdlineError::NotAWord { .. })), "{key} {value}");
        }
        assert_eq!(line.insert("", "b"), Err(CmdlineError::Empty { what: "key" }));
        assert_eq!(line.word(""), Err(CmdlineError::Empty { what: "word" }));
        for text in ["a\nb", "a\0", "\u{7f}", "é", "a\tb"] {
            assert!(matches!(line.append(text), Err(CmdlineError::NotPrintable { .. })), "{text:?}");
            assert!(matches!(line.insert("k", text), Err(CmdlineError::NotPrintable { .. })), "{text:?}");
            assert!(matches!(check(text, 100), Err(CmdlineError::NotPrintable { .. })), "{text:?}");
        }
        assert_eq!(line.as_str(), "");
    }

    #[test]
    fn the_cap_counts_the_blank() {
        let mut line = Cmdline::new(5);
        line.word("ab").unwrap();
        assert_eq!(line.word("cde"), Err(CmdlineError::TooLong { len: 6, max: 5 }));
        line.word("cd").unwrap();
        assert_eq!(line.as_str(), "ab cd");
        assert_eq!(check("123456", 5), Err(CmdlineError::TooLong { len: 6, max: 5 }));
        assert_eq!(check("12345", 5), Ok(()));
    }

    proptest! {
        #[test]
        fn a_line_is_always_printable_and_within_its_cap(texts in prop::collection::vec(".{0,12}", 0..8)) {
            let mut line = Cmdline::new(20);
            for text in &texts {
                let before = line.clone();
                if line.append(text).is_err() {
                    prop_assert_eq!(&line, &before);
                }
                prop_assert_eq!(check(line.as_str(), 20), Ok(()));
            }
        }
    }
}
