//! Facts that host and guest share.
