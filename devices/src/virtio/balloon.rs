//! The memory balloon (virtio 1.2, 5.5): the guest gives pages back to the host, as many as it is asked for, and those that
//! it has no use for at the moment.
//!
//! ```text
//!   set_target ──> num_pages, config interrupt ──> guest
//!   guest ──> inflate queue (0): page numbers ────> madvise(MADV_DONTNEED)
//!         ──> deflate queue (1): page numbers       nothing to do: a page is there again when it is touched
//!         ──> reporting queue (2): free ranges ───> madvise(MADV_DONTNEED)
//! ```
//!
//! What the guest gives back reads as zeros afterwards, which it has agreed to. Ranges that are no RAM of the guest's are
//! passed over: it cannot hurt anybody but itself.

use std::io;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{Chain, QueueError, Virtqueue};
use super::{ActivateError, Activation, VirtioDevice, device_id, watch_kicks};
use crate::irq::Interrupt;

/// Bytes of a page in the balloon, whatever the guest's own are (5.5.6).
pub const PAGE_SIZE: u64 = 4096;
/// The driver may take pages back when it runs out of memory.
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// Free ranges are told, and need not be asked for.
const REPORTING: u64 = 1 << 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// Queues of features that are not offered have no number.
const FREE: usize = 2;
const QUEUE_SIZES: [u16; 3] = [128, 128, 32];
/// Chains served before other devices have their turn.
const BATCH: u16 = 16;
/// Page numbers read of one chain: Linux sends 256.
const MAX_NUMBERS: usize = 1024;
/// Where `num_pages` and `actual` are in the configuration space.
const ACTUAL: u64 = 4;

/// A virtio memory balloon.
pub struct Balloon {
    kicks: [EventFd; 3],
    /// Pages that the guest is asked for.
    target: u32,
    /// Pages that the guest says it gave.
    actual: u32,
    active: Option<Active>,
}

struct Active {
    queues: [Option<Virtqueue>; 3],
    interrupt: Arc<Interrupt>,
}

impl Balloon {
    /// An idle device that asks for nothing.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let kick = || EventFd::new(EFD_NONBLOCK);
        Ok(Self { kicks: [kick()?, kick()?, kick()?], target: 0, actual: 0, active: None })
    }

    /// Asks the guest to hold `pages` pages of 4 KiB in its balloon, more than now or fewer; it may take its time, or not
    /// do it.
    pub fn set_target(&mut self, pages: u32) {
        self.target = pages;
        if let Some(active) = &self.active {
            active.interrupt.config_change();
        }
    }

    /// Pages of 4 KiB that the guest says are in its balloon.
    pub fn actual(&self) -> u32 {
        self.actual
    }

    fn serve(&mut self, index: usize) {
        let Some(active) = &mut self.active else { return };
        let Some(queue) = active.queues.get_mut(index).and_then(Option::as_mut) else { return };
        let served = queue.drain(BATCH, |memory, chain| {
            match index {
                INFLATE => give_back_pages(memory, chain)?,
                DEFLATE => {}
                _ => give_back_ranges(memory, chain),
            }
            Ok::<u32, QueueError>(0)
        });
        match served {
            Ok(false) => {}
            Ok(true) => {
                // Fails only when the counter is full: then the kick is there.
                let _ = self.kicks[index].write(1);
            }
            Err(e) => {
                log::debug!("virtio-balloon: {e}");
                active.interrupt.needs_reset();
                self.active = None;
            }
        }
    }
}

/// Pages by their numbers: an array of 32 bits each (5.5.6.2). Neighbours go at once.
fn give_back_pages(memory: &GuestMemoryMmap, chain: &Chain) -> Result<(), QueueError> {
    let mut bytes = [0; 4 * MAX_NUMBERS];
    let len = chain.read_at(memory, 0, &mut bytes)?;
    let numbers = bytes[..len]
        .chunks_exact(4)
        .map(|number| u64::from(u32::from_le_bytes([number[0], number[1], number[2], number[3]])));
    let (mut start, mut end) = (0, 0);
    for number in numbers {
        // Linux takes pages from the top, so neighbours come in either order.
        if number == end {
            end += 1;
        } else if number + 1 == start {
            start = number;
        } else {
            give_back(memory, start * PAGE_SIZE, (end - start) * PAGE_SIZE);
            (start, end) = (number, number + 1);
        }
    }
    give_back(memory, start * PAGE_SIZE, (end - start) * PAGE_SIZE);
    Ok(())
}

/// Ranges as the chain's own buffers (5.5.6.7).
fn give_back_ranges(memory: &GuestMemoryMmap, chain: &Chain) {
    for range in chain.writable() {
        give_back(memory, range.addr.0, u64::from(range.len));
    }
}

/// Gives the whole pages within `[start, start + len)` back to the host, as far as they are guest RAM.
fn give_back(memory: &GuestMemoryMmap, start: u64, len: u64) {
    let Some(first) = start.checked_next_multiple_of(PAGE_SIZE) else { return };
    let Some(end) = start.checked_add(len) else { return };
    let end = end - end % PAGE_SIZE;
    for region in memory.iter() {
        let base = region.start_addr().0;
        let (from, to) = (first.max(base), end.min(base + region.len()));
        if from >= to {
            continue;
        }
        let (Ok(host), Ok(len)) = (memory.get_host_address(GuestAddress(from)), usize::try_from(to - from))
        else {
            continue;
        };
        // SAFETY: the range lies within this region's mapping. Its content becomes zeros, which only the guest could have
        // an opinion on; nothing of this process is ever borrowed from guest memory.
        let advised = unsafe { libc::madvise(host.cast(), len, libc::MADV_DONTNEED) };
        if advised != 0 {
            log::debug!("virtio-balloon: give back {len} bytes: {}", io::Error::last_os_error());
        }
    }
}

impl VirtioDevice for Balloon {
    fn device_id(&self) -> u32 {
        device_id::BALLOON
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | REPORTING
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = [self.target.to_le_bytes(), self.actual.to_le_bytes()].concat();
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| space.get(at)).copied().unwrap_or(0);
        }
    }

    /// `actual` is the driver's to write, as a whole (5.5.4).
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (ACTUAL, Ok(actual)) = (offset, <[u8; 4]>::try_from(data)) {
            self.actual = u32::from_le_bytes(actual);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut queues = activation.queues.into_iter();
        let queues: [Option<Virtqueue>; 3] = std::array::from_fn(|_| queues.next().flatten());
        for index in [INFLATE, DEFLATE] {
            if queues[index].is_none() {
                return Err(ActivateError::QueueMissing(index));
            }
        }
        if activation.features & REPORTING != 0 && queues[FREE].is_none() {
            return Err(ActivateError::QueueMissing(FREE));
        }
        self.active = Some(Active { queues, interrupt: activation.interrupt });
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
        self.actual = 0;
    }
}

impl MutEventSubscriber for Balloon {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch_kicks(&self.kicks, ops);
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        if let Ok(index) = usize::try_from(events.data()) {
            self.serve(index);
        }
    }
}

#[cfg(test)]
mod tests;
