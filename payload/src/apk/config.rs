//! The payload configuration inside an archive: JSON that names the task, the shared components and extra archives.
//!
//! It is written for many releases of many systems, so a key that is not known here is a [`Warning`], not an error.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// Longest configuration accepted, in bytes.
pub const MAX_LEN: u64 = 1 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not the JSON that is expected; the place is in the source's text.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1; 0 for an error at the line's start.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A value that cannot be meant.
    #[error("{key}: {reason}")]
    Value {
        /// The key, with the path to it.
        key: String,
        /// What is wrong with its value.
        reason: &'static str,
    },
}

/// Something in a configuration that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A key nobody reads.
    UnknownKey {
        /// The key, with the path to it.
        key: String,
        /// The known key most like it, if one is.
        nearest: Option<&'static str>,
    },
    /// A key that means something only on Android.
    Ignored(&'static str),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { key, nearest: Some(nearest) } => {
                write!(f, "unknown key {key:?} is ignored; did you mean {nearest:?}?")
            }
            Self::UnknownKey { key, nearest: None } => write!(f, "unknown key {key:?} is ignored"),
            Self::Ignored(key) => write!(f, "{key:?} has no meaning here and is ignored"),
        }
    }
}

/// A payload configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PayloadConfig {
    /// The guest system it is made for.
    pub os: Option<Os>,
    /// What to run; a configuration without a task only mounts.
    pub task: Option<Task>,
    /// Shared components to activate.
    pub apexes: Vec<ApexName>,
    /// Extra archives to mount, matched with the host's list by position.
    pub extra_apks: Vec<ExtraApkPath>,
    /// Android only: updates waiting for a reboot count.
    pub prefer_staged: bool,
    /// Whether crash reports leave the VM; nothing said means the debug level decides.
    pub export_tombstones: Option<bool>,
    /// Android only: a file server for the payload.
    pub enable_authfs: bool,
    /// Whether the payload's memory should be of large pages.
    pub hugepages: bool,
}

/// The guest system of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Os {
    /// Its name, of `[a-z0-9_-]`: it becomes a file name.
    pub name: String,
}

/// What the guest runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Task {
    /// How `command` is meant.
    #[serde(rename = "type", default)]
    pub kind: TaskType,
    /// A library in `lib/<abi>/`, or a path in the archive.
    pub command: String,
    /// Arguments.
    #[serde(default)]
    pub args: Vec<String>,
}

/// How a task's command is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskType {
    /// A program: its path in the archive.
    #[default]
    Executable,
    /// A library with `AVmPayload_main`: its file name in `lib/<abi>/`.
    MicrodroidLauncher,
}

/// A shared component by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ApexName {
    /// Its name.
    pub name: String,
}

/// An extra archive by its path on the build machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ExtraApkPath {
    /// Its path.
    pub path: String,
}

impl PayloadConfig {
    /// Reads a configuration, and tells what in it has no effect.
    ///
    /// # Errors
    /// [`ConfigError`] with the place of a mistake.
    pub fn parse(json: &[u8]) -> Result<(Self, Vec<Warning>), ConfigError> {
        let config: Self = serde_json::from_slice(json).map_err(|error| syntax(&error))?;
        config.check()?;
        let value: Value = serde_json::from_slice(json).map_err(|error| syntax(&error))?;
        check_objects(&value)?;
        let mut warnings = Vec::new();
        warn_unknown(&value, &ROOT, "", &mut warnings);
        for (on, key) in [(config.prefer_staged, "prefer_staged"), (config.enable_authfs, "enable_authfs")] {
            if on {
                warnings.push(Warning::Ignored(key));
            }
        }
        Ok((config, warnings))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key: &str, reason| Err(ConfigError::Value { key: key.into(), reason });
        if let Some(os) = &self.os
            && !is_os_name(&os.name)
        {
            return refuse("os.name", "not a name of lower-case letters, digits, _ and -");
        }
        let Some(task) = &self.task else { return Ok(()) };
        if task.command.is_empty() {
            return refuse("task.command", "is empty");
        }
        if task.kind == TaskType::MicrodroidLauncher && task.command.contains('/') {
            return refuse("task.command", "a library is named without a path");
        }
        if task.command.contains('\0') || task.args.iter().any(|arg| arg.contains('\0')) {
            return refuse("task", "has a zero byte in it");
        }
        Ok(())
    }
}

