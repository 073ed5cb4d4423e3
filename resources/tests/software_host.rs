//! The software host, as users call it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::process::{Command, Output};

fn images(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_images")).args(["host", "--no-build"]).args(arguments).output().unwrap()
}

/// Runs a shell script in it; `None`, and a line for the summary, where the software host was not built.
fn script(test: &str, options: &[&str], script: &str) -> Option<Output> {
    let output = images(&[options, &["--", "/bin/sh", "-c", script]].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(2) && errors.contains("images build host") {
        let line = format!("kapsel-skip: {test}: the software host is not built (`images build host`)\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return None;
    }
    Some(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn output_and_exit_status_come_out_as_they_are() {
    let wanted = "\\033[1mbold\\033[0m\\ta\\r\\nno newline at the end";
    let Some(output) =
        script("output_and_exit_status_come_out_as_they_are", &[], &format!("printf '{wanted}'; exit 217"))
    else {
        return;
    };
    assert_eq!(
        text(&output.stdout),
        "\x1b[1mbold\x1b[0m\ta\r\nno newline at the end",
        "{}",
        text(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(217));
}

#[test]
fn it_has_a_kvm_of_its_own_files_and_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("taken along");
    std::fs::write(&file, "contents").unwrap();
    let taken = format!("{}=/some/where/file", file.display());
    // Only what the shell itself can do: nothing else is in there.
    let check = "test -c /dev/kvm && test -c /dev/vhost-vsock && test -d /sys/module/kvm_amd && test -d /dev/shm \
                 && test \"$NAME\" = 'a value' && read -r line < /some/where/file; echo \"$line $PPID $PWD\"";
    let name = "it_has_a_kvm_of_its_own_files_and_environment";
    let options = ["--file", &taken, "--env", "NAME=a value"];
    let Some(output) = script(name, &options, check) else { return };
    // Its parent is PID 1, and it is where this test is.
    let expected = format!("contents 1 {}\n", std::env::current_dir().unwrap().display());
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
}

#[test]
fn a_time_out_is_virtual() {
    let Some(output) =
        script("a_time_out_is_virtual", &["--timeout", "2"], "echo before; while :; do :; done")
    else {
        return;
    };
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(124), "before\n"));
    assert!(text(&output.stderr).contains("longer than 2 s"), "{}", text(&output.stderr));
}

#[test]
fn a_killed_program_is_told_from_one_that_exits() {
    let Some(output) = script("a_killed_program_is_told_from_one_that_exits", &[], "kill -9 $$") else {
        return;
    };
    assert_eq!(output.status.code(), Some(128 + 9));
}

#[test]
fn what_cannot_be_run_is_named() {
    let output = images(&["--", "/no/such/program"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/program"));
    let output = images(&["--file", "/no/such/file", "--", "/bin/sh"]);
    assert!(!output.status.success());
}
