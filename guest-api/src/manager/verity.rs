//! dm-verity over the partition of an APK, with the hash tree in its idsig partition.
//!
//! ```text
//!   microdroid-apk        | block 0 | block 1 | ..            ──┐
//!                                                               ├─ verity, root from the idsig's header ─► /dev/dm-N
//!   microdroid-apk-idsig  | header | tree: top .. leaves |      │
//!                                  └─ loop device, any offset ──┘
//! ```
//!
//! The host may change either partition at any time: what does not lead to the root is an I/O error for whoever reads it.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use payload::idsig::Idsig;

use super::dm::{Target, create_readonly};
use super::loopback::Loop;
use super::steps::Steps;

/// Bytes of a data or hash block.
pub const BLOCK: u64 = 4096;

const SECTOR: u64 = 512;

/// Maps `data`, of `blocks` blocks, as device `name`: the mapped device's node.
///
/// # Errors
/// Those of the loop device and of device mapper; `InvalidData` for a size that no device has.
pub fn map(
    name: &str,
    data: &Path,
    blocks: u64,
    (hashes, tree): (&File, &Idsig),
    steps: &mut Steps,
) -> io::Result<PathBuf> {
    // Device mapper opens the loop device; that keeps it when this end is closed.
    let (hash_device, _attached) = if tree.tree_len == 0 {
        (data.to_owned(), None)
    } else {
        let attached = Loop::attach(hashes, tree.tree_offset, tree.tree_len)?;
        (attached.node.clone(), Some(attached))
    };
    steps.done("loop");
    create_readonly(name, &target(data, blocks, &hash_device, tree)?)
}

fn target(data: &Path, blocks: u64, hashes: &Path, tree: &Idsig) -> io::Result<Target> {
    let sectors = blocks.checked_mul(BLOCK / SECTOR).ok_or(io::ErrorKind::InvalidData)?;
    let salt = match tree.padded_salt() {
        none if none.is_empty() => "-".to_owned(),
        padded => hex(&padded),
    };
    let parameters = format!(
        "1 {} {} {BLOCK} {BLOCK} {blocks} 0 sha256 {} {salt}",
        data.display(),
        hashes.display(),
        hex(&tree.root_hash)
    );
    Ok(Target { kind: "verity", sectors, parameters })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use payload::idsig::SigningInfo;

    use super::*;

    fn tree(salt: &[u8]) -> Idsig {
        let signing = SigningInfo::default();
        Idsig { salt: salt.to_vec(), root_hash: [0xab; 32], signing, tree_offset: 4917, tree_len: 8192 }
    }

    fn parameters(salt: &[u8]) -> io::Result<Target> {
        target(Path::new("/dev/vda2"), 950, Path::new("/dev/loop0"), &tree(salt))
    }

    #[test]
    fn the_table_is_the_one_of_section_5() {
        let target = parameters(b"").unwrap();
        assert_eq!((target.kind, target.sectors), ("verity", 7600));
        let root = "ab".repeat(32);
        assert_eq!(target.parameters, format!("1 /dev/vda2 /dev/loop0 4096 4096 950 0 sha256 {root} -"));
    }

    #[test]
    fn a_salt_is_padded_as_fs_verity_pads_it() {
        let text = parameters(b"\x01\xff").unwrap().parameters;
        assert_eq!(text.rsplit(' ').next().unwrap(), format!("01ff{}", "00".repeat(62)));
        assert!(parameters(&[1; 64]).unwrap().parameters.ends_with(&"01".repeat(64)));
    }

    #[test]
    fn a_size_that_has_no_sectors_is_refused() {
        assert!(target(Path::new("d"), u64::MAX / 2, Path::new("h"), &tree(b"")).is_err());
    }
}
