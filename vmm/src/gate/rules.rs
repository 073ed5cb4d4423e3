//! Who may enter the guest, and who is made to leave it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::sync::{AtomicU8, Condvar, Mutex, MutexGuard, Thread};

/// The byte in the shared KVM_RUN page that makes KVM_RUN return at once.
pub struct ImmediateExit(pub(super) *const AtomicU8);

// SAFETY: the byte is only accessed atomically, and it lives as long as the VcpuFd, which its thread keeps until it is
// joined, panics included; a `Kick` is used only until the gate is closed, before that.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    fn byte(&self) -> &AtomicU8 {
        // SAFETY: the byte lives in the KVM_RUN mapping of a VcpuFd that outlives this, see above.
        unsafe { &*self.0 }
    }

    // Both by a swap, no store: whoever comes second sees what came before the first.
    fn set(&self) {
        self.byte().swap(1, Ordering::SeqCst);
    }

    /// Lets KVM_RUN enter the guest again.
    fn clear(&self) {
        if self.byte().load(Ordering::SeqCst) != 0 {
            self.byte().swap(0, Ordering::SeqCst);
        }
    }
}

/// How to make one thread leave the guest.
pub struct Kick {
    pub(super) thread: Thread,
    pub(super) flag: ImmediateExit,
}

impl Kick {
    fn now(&self) {
        self.flag.set();
        self.thread.signal();
    }
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

    /// What every thread asks before it enters the guest, with its own flag: waits while the gate is shut, calls `waited` each
    /// time it did, and gives false once the gate is closed.
    pub fn pass(&self, flag: &ImmediateExit, mut waited: impl FnMut()) -> bool {
        loop {
            // Before the look: whoever set the flag that is cleared here has moved the gate before.
            flag.clear();
            match self.position.load(Ordering::SeqCst) {
                OPEN => return true,
                CLOSED => return false,
                _ => self.wait(),
            }
            waited();
        }
    }

    fn wait(&self) {
        let mut state = self.lock();
        state.waiting += 1;
        self.changed.notify_all();
        while self.position.load(Ordering::SeqCst) == SHUT {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
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
