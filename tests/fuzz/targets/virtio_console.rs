#![no_main]
//! A console device under a driver that does what the input says, while somebody types.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use devices::virtio::console::Console;
use fuzz::driver::Machine;
use libfuzzer_sys::fuzz_target;

/// What is typed between the driver's operations.
const TYPED: &[u8] = &[7; 100];
/// What waits for a guest that does not read, at most.
const WAITING: usize = 64 * 1024;
/// One chain transmits at most 1 MiB, 64 are served at a time: by the access itself, then four times by the event loop.
const MAX_OUTPUT: usize = (1 + 4) * 64 << 20;

struct Count(Arc<Mutex<usize>>);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *self.0.lock().expect("no panic") += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let count = Arc::default();
    let console = Console::new(Box::new(Count(Arc::clone(&count)))).expect("descriptors");
    let console = Arc::new(Mutex::new(console));
    let type_in = |bytes: &[u8]| console.lock().expect("no panic").enqueue(bytes);
    Machine::sharing(Arc::clone(&console), 2).run(data, || {
        type_in(TYPED);
        let out = std::mem::take(&mut *count.lock().expect("no panic"));
        assert!(out <= MAX_OUTPUT, "{out} bytes of one kick");
    });
    // The device is reset: what it keeps is bounded, and all of it is there still.
    let mut taken = 1;
    let mut more = 0;
    while taken > 0 {
        taken = type_in(&[1; 4096]);
        more += taken;
    }
    assert!(more <= WAITING);
});
