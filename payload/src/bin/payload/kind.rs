//! What kind of file something is, by its content.

use std::io;

use payload::apk::archive::Apk;
use payload::disk::SECTOR_SIZE;
use payload::disk::composite::is_composite;
use payload::{ReadAt, metadata};

/// The kinds that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An application archive, or any other ZIP archive.
    Apk,
    /// A shared component.
    Apex,
    /// A hash tree with its header.
    Idsig,
    /// A disk with a GUID partition table, or the specification of one.
    Disk,
    /// An instance image.
    Instance,
    /// A metadata partition.
    Metadata,
    /// None of them.
    Unknown,
}

impl Kind {
    /// Its name in JSON documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apk => "apk",
            Self::Apex => "apex",
            Self::Idsig => "idsig",
            Self::Disk => "disk",
            Self::Instance => "instance",
            Self::Metadata => "metadata",
            Self::Unknown => "unknown",
        }
    }
}

/// First bytes of an instance image.
const INSTANCE: &[u8] = b"Android-VM-instance";

/// Looks at a few bytes: what they announce may turn out to be broken.
pub fn of(source: &dyn ReadAt) -> io::Result<Kind> {
    let len = source.len()?;
    let mut head = vec![0; usize::try_from(len.min(2 * SECTOR_SIZE)).unwrap_or(0)];
    source.read_exact_at(&mut head, 0)?;
    let second = head.get(512..).unwrap_or_default();
    if is_composite(source)? || second.starts_with(b"EFI PART") || is_protective(&head) {
        return Ok(Kind::Disk);
    }
    if head.starts_with(INSTANCE) {
        return Ok(Kind::Instance);
    }
    if is_idsig(&head) {
        return Ok(Kind::Idsig);
    }
    if let Ok(archive) = Apk::open(source) {
        let apex = archive.entry(payload::apex::PAYLOAD).is_some()
            && archive.entry(payload::apex::MANIFEST).is_some();
        return Ok(if apex { Kind::Apex } else { Kind::Apk });
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Ok(Kind::Apk);
    }
    Ok(if is_metadata(source, &head, len)? { Kind::Metadata } else { Kind::Unknown })
}

/// Sector 0 of a disk whose GUID partition table may be damaged: one record of type 0xEE.
fn is_protective(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa]) && head.get(450) == Some(&0xee)
}

/// Version 2, an info of 9 bytes and more, SHA-256, and blocks of 4 KiB.
fn is_idsig(head: &[u8]) -> bool {
    head.starts_with(&[2, 0, 0, 0]) && head.get(8..13) == Some(&[1, 0, 0, 0, 12])
}

/// A length, and so many bytes of a message.
fn is_metadata(source: &dyn ReadAt, head: &[u8], len: u64) -> io::Result<bool> {
    let Some(prefix) = head.first_chunk::<4>() else { return Ok(false) };
    let Ok(wanted) = metadata::encoded_len(*prefix) else { return Ok(false) };
    if wanted <= 4 || wanted as u64 > len {
        return Ok(false);
    }
    let mut bytes = vec![0; wanted];
    source.read_exact_at(&mut bytes, 0)?;
    Ok(metadata::decode(&bytes).is_ok())
}

#[cfg(test)]
mod tests {
    use payload::metadata::{Metadata, config_path, encode};

    use super::*;

    #[test]
    fn kinds_are_told_by_content() {
        let metadata = encode(&Metadata::for_apk(Vec::new(), config_path("assets/vm_config.json")));
        let mut disk = vec![0; 8192];
        disk[512..520].copy_from_slice(b"EFI PART");
        for (bytes, kind) in [
            (b"".to_vec(), Kind::Unknown),
            (b"PK".to_vec(), Kind::Unknown),
            (b"PK\x03\x04 and no end".to_vec(), Kind::Apk),
            (b"composite_disk\x1d".to_vec(), Kind::Disk),
            (disk, Kind::Disk),
            ([INSTANCE, &[1, 0]].concat(), Kind::Instance),
            (vec![2, 0, 0, 0, 45, 0, 0, 0, 1, 0, 0, 0, 12], Kind::Idsig),
            (metadata.clone(), Kind::Metadata),
            ([metadata, vec![0; 4096]].concat(), Kind::Metadata),
            (vec![0; 4096], Kind::Unknown),
            (b"#!/bin/sh\n".to_vec(), Kind::Unknown),
        ] {
            assert_eq!(of(&bytes).unwrap(), kind, "{:?}", &bytes[..bytes.len().min(16)]);
        }
    }
}
