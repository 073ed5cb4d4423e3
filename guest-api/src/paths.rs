//! Paths inside the VM on which more than one program relies.

/// Where the verified contents of the APK are mounted.
pub const APK_CONTENTS: &str = "/mnt/apk";

/// The socket on which the payload process talks to PID 1 (`SOCK_SEQPACKET`).
pub const PAYLOAD_SOCKET: &str = "/run/kapsel/payload.sock";

/// The user and the group of the payload.
pub const PAYLOAD_ID: u32 = 6000;
