//! The console device (virtio 1.2, 5.3) with one port: a guest's `hvc0`, which costs one kick per write
//! where a serial port costs an exit per byte. Linux spins until what it transmits was used, so the transmit queue is
//! served on the vCPU that kicks it.
//!
//! ```text
//!   enqueue -> input (64 KiB at most) -> receive queue (0) -> guest
//!   guest -> transmit queue (1) -> output
//! ```

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{Chain, QueueError, Virtqueue};
use super::{ActivateError, Activation, VirtioDevice, device_id, watch_kicks};
use crate::irq::Interrupt;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Linux gives a page to each entry of the receive queue and keeps it there: few are enough to type.
const QUEUE_SIZES: [u16; 2] = [16, 64];
/// Transmitted buffers served before other devices have their turn.
const BATCH: u16 = 64;
/// Bytes taken of one transmitted chain; a driver that sends more at once loses the rest. Linux sends a
/// page, or 32 KiB from user space.
const MAX_CHAIN: u64 = 1 << 20;
/// Input kept at most while the guest does not read.
const MAX_INPUT: usize = 64 * 1024;
const CHUNK: usize = 4096;

/// A virtio console device.
pub struct Console {
    kicks: [EventFd; 2],
    input: VecDeque<u8>,
    output: Output,
    active: Option<Active>,
}

/// What is there while a driver uses the device.
struct Active {
    receive: Virtqueue,
    transmit: Virtqueue,
    interrupt: Arc<Interrupt>,
}

struct Output {
    to: Box<dyn Write + Send>,
    failed: bool,
}

impl Output {
    /// Passes on what one chain holds.
    fn take(&mut self, memory: &GuestMemoryMmap, chain: &Chain) -> Result<(), QueueError> {
        let mut chunk = [0; CHUNK];
        let mut at = 0;
        while at < MAX_CHAIN {
            let len = chain.read_at(memory, at, &mut chunk)?;
            if len == 0 {
                break;
            }
            let result = self.to.write_all(&chunk[..len]);
            self.report(result);
            at += len as u64;
        }
        Ok(())
    }

    fn flush(&mut self) {
        let result = self.to.flush();
        self.report(result);
    }

    fn report(&mut self, result: io::Result<()>) {
        if let Err(e) = result
            && !std::mem::replace(&mut self.failed, true)
        {
            log::warn!("virtio-console output is lost: {e}");
        }
    }
}

impl Console {
    /// An idle device that transmits to `output`.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(output: Box<dyn Write + Send>) -> io::Result<Self> {
        let kick = || EventFd::new(EFD_NONBLOCK);
        let output = Output { to: output, failed: false };
        Ok(Self { kicks: [kick()?, kick()?], input: VecDeque::new(), output, active: None })
    }

    /// Offers bytes to the guest and gives the number taken: all of them as long as not more than 64 KiB wait
    /// to be read. Never blocks.
    pub fn enqueue(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(MAX_INPUT - self.input.len());
        self.input.extend(&bytes[..taken]);
        self.serve_receive();
        taken
    }

    fn serve_receive(&mut self) {
        let Some(active) = &mut self.active else { return };
        if let Err(e) = receive(&mut active.receive, &mut self.input) {
            self.give_up(&e);
        }
    }

    fn serve_transmit(&mut self) {
        let Some(active) = &mut self.active else { return };
        let output = &mut self.output;
        let served = active.transmit.drain(BATCH, |memory, chain| output.take(memory, chain).map(|()| 0));
        output.flush();
        match served {
            Ok(false) => {}
            Ok(true) => {
                // Fails only when the counter is full: then the kick is there.
                let _ = self.kicks[TRANSMIT].write(1);
            }
            Err(e) => self.give_up(&e),
        }
    }

    fn give_up(&mut self, error: &QueueError) {
        log::debug!("virtio-console: {error}");
        if let Some(active) = self.active.take() {
            active.interrupt.needs_reset();
        }
    }
}

/// Moves waiting input into the guest's buffers, as far as there are some. Kicks are wanted only while
/// input waits.
fn receive(queue: &mut Virtqueue, input: &mut VecDeque<u8>) -> Result<(), QueueError> {
    loop {
        while !input.is_empty()
            && let Some(chain) = queue.pop()?
        {
            let written = fill(queue.memory(), &chain, input)?;
            queue.complete(&chain, written)?;
        }
        queue.notify()?;
        if input.is_empty() {
            return queue.disable_kicks();
        }
        if !queue.enable_kicks()? {
            return Ok(());
        }
    }
}

/// Fills one chain from the front of the input and gives the number of bytes.
fn fill(memory: &GuestMemoryMmap, chain: &Chain, input: &mut VecDeque<u8>) -> Result<u32, QueueError> {
    let mut written = 0;
    for _ in 0..2 {
        // The front of a ring buffer is one piece, and the rest another.
        let front = input.as_slices().0;
        let done = chain.write_at(memory, written, front)?;
        input.drain(..done);
        written += done as u64;
    }
    if written == 0 {
        return Err(QueueError::NoRoom { head: chain.head(), what: "input" });
    }
    Ok(u32::try_from(written).unwrap_or(u32::MAX))
}

impl VirtioDevice for Console {
    fn device_id(&self) -> u32 {
        device_id::CONSOLE
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn serves_at_once(&self, index: usize) -> bool {
        index == TRANSMIT
    }

    fn serve(&mut self, index: usize) {
        if index == TRANSMIT {
            self.serve_transmit();
        }
    }

    /// Size, number of ports and emergency write are fields of features that are not offered.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut queues = activation.queues.into_iter();
        let mut queue = |index| queues.next().flatten().ok_or(ActivateError::QueueMissing(index));
        let (receive, transmit) = (queue(RECEIVE)?, queue(TRANSMIT)?);
        self.active = Some(Active { receive, transmit, interrupt: activation.interrupt });
        self.serve_receive();
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch_kicks(&self.kicks, ops);
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        if usize::try_from(events.data()) == Ok(TRANSMIT) {
            self.serve_transmit();
        } else {
            self.serve_receive();
        }
    }
}

#[cfg(test)]
mod tests;
