//! What was built before is used again when everything it was made from is the same, by content.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The SHA-256 over the labelled parts something is made from.
#[derive(Clone, Default)]
pub struct Key(Sha256);

impl Key {
    /// A key of nothing but the name and the version of the recipe: raise the version when the recipe changes.
    pub fn new(recipe: &str, version: u32) -> Self {
        Self::default().part(recipe, &version.to_le_bytes())
    }

    /// Adds one part. Lengths go in too, so that no two lists of parts read the same.
    #[must_use]
    pub fn part(mut self, label: &str, content: &[u8]) -> Self {
        for bytes in [label.as_bytes(), content] {
            let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.0.update(len.to_le_bytes());
            self.0.update(bytes);
        }
        self
    }

    /// Adds a file's content.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn file(self, label: &str, path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("Read {}", path.display()))?;
        Ok(self.part(label, &content))
    }

    /// The key in hex.
    pub fn hex(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Remembers beside an output which key it was built for.
pub struct Stamp {
    output: PathBuf,
    key: String,
}

impl Stamp {
    /// The stamp of `output` when built from `key`.
    pub fn new(output: &Path, key: Key) -> Self {
        Self { output: output.to_path_buf(), key: key.hex() }
    }

    fn path(&self) -> PathBuf {
        let mut name = self.output.file_name().unwrap_or_default().to_os_string();
        name.push(".key");
        self.output.with_file_name(name)
    }

    /// Whether the output is there and was built from exactly this.
    pub fn is_current(&self) -> bool {
        self.output.exists() && fs::read_to_string(self.path()).is_ok_and(|key| key.trim() == self.key)
    }

    /// To be called before the output is touched: an interrupted build is then never taken for a finished one.
    ///
    /// # Errors
    /// When an old stamp cannot be removed, or the directory cannot be made.
    pub fn begin(&self) -> Result<()> {
        let dir = self.output.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).with_context(|| format!("Create {}", dir.display()))?;
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("Remove {}", self.path().display()))
            }
            _ => Ok(()),
        }
    }

    /// To be called when the output is complete.
    ///
    /// # Errors
    /// When the stamp cannot be written.
    pub fn finish(&self) -> Result<()> {
        let path = self.path();
        fs::write(&path, format!("{}\n", self.key)).with_context(|| format!("Write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_every_part_and_on_where_parts_end() {
        let key = |parts: &[(&str, &[u8])]| {
            parts.iter().fold(Key::new("r", 1), |key, (label, content)| key.part(label, content)).hex()
        };
        let one = key(&[("a", b"bc")]);
        assert_eq!(one.len(), 64);
        assert_eq!(one, key(&[("a", b"bc")]));
        for other in [key(&[("ab", b"c")]), key(&[("a", b"b")]), key(&[("a", b"b"), ("", b"c")]), key(&[])] {
            assert_ne!(one, other);
        }
        assert_ne!(Key::new("r", 1).hex(), Key::new("r", 2).hex());
    }

    #[test]
    fn an_output_is_current_only_when_finished_for_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("sub/out.bin");
        let stamp = |n| Stamp::new(&output, Key::new("out", n));
        stamp(1).begin().unwrap();
        fs::write(&output, "x").unwrap();
        assert!(!stamp(1).is_current(), "not finished");
        stamp(1).finish().unwrap();
        assert!(stamp(1).is_current());
        assert!(!stamp(2).is_current(), "another key");
        fs::remove_file(&output).unwrap();
        assert!(!stamp(1).is_current(), "no output");
        fs::write(&output, "x").unwrap();
        stamp(1).begin().unwrap();
        assert!(!stamp(1).is_current(), "begun again");
    }

    #[test]
    fn a_files_content_makes_the_key_not_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "same").unwrap();
        fs::write(&b, "same").unwrap();
        let key = |path: &Path| Key::new("f", 1).file("file", path).unwrap().hex();
        assert_eq!(key(&a), key(&b));
        fs::write(&b, "other").unwrap();
        assert_ne!(key(&a), key(&b));
        assert!(Key::new("f", 1).file("file", &dir.path().join("c")).is_err());
    }
}
