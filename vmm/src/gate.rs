//! The gate that vCPU threads pass before each entry into the guest: open, shut for a pause, or closed for good.
//!
//! ```text
//!   pause:  shut ─> kick each ─> wait until all that run wait ──────────────────────────────> (resume) open
//!   vCPU:   KVM_RUN ── flag set, signal ──> pass: waits ........................ waited ─> clear the flag ─> look ─> KVM_RUN
//! ```
//!
//! The gate's state is set before the flag, the flag before the signal; a thread clears its flag before it looks at the gate.
//! So no kick is lost: not by a thread that is not yet in KVM_RUN, nor by one that has just been let go. And none is left
//! over for a thread that never saw the gate shut, which would leave the guest for ever at once.
//!
//! The rules are apart from what they are made of, so that they are compiled for a model of threads and memory too.

#[cfg(test)]
mod model;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU8;

use kvm_ioctls::VcpuFd;

pub use rules::{Gate, ImmediateExit, Kick};

/// What the rules are made of in a process.
mod sync {
    pub use std::sync::atomic::AtomicU8;
    pub use std::sync::{Condvar, Mutex, MutexGuard};

    use vmm_sys_util::signal::SIGRTMIN;

    /// A thread that is not joined yet.
    pub struct Thread(pub libc::pthread_t);

    impl Thread {
        /// Interrupts what it does in the kernel, or has it run a handler that does nothing.
        pub fn signal(&self) {
            // SAFETY: the thread is not joined yet, so its pthread id is valid.
            unsafe { libc::pthread_kill(self.0, SIGRTMIN()) };
        }
    }
}

impl ImmediateExit {
    /// The byte of `vcpu`.
    pub fn of(vcpu: &mut VcpuFd) -> Self {
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        Self(flag.cast_const().cast::<AtomicU8>())
    }
}

impl Kick {
    /// For `thread`, which runs the vCPU of `flag` and is joined only after the gate is closed.
    pub fn new(thread: libc::pthread_t, flag: ImmediateExit) -> Self {
        Self { thread: sync::Thread(thread), flag }
    }
}
