//! The C functions of `include/vm_payload.h`: what `libvm_payload.so` is made of.
//!
//! Only libc is called, and nothing here can panic, so that the linker drops all of the Rust runtime: the library is a few
//! kilobytes and costs a payload next to nothing at start-up.

#![allow(non_snake_case, reason = "the names are the published C names")]

use std::ffi::{CStr, c_char};
use std::mem::size_of;
use std::ptr;

use crate::paths;
use crate::requests::{Request, Status};

/// [`paths::APK_CONTENTS`] with the terminator C wants.
const APK_CONTENTS: &CStr = c"/mnt/apk";

const _: () = assert!(same(APK_CONTENTS.to_bytes(), paths::APK_CONTENTS.as_bytes()));

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// `once` of the notification: other threads wait until the first call is through.
struct Once(std::cell::UnsafeCell<libc::pthread_once_t>);

// SAFETY: the cell is only ever handed to pthread_once, which synchronises all access to it.
unsafe impl Sync for Once {}

static NOTIFIED: Once = Once(std::cell::UnsafeCell::new(libc::PTHREAD_ONCE_INIT));

unsafe extern "C" {
    fn pthread_once(control: *mut libc::pthread_once_t, routine: extern "C" fn()) -> libc::c_int;
}

/// Tells the host that the payload is ready; once, later calls do nothing; aborts on failure.
#[unsafe(no_mangle)]
pub extern "C" fn AVmPayload_notifyPayloadReady() {
    // SAFETY: the control is a static initialised with PTHREAD_ONCE_INIT, the routine takes no argument and does not unwind.
    unsafe { pthread_once(NOTIFIED.0.get(), notify_ready) };
}

/// The directory of the APK's contents: a static string without a slash at its end.
#[unsafe(no_mangle)]
pub extern "C" fn AVmPayload_getApkContentsPath() -> *const c_char {
    APK_CONTENTS.as_ptr()
}

extern "C" fn notify_ready() {
    let mut answer = [u8::MAX];
    match ask(&Request::NotifyReady.packet(), &mut answer) {
        Some(1) if answer == Status::Ok.packet() => return,
        // SAFETY: sets this thread's errno, which exists for every thread.
        Some(_) => unsafe { *libc::__errno_location() = libc::EPROTO },
        None => {}
    }
    fail(c"AVmPayload_notifyPayloadReady")
}

/// One request and its answer over a connection of its own: the size of the answer, none with errno set otherwise.
fn ask(request: &[u8], answer: &mut [u8]) -> Option<usize> {
    let address = socket_address();
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).unwrap_or(0);
    // SAFETY: the address is initialised, of the size given, and lives across the call; the buffers' pointers and lengths
    // belong together; the descriptor is this function's own and closed once.
    unsafe {
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return None;
        }
        let mut received = -1;
        if retry(|| libc::connect(socket, ptr::from_ref(&address).cast(), size).try_into().unwrap_or(-1)) == 0
            && retry(|| libc::send(socket, request.as_ptr().cast(), request.len(), libc::MSG_NOSIGNAL)) >= 0
        {
            received = retry(|| libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0));
        }
        let error = *libc::__errno_location();
        libc::close(socket);
        *libc::__errno_location() = error;
        usize::try_from(received).ok()
    }
}

/// The call again as long as a signal interrupts it.
fn retry(mut call: impl FnMut() -> isize) -> isize {
    loop {
        let result = call();
        // SAFETY: reads this thread's errno.
        if result >= 0 || unsafe { *libc::__errno_location() } != libc::EINTR {
            return result;
        }
    }
}

fn socket_address() -> libc::sockaddr_un {
    const FAMILY: libc::sa_family_t = 1;
    const _: () = assert!(FAMILY as libc::c_int == libc::AF_UNIX);
    let mut address = libc::sockaddr_un { sun_family: FAMILY, sun_path: [0; 108] };
    const _: () = assert!(paths::PAYLOAD_SOCKET.len() < 108);
    for (to, &from) in address.sun_path.iter_mut().zip(paths::PAYLOAD_SOCKET.as_bytes()) {
        *to = from.cast_signed();
    }
    address
}

/// Says on standard error what failed, with errno's text, and aborts.
fn fail(what: &CStr) -> ! {
    // SAFETY: a terminated string; abort takes nothing and does not return.
    unsafe {
        libc::perror(what.as_ptr());
        libc::abort()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contents_path_is_static_and_has_no_slash_at_its_end() {
        // SAFETY: the function returns a terminated static string.
        let path = unsafe { CStr::from_ptr(AVmPayload_getApkContentsPath()) };
        assert_eq!(path.to_str(), Ok("/mnt/apk"));
        assert_eq!(AVmPayload_getApkContentsPath(), AVmPayload_getApkContentsPath());
    }

    #[test]
    fn the_address_is_the_socket_of_pid_1() {
        let address = socket_address();
        let path: Vec<u8> =
            address.sun_path.iter().map(|&byte| byte.cast_unsigned()).take_while(|&byte| byte != 0).collect();
        assert_eq!(path, paths::PAYLOAD_SOCKET.as_bytes());
    }
}
