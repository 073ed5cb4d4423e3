//! What is to be run in the software host, and the archive that holds it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cpio::{Archive, Content};
use crate::elf;

/// Where the order lies in the archive.
pub const ORDER: &str = "/.order.json";

/// A program to run, and what it needs around it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The program's path in the software host; it is one of the files.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Files and directories of this machine, and where they are in there.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Its environment, beside PATH and HOME.
    pub environment: BTreeMap<String, String>,
    /// The host's memory.
    pub memory_mib: u64,
    /// How long it may run, in virtual seconds.
    pub timeout_s: u64,
    /// Whether the kernel's messages are wanted among the output.
    pub kernel_log: bool,
}

/// What PID 1 in the software host is to do.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Where it runs.
    pub directory: String,
    /// How long it may run, in virtual seconds.
    pub timeout_s: u64,
}

impl Job {
    /// A job with the defaults of the command line: the program at `from`, which is at `to` in there.
    pub fn new(from: &Path, to: &Path) -> Self {
        Self {
            program: to.to_path_buf(),
            arguments: Vec::new(),
            directory: PathBuf::from("/"),
            files: vec![(from.to_path_buf(), to.to_path_buf())],
            environment: BTreeMap::new(),
            memory_mib: 1024,
            timeout_s: 600,
            kernel_log: false,
        }
    }

    fn order(&self) -> Result<Order> {
        let mut environment = self.environment.clone();
        for (name, value) in [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("KAPSEL_SOFTWARE_HOST", "1"),
        ] {
            environment.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        Ok(Order {
            program: text(&self.program)?,
            arguments: self.arguments.clone(),
            environment,
            directory: text(&self.directory)?,
            timeout_s: self.timeout_s,
        })
    }

    /// The root of the software host: everything lies in it, since a disk would make virtual time depend on real time.
    ///
    /// # Errors
    /// When a file is not there, or a program's library.
    pub fn archive(&self) -> Result<Archive> {
        // By its name it could be gone: cargo may have built another one meanwhile.
        let init = PathBuf::from("/proc/self/exe");
        let mut files = Vec::new();
        for (from, to) in &self.files {
            ensure!(to.is_absolute(), "{} must be an absolute path in the software host", to.display());
            collect(from, to, &mut files)?;
        }
        let mut archive = Archive::default();
        for dir in ["/dev", "/proc", "/root", "/run", "/sys"] {
            archive.directory(dir, 0o755)?;
        }
        archive.directory("/tmp", 0o1777)?;
        let directory = text(&self.directory)?;
        if directory != "/" && !archive.contains(&directory) {
            archive.directory(&directory, 0o755)?;
        }
        archive.file(ORDER, 0o600, Content::Bytes(serde_json::to_vec(&self.order()?)?))?;
        let programs: Vec<PathBuf> =
            files.iter().map(|(from, _)| from.clone()).chain(std::iter::once(init.clone())).collect();
        archive.file("/init", 0o755, Content::File(init))?;
        for (from, to) in &files {
            add(&mut archive, from, to)?;
        }
        for library in elf::runtime(&programs, &[])? {
            if !archive.contains(&text(&library)?) {
                add(&mut archive, &library, &library)?;
            }
        }
        Ok(archive)
    }
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}

fn add(archive: &mut Archive, from: &Path, to: &Path) -> Result<()> {
    let metadata = fs::metadata(from).with_context(|| format!("Find {}", from.display()))?;
    archive.file(&text(to)?, metadata.permissions().mode() & 0o7777, Content::File(from.to_path_buf()))
}

/// The files at and below `from`, with their places in the archive; links are followed.
fn collect(from: &Path, to: &Path, files: &mut Vec<(PathBuf, PathBuf)>) -> Result<()> {
    let metadata = fs::metadata(from).with_context(|| format!("Find {}", from.display()))?;
    if metadata.is_file() {
        files.push((from.to_path_buf(), to.to_path_buf()));
        return Ok(());
    }
    ensure!(metadata.is_dir(), "{} is neither a file nor a directory", from.display());
    if to.components().count() > 64 {
        bail!("{} is nested too deep, or a link leads back into it", from.display());
    }
    for entry in fs::read_dir(from).with_context(|| format!("Read the directory {}", from.display()))? {
        let name = entry.with_context(|| format!("Read the directory {}", from.display()))?.file_name();
        collect(&from.join(&name), &to.join(&name), files)?;
    }
    Ok(())
}

/// `SRC[=DEST]` of `--file`; without DEST a file keeps its absolute path.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse_file(argument: &str) -> Result<(PathBuf, PathBuf), String> {
    let (from, to) = match argument.split_once('=') {
        Some((from, to)) if to.starts_with('/') => (from, PathBuf::from(to)),
        Some((_, to)) => return Err(format!("{to:?} must be an absolute path")),
        None => (argument, std::path::absolute(argument).map_err(|error| error.to_string())?),
    };
    Ok((PathBuf::from(from), to))
}

/// `NAME=VALUE` of `--env`.
///
/// # Errors
/// When there is no `=`, or no name before it.
pub fn parse_variable(argument: &str) -> Result<(String, String), String> {
    match argument.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it must be NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_variables_of_the_command_line() {
        assert_eq!(parse_file("/a=/b").unwrap(), ("/a".into(), "/b".into()));
        assert_eq!(parse_file("/a/b").unwrap(), ("/a/b".into(), "/a/b".into()));
        assert!(parse_file("a").unwrap().1.is_absolute());
        assert!(parse_file("/a=b").is_err());
        assert_eq!(parse_variable("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        assert!(parse_variable("A").is_err() && parse_variable("=b").is_err());
    }

    #[test]
    fn the_archive_holds_program_libraries_files_and_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/data"), "x").unwrap();
        let program = std::env::current_exe().unwrap();
        let mut job = Job::new(&program, "/usr/bin/program".as_ref());
        job.files.push((dir.path().to_path_buf(), "/given".into()));
        let archive = job.archive().unwrap();
        for path in ["/init", ORDER, "/given/sub/data", "/tmp", "/dev", "/usr/bin/program"] {
            assert!(archive.contains(path), "{path}");
        }
        let libc =
            elf::runtime(&[program], &[]).unwrap().into_iter().find(|p| p.ends_with("libc.so.6")).unwrap();
        assert!(archive.contains(libc.to_str().unwrap()));
        let order = job.order().unwrap();
        let json = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&json).unwrap(), order);
        assert_eq!(order.environment["HOME"], "/root");
    }

    #[test]
    fn what_is_missing_is_named() {
        let job = Job::new("/no/such/program".as_ref(), "/x".as_ref());
        assert!(format!("{:#}", job.archive().unwrap_err()).contains("/no/such/program"));
        let mut job = Job::new(&std::env::current_exe().unwrap(), "/x".as_ref());
        job.files.push(("/no/such/file".into(), "/y".into()));
        assert!(format!("{:#}", job.archive().unwrap_err()).contains("/no/such/file"));
    }
}
