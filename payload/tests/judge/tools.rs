//! Other people's programs, which a machine may lack.

use std::io::Write;
use std::path::PathBuf;

/// Tells that a test is skipped, and why.
pub fn skip(test: &str, reason: &str) {
    let notice = format!("kapsel-skip: {test}: {reason}\n");
    std::io::stderr().write_all(notice.as_bytes()).unwrap();
}

/// Whether all of `tools` can be run; else a notice that `test` is skipped.
pub fn can_run(test: &str, tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let missing: Vec<&&str> =
        tools.iter().filter(|tool| !dirs.iter().any(|dir| dir.join(tool).is_file())).collect();
    if !missing.is_empty() {
        skip(test, &format!("not installed: {missing:?}"));
    }
    missing.is_empty()
}
