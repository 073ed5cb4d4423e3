#![no_main]
//! A memory balloon under a driver that does what the input says, while the host asks for more and for less.

use std::sync::{Arc, Mutex};

use devices::virtio::VirtioDevice;
use devices::virtio::balloon::Balloon;
use fuzz::driver::Machine;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let balloon = Arc::new(Mutex::new(Balloon::new().expect("descriptors")));
    let mut target = 0_u32;
    Machine::sharing(Arc::clone(&balloon), 3).run(data, || {
        target = target.wrapping_mul(31).wrapping_add(7);
        let mut balloon = balloon.lock().expect("no panic");
        balloon.set_target(target);
        let mut shown = [0; 4];
        balloon.read_config(0, &mut shown);
        assert_eq!(u32::from_le_bytes(shown), target, "the driver does not change what it is asked for");
    });
    assert_eq!(balloon.lock().expect("no panic").actual(), 0, "a reset empties the balloon");
});
