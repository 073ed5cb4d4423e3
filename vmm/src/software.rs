//! `--host software`: the same command, run by the `images` program inside an emulated machine.

use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::os::OS_DIR_VARIABLE;

/// The program that runs the software host.
const IMAGES: &str = "images";

/// Why the command could not be handed to the software host.
#[derive(Debug, thiserror::Error)]
pub enum SoftwareHostError {
    /// No `images` program.
    #[error("run \"{}\", which makes the software host: build it with `cargo build -p resources`", program.display())]
    Exec {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// This program does not know itself.
    #[error("find this program's own file")]
    Own(#[source] std::io::Error),
}

/// `path`, absolute, without `.` and `..`: so the guest of the guest finds it from the same directory.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Replaces this process by the software host running the same command, with `files` at the same paths. Comes
/// back only with the reason why not.
pub fn exec(files: &[PathBuf]) -> SoftwareHostError {
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(e) => return SoftwareHostError::Own(e),
    };
    let beside = own.parent().unwrap_or(Path::new("")).join(IMAGES);
    let program = if beside.exists() { beside } else { PathBuf::from(IMAGES) };
    let mut command = Command::new(&program);
    command.arg("host");
    for file in files {
        command.arg("--file").arg(plain(&std::path::absolute(file).unwrap_or_else(|_| file.clone())));
    }
    if let Some(dir) = std::env::var_os(OS_DIR_VARIABLE) {
        let mut variable = std::ffi::OsString::from(format!("{OS_DIR_VARIABLE}="));
        variable.push(dir);
        command.arg("--env").arg(variable);
    }
    command.arg("--").arg(own);
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        // The rest of the command line is the guest's; only the choice of host is ours.
        if arg == "--host" {
            args.next();
        } else if !arg.to_string_lossy().starts_with("--host=") {
            command.arg(arg);
        }
    }
    SoftwareHostError::Exec { program, source: command.exec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_no_way_back() {
        assert_eq!(plain(Path::new("/a/./b/../../c/d")), Path::new("/c/d"));
        assert_eq!(plain(Path::new("/../a")), Path::new("/a"));
    }
}
