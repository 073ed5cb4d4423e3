use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A thread that counts as a vCPU does; its flag is a byte of its own.
fn vcpu(gate: &Arc<Gate>, turns: &Arc<AtomicUsize>) -> std::thread::JoinHandle<()> {
    crate::vcpu::install_kick_handler().unwrap();
    let flag: &'static AtomicU8 = Box::leak(Box::default());
    let (of_thread, turns) = (Arc::clone(gate), Arc::clone(turns));
    let thread = std::thread::spawn(move || {
        while of_thread.pass(&ImmediateExit(flag), || ()) {
            // KVM_RUN of a guest that never exits by itself.
            while flag.load(Ordering::SeqCst) == 0 {
                turns.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
            }
        }
        of_thread.leave();
    });
    gate.enter(Kick::new(thread.as_pthread_t(), ImmediateExit(flag)));
    thread
}

#[test]
fn nothing_runs_while_it_is_shut_and_no_kick_is_lost() {
    let gate = Arc::new(Gate::default());
    let turns: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let threads: Vec<_> = turns.iter().map(|turns| vcpu(&gate, turns)).collect();
    let all = || -> Vec<usize> { turns.iter().map(|t| t.load(Ordering::SeqCst)).collect() };
    for _ in 0..200 {
        gate.shut();
        gate.shut();
        let before = all();
        std::thread::yield_now();
        assert_eq!(all(), before);
        gate.open();
    }
    let before = all();
    while all().iter().zip(&before).any(|(now, before)| now <= before) {
        std::thread::yield_now();
    }
    gate.shut();
    gate.close();
    for thread in threads {
        thread.join().unwrap();
    }
    gate.shut();
    gate.open();
    assert!(!gate.pass(&ImmediateExit(&AtomicU8::new(0)), || ()));
}

#[test]
fn a_thread_that_ended_is_not_waited_for() {
    // Whichever test is first: without the handler, a kick is the end of the process.
    crate::vcpu::install_kick_handler().unwrap();
    let gate = Arc::new(Gate::default());
    let flag: &'static AtomicU8 = Box::leak(Box::default());
    let of_thread = Arc::clone(&gate);
    let thread = std::thread::spawn(move || of_thread.leave());
    gate.enter(Kick::new(thread.as_pthread_t(), ImmediateExit(flag)));
    gate.shut();
    gate.close();
    thread.join().unwrap();
}
