//! The Debian packages that building and testing need.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::place::Place;
use crate::run::{self, Log};
use crate::steps::Steps;

/// Where the kernel's sources come from. The series is pinned, the version is the one Debian has now.
pub const KERNEL_SOURCE: &str = "linux-source-6.12";

/// What packages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Building a kernel.
    Kernel,
    /// Running the software host.
    SoftwareHost,
    /// The tests that check our output with other people's tools.
    Tests,
    /// Building the fuzz targets.
    Fuzzing,
}

impl Purpose {
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Kernel => &[
                KERNEL_SOURCE,
                "bc",
                "bison",
                "flex",
                "gcc",
                "libelf-dev",
                "libssl-dev",
                "make",
                "patch",
                "xz-utils",
            ],
            Self::SoftwareHost => &["qemu-system-x86"],
            Self::Tests => &[
                "acpica-tools",
                "apksigner",
                "cpio",
                "cryptsetup-bin",
                "fdisk",
                "fsverity",
                "gdisk",
                "openssl",
                "parted",
                "protobuf-compiler",
                "qemu-utils",
                "unzip",
                "zipalign",
            ],
            Self::Fuzzing => &["g++"],
        }
    }
}

/// Packages are missing and were not installed; the message is the line that installs them.
#[derive(Debug, thiserror::Error)]
#[error("These Debian packages are missing; install them with\n    {0}\nand run the command again")]
pub struct Missing(pub String);

/// What is missing of `purposes`, in order.
///
/// # Errors
/// When dpkg-query fails. Where there is no dpkg-query nothing counts as missing: whatever is, the step that needs it names it.
pub fn missing(purposes: &BTreeSet<Purpose>) -> Result<Vec<&'static str>> {
    let wanted: BTreeSet<&'static str> =
        purposes.iter().flat_map(|purpose| purpose.packages()).copied().collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = Command::new("dpkg-query");
    query
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(&wanted)
        .stderr(Stdio::null());
    let output = match query.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        output => output.context("Run dpkg-query")?,
    };
    // Its status says only that it knows nothing of some of them.
    Ok(not_installed(&wanted, &String::from_utf8_lossy(&output.stdout)))
}

fn not_installed<'a>(wanted: &BTreeSet<&'a str>, listing: &str) -> Vec<&'a str> {
    let installed: BTreeSet<&str> =
        listing.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    wanted.iter().filter(|package| !installed.contains(**package)).copied().collect()
}

/// The version of an installed package.
pub fn version(package: &str) -> Option<String> {
    let mut query = Command::new("dpkg-query");
    let format = "${db:Status-Status} ${Version}";
    let output =
        query.args(["--show", "--showformat", format, package]).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.strip_prefix("installed ").map(|version| version.trim().to_owned())
}

/// What to do about missing packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Install,
    AskFirst,
    PrintOnly,
}

fn plan(root: bool, agreed: bool, terminal: bool) -> Plan {
    match (root, agreed, terminal) {
        (false, _, _) => Plan::PrintOnly,
        (true, true, _) => Plan::Install,
        (true, false, true) => Plan::AskFirst,
        (true, false, false) => Plan::PrintOnly,
    }
}

/// The line a user can type.
fn install_line(packages: &[&str], root: bool) -> String {
    let sudo = if root { "" } else { "sudo " };
    format!("{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {}", packages.join(" "))
}

/// Whether `packages` may be installed now; asks where there is someone to ask.
///
/// # Errors
/// [`Missing`] where they may not.
pub fn consent(packages: &[&str], yes: bool) -> Result<()> {
    // SAFETY: geteuid takes nothing and always succeeds.
    let root = unsafe { libc::geteuid() } == 0;
    let agreed = yes || std::env::var("CI").is_ok_and(|value| value == "true");
    let line = install_line(packages, root);
    match plan(root, agreed, io::stdin().is_terminal()) {
        Plan::Install => {
            eprintln!("Debian packages to install: {}", packages.join(" "));
            Ok(())
        }
        Plan::AskFirst => {
            eprintln!("Debian packages to install: {}", packages.join(" "));
            let answer = run::prompt("Install them now with apt-get? [Y/n] ")?;
            match answer.trim() {
                // An empty line ends with a newline; the end of input has none, and is not an answer.
                "" if answer.ends_with('\n') => Ok(()),
                "y" | "Y" | "yes" => Ok(()),
                _ => Err(Missing(line).into()),
            }
        }
        Plan::PrintOnly => Err(Missing(line).into()),
    }
}

/// Installs packages.
///
/// # Errors
/// When apt-get fails.
pub fn install(place: &Place, steps: &Steps, packages: &[&str]) -> Result<()> {
    steps.run("Install Debian packages", |step| {
        let mut log = Log::create(&place.log("packages"))?;
        for arguments in [&["update"][..], &["install", "-y", "--no-install-recommends"]] {
            let mut command = Command::new("apt-get");
            command.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]).args(arguments);
            if arguments.len() > 1 {
                command.args(packages);
            }
            command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
            log.run(command, &|line| step.doing(line))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fully_installed_packages_count() {
        let wanted = BTreeSet::from(["bc", "flex", "gcc", "make"]);
        let listing = "installed bc\nconfig-files flex\nnot-installed gcc\ninstalled makedev\n";
        assert_eq!(not_installed(&wanted, listing), ["flex", "gcc", "make"]);
        assert!(not_installed(&BTreeSet::from(["bc"]), "installed bc\n").is_empty());
    }

    #[test]
    fn nothing_is_needed_for_no_purpose() {
        assert!(missing(&BTreeSet::new()).unwrap().is_empty());
    }

    #[test]
    fn only_root_installs_and_only_with_consent() {
        assert_eq!(plan(true, true, false), Plan::Install);
        assert_eq!(plan(true, true, true), Plan::Install);
        assert_eq!(plan(true, false, true), Plan::AskFirst);
        assert_eq!(plan(true, false, false), Plan::PrintOnly);
        for (agreed, terminal) in [(true, true), (true, false), (false, true), (false, false)] {
            assert_eq!(plan(false, agreed, terminal), Plan::PrintOnly);
        }
    }

    #[test]
    fn the_line_to_type_is_whole() {
        assert_eq!(
            install_line(&["bc", "flex"], false),
            "sudo apt-get update && sudo apt-get install -y --no-install-recommends bc flex"
        );
        assert!(!install_line(&["bc"], true).contains("sudo"));
    }
}
