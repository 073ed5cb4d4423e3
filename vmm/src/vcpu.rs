//! One thread per vCPU: runs the guest, serves its port and MMIO accesses, and stops when told.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use devices::Power;
use devices::bus::Bus;
use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::arch;
use crate::exit::{StopCause, StopSlot};
use crate::gate::{Gate, ImmediateExit, Kick};

/// KVM_INTERNAL_ERROR_EMULATION.
const SUBERROR_EMULATION: u32 = 1;

/// What every vCPU thread needs.
pub struct VcpuContext {
    /// Port devices.
    pub ports: Bus,
    /// MMIO devices.
    pub mmio: Bus,
    /// How the guest wants its machine to end.
    pub power: Arc<Power>,
    /// Where to say why the VM stops.
    pub stop: StopSlot,
    /// Who may run.
    pub gate: Gate,
}

/// A running vCPU.
pub struct VcpuThread {
    thread: JoinHandle<VcpuFd>,
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Its only work is to interrupt KVM_RUN.
}

/// Prepares the process for vCPU threads: SIGRTMIN, which interrupts them, gets a handler that does nothing.
///
/// # Errors
/// When the handler cannot be installed.
pub fn install_kick_handler() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick).map_err(io::Error::from)
}

impl VcpuThread {
    /// Lets `vcpu` run until the VM stops.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(mut vcpu: VcpuFd, id: u8, context: Arc<VcpuContext>) -> io::Result<Self> {
        let flag = ImmediateExit::of(&mut vcpu);
        let of_thread = Arc::clone(&context);
        let thread = std::thread::Builder::new().name(format!("vcpu{id}")).spawn(move || {
            // The vCPU is given back whatever happens: others may be about to kick it.
            if catch_unwind(AssertUnwindSafe(|| run(&mut vcpu, &of_thread))).is_err() {
                of_thread.stop.stop(StopCause::Unhandled(format!("the thread of vCPU {id} panicked")));
            }
            of_thread.gate.leave();
            vcpu
        })?;
        context.gate.enter(Kick::new(thread.as_pthread_t(), flag));
        Ok(Self { thread })
    }

    /// Waits for the thread's end; to be called after [`Gate::close`].
    pub fn join(self) -> Option<VcpuFd> {
        self.thread.join().ok()
    }
}

fn run(vcpu: &mut VcpuFd, context: &VcpuContext) {
    let flag = ImmediateExit::of(vcpu);
    // The guest's watchdogs are not to blame it for the time that it did not run; KVM has nothing to tell a guest that
    // does not use its clock.
    let excuse = |vcpu: &VcpuFd| {
        let _ = vcpu.kvmclock_ctrl();
    };
    while context.gate.pass(&flag, || excuse(vcpu)) {
        if let Err(cause) = step(vcpu, context) {
            context.stop.stop(cause);
            return;
        }
    }
}

fn step(vcpu: &mut VcpuFd, context: &VcpuContext) -> Result<(), StopCause> {
    let page: *const kvm_run = vcpu.get_kvm_run();
    match vcpu.run() {
        Ok(VcpuExit::IoOut(port, data)) => {
            for item in data.chunks(port_access_size(page)) {
                context.ports.write(u64::from(port), item);
            }
            // Not one instruction more, whatever the event loop is doing.
            if let Some(event) = context.power.raised() {
                return Err(event.into());
            }
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            for item in data.chunks_mut(port_access_size(page)) {
                context.ports.read(u64::from(port), item);
            }
        }
        Ok(VcpuExit::MmioWrite(addr, data)) => {
            context.mmio.write(addr, data);
        }
        Ok(VcpuExit::MmioRead(addr, data)) => {
            context.mmio.read(addr, data);
        }
        Ok(VcpuExit::Intr) => {}
        Ok(VcpuExit::Shutdown) => return Err(StopCause::TripleFault),
        Ok(VcpuExit::InternalError) => return Err(internal_error(vcpu)),
        Ok(VcpuExit::FailEntry(reason, _)) => return Err(StopCause::EntryFailed { reason }),
        Ok(VcpuExit::SystemEvent(kind, _)) => {
            return Err(match kind {
                kvm_bindings::KVM_SYSTEM_EVENT_RESET | kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => {
                    StopCause::Reset
                }
                _ => StopCause::Unhandled(format!("KVM system event {kind}")),
            });
        }
        Ok(other) => {
            return Err(StopCause::Unhandled(format!("KVM exit that this VMM does not serve: {other:?}")));
        }
        Err(e) => match e.errno() {
            // A signal: the flag in the loop's head tells whether it was the last one.
            libc::EINTR | libc::EAGAIN => {}
            _ => {
                let at =
                    arch::instruction_pointer(vcpu).map_or_else(String::new, |rip| format!(" at {rip:#x}"));
                return Err(StopCause::Unhandled(format!("KVM_RUN failed{at}: {e}")));
            }
        },
    }
    Ok(())
}

/// Bytes of one access of a port exit: a string instruction makes many with one exit, all to the same port.
fn port_access_size(page: *const kvm_run) -> usize {
    // SAFETY: `page` is the mapped KVM_RUN page of the vCPU that has just returned KVM_EXIT_IO, for which `io` is
    // the union's member; the field is read by its address, so that no reference to the page is made.
    let size = unsafe { (&raw const (*page).__bindgen_anon_1.io.size).read() };
    usize::from(size).max(1)
}

fn internal_error(vcpu: &mut VcpuFd) -> StopCause {
    let rip = arch::instruction_pointer(vcpu);
    // SAFETY: KVM_RUN has just returned KVM_EXIT_INTERNAL_ERROR, for which `internal` is the union's member.
    let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let mut instruction = Vec::new();
    if internal.suberror == SUBERROR_EMULATION && internal.ndata >= 3 {
        // data[0] holds flags, of which bit 0 says that data[1..3] are a length byte and up to 15 bytes.
        let bytes: Vec<u8> = internal.data[1..3].iter().flat_map(|word| word.to_le_bytes()).collect();
        if internal.data[0] & 1 != 0 {
            instruction = bytes[1..=usize::from(bytes[0]).min(15)].to_vec();
        }
    }
    StopCause::InternalError { suberror: internal.suberror, rip, instruction }
}
