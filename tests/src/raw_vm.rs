//! A VM of a raw configuration around a tiny guest.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::elf;
use crate::process::{Ended, Place, Running, vmm_executable};

/// A directory with a kernel and a `vm.json`, run with `vmm --raw-config vm.json`.
#[derive(Debug)]
pub struct RawVm {
    /// The directory.
    pub place: Place,
    config: Value,
    args: Vec<String>,
}

impl RawVm {
    /// A VM of 64 MiB whose kernel is `code`.
    ///
    /// # Panics
    /// When its files cannot be written.
    pub fn new(code: &[u8]) -> Self {
        let place = Place::new();
        place.file("kernel", &elf::flat(code));
        let config = json!({ "kernel": "kernel", "memory_mib": 64, "params": "", "disks": [] });
        Self { place, config, args: Vec::new() }
    }

    /// Sets a key of the configuration.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Adds an argument to the command.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Writes the configuration and starts the VM.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(&self) -> Running {
        self.write_config();
        let mut args = vec!["--raw-config".to_owned(), "vm.json".to_owned()];
        args.extend(self.args.iter().cloned());
        self.place.vmm(&args)
    }

    /// Starts the VM with a terminal's place taken by `stdin`.
    ///
    /// # Panics
    /// When that fails.
    pub fn start_reading(&self, stdin: Stdio) -> Running {
        self.write_config();
        let mut command = Command::new(vmm_executable());
        command.args(["--interactive", "--raw-config", "vm.json"]).args(&self.args);
        self.place.command_reading(&mut command, stdin)
    }

    /// Runs the VM to its end and checks that it left nothing behind.
    ///
    /// # Panics
    /// When it leaves a file, or cannot be run.
    pub fn run(&self) -> Ended {
        self.write_config();
        let before = self.files();
        let ended = self.start().wait();
        assert_eq!(self.files(), before, "files are left behind: {ended:?}");
        ended
    }

    fn write_config(&self) {
        self.place.file("vm.json", self.config.to_string().as_bytes());
    }

    /// The files there are now.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        self.place.listing()
    }
}
