//! A built VM: paused until [`Vm::run`], then running on its vCPU threads and on the thread that called.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devices::SerialPort;
use devices::virtio::VirtioDevice;
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::event_loop::{self, Control, OnEvent, PayloadWatch, StopSignals, Subscriber};
use crate::exit::{Outcome, StopCause};
use crate::guest::LifeEvent;
use crate::output::Output;
use crate::vcpu::{VcpuContext, VcpuThread, install_kick_handler};

/// A virtual machine that is ready to run. Every file of the host that it needs is open.
pub struct Vm {
    // Field order is drop order: vCPUs and VM go before the memory that KVM has mapped.
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) _fd: VmFd,
    pub(crate) devices: Vec<Subscriber>,
    pub(crate) virtio: Vec<Arc<Mutex<dyn VirtioDevice>>>,
    pub(crate) context: Arc<VcpuContext>,
    pub(crate) reset: Option<EventFd>,
    pub(crate) serial: Arc<SerialPort>,
    pub(crate) output: Output,
    pub(crate) watch: Option<PayloadWatch>,
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) _rom: Option<GuestMemoryMmap>,
}

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

/// Asks a VM to stop from another thread.
#[derive(Clone)]
pub struct StopHandle(Arc<VcpuContext>);

impl StopHandle {
    /// A power cut: the guest is not told.
    pub fn stop(&self) {
        self.0.stop.stop(StopCause::Stopped);
    }
}

impl Vm {
    /// A handle that stops this VM.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.context))
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
            reset: self.reset.take(),
            serial: Arc::clone(&self.serial),
            output: self.output.clone(),
            signals,
            watch: self.watch.take(),
            timeout,
            start_is_due: true,
            link: None,
            last_word: None,
            on_event,
        };
        let ended = started.and_then(|()| {
            event_loop::run(std::mem::take(&mut self.devices), control).map_err(RunError::EventLoop)
        });
        self.context.stopping.store(true, Ordering::SeqCst);
        for thread in &threads {
            thread.kick();
        }
        self.vcpus = threads.into_iter().filter_map(VcpuThread::join).collect();
        self.serial.flush();
        for device in &self.virtio {
            device.lock().unwrap_or_else(PoisonError::into_inner).close();
        }
        let (cause, last_word) = ended?;
        Ok(Outcome { cause, last_word, payload_expected })
    }
}

fn arm(after: Duration) -> io::Result<TimerFd> {
    let mut timer = TimerFd::new()?;
    timer.reset(after, None)?;
    Ok(timer)
}
