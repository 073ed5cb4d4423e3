#![no_main]
//! A socket device under a driver that does what the input says; the host echoes what it gets, streams and messages.

use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use devices::virtio::vsock::{Vsock, VsockConfig};
use fuzz::driver::Machine;
use libfuzzer_sys::fuzz_target;

/// Connections that the host takes.
const CONNECTIONS: usize = 4;
/// The ports it takes them on: streams, and messages.
const STREAMS: u32 = 1;
const MESSAGES: u32 = 2;
/// Feature of seqpacket connections (virtio 1.2, 5.10.3).
const F_SEQPACKET: u32 = 1 << 1;

/// The host's ends of all connections.
type Taken = Arc<Mutex<Vec<UnixStream>>>;

fn accept(taken: &Taken, pair: impl Fn() -> Option<(UnixStream, UnixStream)>) -> Option<UnixStream> {
    let mut taken = taken.lock().ok()?;
    if taken.len() == CONNECTIONS {
        return None;
    }
    let (ours, theirs) = pair()?;
    ours.set_nonblocking(true).ok()?;
    taken.push(ours);
    Some(theirs)
}

fn message_pair() -> Option<(UnixStream, UnixStream)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: two new descriptors that nobody else owns.
    let [ours, theirs] = fds.map(|fd| unsafe { UnixStream::from_raw_fd(fd) });
    Some((ours, theirs))
}

fuzz_target!(|data: &[u8]| {
    let mut vsock = Vsock::new(VsockConfig { guest_cid: 3, socket: None }).expect("descriptors");
    let streams = Taken::default();
    let taken = Arc::clone(&streams);
    vsock.claim(STREAMS, Box::new(move |_| accept(&taken, || UnixStream::pair().ok())));
    let taken = Arc::clone(&streams);
    vsock.claim_messages(MESSAGES, Box::new(move |_| accept(&taken, message_pair)));
    let mut buffer = [0; 4096];
    Machine::new(vsock, 3).with_features(F_SEQPACKET).run(data, || {
        for stream in streams.lock().expect("no panic").iter_mut() {
            if let Ok(got) = stream.read(&mut buffer) {
                let _ = stream.write(&buffer[..got]);
            }
        }
    });
});
