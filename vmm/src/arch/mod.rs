//! One facade per architecture, with the same names in each, so that the compiler lists what a port lacks.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
