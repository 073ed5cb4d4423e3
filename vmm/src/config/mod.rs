//! Configuration files: JSON to checked plain data, no file descriptors.
//!
//! Unknown keys are errors, with the nearest known key; syntax errors carry line and column.

pub mod app;
pub mod raw;
pub mod vsock;

use std::path::{Path, PathBuf};

use payload::apk::config::nearest;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Largest configuration file that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not JSON, or a value has the wrong type; the text has line and column.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The configuration file.
        path: PathBuf,
        /// What was found and expected, and where.
        message: String,
    },
    /// A key that we do not have.
    #[error("{}: unknown key \"{key}\"{}", path.display(), nearest.map_or(String::new(), |n| format!(", did you mean \"{n}\"?")))]
    UnknownKey {
        /// The configuration file.
        path: PathBuf,
        /// The key, with the keys above it.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A key of AVF's configuration, or of a later version of ours, for something that we do not do.
    #[error("{}: \"{key}\" is not supported: {why}", path.display())]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is missing.
        why: &'static str,
    },
    /// A value out of its range, or keys that do not go together.
    #[error("{}: \"{key}\": {message}", path.display())]
    Value {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What was found and what was expected.
        message: String,
    },
}

/// The keys of one JSON object.
pub(crate) struct Keys {
    /// Keys that we have.
    pub known: &'static [&'static str],
    /// Keys that we know but do not support, and why.
    pub refused: &'static [(&'static str, &'static str)],
    /// Known keys whose value is an object, or an array of objects.
    pub nested: &'static [(&'static str, &'static Keys)],
}

/// Reads `path` as a `T` whose keys are `keys`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, keys: &'static Keys) -> Result<T, ConfigError> {
    let read_error = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let size = std::fs::metadata(path).map_err(read_error)?;
    if !size.is_file() || size.len() > MAX_CONFIG {
        return Err(ConfigError::Syntax {
            path: path.to_path_buf(),
            message: format!("expected a file of at most {MAX_CONFIG} bytes"),
        });
    }
    let text = std::fs::read_to_string(path).map_err(read_error)?;
    parse(path, &text, keys)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str, keys: &'static Keys) -> Result<T, ConfigError> {
    let syntax =
        |e: serde_json::Error| ConfigError::Syntax { path: path.to_path_buf(), message: e.to_string() };
    let value: Value = serde_json::from_str(text).map_err(syntax)?;
    if !value.is_object() {
        // Serde would take an array's items as the values of the keys.
        let message = "expected an object: {\"key\": value, ..}".to_string();
        return Err(ConfigError::Syntax { path: path.to_path_buf(), message });
    }
    check_keys(path, &value, keys, "")?;
    // From the text again, not from the value: only so do type errors carry line and column.
    serde_json::from_str(text).map_err(syntax)
}

fn check_keys(path: &Path, value: &Value, keys: &Keys, above: &str) -> Result<(), ConfigError> {
    let objects: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (format!("{above}[{i}]"), v)).collect(),
        other => vec![(above.to_string(), other)],
    };
    for (above, object) in objects {
        let Some(map) = object.as_object() else {
            let message = format!("\"{above}\": expected an object");
            return Err(ConfigError::Syntax { path: path.to_path_buf(), message });
        };
        for (key, value) in map {
            let full = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
            if let Some((_, why)) = keys.refused.iter().find(|(k, _)| k == key) {
                return Err(ConfigError::Unsupported { path: path.to_path_buf(), key: full, why });
            }
            if !keys.known.contains(&key.as_str()) {
                let nearest = nearest(key, keys.known.iter().copied());
                return Err(ConfigError::UnknownKey { path: path.to_path_buf(), key: full, nearest });
            }
            if let Some((_, nested)) = keys.nested.iter().find(|(k, _)| k == key) {
                check_keys(path, value, nested, &full)?;
            }
        }
    }
    Ok(())
}

/// `value` relative to the directory of the configuration file `config`.
pub(crate) fn resolve(config: &Path, value: &Path) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(value)
}

/// Memory of a VM in MiB: at least 32, at most the host's.
pub(crate) fn check_memory(path: &Path, mib: u64) -> Result<(), ConfigError> {
    let host = crate::host::total_memory().map_or(u64::MAX, |bytes| bytes >> 20);
    if (MIN_MEMORY_MIB..=host).contains(&mib) {
        return Ok(());
    }
    Err(ConfigError::Value {
        path: path.to_path_buf(),
        key: "memory_mib",
        message: format!("{mib} MiB, expected {MIN_MEMORY_MIB} to {host} (this host's memory)"),
    })
}

/// The least memory a VM can have, in MiB.
pub const MIN_MEMORY_MIB: u64 = 32;

/// How many vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuTopology {
    /// One vCPU.
    #[default]
    OneCpu,
    /// As many as the host has.
    MatchHost,
    /// This many.
    #[serde(untagged)]
    Count(u8),
}

/// Most vCPUs that a VM can have.
pub const MAX_VCPUS: u8 = 32;

impl CpuTopology {
    pub(crate) fn check(self, path: &Path) -> Result<(), ConfigError> {
        match self {
            Self::OneCpu | Self::MatchHost | Self::Count(1..=MAX_VCPUS) => Ok(()),
            Self::Count(count) => Err(ConfigError::Value {
                path: path.to_path_buf(),
                key: "cpu_topology",
                message: format!("{count}, expected \"one_cpu\", \"match_host\" or 1 to {MAX_VCPUS}"),
            }),
        }
    }

    /// How many vCPUs: of the host's, those that this process may use.
    pub fn vcpus(self) -> u8 {
        match self {
            Self::OneCpu => 1,
            Self::Count(count) => count,
            Self::MatchHost => {
                let host = std::thread::available_parallelism().map_or(1, usize::from);
                u8::try_from(host).unwrap_or(MAX_VCPUS).min(MAX_VCPUS)
            }
        }
    }
}

#[cfg(test)]
mod tests;
