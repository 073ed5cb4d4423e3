//! Socket device (virtio 1.2, 5.10): vsock connections of the guest are Unix sockets of the host.
//!
//! ```text
//!   guest ──tx──> Vsock::serve ──> Muxer ──> Conn ──> Unix socket `<path>_<port>`, or a claimed port
//!         <──rx──              <──       <──      <── client of `<path>` that said `CONNECT <port>`
//! ```
//!
//! - [`packet`]: the header, read once and checked; where the payload lies
//! - [`conn`]: one connection: credit, backlog, the end of each direction
//! - [`muxer`]: which connection, and whose turn
//! - [`host`]: the Unix sockets
//! - [`vhost`]: the other backend, in which the kernel does all this with sockets of its own
//!
//! The guest is trusted with nothing but its own data: what it sends is checked, what it makes this device
//! remember is bounded, a connection whose ends do not move holds up no other, and each call from the event
//! loop does a bounded amount of work. Socket data is copied by the kernel only, straight between the socket
//! and guest memory, unless the host's socket is full.

pub mod conn;
mod face;
pub mod host;
pub mod muxer;
pub mod packet;
#[cfg(test)]
mod tests;
mod untold;
pub mod vhost;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use log::error;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use self::face::{F_SEQPACKET, F_STREAM, QUEUE_SIZES, TX};
use self::host::HostError;
use self::muxer::{Filled, Muxer};
use self::packet::Kind;
use self::untold::Untold;
use self::vhost::VhostError;
use crate::irq::Interrupt;
use crate::virtio::queue::Batch;
use crate::virtio::{
    ActivateError, Activation, Chain, QueueError, VirtioDevice, Virtqueue, device_id, watch_kicks,
};

/// Connections that either side may have asked for at a time.
const DEFAULT_LIMIT: usize = 4096;
/// One call from the event loop serves at most this many rounds; each takes and sends at most so many chains,
/// then tells the guest. So neither queue waits long for the other, nor other devices for this one.
const ROUNDS: usize = 4;
const TX_ROUND: usize = 16;
const RX_ROUND: usize = 64;
/// Data of the event of the host's sockets, and of the timer's; a kick's is its queue.
const HOST: u32 = u32::MAX;
const TIMER: u32 = u32::MAX - 1;

/// What a socket device is made of.
#[derive(Clone, Debug)]
pub struct VsockConfig {
    /// The guest's context id: 3 to 2^32 - 2.
    pub guest_cid: u64,
    /// Where clients of the host connect, and, with `_<port>` behind it, services for the guest listen.
    /// Without it, the guest reaches claimed ports only.
    pub socket: Option<PathBuf>,
}

