//! `images test-all`: every test of the workspace, wherever it can run.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::General;
use crate::cargo::{TestProgram, test_apks};
use crate::host;
use crate::kvm::{self, Host};
use crate::place::Place;
use crate::prepare::{self, Part};
use crate::software_job::{self, OS_DIR, VMM};
use crate::{cargo, run, stock};

mod tally;

use tally::Tally;

/// The programs whose tests boot Linux.
const LINUX_TESTS: [&str; 2] = ["tests/tests/linux", "tests/tests/vsock"];
/// No program may take longer: a hang must end before the whole run's time is over.
const LONGEST: Duration = Duration::from_secs(20 * 60);
const LONGEST_SOAK: Duration = Duration::from_secs(6 * 60 * 60);
/// What all fuzz targets take together, without their build.
const FUZZING: Duration = Duration::from_secs(6 * 60);
const FUZZING_SOAK: Duration = Duration::from_secs(2 * 60 * 60);
/// Where the test program is inside the software host.
const TEST_PROGRAM: &str = "/usr/bin/linux-tests";
/// Where the stock kernel is inside the software host.
const STOCK_KERNEL: &str = "/stock";
/// Where what its tests run is inside the software host.
const TEST_APKS: &str = "/test-apks";

/// Builds what is missing, runs everything, and sums up.
///
/// # Errors
/// When something cannot be built or started; failing tests are an exit status.
pub fn run(place: &Place, general: General, soak: bool) -> Result<u8> {
    let machine = kvm::host();
    let mut parts = BTreeSet::from([Part::Guest, Part::Sample, Part::Vmm, Part::Tests]);
    if machine != Host::Native {
        parts.insert(Part::Host);
    }
    let fuzzing = place.root.join("tests/fuzz/run.sh");
    if fuzzing.exists() {
        parts.insert(Part::Fuzzing);
    }
    let prepared = prepare::prepare(place, general, &parts)?;
    let run = Run { place, soak };
    let mut tally = Tally::default();
    for program in prepared.tests.iter().filter(|program| !boots_linux(program)) {
        run.native(program, &mut tally)?;
    }
    run.doc_tests(&mut tally)?;
    for program in prepared.tests.iter().filter(|program| boots_linux(program)) {
        match &machine {
            Host::Native => run.native(program, &mut tally)?,
            Host::Software(_) => run.in_software_host(program, &machine, &mut tally)?,
        }
    }
    if fuzzing.exists() {
        run.fuzz(&fuzzing, &mut tally)?;
    }
    println!("\n{}", tally.summary());
    Ok(u8::from(!tally.is_success()))
}

fn boots_linux(program: &TestProgram) -> bool {
    LINUX_TESTS.contains(&program.name.as_str())
}

struct Run<'a> {
    place: &'a Place,
    soak: bool,
}

