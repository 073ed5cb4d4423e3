//! Builds what a VM runs, and runs it.

use std::process::{Command, ExitCode};

fn main() -> anyhow::Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("test-all") => {
            let status =
                Command::new(env!("CARGO")).args(["test", "--workspace", "--all-features"]).status()?;
            Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        _ => anyhow::bail!("usage: images test-all"),
    }
}
