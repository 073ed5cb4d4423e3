//! Shared components (APEX): an archive around a filesystem image that is verified block by block as it is read.
//!
//! ```text
//!   NAME.apex (zip)
//!     apex_manifest.pb     name, version
//!     apex_pubkey          the key that must have signed ──────────────┐ equal
//!     apex_payload.img     stored:                                     │
//!       | filesystem | hash tree | vbmeta: hash tree descriptor, key ──┘ | footer |
//!                                          root digest, salt
//! ```
//!
//! [`Apex::open`] verifies the image's vbmeta, which vouches for the root digest; with it dm-verity needs nothing more.
//! [`Apex::verify`] hashes everything. Name, version, key and root digest are a component's identity. The archive is
//! signed as an application is, too ([`Apex::container_signer`]): that signature covers manifest and key, and a VM does
//! not depend on it.

use prost::Message;

use crate::apk::{self, Apk, ApkError, Compression, SDK, Signer, VerifyError};
use crate::avb::{AvbError, Descriptor, HashtreeDescriptor, VbMeta, verify_footer};
use crate::merkle::DIGEST_LEN;
use crate::metadata::ApexPayload;
use crate::{ReadAt, Section};

pub mod make;

mod wire {
    #![allow(missing_docs, reason = "generated from proto/apex_manifest.proto, which documents every field")]
    include!(concat!(env!("OUT_DIR"), "/apex.rs"));
}
pub use wire::ApexManifest;

/// The filesystem image's entry.
pub const PAYLOAD: &str = "apex_payload.img";
/// The public key's entry.
pub const PUBLIC_KEY: &str = "apex_pubkey";
/// The manifest's entry.
pub const MANIFEST: &str = "apex_manifest.pb";
/// The entry that stands for [`PAYLOAD`] in compressed components.
const ORIGINAL: &str = "original_apex";

/// The longest manifest read, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;
/// The longest key read, in bytes: one of 8192 bits takes 2056.
const MAX_PUBLIC_KEY: u64 = 4096;

