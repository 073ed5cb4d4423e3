//! One facade for all architectures: `layout`, `BootState`, `memory_regions`, `load`.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("boot knows x86_64 only: an architecture needs a module here with the same names");
