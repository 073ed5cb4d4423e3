//! Files that appear whole or not at all.
//!
//! The bytes go to a file without a name in the same directory, so that a process that is killed leaves nothing. Only
//! when all of them are on the disk it gets a name, and takes the place of what was there before.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat};
use tempfile::NamedTempFile;

use crate::input::Input;

/// Whether a file may take the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It may.
    Replace,
    /// It may not: what is there cannot be made again.
    Keep,
}

/// A file in the making.
pub struct Output {
    target: PathBuf,
    existing: Existing,
    form: Form,
}

enum Form {
    /// O_TMPFILE.
    Nameless(File),
    /// Where the file system has no such thing.
    Named(NamedTempFile),
}

impl Output {
    /// Begins the file that is to be at `path`, with these permissions less those that the umask takes.
    ///
    /// It is refused to write over one of `inputs`, and over what is no file.
    pub fn create(path: &Path, mode: u32, existing: Existing, inputs: &[&Input]) -> Result<Self> {
        let context = || format!("Write {path:?}");
        let target = place(path, existing, inputs).with_context(context)?;
        let directory = parent(&target);
        let form = match nameless(directory, mode) {
            Some(file) => Form::Nameless(file),
            None => Form::Named(
                tempfile::Builder::new()
                    .prefix(".payload-")
                    .permissions(fs::Permissions::from_mode(mode))
                    .tempfile_in(directory)
                    .with_context(context)?,
            ),
        };
        Ok(Self { target, existing, form })
    }

    /// The bytes go here; seeking is allowed.
    pub fn file(&self) -> &File {
        match &self.form {
            Form::Nameless(file) => file,
            Form::Named(file) => file.as_file(),
        }
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Puts the finished file in its place.
    pub fn publish(self) -> Result<()> {
        let Self { target, existing, form } = self;
        let publish = || -> Result<()> {
            match form {
                Form::Nameless(file) => {
                    file.sync_all()?;
                    name(&file, &target, existing)?;
                }
                Form::Named(file) => {
                    file.as_file().sync_all()?;
                    match existing {
                        Existing::Replace => drop(file.persist(&target).map_err(|error| error.error)?),
                        Existing::Keep => drop(file.persist_noclobber(&target).map_err(|error| error.error)?),
                    }
                }
            }
            // A directory that cannot be synced keeps the file nevertheless, unless the power fails now.
            let _ = File::open(parent(&target)).and_then(|directory| directory.sync_all());
            Ok(())
        };
        publish().with_context(|| format!("Write {target:?}"))
    }
}

/// Where the bytes shall go: through symbolic links, and not over anything that is no file.
fn place(path: &Path, existing: Existing, inputs: &[&Input]) -> Result<PathBuf> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.file_name().is_none() {
                bail!("it is no name of a file");
            }
            if fs::symlink_metadata(path).is_ok() {
                bail!("it is a symbolic link to nowhere");
            }
            return Ok(path.to_path_buf());
        }
        Err(error) => return Err(error.into()),
    };
    if metadata.is_dir() {
        bail!("it is a directory");
    }
    if !metadata.is_file() {
        bail!("it is there, and is no regular file");
    }
    if existing == Existing::Keep {
        bail!("it is there already and will not be replaced");
    }
    if let Some(input) = inputs.iter().find(|input| input.identity() == (metadata.dev(), metadata.ino())) {
        bail!("it is the same file as the input {:?}", input.path);
    }
    Ok(fs::canonicalize(path)?)
}

/// The directory that a file is in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file without a name, where the file system has that and it can be given one later.
fn nameless(directory: &Path, mode: u32) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(directory, flags, Mode::from_raw_mode(mode)).ok()?);
    fs::symlink_metadata(by_descriptor(&file)).is_ok().then_some(file)
}

fn by_descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Names the file: at once where nothing may be replaced, else by a name of its own that is moved into place.
fn name(file: &File, target: &Path, existing: Existing) -> io::Result<()> {
    let link = |to: &Path| linkat(CWD, by_descriptor(file), CWD, to, AtFlags::SYMLINK_FOLLOW);
    if existing == Existing::Keep {
        return Ok(link(target)?);
    }
    let mut number = 0;
    loop {
        let temporary = parent(target).join(format!(".payload-{}-{number}", std::process::id()));
        match link(&temporary) {
            Ok(()) => {
                return fs::rename(&temporary, target).inspect_err(|_| {
                    let _ = fs::remove_file(&temporary);
                });
            }
            Err(rustix::io::Errno::EXIST) if number < 1000 => number += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "old").unwrap();
        let output = Output::create(&path, 0o644, Existing::Replace, &[]).unwrap();
        output.file().write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let output = Output::create(&path, 0o644, Existing::Replace, &[]).unwrap();
        output.file().write_all(b"new").unwrap();
        output.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn what_must_stay_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let output = Output::create(&path, 0o600, Existing::Keep, &[]).unwrap();
        // Somebody else is quicker.
        fs::write(&path, "theirs").unwrap();
        output.publish().unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        assert!(Output::create(&path, 0o600, Existing::Keep, &[]).is_err());
        let input = Input::open(&path).unwrap();
        let refused = Output::create(&path, 0o600, Existing::Replace, &[&input]).err().unwrap();
        assert!(refused.root_cause().to_string().contains("the same file as the input"));
        assert!(Output::create(dir.path(), 0o600, Existing::Replace, &[]).is_err());
        assert!(Output::create(Path::new("/dev/null"), 0o600, Existing::Replace, &[]).is_err());
        assert_eq!(names(dir.path()), ["key.pem"]);
    }

    #[test]
    fn links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("out"), dir.path().join("link"));
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink("out", &link).unwrap();
        let output = Output::create(&link, 0o644, Existing::Replace, &[]).unwrap();
        output.file().write_all(b"new").unwrap();
        output.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
