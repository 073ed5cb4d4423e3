//! Running the command `payload`, and files for it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses some of it, and may panic")]

#[path = "../judge/tools.rs"]
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

#[allow(unused_imports, reason = "each test uses some of it")]
pub use tools::{can_run, skip};

/// A key for tests and nothing else.
pub const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgI1uuFQ13eBvrhUz9
b3RT7Xu+nPfcyCK1S1q1QNYrpuahRANCAAST28iy8CNaIatR6YAFFkFTQxNHKRh0
RkowUMobDZ5DCDsijor+qrRLQiZgqKiHyNDvR5H/7SMQQs+7vazVS/9t
-----END PRIVATE KEY-----
";

/// A directory that the command runs in.
pub struct Place {
    dir: TempDir,
}

/// What a run left behind.
pub struct Run {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    /// One with a key, a configuration and libraries for two ABIs.
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.write("key.pem", KEY.as_bytes());
        let config = r#"{"os": {"name": "microdroid"}, "task": {"type": "microdroid_launcher", "command": "libhello.so"}}"#;
        place.write("vm_config.json", config.as_bytes());
        place.write("libhello.so", &library(62, 20_000));
        place.write("libs/arm64-v8a/libhello.so", &library(183, 9_000));
        place.write("libs/arm64-v8a/libmore.so", &library(183, 4096));
        place.write("libs/x86_64/libhello.so", &library(62, 20_000));
        place.write("libs/x86_64/libmore.so", &library(62, 5));
        place.write("data/model.bin", &[7; 3000]);
        place.write("data/deep/er.txt", b"deeper");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Names in the directory.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The command in this directory, at 80 columns in UTF-8 without colours.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_payload"));
        command.args(args).current_dir(self.dir.path());
        command.env("COLUMNS", "80").env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(&self.command(args).output().unwrap())
    }

    /// Runs what must succeed, and gives what it printed.
    pub fn good(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.status, 0, "{args:?}: {}{}", run.out, run.err);
        run.out
    }

    /// Runs what must fail with `status`, and gives the error.
    pub fn fails(&self, status: i32, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.status, status, "{args:?}: {}{}", run.out, run.err);
        assert!(run.err.starts_with("Error: ") || run.err.starts_with("error: "), "{args:?}: {}", run.err);
        run.err
    }

    /// The JSON document that a run prints, whatever its exit status.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let run = self.run(args);
        serde_json::from_str(&run.out)
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {}{}", run.out, run.err))
    }

    /// Packs and signs `hello.apk` with the key and these arguments, and its signed idsig.
    pub fn pack(&self, more: &[&str]) -> String {
        let args =
            ["pack", "--package", "com.example.hello", "--version-code", "7", "--key", "key.pem", "--idsig"];
        self.good(&[&args, more, &["hello.apk"]].concat())
    }

    /// The usual one: a library for x86_64, and its configuration.
    pub fn hello(&self) -> String {
        self.pack(&["--lib", "x86_64=libhello.so", "--config", "vm_config.json", "--version-name", "1.2"])
    }
}

impl Run {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { status: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// A file with the header of a shared library for an ELF machine, and so many bytes more.
pub fn library(machine: u16, more: usize) -> Vec<u8> {
    let class = if matches!(machine, 3 | 40) { 1 } else { 2 };
    let mut bytes = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0];
    bytes.extend(machine.to_le_bytes());
    bytes.extend((0..more).map(|i| (i * 7 % 251).to_le_bytes()[0]));
    bytes
}

/// Runs another program in the directory, which must succeed; what it said.
pub fn judge(place: &Place, program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(place.dir()).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {said}");
    said
}
