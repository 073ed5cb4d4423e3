//! Making components, for whoever needs one to test with. Equal inputs give equal bytes.

use std::io::{Cursor, Write};

use prost::Message;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::{ApexManifest, MANIFEST, PAYLOAD, PUBLIC_KEY};
use crate::avb::make::{SigningKey, image_with_hashtree};

/// The image begins at a multiple of as many bytes.
const PAGE: u16 = 4096;

/// A component around `filesystem` (a multiple of 4 KiB), without a signature around the archive: put that on with
/// [`crate::apk::sign`].
///
/// # Errors
/// When the archive cannot be written: an image of 4 GiB, for example.
pub fn apex(
    name: &str,
    version: i64,
    filesystem: Vec<u8>,
    salt: &[u8],
    key: &SigningKey,
) -> Result<Vec<u8>, ZipError> {
    let manifest = ApexManifest { name: name.into(), version }.encode_to_vec();
    let image = image_with_hashtree(filesystem, salt, name, key);
    archive(&[(MANIFEST, &manifest), (PUBLIC_KEY, &key.public_key()), (PAYLOAD, &image)])
}

/// An archive of these entries, stored.
///
/// # Errors
/// As [`apex`].
pub fn archive(entries: &[(&str, &[u8])]) -> Result<Vec<u8>, ZipError> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .with_android_alignment(if *name == PAYLOAD { PAGE } else { 4 });
        writer.start_file(*name, options)?;
        writer.write_all(bytes)?;
    }
    Ok(writer.finish()?.into_inner())
}