/// Whether `name` may name a guest system: it becomes part of a file name.
pub fn is_os_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

fn syntax(error: &serde_json::Error) -> ConfigError {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
    ConfigError::Syntax { line: error.line(), column: error.column(), message }
}

/// Serde takes an array for an object, by position; a configuration names what it means.
fn check_objects(value: &Value) -> Result<(), ConfigError> {
    let items = |key: &str| value.get(key).and_then(Value::as_array).into_iter().flatten();
    let single = ["os", "task"].map(|key| (key, value.get(key)));
    let listed = ["apexes", "extra_apks"].map(|key| (key, items(key).find(|item| !item.is_object())));
    let all = [("the configuration", Some(value))].into_iter().chain(single).chain(listed);
    for (key, found) in all {
        if found.is_some_and(|value| !value.is_object() && !value.is_null()) {
            return Err(ConfigError::Value { key: key.into(), reason: "is not an object" });
        }
    }
    Ok(())
}

/// The known keys of an object, with those of the objects below.
struct Keys(&'static [(&'static str, Option<&'static Keys>)]);

static ROOT: Keys = Keys(&[
    ("os", Some(&NAME)),
    ("task", Some(&TASK)),
    ("apexes", Some(&NAME)),
    ("extra_apks", Some(&PATH)),
    ("prefer_staged", None),
    ("export_tombstones", None),
    ("enable_authfs", None),
    ("hugepages", None),
]);
static TASK: Keys = Keys(&[("type", None), ("command", None), ("args", None)]);
static NAME: Keys = Keys(&[("name", None)]);
static PATH: Keys = Keys(&[("path", None)]);

/// Depth is bounded by the tables: what is below an unknown key is not looked at.
fn warn_unknown(value: &Value, keys: &Keys, path: &str, warnings: &mut Vec<Warning>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                warn_unknown(item, keys, &format!("{path}[{index}]"), warnings);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match keys.0.iter().find(|(known, _)| known == key) {
                    Some((_, Some(below))) => warn_unknown(value, below, &full, warnings),
                    Some((_, None)) => {}
                    None => {
                        let nearest = nearest(key, keys.0.iter().map(|(known, _)| *known));
                        warnings.push(Warning::UnknownKey { key: full, nearest });
                    }
                }
            }
        }
        _ => {}
    }
}

