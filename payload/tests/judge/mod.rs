//! Runs the programs that judge what this crate makes.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Whether all of `tools` can be run; else a notice that `test` is skipped.
pub fn can_run(test: &str, tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let missing: Vec<&&str> =
        tools.iter().filter(|tool| !dirs.iter().any(|dir| dir.join(tool).is_file())).collect();
    if missing.is_empty() {
        return true;
    }
    let notice = format!("kapsel-skip: {test}: not installed: {missing:?}\n");
    std::io::stderr().write_all(notice.as_bytes()).unwrap();
    false
}

/// What `program` did and said.
pub fn run(program: &str, args: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new(program).args(args).env("PATH", path).output().unwrap()
}

/// What `program` said, which must have succeeded.
pub fn succeeds(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {said}");
    said
}
