#![no_main]
//! A socket device under a driver that does what the input says; the host echoes what it gets.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use devices::virtio::vsock::{Vsock, VsockConfig};
use fuzz::driver::Machine;
use libfuzzer_sys::fuzz_target;

/// Connections that the host takes.
const CONNECTIONS: usize = 4;
/// The port it takes them on.
const PORT: u32 = 1;

fuzz_target!(|data: &[u8]| {
    let mut vsock = Vsock::new(VsockConfig { guest_cid: 3, socket: None }).expect("descriptors");
    let streams = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&streams);
    vsock.claim(
        PORT,
        Box::new(move |_| {
            let mut taken = taken.lock().ok()?;
            if taken.len() == CONNECTIONS {
                return None;
            }
            let (ours, theirs) = UnixStream::pair().ok()?;
            ours.set_nonblocking(true).ok()?;
            taken.push(ours);
            Some(theirs)
        }),
    );
    let mut buffer = [0; 4096];
    Machine::new(vsock, 3).run(data, || {
        for stream in streams.lock().expect("no panic").iter_mut() {
            if let Ok(got) = stream.read(&mut buffer) {
                let _ = stream.write(&buffer[..got]);
            }
        }
    });
});