/// A socket device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The context id is reserved (5.10.4).
    #[error("guest context id {0} is not one of 3 to 4294967294")]
    GuestCid(u64),
    /// The Unix socket.
    #[error(transparent)]
    Socket(#[from] HostError),
    /// The process has no descriptor left.
    #[error("make the device's descriptors")]
    Descriptors(#[source] io::Error),
    /// The kernel's vhost-vsock.
    #[error(transparent)]
    Vhost(#[from] VhostError),
}

/// The port of the guest's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPort(pub u32);

impl GuestPort {
    /// Whether only a privileged process of the guest can have it: Linux keeps ports below 1024 for those
    /// with CAP_NET_BIND_SERVICE.
    pub fn is_privileged(self) -> bool {
        self.0 < 1024
    }
}

/// Decides about a connection to a claimed port: the host's end of it, or none to refuse.
pub type Accept = Box<dyn FnMut(GuestPort) -> Option<UnixStream> + Send>;

/// What the driver gave.
struct Active {
    rx: Virtqueue,
    tx: Virtqueue,
    /// The tx chain that is looked at.
    chain: Chain,
    interrupt: Arc<Interrupt>,
}

/// The socket device of one guest.
pub struct Vsock {
    guest_cid: u64,
    muxer: Muxer,
    kicks: [EventFd; 3],
    untold: Untold,
    active: Option<Active>,
}

impl Vsock {
    /// A device that no driver uses yet. The Unix socket exists from here on, until the device is dropped;
    /// clients wait in its backlog until the guest's driver is ready.
    ///
    /// # Errors
    /// When the context id is reserved, the socket's path is taken, or descriptors have run out.
    pub fn new(config: VsockConfig) -> Result<Self, VsockError> {
        face::check_cid(config.guest_cid)?;
        let kicks = face::kicks()?;
        let mut muxer = Muxer::new(config.guest_cid, DEFAULT_LIMIT).map_err(VsockError::Descriptors)?;
        if let Some(path) = &config.socket {
            muxer.listen(path)?;
        }
        let untold = Untold::new().map_err(VsockError::Descriptors)?;
        Ok(Self { guest_cid: config.guest_cid, muxer, kicks, untold, active: None })
    }

    /// At most `limit` connections at a time that the guest asked for, and as many that the host asked for,
    /// clients that have not said their port yet included; 4096 if never called. Further ones are refused: the
    /// guest is sent a reset, the client's socket is closed.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.muxer.set_limit(limit);
        self
    }

    /// Takes host port `port` out of the Unix sockets' hands: for every connection of the guest to it,
    /// `accept` is called on the event loop, under the device's lock. It gives one end of a socket pair, or
    /// refuses. A second claim of a port replaces the first.
    pub fn claim(&mut self, port: u32, accept: Accept) {
        self.muxer.claim(port, Kind::Stream, accept);
    }

    /// The same for seqpacket connections: `accept` gives one end of a pair of type SOCK_SEQPACKET. A port is
    /// claimed for one type, the other is refused.
    pub fn claim_messages(&mut self, port: u32, accept: Accept) {
        self.muxer.claim(port, Kind::Seqpacket, accept);
    }

    /// Serves both queues, then asks for what it cannot go on without: kicks, events, another call.
    fn serve(&mut self) {
        let Some(active) = &mut self.active else { return };
        match active.serve(&mut self.muxer, &mut self.untold) {
            Ok(done) => {
                self.muxer.settle_watches();
                if !done {
                    face::look_again(&self.kicks[TX..=TX]);
                }
            }
            Err(error) => self.check(Err(error)),
        }
    }

    fn tell_if_due(&mut self) {
        let Some(active) = &mut self.active else { return };
        let told = if self.untold.is_due() {
            self.untold.clear();
            active.tx.notify()
        } else {
            Ok(())
        };
        self.untold.wait();
        self.check(told);
    }

    fn check(&mut self, served: Result<(), QueueError>) {
        if let Err(error) = served
            && let Some(active) = &self.active
        {
            // The driver's doing, which it may repeat for ever: not for the log.
            log::debug!("virtio-vsock: {error}");
            active.interrupt.needs_reset();
            self.reset();
        }
    }
}

impl Active {
    /// Serves both queues for some rounds; false when there is more to do.
    fn serve(&mut self, muxer: &mut Muxer, untold: &mut Untold) -> Result<bool, QueueError> {
        let size = self.tx.layout().size;
        let (mut rx, mut tx) = (self.rx.batch()?, self.tx.batch()?);
        let mut done = false;
        for _ in 0..ROUNDS {
            let (mut taken, mut sent) = (TX_ROUND, RX_ROUND);
            let drained = drain(&mut tx, &mut self.chain, muxer, untold, &mut taken)?;
            let filled = fill(&mut rx, muxer, &mut sent)?;
            if rx.wants_interrupt()? {
                // The queues share a line: the driver looks at both.
                tx.wants_interrupt()?;
                untold.clear();
                self.interrupt.used_buffer();
            } else if untold.is_much(size) {
                untold.clear();
                tell(&mut tx, &self.interrupt)?;
            }
            // A clogged tx queue goes on when the guest has taken its resets: it kicks for new rx buffers.
            if (drained || muxer.is_clogged()) && filled != Filled::More {
                done = true;
                break;
            }
        }
        if !untold.wait() {
            untold.clear();
            tell(&mut tx, &self.interrupt)?;
        }
        Ok(done)
    }
}

/// Interrupts the driver if it wants to hear of its packets.
fn tell(tx: &mut Batch<'_>, interrupt: &Interrupt) -> Result<(), QueueError> {
    if tx.wants_interrupt()? {
        interrupt.used_buffer();
    }
    Ok(())
}

/// Takes packets of the guest, each at the cost of one of `budget`; false when some may be left.
fn drain(
    tx: &mut Batch<'_>,
    chain: &mut Chain,
    muxer: &mut Muxer,
    untold: &mut Untold,
    budget: &mut usize,
) -> Result<bool, QueueError> {
    tx.disable_kicks()?;
    while *budget > 0 && !muxer.is_clogged() {
        if tx.pop(chain)? {
            *budget -= 1;
            muxer.on_chain(tx.memory(), chain)?;
            tx.give_back(chain.head(), 0)?;
            untold.add(chain.count());
        } else if !tx.enable_kicks()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends packets to the guest. Kicks are wanted only while buffers lack.
fn fill(rx: &mut Batch<'_>, muxer: &mut Muxer, budget: &mut usize) -> Result<Filled, QueueError> {
    loop {
        let filled = muxer.fill(rx, budget)?;
        if filled != Filled::Starved || !rx.enable_kicks()? {
            return Ok(filled);
        }
        rx.disable_kicks()?;
    }
}

impl VirtioDevice for Vsock {
    fn device_id(&self) -> u32 {
        device_id::VSOCK
    }

    fn features(&self) -> u64 {
        F_STREAM | F_SEQPACKET
    }

    /// The tx queue has room for more packets of two buffers than a window has bytes for in the long ones.
    fn offers_indirect(&self) -> bool {
        false
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        face::read_config(self.guest_cid, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let Activation { queues, interrupt, features, .. } = activation;
        let [mut rx, tx] = face::data_queues(queues)?;
        rx.disable_kicks().map_err(|error| ActivateError::Host(io::Error::other(error)))?;
        self.muxer.start(features & F_SEQPACKET != 0).map_err(ActivateError::Host)?;
        self.active = Some(Active { rx, tx, chain: Chain::default(), interrupt });
        face::look_again(&self.kicks[TX..=TX]);
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
        self.untold.clear();
        self.muxer.stop();
    }

    fn close(&mut self) {
        self.reset();
        self.muxer.close();
    }
}

impl MutEventSubscriber for Vsock {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch_kicks(&self.kicks[..=TX], ops);
        // The host's sockets come and go in an epoll of their own: a reset has no `EventOps` at hand, and
        // the news of many sockets is one event, answered with one interrupt.
        if let Err(error) = ops.add(Events::with_data(self.muxer.epoll(), HOST, EventSet::IN)) {
            error!("vsock: watch the host's sockets: {error}; the host will not be served");
        }
        let timer = Events::with_data(self.untold.timer(), TIMER, EventSet::IN | EventSet::EDGE_TRIGGERED);
        if let Err(error) = ops.add(timer) {
            error!("vsock: watch the timer: {error}; the guest may not hear that its packets were taken");
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        match events.data() {
            HOST => self.muxer.poll(),
            TIMER => return self.tell_if_due(),
            _ => {}
        }
        self.serve();
    }
}