impl Run<'_> {
    fn limit(&self) -> Duration {
        if self.soak { LONGEST_SOAK } else { LONGEST }
    }

    /// What tests are told about where things are.
    fn variables(
        &self,
        vmm: &Path,
        os_dir: &Path,
        apks: &Path,
        stock: &Path,
    ) -> Vec<(&'static str, PathBuf)> {
        let mut variables = vec![
            ("KAPSEL_VMM", vmm.to_path_buf()),
            ("KAPSEL_OS_DIR", os_dir.to_path_buf()),
            ("KAPSEL_TEST_APKS", apks.to_path_buf()),
        ];
        if self.place.stock_dir().exists() {
            variables.push(("KAPSEL_STOCK_KERNEL", stock.to_path_buf()));
        }
        if self.soak {
            variables.push(("KAPSEL_SOAK", PathBuf::from("1")));
        }
        variables
    }

    fn native_variables(&self, command: &mut Command) {
        let place = self.place;
        command.envs(self.variables(&place.vmm(), &place.os_dir(), &test_apks(place), &place.stock_dir()));
        // Where distributions keep administrators' tools, which users' paths may lack.
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/sbin:/sbin");
        command.env("PATH", path);
    }

    fn native(&self, program: &TestProgram, tally: &mut Tally) -> Result<()> {
        println!("\n== {}", program.name);
        let mut command = Command::new(&program.path);
        command.current_dir(&program.directory).env("CARGO_MANIFEST_DIR", &program.directory);
        command.env("CARGO", cargo::program());
        self.native_variables(&mut command);
        if boots_linux(program) {
            command.arg("--test-threads=1");
        }
        self.stream(&program.name, command, self.limit(), tally)
    }

    fn doc_tests(&self, tally: &mut Tally) -> Result<()> {
        println!("\n== documentation");
        let mut command = cargo::command(self.place, &self.place.target);
        command.args(["test", "--quiet", "--doc", "--workspace", "--all-features"]);
        self.native_variables(&mut command);
        self.stream("documentation", command, self.limit(), tally)
    }

    fn stream(&self, name: &str, command: Command, limit: Duration, tally: &mut Tally) -> Result<()> {
        let mut program = tally.program(name, stdout());
        let status =
            run::stream(command, limit, &mut program).with_context(|| format!("Run the tests of {name}"))?;
        program.finish(status.success());
        if !status.success() {
            println!("{name} {}", run::ended(status));
        }
        Ok(())
    }

    fn in_software_host(&self, program: &TestProgram, machine: &Host, tally: &mut Tally) -> Result<()> {
        println!("\n== {}, inside the software host\n{machine}", program.name);
        let mut job = software_job::with_os(self.place, &program.path, Path::new(TEST_PROGRAM));
        for name in ["vmm", "mk_payload"] {
            job.files.push((self.place.vmm().with_file_name(name), Path::new(VMM).with_file_name(name)));
        }
        job.files.push((test_apks(self.place), PathBuf::from(TEST_APKS)));
        job.arguments = vec!["--test-threads=1".to_owned()];
        if self.place.stock_dir().exists() {
            let stock = |name: &str| (self.place.stock_dir().join(name), Path::new(STOCK_KERNEL).join(name));
            job.files.extend(stock::FILES.map(stock));
        }
        let places = [VMM, OS_DIR, TEST_APKS, STOCK_KERNEL].map(Path::new);
        for (name, path) in self.variables(places[0], places[1], places[2], places[3]) {
            job.environment.insert(name.to_owned(), path.display().to_string());
        }
        job.memory_mib = 2048;
        job.timeout_s = self.limit().as_secs();
        let mut output = tally.program(&program.name, stdout());
        let end = host::run(self.place, &self.place.host_kernel(), &job, &mut output);
        match &end {
            Ok(end) => output.finish(end.status() == 0),
            Err(_) => output.finish(false),
        }
        run::check_interrupted()?;
        match end {
            Ok(end) => drop(software_job::status(&job, &end)),
            Err(error) => println!("{error:#}"),
        }
        Ok(())
    }

    fn fuzz(&self, script: &Path, tally: &mut Tally) -> Result<()> {
        println!("\n== fuzzing");
        let manifest = script.with_file_name("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| format!("Read {}", manifest.display()))?;
        let all = if self.soak { FUZZING_SOAK } else { FUZZING };
        let mut command = Command::new(script);
        command.arg(seconds_each(&text, all).to_string()).current_dir(&self.place.root);
        command.env("CARGO", cargo::program()).env_remove("CARGO_TARGET_DIR");
        let status = run::stream(command, self.limit() + all, &mut stdout())?;
        tally.count("fuzzing", status.success());
        stdout().flush().context("Write the output")
    }
}

/// How long each target may run, so that all of them take `all`; the script runs two at a time.
fn seconds_each(manifest: &str, all: Duration) -> u64 {
    let targets = manifest.lines().filter(|line| line.trim() == "[[bin]]").count();
    let targets = u64::try_from(targets).unwrap_or(u64::MAX).max(1);
    (all.as_secs() / targets.div_ceil(2)).clamp(5, all.as_secs().max(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_fuzzing_is_shared() {
        let all = Duration::from_secs(100);
        assert_eq!(seconds_each("[[bin]]\nname = \"a\"\n[[bin]]\nname = \"b\"\n[[bin]]\n", all), 50);
        assert_eq!(seconds_each("", all), 100);
        assert_eq!(seconds_each(&"[[bin]]\n".repeat(1000), all), 5);
    }
}