/// The candidate that differs from `word` by the fewest edits, when those are few.
pub fn nearest(word: &str, candidates: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    let len = word.chars().count();
    let few = (len / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(len) <= few)
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= few)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance in characters inserted, deleted, replaced, or swapped with their neighbour.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<(PayloadConfig, Vec<Warning>), ConfigError> {
        PayloadConfig::parse(json.as_bytes())
    }

    #[test]
    fn an_array_is_no_object() {
        for json in [
            "[]",
            r#"{"os": ["microdroid"]}"#,
            r#"{"task": ["executable", "bin/x"]}"#,
            r#"{"apexes": [["a"]]}"#,
        ] {
            assert!(PayloadConfig::parse(json.as_bytes()).is_err(), "{json}");
        }
        PayloadConfig::parse(br#"{"os": null, "task": {"command": "x"}, "apexes": [{"name": "a"}]}"#)
            .unwrap();
    }

    #[test]
    fn the_published_example() {
        let (config, warnings) = parse(
            r#"{"os": {"name": "microdroid"}, "task": {"type": "microdroid_launcher", "command": "libsample.so"}}"#,
        )
        .unwrap();
        assert!(warnings.is_empty());
        assert_eq!(config.os.unwrap().name, "microdroid");
        let task = config.task.unwrap();
        assert_eq!((task.kind, task.command.as_str()), (TaskType::MicrodroidLauncher, "libsample.so"));
        assert_eq!(parse("{}").unwrap(), (PayloadConfig::default(), Vec::new()));
    }

    #[test]
    fn every_key_is_known() {
        let (config, warnings) = parse(
            r#"{"os": {"name": "a-b_1"}, "task": {"command": "bin/x", "args": ["-v"]}, "apexes": [{"name": "n"}],
                "extra_apks": [{"path": "p"}], "prefer_staged": true, "export_tombstones": false,
                "enable_authfs": true, "hugepages": true}"#,
        )
        .unwrap();
        assert_eq!(warnings, [Warning::Ignored("prefer_staged"), Warning::Ignored("enable_authfs")]);
        assert_eq!(config.task.unwrap().kind, TaskType::Executable);
        assert_eq!(config.export_tombstones, Some(false));
        assert!(config.hugepages);
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest() {
        let (_, warnings) =
            parse(r#"{"taks": {"x": 1}, "task": {"comand": 1, "command": "c", "zzz": 2}, "apexes": [{"name": "n", "nmae": 0}]}"#)
                .unwrap();
        let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let expected = [
            r#"unknown key "apexes[0].nmae" is ignored; did you mean "name"?"#,
            r#"unknown key "taks" is ignored; did you mean "task"?"#,
            r#"unknown key "task.comand" is ignored; did you mean "command"?"#,
            r#"unknown key "task.zzz" is ignored"#,
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn mistakes_have_a_place() {
        for (json, line, column, says) in [
            ("{\n  \"os\": }", 2, 9, "expected value"),
            ("{\n \"task\": {\"command\": 7}}", 2, 22, "invalid type: integer `7`, expected a string"),
            ("{\"task\": {}}", 1, 11, "missing field `command`"),
            ("{\"task\": {\"command\":\"a\",\"type\":\"service\"}}", 1, 40, "unknown variant `service`"),
            ("", 1, 0, "EOF while parsing a value"),
            ("{} x", 1, 4, "trailing characters"),
            ("{\"hugepages\": true, \"hugepages\": true}", 1, 31, "duplicate field `hugepages`"),
        ] {
            match parse(json) {
                Err(ConfigError::Syntax { line: l, column: c, message }) => {
                    assert_eq!((l, c), (line, column), "{json}: {message}");
                    assert!(message.starts_with(says), "{json}: {message}");
                }
                other => panic!("{json}: {other:?}"),
            }
        }
    }

    #[test]
    fn values_that_cannot_be_meant() {
        for (json, key) in [
            (r#"{"os": {"name": "../x"}}"#, "os.name"),
            (r#"{"os": {"name": ""}}"#, "os.name"),
            (r#"{"task": {"command": ""}}"#, "task.command"),
            (r#"{"task": {"type": "microdroid_launcher", "command": "a/b.so"}}"#, "task.command"),
            (r#"{"task": {"command": "a", "args": ["\u0000"]}}"#, "task"),
        ] {
            assert!(matches!(parse(json), Err(ConfigError::Value { key: k, .. }) if k == key), "{json}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        let deep = format!("{{\"x\": {}", "[".repeat(100_000));
        assert!(matches!(parse(&deep), Err(ConfigError::Syntax { .. })));
    }

    #[test]
    fn edit_distances() {
        for (a, b, distance) in
            [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("nmae", "name", 1), ("abc", "abc", 0)]
        {
            assert_eq!(edits(a, b), distance, "{a} {b}");
            assert_eq!(edits(b, a), distance, "{b} {a}");
        }
        assert_eq!(nearest("arg", ["type", "args"]), Some("args"));
        assert_eq!(nearest("q", ["type", "args"]), None);
    }
}
