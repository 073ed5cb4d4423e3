//! Outputs that appear together: written under other names first, and renamed when all of them are whole.

use std::fs::{File, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

/// Files that are written, but not yet where they belong. What is not committed is removed.
#[derive(Debug, Default)]
pub struct Staged {
    files: Vec<(PathBuf, NamedTempFile)>,
    /// Device and inode of what must not be replaced, and its path.
    kept: Vec<(u64, u64, PathBuf)>,
}

impl Staged {
    /// Lets no output replace the file `path`, which is `found`.
    pub fn keep(&mut self, path: &Path, found: &Metadata) {
        self.kept.push((found.dev(), found.ino(), path.to_path_buf()));
    }

    /// Writes the file that is to be at `path`.
    pub fn add(
        &mut self,
        path: &Path,
        write: &mut dyn FnMut(&mut File) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.check(path)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        // As any new file: what the umask leaves.
        let mut file = tempfile::Builder::new()
            .prefix(".mk_payload-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory)
            .with_context(|| format!("write {}", path.display()))?;
        write(file.as_file_mut()).with_context(|| format!("write {}", path.display()))?;
        self.files.push((path.to_path_buf(), file));
        Ok(())
    }

    /// Moves every file to its place. `last`, one of them, is what names the others: it is away while they are being
    /// replaced, so that whoever finds it finds the files that belong to it.
    pub fn commit(self, last: &Path) -> anyhow::Result<()> {
        for (path, file) in &self.files {
            file.as_file().sync_all().with_context(|| format!("write {}", path.display()))?;
        }
        let (named, naming): (Vec<_>, Vec<_>) = self.files.into_iter().partition(|(path, _)| path != last);
        if !named.is_empty() && last.symlink_metadata().is_ok() {
            std::fs::remove_file(last).with_context(|| format!("replace {}", last.display()))?;
        }
        for (path, file) in named.into_iter().chain(naming) {
            file.persist(&path).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Whether the file at `path`, if there is one, may be replaced.
    pub fn check(&self, path: &Path) -> anyhow::Result<()> {
        let refused = || -> anyhow::Result<()> {
            if path.file_name().is_none() {
                bail!("it is no file name");
            }
            let Ok(found) = path.symlink_metadata() else { return Ok(()) };
            if !found.is_file() && !found.is_symlink() {
                bail!("it is no regular file");
            }
            // Of a link, what it leads to is not replaced; it would look as if it were.
            let Ok(found) = path.metadata() else { return Ok(()) };
            if !found.is_file() {
                bail!("it leads to no regular file");
            }
            let same = |it: &&(u64, u64, PathBuf)| (it.0, it.1) == (found.dev(), found.ino());
            if let Some((.., input)) = self.kept.iter().find(same) {
                bail!("the disk is made from it, as {}", input.display());
            }
            Ok(())
        };
        refused().with_context(|| format!("replace {}", path.display()))
    }
}
