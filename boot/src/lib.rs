//! Kernel loading.
#![forbid(unsafe_code)]
