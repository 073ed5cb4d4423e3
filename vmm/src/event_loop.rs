//! The loop of the main thread: devices, the payload manager's reports, time-outs, signals, the stop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devices::AcpiPm;
use event_manager::{
    EventManager, EventOps, EventSet, EventSubscriber, Events, MutEventSubscriber, SubscriberOps,
};
use vmm_sys_util::timerfd::TimerFd;

use crate::exit::{LastWord, StopCause};
use crate::guest::{Door, GuestLink, LifeEvent};
use crate::vcpu::VcpuContext;

/// A device as the loop sees it.
pub type Subscriber = Arc<dyn EventSubscriber + Send + Sync>;

/// Called for each event of the VM's life, on the thread that runs the VM.
pub type OnEvent = Box<dyn FnMut(&LifeEvent) + Send>;

/// Signals that end the VM, blocked in every thread and read from a descriptor. The first asks the guest to end within
/// the grace, the second stops it.
pub struct StopSignals {
    fd: OwnedFd,
    grace: Duration,
}

impl StopSignals {
    /// Blocks SIGINT and SIGTERM in this thread and in every thread that it starts from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn block(grace: Duration) -> io::Result<Self> {
        use std::os::fd::FromRawFd;
        let set = vmm_sys_util::signal::create_sigset(&[libc::SIGINT, libc::SIGTERM])?;
        // SAFETY: `set` is a valid signal set, and no old mask is asked for.
        if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `set` is a valid signal set.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd gave a new descriptor that nobody else owns.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, grace })
    }

    /// Lets them do again what they do by default, in this thread.
    pub fn unblock() {
        if let Ok(set) = vmm_sys_util::signal::create_sigset(&[libc::SIGINT, libc::SIGTERM]) {
            // SAFETY: `set` is a valid signal set, and no old mask is asked for.
            unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) };
        }
    }

    fn next(&self) -> Option<i32> {
        let mut raw = [0_u8; size_of::<libc::signalfd_siginfo>()];
        // SAFETY: `raw` has the size that is given.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), raw.as_mut_ptr().cast(), raw.len()) };
        // ssi_signo is the first field, a u32.
        let [a, b, c, d, ..] = raw;
        (usize::try_from(n) == Ok(raw.len())).then(|| i32::from_ne_bytes([a, b, c, d]))
    }
}

/// The payload that the VM is for.
pub struct PayloadWatch {
    /// Lets the manager's connection in.
    pub door: Arc<Door>,
    /// How long the payload has to start.
    pub start_timeout: Duration,
}

/// The loop's own descriptors and what they mean.
pub struct Control {
    pub(crate) context: Arc<VcpuContext>,
    pub(crate) button: Arc<AcpiPm>,
    pub(crate) signals: Option<StopSignals>,
    pub(crate) watch: Option<PayloadWatch>,
    /// Closed only after it was taken out of the loop, which would else take a later descriptor of its number for it.
    pub(crate) timeout: Option<TimerFd>,
    /// Whether the payload has neither started nor failed yet.
    pub(crate) start_is_due: bool,
    pub(crate) link: Option<GuestLink>,
    /// What asked the guest to end, if anything did.
    pub(crate) asked: Option<StopCause>,
    /// The end of the time it then has.
    pub(crate) deadline: Option<TimerFd>,
    pub(crate) last_word: Option<LastWord>,
    pub(crate) on_event: OnEvent,
}

