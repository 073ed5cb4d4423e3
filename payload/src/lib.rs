//! APK in, verified disk out: archives, signatures, hash trees and partition tables, for host and guest alike.
//!
//! The disk a payload VM is given, every partition read-only and padded with zeros to 4 KiB:
//!
//! ```text
//!  LBA  0        40                    ..                ..                      ..              last
//!      +--------+---------------------+-----------------+-----------------------+- -+-----------+
//!      | GPT    | payload-metadata    | microdroid-apk  | microdroid-apk-idsig  |   | backup GPT|
//!      +--------+---------------------+-----------------+-----------------------+- -+-----------+
//!      bytes     bytes                 file | zeros      bytes or file | zeros      bytes
//!                |                     ^  signed archive  ^ its hash tree
//!                `- names -------------+------------------'
//!
//!      with extra archives: .. | extra-apk-0 | extra-idsig-0 | extra-apk-1 | extra-idsig-1 | ..
//! ```
//!
//! The host plans it from sizes alone ([`disk`]); the guest finds the partitions by [`labels`], reads [`metadata`],
//! verifies the archive ([`apk`]) and mounts it through the hash tree ([`idsig`]).
//!
//! Shared components ([`apex`]) are believed by their [`avb`] signature; what an instance has run before is sealed in
//! its [`instance`] image.
//!
//! Everything here is pure over [`ReadAt`]; paths are named, never opened, except by what reads or exports a whole
//! disk ([`disk::open`], [`disk::DiskReader`], [`disk::write_flat`]).
//! Everything read is hostile: lengths are checked before they are used, memory is bounded by stated limits, and no
//! input makes anything panic.
#![forbid(unsafe_code)]

pub mod apex;
pub mod apk;
pub mod avb;
mod der;
pub mod disk;
mod fields;
mod hex;
pub mod idsig;
pub mod instance;
pub mod labels;
pub mod merkle;
pub mod metadata;
mod parallel;
pub mod read_at;

pub use read_at::{ReadAt, Section};
