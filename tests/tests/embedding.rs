//! A VM in another program's process: run on one thread, and handled from others.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tests::process::Place;
use tests::{elf, guests, host, skip};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::VmHandle;
use vmm::config::raw::RawConfig;
use vmm::exit::{Outcome, StopCause};
use vmm::output::Output;

struct Running {
    memory: GuestMemoryMmap,
    handle: VmHandle,
    thread: JoinHandle<Outcome>,
    _place: Place,
}

impl Running {
    /// Runs `code` in a VM; `None` where there is no KVM, which is said.
    fn start(name: &str, code: &[u8]) -> Option<Self> {
        if let Err(e) = host::open_kvm() {
            skip(name, &format!("/dev/kvm: {e}"));
            return None;
        }
        let place = Place::new();
        let kernel = place.file("kernel", &elf::flat(code));
        let config = RawConfig { kernel: Some(kernel), memory_mib: Some(64), ..RawConfig::default() };
        let prepared = vmm::prepare::raw(Path::new("vm.json"), &config).unwrap();
        let sink = || File::options().write(true).open("/dev/null").unwrap();
        let kvm = vmm::host::open_kvm().unwrap();
        let mut vm = vmm::builder::build(&kvm, prepared.spec, Output::new(sink(), sink(), 4096)).unwrap();
        let (memory, handle) = (vm.memory().clone(), vm.handle());
        let thread = thread::spawn(move || vm.run(None, Box::new(|_| {})).unwrap());
        Some(Self { memory, handle, thread, _place: place })
    }

    fn counter(&self) -> u32 {
        self.memory.read_obj(GuestAddress(guests::COUNTER)).unwrap()
    }

    fn wait_for_more_than(&self, count: u32) {
        while self.counter() <= count {
            thread::yield_now();
        }
    }
}

#[test]
fn a_paused_vm_stands_still_and_goes_on_when_it_is_resumed() {
    let name = "a_paused_vm_stands_still_and_goes_on_when_it_is_resumed";
    let Some(vm) = Running::start(name, &guests::count()) else { return };
    for _ in 0..20 {
        vm.wait_for_more_than(vm.counter());
        vm.handle.pause();
        let count = vm.counter();
        for _ in 0..100 {
            thread::yield_now();
            assert_eq!(vm.counter(), count);
        }
        vm.handle.resume();
        vm.wait_for_more_than(count);
    }
    // A VM that is paused can be stopped.
    vm.handle.pause();
    vm.handle.stop();
    let outcome = vm.thread.join().unwrap();
    assert_eq!((outcome.cause, outcome.asked), (StopCause::Stopped, None));
}

#[test]
fn a_guest_that_does_not_listen_is_stopped_at_once() {
    let name = "a_guest_that_does_not_listen_is_stopped_at_once";
    let Some(vm) = Running::start(name, &guests::count()) else { return };
    vm.wait_for_more_than(0);
    vm.handle.stop_within(Duration::from_secs(100_000));
    let outcome = vm.thread.join().unwrap();
    assert_eq!((outcome.cause, outcome.asked), (StopCause::Stopped, Some(StopCause::Stopped)));
}
