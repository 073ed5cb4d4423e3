//! The entropy device (virtio 1.2, 5.4): one queue of buffers that the host's `getrandom` fills.

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{QueueError, Virtqueue};
use super::{ActivateError, Activation, VirtioDevice, device_id, watch_kicks};

const QUEUE_SIZE: u16 = 64;
/// A larger buffer is filled in part, which the used length tells (5.4.6).
const MAX_BYTES: usize = 4096;
/// Buffers filled before other devices have their turn.
const BATCH: u16 = 16;

/// A virtio entropy device.
pub struct Rng {
    kicks: [EventFd; 1],
    queue: Option<(Virtqueue, std::sync::Arc<crate::irq::Interrupt>)>,
}

/// Why the device gave up.
#[derive(Debug, thiserror::Error)]
enum RngError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("getrandom")]
    Host(#[from] std::io::Error),
}

impl Rng {
    /// An idle device.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { kicks: [EventFd::new(EFD_NONBLOCK)?], queue: None })
    }

    fn serve(&mut self) {
        let Some((queue, interrupt)) = &mut self.queue else { return };
        let mut random = [0; MAX_BYTES];
        let served = queue.drain(BATCH, |memory, chain| -> Result<u32, RngError> {
            let len = usize::try_from(chain.writable_len()).map_or(MAX_BYTES, |len| len.min(MAX_BYTES));
            if len == 0 {
                return Err(QueueError::NoRoom { head: chain.head(), what: "random bytes" }.into());
            }
            fill(&mut random[..len])?;
            let written = chain.write_at(memory, 0, &random[..len])?;
            Ok(u32::try_from(written).expect("at most MAX_BYTES"))
        });
        match served {
            Ok(false) => {}
            Ok(true) => {
                // Fails only when the counter is full: then the kick is there.
                let _ = self.kicks[0].write(1);
            }
            Err(e) => {
                match e {
                    RngError::Queue(e) => log::debug!("virtio-rng: {e}"),
                    RngError::Host(e) => log::warn!("virtio-rng: getrandom: {e}"),
                }
                interrupt.needs_reset();
                self.queue = None;
            }
        }
    }
}

/// Fills `out` from the kernel's generator.
fn fill(out: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while done < out.len() {
        let rest = &mut out[done..];
        // SAFETY: `rest` is a live, writable slice of exactly the length given.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => done += got,
            Err(_) => {
                let e = std::io::Error::last_os_error();
                if e.kind() != std::io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
        }
    }
    Ok(())
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u32 {
        device_id::RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().next().flatten().ok_or(ActivateError::QueueMissing(0))?;
        self.queue = Some((queue, activation.interrupt));
        Ok(())
    }

    fn reset(&mut self) {
        self.queue = None;
    }
}

impl MutEventSubscriber for Rng {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch_kicks(&self.kicks, ops);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.serve();
    }
}

#[cfg(test)]
mod tests;
