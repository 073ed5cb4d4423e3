//! What tests with a Linux guest have in common: where their files are, and a VM's life as the command reports it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::host;
use crate::process::{Ended, Place, Running};

/// The directories that such tests need.
#[derive(Debug)]
pub struct Files {
    /// Made by `make-test-apks`.
    pub apks: PathBuf,
    /// The guest OS.
    pub os: PathBuf,
}

impl Files {
    /// Where they are, or why the test `name` cannot run here, which is said.
    pub fn find(name: &str) -> Option<Self> {
        match Self::try_find() {
            Ok(files) => Some(files),
            Err(reason) => {
                crate::skip(name, &reason);
                None
            }
        }
    }

    fn try_find() -> Result<Self, String> {
        let directory = |variable: &str| {
            let value =
                std::env::var_os(variable).ok_or(format!("{variable} is not set (see cargo test-all)"))?;
            std::fs::canonicalize(&value).map_err(|e| format!("{variable}={}: {e}", value.display()))
        };
        let files = Self { apks: directory("KAPSEL_TEST_APKS")?, os: directory("KAPSEL_OS_DIR")? };
        host::open_kvm().map_err(|e| format!("/dev/kvm: {e}"))?;
        match host::kvm_is_real() {
            true => Ok(files),
            false => Err("this host's KVM cannot run Linux".to_owned()),
        }
    }

    /// Reads one of the files made for the tests.
    ///
    /// # Panics
    /// When it is not there.
    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.apks.join(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The path that the description of the guest OS has for `key` (kernel or initrd).
    ///
    /// # Panics
    /// When there is no such description.
    pub fn os_file(&self, key: &str) -> PathBuf {
        let text = std::fs::read(self.os.join("microdroid.json")).expect("the guest OS's description");
        let description: Value = serde_json::from_slice(&text).expect("JSON");
        self.os.join(description[key].as_str().expect("a path"))
    }
}

/// A directory with an `app.json`.
#[derive(Debug)]
pub struct App {
    /// The directory.
    pub place: Place,
    config: Value,
    args: Vec<String>,
}

impl App {
    /// A VM of 128 MiB for the APK at `apk`, its console in a file, so that stdout is the payload's log.
    pub fn new(files: &Files, apk: &Path) -> Self {
        let config = json!({ "apk": apk, "config_path": crate::apk::CONFIG, "memory_mib": 128 });
        let os = files.os.display().to_string();
        let args = ["--os-dir", &os, "--console", "console"].map(str::to_owned).to_vec();
        Self { place: Place::new(), config, args }
    }

    /// Sets a key of the configuration.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Adds arguments to the command; a later `--os-dir` counts.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Uses another directory of guest OSes.
    #[must_use]
    pub fn os_dir(mut self, directory: &Path) -> Self {
        self.args[1] = directory.display().to_string();
        self
    }

    /// Starts the VM.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(&self) -> Running {
        self.place.file("app.json", self.config.to_string().as_bytes());
        let mut args = vec!["--json".to_owned(), "--app-config".to_owned(), "app.json".to_owned()];
        args.extend(self.args.iter().cloned());
        self.place.vmm(&args)
    }

    /// Runs the VM to its end.
    ///
    /// # Panics
    /// When it hangs, or leaves something behind.
    pub fn run(&self) -> Life {
        let mut life = Life::of(self.start().wait());
        let console = std::fs::read(self.place.path().join("console")).unwrap_or_default();
        life.console = String::from_utf8_lossy(&console).into_owned();
        let left: Vec<_> = ["tmp", "run", "home"]
            .iter()
            .flat_map(|dir| std::fs::read_dir(self.place.path().join(dir)).ok()?.next())
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        life
    }
}

/// How a VM lived and ended.
#[derive(Debug)]
pub struct Life {
    /// Status and output of the command.
    pub ended: Ended,
    /// The events that it reported (`--json`), in order.
    pub events: Vec<Value>,
    /// What the guest's kernel and PID 1 printed.
    pub console: String,
}

impl Life {
    /// Reads the events out of a command's output.
    pub fn of(ended: Ended) -> Self {
        let lines = ended.stderr.lines().filter(|line| line.starts_with('{'));
        let events = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
        Self { ended, events, console: String::new() }
    }

    /// The names of the events, in order.
    pub fn names(&self) -> Vec<&str> {
        self.events.iter().filter_map(|event| event["event"].as_str()).collect()
    }

    /// The text of the first event of this name; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        let event = self.events.iter().find(|event| event["event"] == name);
        event.and_then(|event| event["text"].as_str()).unwrap_or_default()
    }

    /// The number of the death reason.
    pub fn death_reason(&self) -> Option<u64> {
        self.events.iter().find(|event| event["event"] == "died")?["death_reason"].as_u64()
    }
}
