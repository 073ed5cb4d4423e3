//! Boot configuration: typed keys for a kernel and its init, appended to the ramdisk
//! (Documentation/admin-guide/bootconfig.rst).
//!
//! ```text
//!   | ramdisk | key = "value" lines | zeros to 4 bytes | size | checksum | #BOOTCONFIG\n |
//!             '---------- size, a sum of its bytes --'
//! ```

use std::collections::BTreeMap;

/// Largest configuration, XBC_DATA_MAX.
const SIZE_MAX: usize = 32767;
/// Longest key, XBC_KEYLEN_MAX less its final zero.
const KEY_MAX: usize = 255;
/// Most words in a key, XBC_DEPTH_MAX.
const DEPTH_MAX: usize = 16;
/// Most words and values in all, XBC_NODE_MAX.
const NODES_MAX: usize = 8192;
const MAGIC: &[u8; 12] = b"#BOOTCONFIG\n";
const ALIGN: usize = 4;

/// A configuration that a kernel would not read as it was meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BootConfigError {
    /// Not words of letters, digits, `-` and `_` with dots between them.
    #[error(
        "key {key:?}, expected at most {DEPTH_MAX} words of letters, digits, - and _ with dots between them, \
         {KEY_MAX} bytes in all"
    )]
    Key {
        /// The key.
        key: String,
    },
    /// A value that no quotes can hold.
    #[error("{key}: value {value:?}, expected printable ASCII with only one kind of quotes in it")]
    Value {
        /// Its key.
        key: String,
        /// The value.
        value: String,
    },
    /// More than a kernel reads.
    #[error("{found} {what}, expected at most {max}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much there can be.
        max: usize,
    },
}

/// What a key is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootValue {
    /// Nothing: the key itself says it.
    None,
    /// `true` or `false`.
    Flag(bool),
    /// A decimal number.
    Number(i64),
    /// Text.
    Text(String),
    /// An array of texts.
    List(Vec<String>),
}

/// A boot configuration, its keys in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootConfig(BTreeMap<String, BootValue>);

impl BootConfig {
    /// A configuration without keys.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Sets `key`, whatever it was set to before.
    ///
    /// # Errors
    /// When key or value cannot be written so that a kernel reads the same.
    pub fn insert(&mut self, key: &str, value: BootValue) -> Result<(), BootConfigError> {
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if key.len() > KEY_MAX || key.split('.').count() > DEPTH_MAX || !key.split('.').all(is_word) {
            return Err(BootConfigError::Key { key: key.to_owned() });
        }
        let texts = match &value {
            BootValue::Text(text) => std::slice::from_ref(text),
            BootValue::List(texts) => texts,
            BootValue::None | BootValue::Flag(_) | BootValue::Number(_) => &[],
        };
        if let Some(text) = texts.iter().find(|text| quoted(text).is_none()) {
            return Err(BootConfigError::Value { key: key.to_owned(), value: text.clone() });
        }
        self.0.insert(key.to_owned(), value);
        Ok(())
    }

    /// Whether no key is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text that the kernel parses, a line for each key.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.0 {
            let value = match value {
                BootValue::None => None,
                BootValue::Flag(flag) => Some(flag.to_string()),
                BootValue::Number(number) => Some(number.to_string()),
                BootValue::Text(value) => quoted(value),
                BootValue::List(values) => {
                    Some(values.iter().filter_map(|v| quoted(v)).collect::<Vec<_>>().join(", "))
                }
            };
            text.push_str(key);
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                text.push_str(" = ");
                text.push_str(&value);
            }
            text.push('\n');
        }
        text
    }

    /// What is appended to a ramdisk whose length is a multiple of 4; nothing for an empty configuration.
    ///
    /// # Errors
    /// When it is more than a kernel reads.
    pub fn trailer(&self) -> Result<Vec<u8>, BootConfigError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let mut bytes = self.text().into_bytes();
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        if bytes.len() > SIZE_MAX {
            return Err(BootConfigError::TooMuch {
                what: "bytes of bootconfig",
                found: bytes.len(),
                max: SIZE_MAX,
            });
        }
        let nodes = self.0.iter().map(|(key, value)| {
            let values = if let BootValue::List(values) = value { values.len() } else { 1 };
            key.split('.').count() + values
        });
        let nodes = nodes.sum();
        if nodes > NODES_MAX {
            return Err(BootConfigError::TooMuch {
                what: "words and values of bootconfig",
                found: nodes,
                max: NODES_MAX,
            });
        }
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let checksum = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        bytes.extend(size.to_le_bytes());
        bytes.extend(checksum.to_le_bytes());
        bytes.extend(MAGIC);
        Ok(bytes)
    }
}

