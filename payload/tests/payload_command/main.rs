//! The command `payload` as a user runs it: what it makes, what it refuses, its exit statuses, and that a failure
//! leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../command/mod.rs"]
mod command;
mod pack;
mod trees;
mod verdicts;
mod writing;
