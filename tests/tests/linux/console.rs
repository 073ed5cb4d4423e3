//! What is typed reaches the console that the configuration names, and no other.

use std::io::Write;
use std::os::fd::OwnedFd;

use serde_json::json;
use tests::linux::Files;

use super::{line, probe, sha256};

/// More than the receivers' FIFOs and rings hold at a time, less than Linux keeps for a program that is slow.
const LINES: usize = 900;

#[test]
fn what_is_typed_reaches_the_console_that_is_named() {
    let Some(files) = Files::find("what_is_typed_reaches_the_console_that_is_named") else { return };
    let typed: String = (0..LINES).map(|n| format!("line {n} of some\n")).collect::<String>() + "end\n";
    for (named, device) in [(json!("hvc0"), "hvc0"), (json!("ttyS0"), "ttyS0"), (json!(null), "ttyS0")] {
        let keys = if named.is_null() { json!({}) } else { json!({ "console_input_device": named }) };
        let vm = probe(&files, "input", &keys).arg("--log").arg("log");
        let (stdin, mut keyboard) = std::io::pipe().unwrap();
        let running = vm.start_reading(OwnedFd::from(stdin).into()).wait_for("READY");
        keyboard.write_all(typed.as_bytes()).unwrap();
        let ended = running.wait();
        let want = format!("{} {}", LINES + 1, sha256(typed.as_bytes()));
        assert_eq!(line(&ended.text().replace('\r', ""), device), want, "{ended:?}");
        assert_eq!(ended.status, 0);
    }
}