/// `text` in quotes, which know no escapes; `None` when neither kind will do.
fn quoted(text: &str) -> Option<String> {
    let quote = if text.contains('"') { '\'' } else { '"' };
    let ok = text.bytes().all(|b| matches!(b, b' '..=b'~')) && !text.contains(quote);
    ok.then(|| format!("{quote}{text}{quote}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(entries: &[(&str, BootValue)]) -> BootConfig {
        let mut config = BootConfig::default();
        for (key, value) in entries {
            config.insert(key, value.clone()).unwrap();
        }
        config
    }

    /// Finds and checks the configuration as Linux does (get_boot_config_from_initrd).
    fn as_linux_reads(ramdisk: &[u8]) -> &[u8] {
        let rest = ramdisk.strip_suffix(b"#BOOTCONFIG\n").unwrap();
        let (rest, numbers) = rest.split_at(rest.len() - 8);
        let size = usize::try_from(u32::from_le_bytes(numbers[..4].try_into().unwrap())).unwrap();
        let sum = u32::from_le_bytes(numbers[4..].try_into().unwrap());
        let data = &rest[rest.len() - size..];
        assert_eq!(data.iter().map(|b| u32::from(*b)).sum::<u32>(), sum);
        data
    }

    #[test]
    fn values_are_written_by_type() {
        let list = BootValue::List(vec!["a b".into(), "say \"no\"".into()]);
        let config = config(&[
            ("kernel.quiet", BootValue::None),
            ("a.b-c", BootValue::Number(-7)),
            ("init.flag", BootValue::Flag(true)),
            ("init.name", BootValue::Text("it's; } #".into())),
            ("list", list),
            ("nothing", BootValue::List(Vec::new())),
        ]);
        assert_eq!(
            config.text(),
            "a.b-c = -7\ninit.flag = true\ninit.name = \"it's; } #\"\nkernel.quiet\n\
             list = \"a b\", 'say \"no\"'\nnothing\n"
        );
    }

    #[test]
    fn the_trailer_is_what_linux_finds() {
        let trailer = config(&[("a", BootValue::Number(1))]).trailer().unwrap();
        assert_eq!(trailer.len() % 4, 0);
        assert_eq!(as_linux_reads(&[&[1, 2, 3, 4], &trailer[..]].concat()), b"a = 1\n\0\0");
        assert_eq!(BootConfig::default().trailer(), Ok(Vec::new()));
    }

    #[test]
    fn what_would_be_read_otherwise_is_refused() {
        let mut config = BootConfig::default();
        let deep = vec!["a"; 17].join(".");
        let long = "a".repeat(256);
        for key in ["", ".", "a.", ".a", "a..b", "a b", "a=b", "a{", "é", "a#", &deep, &long] {
            let refused = config.insert(key, BootValue::None);
            assert_eq!(refused, Err(BootConfigError::Key { key: key.to_owned() }));
        }
        for value in ["both ' and \"", "a\nb", "\0", "é"] {
            let refused = config.insert("k", BootValue::List(vec!["fine".into(), value.into()]));
            assert_eq!(refused, Err(BootConfigError::Value { key: "k".into(), value: value.into() }));
        }
        assert!(config.is_empty());
        config.insert("k", BootValue::Text("x".repeat(SIZE_MAX))).unwrap();
        assert!(matches!(config.trailer(), Err(BootConfigError::TooMuch { found: 32776, .. })));
        let mut config = BootConfig::default();
        for n in 0..500 {
            config.insert(&format!("{}{n}", "a.".repeat(15)), BootValue::None).unwrap();
        }
        assert!(matches!(config.trailer(), Err(BootConfigError::TooMuch { found: 8500, .. })));
    }

    proptest! {
        #[test]
        fn every_accepted_configuration_is_found_again(
            entries in prop::collection::btree_map("[a-z.]{1,9}", "[ -~]{0,20}", 0..6),
        ) {
            let mut config = BootConfig::default();
            for (key, value) in &entries {
                let _ = config.insert(key, BootValue::Text(value.clone()));
            }
            let trailer = config.trailer().unwrap();
            if !config.is_empty() {
                let text = String::from_utf8(as_linux_reads(&trailer).to_vec()).unwrap();
                prop_assert_eq!(text.trim_end_matches('\0'), config.text());
            }
        }
    }
}
