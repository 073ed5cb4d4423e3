//! Android Verified Boot 2.0 (libavb 1.3): signed statements about images, and where an image carries them.
//!
//! ```text
//!   image:   | content | hash tree, FEC .. | vbmeta | zeros | footer, 64 |
//!                                          ^        vbmeta_offset, vbmeta_size
//!   vbmeta:  | header, 256 | authentication block    | auxiliary block                        |
//!                            hash | signature          descriptors | public key | metadata
//! ```
//!
//! All numbers are big-endian. The hash is over header and auxiliary block, the signature (RSASSA-PKCS1-v1_5) over
//! the hash. Who may sign is for the caller to say: [`VbMeta::public_key`] is only the key that did.
//!
//! A vbmeta has at most [`MAX_VBMETA_LEN`] bytes, which bounds the memory and time that everything here takes.

use std::io;

use crate::ReadAt;

pub mod boot;
mod descriptor;
mod fields;
mod key;
pub mod make;
mod vbmeta;

pub use descriptor::{ChainDescriptor, Descriptor, HashDescriptor, HashtreeDescriptor};
pub use key::PublicKey;
pub use vbmeta::{Algorithm, VbMeta};

use fields::Fields;

/// Bytes of a footer.
pub const FOOTER_LEN: usize = 64;

/// The longest vbmeta that is read, in bytes: what libavb reads as well.
pub const MAX_VBMETA_LEN: u64 = 64 << 10;

/// Why an image is not believed to be what somebody signed.
#[derive(Debug, thiserror::Error)]
pub enum AvbError {
    /// The image cannot be read.
    #[error("read the image")]
    Read(#[source] io::Error),
    /// No footer in the last 64 bytes.
    #[error("no AVB footer at the end of the image")]
    NoFooter,
    /// A field that contradicts others, or the image's length.
    #[error("the AVB {structure}'s {field} is malformed: expected {expected}")]
    Malformed {
        /// Footer, vbmeta header, public key ..
        structure: &'static str,
        /// The field.
        field: &'static str,
        /// What would have been right.
        expected: &'static str,
    },
    /// A version that is not read here.
    #[error("the AVB {structure} has version {major}.{minor}, which is not supported")]
    Version {
        /// Footer or vbmeta header.
        structure: &'static str,
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
    },
    /// A number that stands for no algorithm.
    #[error("the vbmeta's signature algorithm {0} is unknown")]
    Algorithm(u32),
    /// Signed by nobody.
    #[error("the vbmeta is not signed: its algorithm is NONE")]
    Unsigned,
    /// Header and auxiliary block do not have the hash that was signed.
    #[error("the vbmeta does not have the hash that was signed")]
    Hash,
    /// The key did not sign the hash.
    #[error("the vbmeta's signature is invalid")]
    Signature,
    /// Flags that say that not everything is to be verified.
    #[error("the vbmeta's flags {0:#x} turn verification off")]
    Flags(u32),
    /// A hash algorithm other than those read here.
    #[error("{partition:?} is hashed with {algorithm:?}, where {expected} is supported")]
    HashAlgorithm {
        /// The descriptor's partition.
        partition: String,
        /// The algorithm's name.
        algorithm: String,
        /// Names of those that are.
        expected: &'static str,
    },
    /// The content is not what was signed.
    #[error("{partition:?} does not have the digest that was signed")]
    Digest {
        /// The descriptor's partition.
        partition: String,
    },
    /// The stored hash tree is not the content's.
    #[error("the hash tree of {partition:?} is damaged")]
    Tree {
        /// The descriptor's partition.
        partition: String,
    },
}

/// Where an image with a footer has its content and its vbmeta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Bytes of the image before anything was added. Not signed: [`HashDescriptor::image_size`] is.
    pub original_image_size: u64,
    /// Where the vbmeta begins, in bytes.
    pub vbmeta_offset: u64,
    /// Bytes of the vbmeta.
    pub vbmeta_size: u64,
}

impl Footer {
    /// Reads the last 64 bytes of `image`.
    ///
    /// # Errors
    /// [`AvbError`] when there is no footer, or it names ranges outside the image.
    pub fn read(image: &dyn ReadAt) -> Result<Self, AvbError> {
        let len = image.len().map_err(AvbError::Read)?;
        let at = len.checked_sub(FOOTER_LEN as u64).ok_or(AvbError::NoFooter)?;
        let mut bytes = [0; FOOTER_LEN];
        image.read_exact_at(&mut bytes, at).map_err(AvbError::Read)?;
        Self::parse(&bytes, at)
    }

    /// The footer in `bytes`, which begins at `at`.
    fn parse(bytes: &[u8; FOOTER_LEN], at: u64) -> Result<Self, AvbError> {
        let mut fields = Fields::new(bytes);
        if fields.bytes(4) != Some(b"AVBf") {
            return Err(AvbError::NoFooter);
        }
        let short = || malformed("footer", "length", "64 bytes");
        let (major, minor) = (fields.u32().ok_or_else(short)?, fields.u32().ok_or_else(short)?);
        if major != 1 {
            return Err(AvbError::Version { structure: "footer", major, minor });
        }
        let original_image_size = fields.u64().ok_or_else(short)?;
        let vbmeta_offset = fields.u64().ok_or_else(short)?;
        let vbmeta_size = fields.u64().ok_or_else(short)?;
        if vbmeta_size > MAX_VBMETA_LEN {
            return Err(malformed("footer", "vbmeta size", "at most 64 KiB"));
        }
        if vbmeta_offset.checked_add(vbmeta_size).is_none_or(|end| end > at) {
            return Err(malformed("footer", "vbmeta offset", "a vbmeta inside the image, before the footer"));
        }
        if original_image_size > vbmeta_offset {
            return Err(malformed("footer", "original image size", "an image that ends before its vbmeta"));
        }
        Ok(Self { original_image_size, vbmeta_offset, vbmeta_size })
    }

    /// The bytes of the vbmeta in `image`.
    ///
    /// # Errors
    /// [`AvbError::Read`].
    pub fn read_vbmeta(&self, image: &dyn ReadAt) -> Result<Vec<u8>, AvbError> {
        let len = usize::try_from(self.vbmeta_size).expect("at most 64 KiB");
        let mut bytes = vec![0; len];
        image.read_exact_at(&mut bytes, self.vbmeta_offset).map_err(AvbError::Read)?;
        Ok(bytes)
    }

    /// The 64 bytes at the end of the image.
    pub fn to_bytes(&self) -> [u8; FOOTER_LEN] {
        let mut bytes = [0; FOOTER_LEN];
        bytes[..4].copy_from_slice(b"AVBf");
        bytes[7] = 1;
        let sizes = [self.original_image_size, self.vbmeta_offset, self.vbmeta_size];
        for (field, size) in bytes[12..36].chunks_exact_mut(8).zip(sizes) {
            field.copy_from_slice(&size.to_be_bytes());
        }
        bytes
    }
}

/// The verified vbmeta of an image with a footer.
///
/// # Errors
/// [`AvbError`] unless the image has one, and the key in it signed it.
pub fn verify_footer(image: &dyn ReadAt) -> Result<(Footer, VbMeta), AvbError> {
    let footer = Footer::read(image)?;
    let vbmeta = VbMeta::verify(&footer.read_vbmeta(image)?)?;
    Ok((footer, vbmeta))
}

fn malformed(structure: &'static str, field: &'static str, expected: &'static str) -> AvbError {
    AvbError::Malformed { structure, field, expected }
}

#[cfg(test)]
mod tests;
