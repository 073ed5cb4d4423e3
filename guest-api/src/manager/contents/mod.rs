//! The contents of the APK as a read-only file system, [`MOUNT`](payload::labels::APK_MOUNT).
//!
//! ```text
//!   payload ── open, read, mmap ──► kernel (FUSE, page cache)
//!                                      │ /dev/fuse
//!                                      ▼
//!                              apk-contents, a process of its own: no privileges, two descriptors
//!                                      │ pread
//!                                      ▼
//!                              /dev/dm-0: the APK, every block checked by dm-verity
//! ```
//!
//! Trust: the archive is signed, but its signer may be hostile to the VM's own programs. PID 1 reads its directory and its
//! configuration; all that a payload can cause later, unpacking above all, happens in the server, which is user
//! [`CONTENTS_ID`] without capabilities. What the payload asks is checked by the kernel (the mount is read-only, with default
//! permissions) and again here.

pub mod files;
mod server;
pub mod tree;

pub use server::{mount, serve};

/// The user and the group that the server runs as: neither root nor the payload's.
pub const CONTENTS_ID: u32 = 6001;