/// Why a component is not used.
#[derive(Debug, thiserror::Error)]
pub enum ApexError {
    /// No archive, or an entry that cannot be read.
    #[error("read the APEX")]
    Archive(#[from] ApkError),
    /// A component inside a component.
    #[error("the APEX is compressed (it holds {ORIGINAL:?}): decompress it first")]
    Compressed,
    /// An entry that must be stored as it is.
    #[error("the APEX's entry {0:?} is compressed, where it must be stored")]
    NotStored(&'static str),
    /// The image lies outside of the archive.
    #[error("read {PAYLOAD:?} in the APEX")]
    Image(#[source] std::io::Error),
    /// No manifest.
    #[error("decode {MANIFEST:?} of the APEX")]
    Manifest(#[source] prost::DecodeError),
    /// A manifest without a usable name.
    #[error("{MANIFEST:?} of the APEX names it {0:?}: expected letters, digits, '.', '_' and '-'")]
    Name(String),
    /// A version below zero.
    #[error("{MANIFEST:?} of the APEX has version {0}: expected 0 or more")]
    Version(i64),
    /// The image's vbmeta is not believed.
    #[error("verify {PAYLOAD:?} of the APEX")]
    VbMeta(#[from] AvbError),
    /// Signed by another key than the one in the archive.
    #[error("{PAYLOAD:?} of the APEX is signed with another key than {PUBLIC_KEY:?}")]
    Key,
    /// Nothing says which filesystem it is.
    #[error("{PAYLOAD:?} of the APEX has no hash tree descriptor")]
    NoHashtree,
}

/// A component whose image is vouched for by its key.
#[derive(Clone)]
pub struct Apex<R> {
    /// The name in its manifest.
    pub name: String,
    /// The version in its manifest.
    pub version: i64,
    /// The key that signed it, in AVB's encoding.
    pub public_key: Vec<u8>,
    /// Root digest of its filesystem's hash tree, what its identity is.
    pub root_digest: [u8; DIGEST_LEN],
    /// All that dm-verity is to be told; checked ([`HashtreeDescriptor::check`]).
    pub hashtree: HashtreeDescriptor,
    /// Where the image begins, in bytes from the archive's start; not a multiple of anything.
    pub image_offset: u64,
    /// Bytes of the image, hash tree and vbmeta included.
    pub image_len: u64,
    reader: R,
    archive: Apk<R>,
}

impl<R: ReadAt + Clone> Apex<R> {
    /// Opens the component that fills `reader` exactly (for a partition, take a [`Section`] of
    /// [`crate::apk::zip::archive_len`] bytes) and verifies its vbmeta; the filesystem is not read.
    ///
    /// # Errors
    /// [`ApexError`] unless the key in the archive vouches for one filesystem.
    pub fn open(reader: R) -> Result<Self, ApexError> {
        let archive = Apk::open(reader.clone())?;
        if archive.entry(PAYLOAD).is_none() && archive.entry(ORIGINAL).is_some() {
            return Err(ApexError::Compressed);
        }
        let manifest = manifest(&stored(&archive, MANIFEST, MAX_MANIFEST)?)?;
        let public_key = stored(&archive, PUBLIC_KEY, MAX_PUBLIC_KEY)?;
        let (image_offset, image_len) = image_place(&archive)?;
        let image = Section::new(&reader, image_offset, image_len).map_err(ApexError::Image)?;
        let vbmeta = verify_footer(&image)?.1;
        if vbmeta.public_key != public_key {
            return Err(ApexError::Key);
        }
        let hashtree = first_hashtree(vbmeta)?;
        hashtree.check(image_len)?;
        let root_digest = hashtree.root().ok_or(ApexError::NoHashtree)?;
        Ok(Self {
            name: manifest.name,
            version: manifest.version,
            public_key,
            root_digest,
            hashtree,
            image_offset,
            image_len,
            reader,
            archive,
        })
    }

    /// The image, footer included.
    ///
    /// # Errors
    /// [`ApexError::Image`] when the source became shorter.
    pub fn image(&self) -> Result<Section<R>, ApexError> {
        Section::new(self.reader.clone(), self.image_offset, self.image_len).map_err(ApexError::Image)
    }

    /// Hashes the filesystem, on all processors, and compares root digest and stored hash tree. What the archive's
    /// directory says of the image (its CRC) is not asked: the hash tree says more.
    ///
    /// # Errors
    /// [`ApexError::VbMeta`] with [`AvbError::Digest`] or [`AvbError::Tree`] for the first difference.
    pub fn verify(&self) -> Result<(), ApexError> {
        Ok(self.hashtree.verify(&self.image()?)?)
    }

    /// Who signed the archive, by the APK Signature Schemes; the content is compared.
    ///
    /// # Errors
    /// [`VerifyError`], also when nobody did.
    pub fn container_signer(&self) -> Result<Signer, VerifyError> {
        apk::verify(&self.reader, SDK)
    }

    /// The archive's entries.
    pub fn archive(&self) -> &Apk<R> {
        &self.archive
    }

    /// What the metadata partition says of the component in the partition `label`: key and root digest pinned. When it
    /// was updated and whether it came with the system is for the caller to add.
    pub fn metadata(&self, label: &str) -> ApexPayload {
        ApexPayload {
            name: self.name.clone(),
            partition_name: label.into(),
            public_key: self.public_key.clone(),
            root_digest: self.root_digest.to_vec(),
            manifest_version: self.version,
            manifest_name: self.name.clone(),
            ..ApexPayload::default()
        }
    }

    /// Compares the component with what the metadata partition pins; what it leaves empty is not compared, and the
    /// version only beside a name in the manifest.
    pub fn matches(&self, pinned: &ApexPayload) -> bool {
        let same = |pinned: &[u8], own: &[u8]| pinned.is_empty() || pinned == own;
        let version = pinned.manifest_name.is_empty() || pinned.manifest_version == self.version;
        same(pinned.manifest_name.as_bytes(), self.name.as_bytes())
            && version
            && same(&pinned.public_key, &self.public_key)
            && same(&pinned.root_digest, &self.root_digest)
    }
}

fn manifest(bytes: &[u8]) -> Result<ApexManifest, ApexError> {
    let manifest = ApexManifest::decode(bytes).map_err(ApexError::Manifest)?;
    // It becomes a directory below /apex.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name = manifest.name.as_str();
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(ApexError::Name(manifest.name));
    }
    if manifest.version < 0 {
        return Err(ApexError::Version(manifest.version));
    }
    Ok(manifest)
}

/// The bytes of an entry that is stored.
fn stored<R: ReadAt + Clone>(archive: &Apk<R>, name: &'static str, limit: u64) -> Result<Vec<u8>, ApexError> {
    is_stored(archive, name)?;
    Ok(archive.read(name, limit)?)
}

fn is_stored<R: ReadAt + Clone>(archive: &Apk<R>, name: &'static str) -> Result<(), ApexError> {
    let entry = archive.entry(name).ok_or_else(|| ApkError::NotFound(name.into()))?;
    if entry.compression != Compression::Stored || entry.packed_size != entry.size || entry.directory {
        return Err(ApexError::NotStored(name));
    }
    Ok(())
}

/// Offset and length of the image in the archive.
fn image_place<R: ReadAt + Clone>(archive: &Apk<R>) -> Result<(u64, u64), ApexError> {
    is_stored(archive, PAYLOAD)?;
    let entry = archive.entry(PAYLOAD).ok_or_else(|| ApkError::NotFound(PAYLOAD.into()))?;
    Ok((archive.data_start(entry)?, entry.size))
}

fn first_hashtree(vbmeta: VbMeta) -> Result<HashtreeDescriptor, ApexError> {
    vbmeta.refuse_flags()?;
    let mut descriptors = vbmeta.descriptors.into_iter();
    let found = descriptors.find_map(|descriptor| match descriptor {
        Descriptor::Hashtree(hashtree) => Some(hashtree),
        _ => None,
    });
    found.ok_or(ApexError::NoHashtree)
}

#[cfg(test)]
mod tests;
