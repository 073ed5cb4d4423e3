//! Application archives: what is in them, who signed them, and how to make them.

pub mod archive;
pub mod config;
pub mod zip;

pub use archive::{Apk, ApkError, Compression, Entry};
