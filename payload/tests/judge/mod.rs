//! Runs the programs that judge what this crate makes.

mod tools;

use std::process::{Command, Output};

pub use tools::can_run;

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
