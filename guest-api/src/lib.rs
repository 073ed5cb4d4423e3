//! What host and guest agree on, and the guest's side of it.
//!
//! Without features this crate is the part that both sides link: ports ([`ports`]), the payload's states ([`PayloadState`]),
//! the codes users see ([`ErrorCode`], [`DeathReason`]), paths inside the VM ([`paths`]) and the frames of the report
//! connection ([`report`]). Every number and name exists here once.
//!
//! ```text
//!   host                                      guest
//!   vmm ── listener, port = guest's CID ◄──── payload-manager (PID 1, feature `guest`)
//!                                               │ fork, exec                ▲ /run/kapsel/payload.sock
//!                                               ▼                           │
//!                                             payload-launcher ── dlopen ─► payload + libvm_payload.so (feature `payload-api`)
//! ```

pub mod codes;
#[cfg(feature = "payload-api")]
pub mod ffi;
#[cfg(feature = "guest")]
pub mod manager;
pub mod paths;
pub mod ports;
pub mod report;
pub mod requests;
pub mod state;

pub use codes::{DeathReason, ErrorCode, UnknownCode};
pub use report::{Command, Decoder, FrameError, Report};
pub use state::PayloadState;
