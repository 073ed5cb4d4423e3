//! Partitions by label.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// Most block devices looked at: a disk of 128 partitions and as many more.
const MAX_DEVICES: usize = 256;

/// Why a partition is not found.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// sysfs cannot be read.
    #[error("list block devices")]
    List(#[source] io::Error),
    /// No partition has this label.
    #[error("no partition is labelled {0:?}")]
    Missing(String),
    /// Which of them is meant?
    #[error("two partitions are labelled {0:?}")]
    Twice(String),
    /// More block devices than any VM has.
    #[error("more than {MAX_DEVICES} block devices")]
    TooMany,
}

/// Device nodes by partition label.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Partitions {
    nodes: HashMap<String, Vec<PathBuf>>,
}

impl Partitions {
    /// Reads the labels of all block devices from sysfs, mounted at `/sys`. The virtio drivers are built in, so every disk
    /// was probed before PID 1 began: nothing is waited for.
    ///
    /// # Errors
    /// [`PartitionError::List`], [`PartitionError::TooMany`].
    pub fn scan() -> Result<Self, PartitionError> {
        Self::scan_in(Path::new("/sys/class/block"))
    }

    fn scan_in(class: &Path) -> Result<Self, PartitionError> {
        let mut found = Self::default();
        for (count, device) in class.read_dir().map_err(PartitionError::List)?.enumerate() {
            if count == MAX_DEVICES {
                return Err(PartitionError::TooMany);
            }
            let path = device.map_err(PartitionError::List)?.path().join("uevent");
            let text = std::fs::read_to_string(path).map_err(PartitionError::List)?;
            if let Some((label, node)) = parse(&text) {
                found.nodes.entry(label.to_owned()).or_default().push(Path::new("/dev").join(node));
            }
        }
        Ok(found)
    }

    /// The device node of the one partition with this label.
    ///
    /// # Errors
    /// [`PartitionError::Missing`], [`PartitionError::Twice`].
    pub fn get(&self, label: &str) -> Result<&Path, PartitionError> {
        match self.nodes.get(label).map(Vec::as_slice) {
            Some([node]) => Ok(node),
            Some([_, _, ..]) => Err(PartitionError::Twice(label.to_owned())),
            _ => Err(PartitionError::Missing(label.to_owned())),
        }
    }

    /// As [`get`](Self::get) for whichever of two labels is there.
    ///
    /// # Errors
    /// As [`get`](Self::get); the first label is named when neither is there.
    pub fn get_either(&self, label: &str, other: &str) -> Result<&Path, PartitionError> {
        match self.get(label) {
            Err(PartitionError::Missing(missing)) => self.get(other).map_err(|error| match error {
                PartitionError::Missing(_) => PartitionError::Missing(missing),
                error => error,
            }),
            result => result,
        }
    }
}

/// Label and node name in a block device's `uevent`; none when it is no labelled partition.
fn parse(uevent: &str) -> Option<(&str, &str)> {
    let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    (value("DEVTYPE") == Some("partition")).then_some(())?;
    let node = value("DEVNAME").filter(|name| !name.contains(['/', '.']))?;
    Some((value("PARTNAME")?, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysfs(devices: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, uevent) in devices {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("uevent"), uevent).unwrap();
        }
        dir
    }

    fn partition(name: &str, label: &str) -> String {
        format!(
            "MAJOR=254\nMINOR=1\nDEVNAME={name}\nDEVTYPE=partition\nDISKSEQ=1\nPARTN=1\nPARTNAME={label}\n"
        )
    }

    #[test]
    fn partitions_are_found_by_label_on_any_disk() {
        let dir = sysfs(&[
            ("vda", "MAJOR=254\nMINOR=0\nDEVNAME=vda\nDEVTYPE=disk\n"),
            ("vda1", &partition("vda1", "payload-metadata")),
            ("vdb2", &partition("vdb2", "microdroid-apk")),
            ("vdb3", &partition("vdb3", "a=b c")),
        ]);
        let found = Partitions::scan_in(dir.path()).unwrap();
        assert_eq!(found.get("payload-metadata").unwrap(), Path::new("/dev/vda1"));
        assert_eq!(found.get("microdroid-apk").unwrap(), Path::new("/dev/vdb2"));
        assert_eq!(found.get("a=b c").unwrap(), Path::new("/dev/vdb3"));
        assert!(matches!(found.get("x"), Err(PartitionError::Missing(label)) if label == "x"));
        assert_eq!(found.get_either("x", "a=b c").unwrap(), Path::new("/dev/vdb3"));
        assert!(matches!(found.get_either("x", "y"), Err(PartitionError::Missing(label)) if label == "x"));
    }

    #[test]
    fn a_label_that_is_there_twice_is_nobodys() {
        let dir = sysfs(&[("vda1", &partition("vda1", "m")), ("vdb1", &partition("vdb1", "m"))]);
        let found = Partitions::scan_in(dir.path()).unwrap();
        assert!(matches!(found.get("m"), Err(PartitionError::Twice(_))));
        assert!(matches!(found.get_either("x", "m"), Err(PartitionError::Twice(_))));
        assert!(matches!(found.get_either("m", "x"), Err(PartitionError::Twice(_))));
    }

    #[test]
    fn what_is_no_labelled_partition_is_passed_over() {
        for uevent in [
            "",
            "DEVNAME=vda\nDEVTYPE=disk\nPARTNAME=x\n",
            "DEVNAME=vda1\nDEVTYPE=partition\n",
            "DEVNAME=../vda1\nDEVTYPE=partition\nPARTNAME=x\n",
            "DEVTYPE=partition\nPARTNAME=x\n",
        ] {
            assert_eq!(parse(uevent), None, "{uevent:?}");
        }
    }
}
