//! The configuration of `mk_payload`: which files make a payload disk (formats: section 1).
//!
//! ```json
//! {
//!   "apexes": [{"name": "com.android.art", "path": "art.apex"}],
//!   "system_apexes": ["com.android.adbd"],
//!   "apk": {"name": "my_apk", "path": "my.apk", "idsigPath": "my.apk.idsig"},
//!   "payload_config_path": "/mnt/apk/assets/vm_config.json",
//! }
//! ```
//!
//! Every key may be left out; `idsig_path` is another spelling, and a comma may stand behind the last of several.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::apk::config::nearest;

/// Longest configuration read, in bytes.
pub const MAX_CONFIG_LEN: u64 = 1 << 20;

/// Why a configuration says nothing of use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not UTF-8.
    #[error("byte {0} is not UTF-8")]
    Text(usize),
    /// No JSON; the text has line and column.
    #[error("{0}")]
    Syntax(String),
    /// A key that means nothing.
    #[error("unknown key \"{key}\"{}, {place}", .nearest.map_or(String::new(), |it| format!(", did you mean \"{it}\"?")))]
    UnknownKey {
        /// The key, with those above it.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
        /// Line and column.
        place: String,
    },
    /// A value that is not of the kind it has to be, or missing.
    #[error("\"{key}\": {problem}, {place}")]
    Value {
        /// The key, with those above it.
        key: String,
        /// What is wrong.
        problem: &'static str,
        /// Line and column.
        place: String,
    },
    /// A component's name that is no file name.
    #[error("\"system_apexes[{index}]\": {name:?} is no file name")]
    SystemApex {
        /// Its place in the list.
        index: usize,
        /// The name.
        name: String,
    },
    /// Names of components, and nowhere to look for them.
    #[error("\"system_apexes\" needs a directory to find them in (--apex-dir)")]
    NoApexDirectory,
}

/// Which files make a payload disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PayloadConfig {
    /// Shared components, in the order of their partitions.
    pub apexes: Vec<ApexConfig>,
    /// Names of shared components that come with the system; they follow the others.
    pub system_apexes: Vec<String>,
    /// The application.
    pub apk: Option<ApkConfig>,
    /// What to run, as seen inside the guest.
    pub payload_config_path: Option<String>,
}

/// One shared component.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApexConfig {
    /// Its name in the metadata.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// The application.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApkConfig {
    /// Its name in the metadata.
    pub name: String,
    /// The archive.
    pub path: PathBuf,
    /// Its hash tree.
    #[serde(rename = "idsigPath", alias = "idsig_path")]
    pub idsig_path: PathBuf,
}

impl PayloadConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`ConfigError`], with key, line and column.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let mut bytes = bytes.to_vec();
        blank_trailing_commas(&mut bytes);
        let text = std::str::from_utf8(&bytes).map_err(|error| ConfigError::Text(error.valid_up_to()))?;
        let value: Value = serde_json::from_str(text).map_err(|e| ConfigError::Syntax(e.to_string()))?;
        // Serde would take an array's items as the values of the keys.
        let mut refusals = Vec::new();
        check_object(&value, "", TOP, &mut refusals);
        let count = refusals.len();
        let refusal = refusals.into_iter().next();
        match (serde_json::from_str(text), refusal) {
            (Ok(config), None) => Ok(config),
            (Ok(_), Some(refusal)) => Err(refusal.at("line 1".into())),
            (Err(error), None) => Err(ConfigError::Syntax(error.to_string())),
            (Err(error), Some(refusal)) => {
                // Serde stops at the first in the text, which need not be this one.
                let what =
                    if count == 1 { String::new() } else { format!("the first of {count} mistakes is in ") };
                Err(refusal.at(format!("{what}line {} column {}", error.line(), error.column())))
            }
        }
    }

    /// Makes every path absolute or relative to `directory`, and the system's components ordinary ones: files in
    /// `apex_directory`.
    ///
    /// # Errors
    /// [`ConfigError::NoApexDirectory`] and [`ConfigError::SystemApex`].
    pub fn resolve(mut self, directory: &Path, apex_directory: Option<&Path>) -> Result<Self, ConfigError> {
        for apex in &mut self.apexes {
            apex.path = directory.join(&apex.path);
        }
        if let Some(apk) = &mut self.apk {
            apk.path = directory.join(&apk.path);
            apk.idsig_path = directory.join(&apk.idsig_path);
        }
        for (index, name) in std::mem::take(&mut self.system_apexes).into_iter().enumerate() {
            let apexes = apex_directory.ok_or(ConfigError::NoApexDirectory)?;
            if name.is_empty() || name.contains(['/', '\0']) {
                return Err(ConfigError::SystemApex { index, name });
            }
            let path = apexes.join(format!("{name}.apex"));
            self.apexes.push(ApexConfig { name, path });
        }
        Ok(self)
    }
}

