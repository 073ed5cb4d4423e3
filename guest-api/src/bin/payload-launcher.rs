//! Becomes the payload: loads its library and calls its entry point.
//!
//! A program of its own because PID 1 is static, and a static program cannot load libraries. It runs as the payload already,
//! without any privilege, so it has nothing to protect.
#![no_main]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem;
use std::ptr;

unsafe extern "C" {
    fn dprintf(fd: c_int, format: *const c_char, ...) -> c_int;
}

const ENTRY_POINT: &CStr = c"AVmPayload_main";

/// `payload-launcher LIBRARY [ARGUMENT..]`; the arguments are for the library's own constructors, as its `main` takes none.
///
/// # Safety
/// Only the C runtime calls it, with `argc` terminated strings in `argv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    if argc < 2 {
        // SAFETY: a terminated format without conversions.
        unsafe { dprintf(libc::STDERR_FILENO, c"usage: payload-launcher LIBRARY [ARGUMENT..]\n".as_ptr()) };
        return 2;
    }
    // SAFETY: there are at least two strings.
    let library = unsafe { CStr::from_ptr(*argv.add(1)) };
    // SAFETY: running what the library has in its constructors is the purpose.
    let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
    if handle.is_null() {
        return fail(c"Failed to dlopen %s: %s\n", library);
    }
    // SAFETY: a handle of dlopen and a terminated name.
    let entry = unsafe { libc::dlsym(handle, ENTRY_POINT.as_ptr()) };
    if entry.is_null() {
        return fail(c"Failed to find entrypoint AVmPayload_main in %s: %s\n", library);
    }
    // SAFETY: a payload exports the entry point with this type (vm_main.h), which is all it promises.
    let entry = unsafe { mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(entry) };
    let code = entry();
    // SAFETY: null is "all streams"; exit runs the library's destructors and does not return.
    unsafe {
        libc::fflush(ptr::null_mut());
        libc::exit(code)
    }
}

/// Prints `format`, which takes the library and the loader's reason.
fn fail(format: &CStr, library: &CStr) -> c_int {
    // SAFETY: dlerror gives a terminated string after a failure of the loader; the format takes two strings.
    unsafe {
        let reason = libc::dlerror();
        let reason = if reason.is_null() { c"no reason given".as_ptr() } else { reason.cast_const() };
        dprintf(libc::STDERR_FILENO, format.as_ptr(), library.as_ptr(), reason);
    }
    1
}
