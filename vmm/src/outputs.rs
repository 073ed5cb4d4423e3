//! The files of `--console` and `--log`: open before the VM is built, gone again when it cannot be.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::output::Output;

/// The open destinations of a VM's output.
pub struct Outputs {
    console: File,
    log: File,
    /// Whether they are one.
    together: bool,
    /// Files that did not exist before.
    created: Vec<PathBuf>,
}

/// A destination that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{option} \"{}\"", path.display())]
pub struct OutputError {
    option: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Outputs {
    /// Opens the files, or stdout where none is named.
    ///
    /// # Errors
    /// Naming the option and the file.
    pub fn open(console: Option<&Path>, log: Option<&Path>) -> Result<Self, OutputError> {
        let mut outputs = Self {
            console: stdout("--console")?,
            log: stdout("--log")?,
            together: console == log,
            created: Vec::new(),
        };
        if let Some(path) = console {
            outputs.console = outputs.create("--console", path)?;
        }
        if let Some(path) = log {
            outputs.log = match console {
                // One file for both: the second must not cut off the first.
                Some(other) if other == path => clone("--log", path, &outputs.console)?,
                _ => outputs.create("--log", path)?,
            };
        }
        Ok(outputs)
    }

    fn create(&mut self, option: &'static str, path: &Path) -> Result<File, OutputError> {
        let error = |source| OutputError { option, path: path.to_path_buf(), source };
        match File::options().write(true).create_new(true).open(path) {
            Ok(file) => {
                self.created.push(path.to_path_buf());
                Ok(file)
            }
            // A named pipe: with a reading end of our own, opening it waits for nobody.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_pipe(path) => {
                File::options().read(true).write(true).open(path).map_err(error)
            }
            // It exists, or it is a terminal or a device.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                File::options().write(true).truncate(true).open(path).map_err(error)
            }
            Err(e) => Err(error(e)),
        }
    }

    /// The VM's end of the files; at most `ring_len` bytes wait for whoever reads one.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn output(&self, ring_len: usize) -> Result<Output, OutputError> {
        let path = Path::new("");
        let console = clone("--console", path, &self.console)?;
        if self.together {
            return Ok(Output::together(console, ring_len));
        }
        Ok(Output::new(console, clone("--log", path, &self.log)?, ring_len))
    }

    /// The VM is built: the files stay.
    pub fn keep(mut self) {
        self.created.clear();
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        for path in &self.created {
            // Created empty by this run, which came to nothing.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn clone(option: &'static str, path: &Path, file: &File) -> Result<File, OutputError> {
    file.try_clone().map_err(|source| OutputError { option, path: path.to_path_buf(), source })
}

fn stdout(option: &'static str) -> Result<File, OutputError> {
    match std::io::stdout().as_fd().try_clone_to_owned() {
        Ok(fd) => Ok(File::from(fd)),
        Err(source) => Err(OutputError { option, path: "stdout".into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_run_that_came_to_nothing_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        std::fs::write(&old, "x").unwrap();
        drop(Outputs::open(Some(&new), Some(&old)).unwrap());
        assert!(!new.exists());
        assert!(old.exists());
        Outputs::open(Some(&new), Some(&new)).unwrap().keep();
        assert!(new.exists());
    }
}