/// What a key's value has to be.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Texts,
    Object(Keys),
    Objects(Keys),
}

/// The keys of an object: its names, whether it has to be there, and its value.
type Keys = &'static [(&'static [&'static str], bool, Shape)];

const TOP: Keys = &[
    (&["apexes"], false, Shape::Objects(APEX)),
    (&["system_apexes"], false, Shape::Texts),
    (&["apk"], false, Shape::Object(APK)),
    (&["payload_config_path"], false, Shape::Text),
];
const APEX: Keys = &[(&["name"], true, Shape::Text), (&["path"], true, Shape::Text)];
const APK: Keys = &[
    (&["name"], true, Shape::Text),
    (&["path"], true, Shape::Text),
    (&["idsigPath", "idsig_path"], true, Shape::Text),
];

/// What serde will refuse, by its key.
struct Refusal {
    key: String,
    what: Refused,
}

enum Refused {
    Unknown(Option<&'static str>),
    Value(&'static str),
}

impl Refusal {
    fn value(key: &str, problem: &'static str) -> Self {
        Self { key: key.to_string(), what: Refused::Value(problem) }
    }

    fn at(self, place: String) -> ConfigError {
        match self.what {
            Refused::Unknown(nearest) => ConfigError::UnknownKey { key: self.key, nearest, place },
            Refused::Value(problem) => ConfigError::Value { key: self.key, problem, place },
        }
    }
}

fn check_object(value: &Value, above: &str, keys: Keys, refusals: &mut Vec<Refusal>) {
    let Some(map) = value.as_object() else {
        let key = if above.is_empty() { "the configuration" } else { above };
        return refusals.push(Refusal::value(key, "expected an object"));
    };
    let full = |key: &str| if above.is_empty() { key.to_string() } else { format!("{above}.{key}") };
    for (key, value) in map {
        if let Some((_, _, shape)) = keys.iter().find(|(names, ..)| names.contains(&key.as_str())) {
            check_value(value, &full(key), *shape, refusals);
        } else {
            let nearest = nearest(key, keys.iter().flat_map(|(names, ..)| names.iter().copied()));
            refusals.push(Refusal { key: full(key), what: Refused::Unknown(nearest) });
        }
    }
    for (names, needed, _) in keys {
        // A key that is misspelt is missing as well: one mistake, told once.
        let misspelt =
            |it: &Refusal| matches!(it.what, Refused::Unknown(Some(near)) if names.contains(&near));
        if *needed && !names.iter().any(|name| map.contains_key(*name)) && !refusals.iter().any(misspelt) {
            refusals.push(Refusal::value(&full(names[0]), "missing"));
        }
    }
}

fn check_value(value: &Value, key: &str, shape: Shape, refusals: &mut Vec<Refusal>) {
    let mut each = |check: &dyn Fn(&Value, &str, &mut Vec<Refusal>)| match value.as_array() {
        Some(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, item)| check(item, &format!("{key}[{index}]"), refusals)),
        None => refusals.push(Refusal::value(key, "expected a list")),
    };
    match shape {
        Shape::Text if value.is_string() => {}
        Shape::Text => refusals.push(Refusal::value(key, "expected a string")),
        Shape::Object(keys) => check_object(value, key, keys, refusals),
        Shape::Texts => each(&|item, key, refusals| check_value(item, key, Shape::Text, refusals)),
        Shape::Objects(keys) => each(&|item, key, refusals| check_object(item, key, keys, refusals)),
    }
}

/// Puts spaces where a comma stands between a value and the end of its list or object.
fn blank_trailing_commas(text: &mut [u8]) {
    let (mut in_string, mut escaped) = (false, false);
    // The last byte of a value, and where the comma behind it is.
    let (mut before, mut comma) = (b'{', None);
    for at in 0..text.len() {
        let byte = text[at];
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b',' => comma = Some(at).filter(|_| !matches!(before, b'{' | b'[' | b',' | b':')),
            b'}' | b']' => {
                if let Some(comma) = comma.take() {
                    text[comma] = b' ';
                }
            }
            other => {
                in_string = other == b'"';
                comma = None;
            }
        }
        before = byte;
    }
}

#[cfg(test)]
mod tests;
