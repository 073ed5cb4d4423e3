//! The structure of the workspace is a property that is tested: crate arrows, and who may be unsafe.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The arrows of the README's diagram; `tests` may see everything, and nothing may see it.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("vmm", &["boot", "devices", "guest-api", "payload"][..]),
        ("guest-api", &["payload"]),
        ("resources", &["payload"]),
        ("tests", &["boot", "devices", "guest-api", "payload", "vmm"]),
        ("boot", &[]),
        ("devices", &[]),
        ("payload", &[]),
    ])
}

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let allowed = allowed();
    let packages = metadata["packages"].as_array().unwrap();
    let members: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(members, allowed.keys().copied().collect(), "a new crate needs a place in the diagram");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            if members.contains(to) {
                assert!(allowed[name].contains(&to), "{name} -> {to} is not an arrow of the design");
            }
        }
    }
}

#[test]
fn boot_and_payload_forbid_unsafe_code() {
    for member in ["boot", "payload"] {
        let lib = std::fs::read_to_string(root().join(member).join("src/lib.rs")).unwrap();
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{member} must forbid unsafe code");
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn architectures_are_told_apart_in_arch_only() {
    let mut files = Vec::new();
    for member in ["boot", "devices", "payload", "vmm"] {
        rust_files(&root().join(member).join("src"), &mut files);
    }
    assert!(!files.is_empty());
    for file in files {
        let inside = file.components().any(|c| c.as_os_str() == "arch");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(inside || !text.contains("cfg(target_arch"), "{} tells architectures apart", file.display());
    }
}

#[test]
fn every_path_named_in_the_documentation_exists() {
    for doc in ["README.md", "CHANGELOG.md", "resources/kernel/README.md"] {
        let Ok(text) = std::fs::read_to_string(root().join(doc)) else { continue };
        for word in text.split(|c: char| c.is_whitespace() || "`()<>\"',;".contains(c)) {
            let top = word.split('/').next().unwrap_or_default();
            if word.contains('/') && allowed().contains_key(top) && !word.contains('*') {
                let path = word.trim_end_matches(['.', ':']);
                assert!(root().join(path).exists(), "{doc} names {path}, which does not exist");
            }
        }
    }
}
