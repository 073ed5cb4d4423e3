//! PID 1 of the VM.
//!
//! There is no Rust `main`: the runtime around it wants `/dev/null` and three open descriptors before there is a `/dev`.
#![no_main]

use std::ffi::{c_char, c_int};

use guest_api::manager::{self, report::Host};

/// Where the kernel's exec leads.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    if std::process::id() != 1 {
        eprintln!("payload-manager is the first program of a payload VM, and runs only as that");
        return 2;
    }
    manager::run(Host::connect)
}