impl Control {
    fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        [
            Some(self.context.stop.wake().as_raw_fd()),
            self.signals.as_ref().map(|s| s.fd.as_raw_fd()),
            self.watch.as_ref().map(|w| w.door.wake().as_raw_fd()),
            self.timeout.as_ref().map(AsRawFd::as_raw_fd),
        ]
        .into_iter()
        .flatten()
    }

    fn is(fd: RawFd, source: Option<&impl AsRawFd>) -> bool {
        source.is_some_and(|s| s.as_raw_fd() == fd)
    }

    fn tell(&mut self, event: &LifeEvent) {
        match event {
            LifeEvent::PayloadStarted => self.start_is_due = false,
            LifeEvent::PayloadEnded(word) => {
                self.start_is_due = false;
                self.last_word = Some(word.clone());
            }
            LifeEvent::Created | LifeEvent::Booted | LifeEvent::PayloadReady => {}
        }
        (self.on_event)(event);
    }

    /// Asks the guest to end within `grace`; stops it where nothing in it listens, or where it was asked before.
    fn ask_to_end(&mut self, asked: StopCause, grace: Duration, ops: &mut EventOps<'_>) {
        let first = self.asked.is_none();
        self.asked.get_or_insert_with(|| asked.clone());
        let listens = first
            && !grace.is_zero()
            && match (&mut self.link, &self.watch) {
                // A quarter of the time is for what the payload manager has to do behind the payload.
                (Some(link), _) => link.stop(grace * 3 / 4).is_ok(),
                (None, Some(_)) => false,
                (None, None) => self.button.press_power_button(),
            };
        if !listens || self.set_deadline(grace, ops).is_none() {
            self.context.stop.stop(asked);
        }
    }

    fn set_deadline(&mut self, after: Duration, ops: &mut EventOps<'_>) -> Option<()> {
        let mut timer = TimerFd::new().ok()?;
        timer.reset(after, None).ok()?;
        ops.add(Events::new(&timer, EventSet::IN)).ok()?;
        self.deadline = Some(timer);
        Some(())
    }

    fn open_door(&mut self, ops: &mut EventOps<'_>) {
        let Some(stream) = self.watch.as_ref().and_then(|w| w.door.take()) else { return };
        let link = GuestLink::new(stream);
        match ops.add(Events::new_raw(link.fd(), EventSet::IN)) {
            Ok(()) => self.link = Some(link),
            Err(e) => {
                return self
                    .context
                    .stop
                    .stop(StopCause::Unhandled(format!("watch the payload manager: {e}")));
            }
        }
        self.tell(&LifeEvent::Booted);
    }

    fn hear_guest(&mut self, ops: &mut EventOps<'_>) {
        let Some(mut link) = self.link.take() else { return };
        let heard = link.receive(|event| self.tell(&event));
        match heard {
            Ok(true) => self.link = Some(link),
            Ok(false) | Err(_) => {
                if let Err(e) = heard {
                    log::warn!("payload manager ignored from here on: {e}");
                }
                let _ = ops.remove(Events::empty_raw(link.fd()));
            }
        }
    }
}

impl MutEventSubscriber for Control {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        for fd in self.fds().collect::<Vec<_>>() {
            if let Err(e) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                self.context.stop.stop(StopCause::Unhandled(format!("watch descriptor {fd}: {e}")));
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let fd = events.fd();
        if fd == self.context.stop.wake().as_raw_fd() {
            let _ = self.context.stop.wake().read();
            if let Some(grace) = self.context.stop.take_grace() {
                self.ask_to_end(StopCause::Stopped, grace, ops);
            }
        } else if Self::is(fd, self.deadline.as_ref()) {
            let _ = ops.remove(Events::empty_raw(fd));
            self.deadline = None;
            self.context.stop.stop(self.asked.clone().unwrap_or(StopCause::Stopped));
        } else if Self::is(fd, self.timeout.as_ref()) {
            let seconds = self.watch.as_ref().map_or(0, |w| w.start_timeout.as_secs());
            let _ = ops.remove(Events::empty_raw(fd));
            self.timeout = None;
            if self.start_is_due {
                self.context.stop.stop(StopCause::StartTimeout { seconds });
            }
        } else if Self::is(fd, self.signals.as_ref().map(|s| &s.fd)) {
            let grace = self.signals.as_ref().map_or(Duration::ZERO, |s| s.grace);
            if let Some(signal) = self.signals.as_ref().and_then(StopSignals::next) {
                self.ask_to_end(StopCause::Signal(signal), grace, ops);
            }
        } else if Self::is(fd, self.watch.as_ref().map(|w| w.door.wake())) {
            self.open_door(ops);
        } else if self.link.as_ref().is_some_and(|l| l.fd() == fd) {
            self.hear_guest(ops);
        } else {
            // A descriptor that was closed in this very round.
            let _ = ops.remove(Events::empty_raw(fd));
        }
    }
}

/// How the loop ended.
pub struct LoopEnd {
    /// Why the VM stops.
    pub cause: StopCause,
    /// What had asked the guest to end.
    pub asked: Option<StopCause>,
    /// The payload's last word.
    pub last_word: Option<LastWord>,
}

/// Runs the loop until the VM stops.
///
/// # Errors
/// When epoll fails.
pub fn run(devices: Vec<Subscriber>, control: Control) -> Result<LoopEnd, event_manager::Error> {
    let context = Arc::clone(&control.context);
    let control = Arc::new(Mutex::new(control));
    let mut manager = EventManager::<Subscriber>::new()?;
    for device in devices {
        manager.add_subscriber(device);
    }
    manager.add_subscriber(control.clone());
    let cause = loop {
        if let Some(cause) = context.stop.cause() {
            break cause;
        }
        match manager.run() {
            // A stopped and continued process gets it without any handler.
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
            ran => drop(ran?),
        }
    };
    let control = control.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(LoopEnd { cause, asked: control.asked.clone(), last_word: control.last_word.clone() })
}
