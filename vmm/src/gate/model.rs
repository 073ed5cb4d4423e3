//! The gate's rules under every order in which threads may run (loom), with a kernel that loses signals as the real one does.

#[allow(clippy::duplicate_mod, reason = "the same rules of other parts")]
#[path = "rules.rs"]
mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::model::Builder;
use loom::sync::atomic::AtomicU8;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use rules::{Gate, ImmediateExit, Kick};

/// What the rules are made of in the model.
mod sync {
    pub use loom::sync::atomic::AtomicU8;
    pub use loom::sync::{Condvar, Mutex, MutexGuard};

    pub struct Thread(pub std::sync::Arc<super::Vcpu>);

    impl Thread {
        pub fn signal(&self) {
            self.0.signal();
        }
    }
}

/// A thread with a vCPU whose guest never exits by itself.
#[derive(Default)]
struct Vcpu {
    immediate_exit: AtomicU8,
    kernel: Mutex<Kernel>,
    interrupted: Condvar,
    /// Signals it got, and times that it left at once because of its flag.
    signals: AtomicUsize,
    refused: AtomicUsize,
}

/// What the kernel knows of the thread.
#[derive(Default)]
struct Kernel {
    in_ioctl: bool,
    in_guest: bool,
    pending: bool,
}

impl Vcpu {
    /// Pending as long as the thread is in KVM_RUN; else its handler runs, and nothing is left of it.
    fn signal(&self) {
        self.signals.fetch_add(1, Ordering::SeqCst);
        let mut kernel = self.kernel.lock().unwrap();
        kernel.pending = kernel.in_ioctl;
        self.interrupted.notify_one();
    }

    /// KVM_RUN.
    fn run(&self) {
        self.kernel.lock().unwrap().in_ioctl = true;
        if self.immediate_exit.load(Ordering::SeqCst) == 0 {
            let mut kernel = self.kernel.lock().unwrap();
            kernel.in_guest = !kernel.pending;
            while !kernel.pending {
                kernel = self.interrupted.wait(kernel).unwrap();
            }
        } else {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
        *self.kernel.lock().unwrap() = Kernel::default();
    }

    fn flag(&self) -> ImmediateExit {
        ImmediateExit(&raw const self.immediate_exit)
    }

    fn is_in_guest(&self) -> bool {
        self.kernel.lock().unwrap().in_guest
    }

    /// Each kick may turn a thread away once.
    fn check(&self) {
        assert!(self.refused.load(Ordering::SeqCst) <= self.signals.load(Ordering::SeqCst), "it spins");
    }
}

/// Starts a thread for `vcpu` as the VMM does.
fn start(gate: &Arc<Gate>, vcpu: &Arc<Vcpu>) -> thread::JoinHandle<()> {
    let (of_thread, own) = (Arc::clone(gate), Arc::clone(vcpu));
    let thread = thread::spawn(move || {
        while of_thread.pass(&own.flag(), || ()) {
            own.run();
        }
        of_thread.leave();
    });
    gate.enter(Kick { thread: sync::Thread(Arc::clone(vcpu)), flag: vcpu.flag() });
    thread
}

fn check(preemptions: usize, run: impl Fn(&Arc<Gate>, &Arc<Vcpu>) + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let (gate, vcpu) = (Arc::new(Gate::default()), Arc::new(Vcpu::default()));
        let thread = start(&gate, &vcpu);
        run(&gate, &vcpu);
        gate.close();
        thread.join().unwrap();
        vcpu.check();
    });
}

#[test]
fn a_pause_ends_with_nobody_in_the_guest_and_a_stop_with_nobody_left() {
    check(4, |gate, vcpu| {
        gate.shut();
        assert!(!vcpu.is_in_guest());
        gate.open();
    });
}

#[test]
fn pausing_twice_is_pausing_once() {
    check(3, |gate, vcpu| {
        gate.shut();
        gate.open();
        gate.shut();
        assert!(!vcpu.is_in_guest());
    });
}

#[test]
fn two_that_pause_and_resume_leave_it_open_and_nobody_spinning() {
    check(2, |gate, _| {
        let other = Arc::clone(gate);
        let other = thread::spawn(move || {
            other.shut();
            other.open();
        });
        gate.shut();
        gate.open();
        other.join().unwrap();
        let flag = AtomicU8::new(0);
        assert!(gate.pass(&ImmediateExit(&raw const flag), || ()));
    });
}

#[test]
fn a_stop_ends_a_pause() {
    check(2, |gate, vcpu| {
        let other = Arc::clone(gate);
        let other = thread::spawn(move || other.close());
        gate.shut();
        other.join().unwrap();
        vcpu.check();
    });
}
