//! A built VM: paused until [`Vm::run`], then running on its vCPU threads and on the thread that called.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use devices::virtio::VirtioDevice;
use devices::virtio::balloon::Balloon;
use devices::virtio::console::Console;
use devices::{AcpiPm, SerialPort};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::timerfd::TimerFd;

use crate::event_loop::{self, Control, LoopEnd, OnEvent, PayloadWatch, StopSignals, Subscriber};
use crate::exit::{Outcome, StopCause};
use crate::failure::FailureLine;
use crate::guest::LifeEvent;
use crate::output::Output;
use crate::vcpu::{VcpuContext, VcpuThread, install_kick_handler};

/// A virtual machine that is ready to run. Every file of the host that it needs is open.
pub struct Vm {
    // Field order is drop order: vCPUs and VM go before the memory that KVM has mapped.
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) _fd: Arc<VmFd>,
    pub(crate) devices: Vec<Subscriber>,
    pub(crate) virtio: Vec<Arc<Mutex<dyn VirtioDevice>>>,
    pub(crate) context: Arc<VcpuContext>,
    pub(crate) button: Arc<AcpiPm>,
    pub(crate) serial: Arc<SerialPort>,
    pub(crate) failure: Arc<SerialPort>,
    pub(crate) failure_line: FailureLine,
    pub(crate) output: Output,
    pub(crate) balloon: BalloonHandle,
    pub(crate) console_input: ConsoleInput,
    pub(crate) watch: Option<PayloadWatch>,
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) _rom: Option<GuestMemoryMmap>,
}

/// Pages of 4 KiB.
const PAGES_OF_MIB: u32 = 256;

/// Why a VM could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A thread, timer or signal handler could not be made.
    #[error("{0}")]
    Host(&'static str, #[source] io::Error),
    /// epoll failed.
    #[error("event loop")]
    EventLoop(#[source] event_manager::Error),
}

/// Stops, pauses and resumes a VM from other threads than the one that runs it.
#[derive(Clone)]
pub struct VmHandle(Arc<VcpuContext>);

impl VmHandle {
    /// A power cut: the guest is not told.
    pub fn stop(&self) {
        self.0.stop.stop(StopCause::Stopped);
    }

    /// Asks the guest to end and gives it `grace` for it: the payload's manager where there is one, else by the power
    /// button. Where nothing in the guest listens, and when this is called again, it is a power cut at once.
    pub fn stop_within(&self, grace: Duration) {
        self.0.stop.ask(grace);
    }

    /// Returns once no vCPU runs. Devices finish what they were given, then have nothing to do. The guest's clocks
    /// go on: its time is right after [`Self::resume`], and its watchdogs know that it was paused.
    pub fn pause(&self) {
        self.0.gate.shut();
    }

    /// Lets the vCPUs run again.
    pub fn resume(&self) {
        self.0.gate.open();
    }
}

/// The VM's memory balloon. Memory that the guest has no use for comes back by itself; this asks for more.
#[derive(Clone)]
pub struct BalloonHandle(pub(crate) Arc<Mutex<Balloon>>);

impl BalloonHandle {
    /// Asks the guest to give up `mib` MiB of its memory in all; it may take its time, or not be able to.
    pub fn set_target(&self, mib: u32) {
        self.lock().set_target(mib.saturating_mul(PAGES_OF_MIB));
    }

    /// MiB of memory that the guest has given up because it was asked to.
    pub fn actual(&self) -> u32 {
        self.lock().actual() / PAGES_OF_MIB
    }

    fn lock(&self) -> MutexGuard<'_, Balloon> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving end of the VM's console.
#[derive(Clone)]
pub enum ConsoleInput {
    /// `ttyS0`.
    Serial(Arc<SerialPort>),
    /// `hvc0`.
    Virtio(Arc<Mutex<Console>>),
}

impl ConsoleInput {
    /// Offers bytes to the guest and gives the number that were taken: all, as long as not more than 64 KiB wait to be
    /// read. Never blocks.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Serial(port) => port.enqueue(bytes),
            Self::Virtio(console) => console.lock().unwrap_or_else(PoisonError::into_inner).enqueue(bytes),
        }
    }
}

impl Vm {
    /// A handle on this VM for other threads.
    pub fn handle(&self) -> VmHandle {
        VmHandle(Arc::clone(&self.context))
    }

    /// The VM's memory balloon.
    pub fn balloon(&self) -> BalloonHandle {
        self.balloon.clone()
    }

    /// Types into the VM's console: the one of [`VmSpec::console_input`](crate::spec::VmSpec::console_input).
    pub fn console_input(&self) -> ConsoleInput {
        self.console_input.clone()
    }

    /// Where its output goes.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Runs the VM until it ends, once. `on_event` is called on this thread for each event of its life; `signals`,
    /// when given, end it.
    ///
    /// # Errors
    /// When the host fails the VM; what the guest does is never an error but an [`Outcome`].
    pub fn run(&mut self, signals: Option<StopSignals>, mut on_event: OnEvent) -> Result<Outcome, RunError> {
        install_kick_handler()
            .map_err(|e| RunError::Host("install the signal handler that stops vCPUs", e))?;
        let timeout = match &self.watch {
            Some(watch) => {
                Some(arm(watch.start_timeout).map_err(|e| RunError::Host("arm the start timer", e))?)
            }
            None => None,
        };
        let payload_expected = self.watch.is_some();
        on_event(&LifeEvent::Created);
        let mut threads = Vec::new();
        let mut started = Ok(());
        for (id, vcpu) in (0..).zip(std::mem::take(&mut self.vcpus)) {
            match VcpuThread::start(vcpu, id, Arc::clone(&self.context)) {
                Ok(thread) => threads.push(thread),
                Err(e) => started = Err(RunError::Host("start a vCPU thread", e)),
            }
        }
        let control = Control {
            context: Arc::clone(&self.context),
            button: Arc::clone(&self.button),
            signals,
            watch: self.watch.take(),
            timeout,
            start_is_due: true,
            link: None,
            asked: None,
            deadline: None,
            last_word: None,
            on_event,
        };
        let ended = started.and_then(|()| {
            let mut devices = std::mem::take(&mut self.devices);
            devices.extend(self.output.sinks().into_iter().map(|sink| sink as Subscriber));
            event_loop::run(devices, control).map_err(RunError::EventLoop)
        });
        self.context.gate.close();
        self.vcpus = threads.into_iter().filter_map(VcpuThread::join).collect();
        self.serial.flush();
        self.failure.flush();
        for device in &self.virtio {
            device.lock().unwrap_or_else(PoisonError::into_inner).close();
        }
        let LoopEnd { cause, asked, last_word } = ended?;
        let failure = self.failure_line.failure();
        Ok(Outcome { cause, asked, last_word, failure, payload_expected })
    }
}

fn arm(after: Duration) -> io::Result<TimerFd> {
    let mut timer = TimerFd::new()?;
    timer.reset(after, None)?;
    Ok(timer)
}
