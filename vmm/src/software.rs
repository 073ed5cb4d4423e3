//! `--host software`: the same command, run by the `images` program inside an emulated machine.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

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
        command.arg("--file").arg(std::path::absolute(file).unwrap_or_else(|_| file.clone()));
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
