//! Cargo, called for what it builds best.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::place::Place;
use crate::run::Log;
use crate::steps::Step;

/// The cargo that runs us, or the one that is installed.
pub fn command(place: &Place, target: &Path) -> Command {
    let mut cargo = Command::new(program());
    cargo.current_dir(&place.root).env("CARGO_TARGET_DIR", target);
    // What `cargo run` tells this program is not meant for others.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        cargo.env_remove(name);
    }
    cargo
}

/// The cargo to call.
pub fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// What is shipped.
const COMMANDS: [&str; 3] = ["vmm", "payload", "mk_payload"];

/// Builds the monitor as it is measured and shipped: complete in itself, since loading libraries is a third of the time
/// from its start to the guest's. The commands that make what it runs go beside it, and so does this program, for its
/// `--host software`.
///
/// # Errors
/// When cargo fails, or there is no room.
pub fn build_vmm(place: &Place, step: &Step) -> Result<()> {
    let mut cargo = command(place, &place.target);
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // Naming the target keeps the flags away from build scripts and macros, which cannot be static.
    cargo.args([
        "build",
        "--release",
        "--package",
        "vmm",
        "--package",
        "payload",
        "--bins",
        "--target",
        &triple,
    ]);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    Log::create(&place.log("vmm"))?.run(cargo, &|line| step.doing(line))?;
    let own = std::env::current_exe().context("Find this program's own file")?;
    for name in COMMANDS {
        let built = place.target.join(&triple).join("release").join(name);
        install(&built, &place.vmm().with_file_name(name))?;
    }
    install(&own, &place.vmm().with_file_name("images"))
}

/// Gives `built` a second name; whoever runs what had that name before is not disturbed.
fn install(built: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    let _ = fs::remove_file(&partial);
    fs::hard_link(built, &partial)
        .or_else(|_| fs::copy(built, &partial).map(drop))
        .and_then(|()| fs::rename(&partial, to))
        .with_context(|| format!("Copy {} to {}", built.display(), to.display()))?;
    // Renaming a name of a file to another name of it does nothing.
    let _ = fs::remove_file(&partial);
    Ok(())
}

/// Exists once all tests were built here.
pub fn tests_marker(place: &Place) -> PathBuf {
    place.images.join("tests-built")
}

/// What the tests with Linux guests run.
pub fn test_apks(place: &Place) -> PathBuf {
    place.images.join("test-apks")
}

/// A program of tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TestProgram {
    /// How it is called in the summary.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Where it runs.
    pub directory: PathBuf,
}

/// Builds every test program of the workspace.
///
/// # Errors
/// When cargo fails, or says something that is not understood.
pub fn build_tests(place: &Place, step: &Step) -> Result<Vec<TestProgram>> {
    let mut cargo = command(place, &place.target);
    cargo.args(["test", "--workspace", "--all-features", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let mut log = Log::create(&place.log("tests"))?;
    let output = log.capture(cargo, &|line| step.doing(line))?;
    // What the tests with Linux guests run: payloads in APKs, made by a program of the tests' own.
    let mut maker = Command::new(place.target.join("debug/make-test-apks"));
    maker.arg(test_apks(place));
    log.run(maker, &|line| step.doing(line))?;
    let programs = test_programs(&String::from_utf8(output).context("Read what cargo says")?)?;
    fs::write(tests_marker(place), "").context("Mark the tests as built")?;
    Ok(programs)
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The programs among cargo's messages, in a fixed order.
fn test_programs(messages: &str) -> Result<Vec<TestProgram>> {
    let mut programs = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).with_context(|| format!("Understand cargo's {line}"))?;
        let is_test =
            message.reason == "compiler-artifact" && message.profile.is_some_and(|profile| profile.test);
        let (true, Some(path), Some(target)) = (is_test, message.executable, message.target) else {
            continue;
        };
        let directory = message.manifest_path.parent().context("A manifest's directory")?.to_path_buf();
        let package = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_integration = target.kind.iter().any(|kind| kind == "test");
        let name = if is_integration {
            format!("{package}/tests/{}", target.name)
        } else {
            format!("{package}: {}", target.name)
        };
        programs.push(TestProgram { name, path, directory });
    }
    programs.sort();
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","package_id":"x","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],"name":"linux"},"profile":{"test":true},"executable":"/t/linux-1"}
{"reason":"compiler-artifact","manifest_path":"/w/boot/Cargo.toml","target":{"kind":["lib"],"name":"boot"},"profile":{"test":true},"executable":"/t/boot-1"}
{"reason":"compiler-artifact","manifest_path":"/w/boot/Cargo.toml","target":{"kind":["lib"],"name":"boot"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/vmm/Cargo.toml","target":{"kind":["bin"],"name":"vmm"},"profile":{"test":false},"executable":"/t/vmm"}
{"reason":"build-script-executed","package_id":"x"}
{"reason":"build-finished","success":true}
"#;
        let programs = test_programs(messages).unwrap();
        let found: Vec<(&str, &str, &str)> = programs
            .iter()
            .map(|p| (p.name.as_str(), p.path.to_str().unwrap(), p.directory.to_str().unwrap()))
            .collect();
        assert_eq!(
            found,
            [("boot: boot", "/t/boot-1", "/w/boot"), ("tests/tests/linux", "/t/linux-1", "/w/tests")]
        );
        assert!(test_programs("{\"reason\":1}").is_err());
    }
}
