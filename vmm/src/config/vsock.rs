//! The key `vsock` of both configurations: what serves the guest's socket device.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigError, Keys};

/// The socket device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct VsockKeys {
    /// What is behind it: `user` or `vhost`.
    pub backend: Backend,
    /// The guest's context id, 3 to 4294967294; chosen when absent.
    pub cid: Option<u32>,
    /// Where clients of the host connect to the guest, as `--vsock`; for the backend `user` only.
    pub socket: Option<PathBuf>,
}

/// What serves a socket device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// This process: the guest's connections are Unix sockets of the host.
    #[default]
    User,
    /// The host's kernel: they are AF_VSOCK sockets of the host, and the context id is the guest's alone.
    Vhost,
}

pub(crate) static VSOCK_KEYS: Keys = Keys { known: &["backend", "cid", "socket"], refused: &[], nested: &[] };

impl VsockKeys {
    pub(crate) fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let value =
            |message: String| Err(ConfigError::Value { path: path.to_path_buf(), key: "vsock", message });
        match self.cid {
            Some(cid) if !(3..u32::MAX).contains(&cid) => {
                value(format!("\"cid\" is {cid}, expected 3 to {}", u32::MAX - 1))
            }
            _ if self.backend == Backend::Vhost && self.socket.is_some() => value(
                "\"socket\" is for the backend \"user\"; with \"vhost\" host programs use AF_VSOCK"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }
}
