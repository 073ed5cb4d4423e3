//! Application archives: what is in them, who signed them, and how to make them.

pub mod abi;
mod algorithm;
pub mod archive;
pub mod config;
mod digest;
mod directory;
mod lineage;
pub mod manifest;
pub mod pack;
pub mod sign;
mod signer;
pub mod signing_block;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;
pub mod zip;

pub use abi::Abi;
pub(crate) use algorithm::certifies;
pub use algorithm::{ContentDigest, KeyError, SignatureAlgorithm};
pub use archive::{Apk, ApkError, Compression, Entry};
pub use directory::DirectoryError;
pub use lineage::LineageError;
pub use manifest::{Manifest, ManifestError};
pub use signer::SignerError;
pub use verify::{
    SDK, Scheme, Signature, Signatures, Signer, Verified, VerifyError, verify, verify_all, verify_signature,
    verify_signatures,
};
