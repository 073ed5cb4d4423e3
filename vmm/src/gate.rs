//! The gate that vCPU threads pass before each entry into the guest: open, shut for a pause, or closed for good.
//!
//! ```text
//!   pause:  shut ─> kick each ─> wait until all that run wait ──────────────────────────────> (resume) open
//!   vCPU:   KVM_RUN ── flag set, signal ──> pass: waits ........................ waited ─> clear the flag ─> pass ─> KVM_RUN
//! ```
//!
//! The gate's state is set before the flag, the flag before the signal; a thread clears its flag only after it waited, and
//! looks at the gate again afterwards. So no kick is lost: not by a thread that is not yet in KVM_RUN, nor by one that has
//! just been let go.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::SIGRTMIN;

/// The byte in the shared KVM_RUN page that makes KVM_RUN return at once.
pub struct ImmediateExit(*const AtomicU8);

// SAFETY: the byte is only accessed atomically, and it lives as long as the VcpuFd, which its thread keeps until it is
// joined, panics included; a `Kick` is used only until the gate is closed, before that.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    /// The byte of `vcpu`.
    pub fn of(vcpu: &mut VcpuFd) -> Self {
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        Self(flag.cast_const().cast())
    }

    fn byte(&self) -> &AtomicU8 {
        // SAFETY: the byte lives in the KVM_RUN mapping of a VcpuFd that outlives this, see above.
        unsafe { &*self.0 }
    }

    /// Lets KVM_RUN enter the guest again.
    pub fn clear(&self) {
        self.byte().store(0, Ordering::SeqCst);
    }
}

/// How to make one thread leave the guest.
pub struct Kick {
    thread: libc::pthread_t,
    flag: ImmediateExit,
}

impl Kick {
    /// For `thread`, which runs the vCPU of `flag` and is joined only after the gate is closed.
    pub fn new(thread: libc::pthread_t, flag: ImmediateExit) -> Self {
        Self { thread, flag }
    }

    fn now(&self) {
        self.flag.byte().store(1, Ordering::SeqCst);
        // SAFETY: the thread is not joined yet, so its pthread id is valid.
        unsafe { libc::pthread_kill(self.thread, SIGRTMIN()) };
    }
}

/// Whether a thread may enter the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It may.
    Open,
    /// It had to wait and may now, once it has looked again.
    Waited,
    /// Never more.
    Closed,
}

const OPEN: u8 = 0;
const SHUT: u8 = 1;
const CLOSED: u8 = 2;

#[derive(Default)]
struct State {
    kicks: Vec<Kick>,
    running: usize,
    waiting: usize,
}

/// The gate of one VM.
#[derive(Default)]
pub struct Gate {
    position: AtomicU8,
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a thread that was just started.
    pub fn enter(&self, kick: Kick) {
        let mut state = self.lock();
        if self.position.load(Ordering::SeqCst) != OPEN {
            kick.now();
        }
        state.kicks.push(kick);
        state.running = state.running.wrapping_add(1);
        self.changed.notify_all();
    }

    /// A thread has run for the last time.
    pub fn leave(&self) {
        let mut state = self.lock();
        // A thread that ends at once may be counted after it left.
        state.running = state.running.wrapping_sub(1);
        self.changed.notify_all();
    }

    /// What every thread asks before it enters the guest; waits while the gate is shut.
    pub fn pass(&self) -> Pass {
        match self.position.load(Ordering::SeqCst) {
            OPEN => return Pass::Open,
            CLOSED => return Pass::Closed,
            _ => {}
        }
        let mut state = self.lock();
        state.waiting += 1;
        self.changed.notify_all();
        while self.position.load(Ordering::SeqCst) == SHUT {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        Pass::Waited
    }

    /// Shuts the gate and waits until no thread is in the guest.
    pub fn shut(&self) {
        // It fails when it is shut already, or closed.
        let _ = self.position.compare_exchange(OPEN, SHUT, Ordering::SeqCst, Ordering::SeqCst);
        let mut state = self.lock();
        state.kicks.iter().for_each(Kick::now);
        while self.position.load(Ordering::SeqCst) == SHUT && state.waiting < state.running {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Opens the gate that was shut.
    pub fn open(&self) {
        let _state = self.lock();
        // It fails when it is open already, or closed.
        let _ = self.position.compare_exchange(SHUT, OPEN, Ordering::SeqCst, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Closes the gate for good and makes every thread leave the guest. The threads may be joined after that.
    pub fn close(&self) {
        let mut state = self.lock();
        self.position.store(CLOSED, Ordering::SeqCst);
        // No kick is used after this: the threads are about to be joined.
        state.kicks.drain(..).for_each(|kick| kick.now());
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    /// A thread that counts as a vCPU does; its flag is a byte of its own.
    fn vcpu(gate: &Arc<Gate>, turns: &Arc<AtomicUsize>) -> std::thread::JoinHandle<()> {
        use std::os::unix::thread::JoinHandleExt;
        crate::vcpu::install_kick_handler().unwrap();
        let flag: &'static AtomicU8 = Box::leak(Box::default());
        let (of_thread, turns) = (Arc::clone(gate), Arc::clone(turns));
        let thread = std::thread::spawn(move || {
            loop {
                match of_thread.pass() {
                    Pass::Open => {}
                    Pass::Waited => {
                        flag.store(0, Ordering::SeqCst);
                        continue;
                    }
                    Pass::Closed => break,
                }
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
        assert_eq!(gate.pass(), Pass::Closed);
    }

    #[test]
    fn a_thread_that_ended_is_not_waited_for() {
        // Whichever test is first: without the handler, a kick is the end of the process.
        crate::vcpu::install_kick_handler().unwrap();
        let gate = Arc::new(Gate::default());
        let ended = {
            use std::os::unix::thread::JoinHandleExt;
            let gate = Arc::clone(&gate);
            let flag: &'static AtomicU8 = Box::leak(Box::default());
            let of_thread = Arc::clone(&gate);
            let thread = std::thread::spawn(move || of_thread.leave());
            gate.enter(Kick::new(thread.as_pthread_t(), ImmediateExit(flag)));
            thread
        };
        gate.shut();
        gate.close();
        ended.join().unwrap();
    }
}
