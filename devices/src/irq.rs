//! How a device interrupts the guest: an eventfd that the VMM binds to a GSI (irqfd), and the status
//! bits that virtio-mmio shows beside it (virtio 1.2, 4.2.2 InterruptStatus).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::virtio::page::RegisterPage;

/// A used buffer notification is pending (virtio 1.2, 4.2.2 InterruptStatus bit 0).
pub const STATUS_USED_BUFFER: u32 = 1;
/// The configuration or the device status changed (InterruptStatus bit 1).
pub const STATUS_CONFIG_CHANGE: u32 = 2;

/// Raises a line and lowers it again; tells whether it could.
pub type Pulse = Box<dyn Fn() -> bool + Send + Sync>;

/// The interrupt of one virtio device. Shared between its worker, which raises it, and its transport,
/// which shows and acknowledges its status; neither takes a lock.
pub struct Interrupt {
    status: AtomicU32,
    /// Bits that stay, see [`raised_by_kernel`](Self::raised_by_kernel).
    standing: AtomicU32,
    generation: AtomicU32,
    needs_reset: AtomicBool,
    line: EventFd,
    pulse: OnceLock<Pulse>,
    /// Where the guest reads the status, instead of from here.
    page: Option<RegisterPage>,
}

impl Interrupt {
    /// A quiet interrupt.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            status: AtomicU32::new(0),
            standing: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            line: EventFd::new(EFD_NONBLOCK)?,
            pulse: OnceLock::new(),
            page: None,
        })
    }

    /// The same, shown to the guest in its page of registers.
    pub(crate) fn shown(self, page: Option<RegisterPage>) -> Self {
        Self { page, ..self }
    }

    fn status_word(&self) -> &AtomicU32 {
        self.page.as_ref().map_or(&self.status, |page| page.word(VIRTIO_MMIO_INTERRUPT_STATUS))
    }

    /// The eventfd to bind to the device's GSI.
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// From here on the device raises its line by `pulse`, and by the eventfd only where that fails. For hosts that hand
    /// what is written to the eventfd to another thread first, as KVM does for lines of an IOAPIC. Only the first one counts.
    pub fn raise_by(&self, pulse: Pulse) {
        let _ = self.pulse.set(pulse);
    }

    /// Tells the driver that a used ring has grown.
    pub fn used_buffer(&self) {
        self.raise(STATUS_USED_BUFFER);
    }

    /// Tells the driver that the configuration space changed, under a new generation. The device calls this
    /// under the same lock as the change, so that no driver reads half of each under one generation.
    pub fn config_change(&self) {
        let before = self.generation.fetch_add(1, Ordering::SeqCst);
        if let Some(page) = &self.page {
            page.word(VIRTIO_MMIO_CONFIG_GENERATION).store(before.wrapping_add(1).to_le(), Ordering::SeqCst);
        }
        self.raise(STATUS_CONFIG_CHANGE);
    }

    /// Tells the driver that the device gave up on what it was given (virtio 1.2, 2.1.2 DEVICE_NEEDS_RESET).
    pub fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.show_need();
        self.raise(STATUS_CONFIG_CHANGE);
    }

    /// Shows a need of a reset in the page's Status. Whoever writes that register anew calls this afterwards, so that no
    /// need is lost between two threads.
    pub(crate) fn show_need(&self) {
        if let Some(page) = &self.page
            && self.is_reset_needed()
        {
            page.word(VIRTIO_MMIO_STATUS).fetch_or(VIRTIO_CONFIG_S_NEEDS_RESET.to_le(), Ordering::SeqCst);
        }
    }

    /// Whether the device waits for a reset.
    pub fn is_reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Counts the changes of the configuration space (virtio 1.2, 2.5.3 and 4.2.2 ConfigGeneration).
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The pending bits, as the InterruptStatus register shows them.
    pub fn status(&self) -> u32 {
        u32::from_le(self.status_word().load(Ordering::SeqCst))
    }

    /// From here to the next reset the kernel serves the queues and raises the line by itself. It knows nothing of
    /// the status, so that it shows a used buffer notification all the time: a driver that is told of one in vain
    /// looks at its queues and finds nothing.
    pub fn raised_by_kernel(&self) {
        self.standing.store(STATUS_USED_BUFFER, Ordering::SeqCst);
        self.status_word().fetch_or(STATUS_USED_BUFFER.to_le(), Ordering::SeqCst);
    }

    /// Clears the bits that the driver wrote to InterruptACK.
    pub fn acknowledge(&self, bits: u32) {
        let bits = bits & !self.standing.load(Ordering::SeqCst);
        self.status_word().fetch_and((!bits).to_le(), Ordering::SeqCst);
    }

    /// Back to quiet, for a device reset.
    pub fn reset(&self) {
        self.standing.store(0, Ordering::SeqCst);
        self.status_word().store(0, Ordering::SeqCst);
        self.needs_reset.store(false, Ordering::SeqCst);
    }

    fn raise(&self, bits: u32) {
        self.status_word().fetch_or(bits.to_le(), Ordering::SeqCst);
        if !self.pulse.get().is_some_and(|pulse| pulse()) {
            // Fails only when the counter is full: then the line is up already.
            let _ = self.line.write(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_takes_the_place_of_the_eventfd_while_it_works() {
        use std::sync::Arc;
        let irq = Interrupt::new().unwrap();
        let (pulses, works) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(true)));
        let (counted, working) = (Arc::clone(&pulses), Arc::clone(&works));
        irq.raise_by(Box::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            working.load(Ordering::SeqCst)
        }));
        irq.used_buffer();
        assert_eq!((pulses.load(Ordering::SeqCst), irq.status()), (1, STATUS_USED_BUFFER));
        assert!(irq.line().read().is_err(), "the line was raised twice");
        works.store(false, Ordering::SeqCst);
        irq.used_buffer();
        assert_eq!((pulses.load(Ordering::SeqCst), irq.line().read().unwrap()), (2, 1));
    }

    #[test]
    fn bits_stay_until_acknowledged() {
        let irq = Interrupt::new().unwrap();
        irq.used_buffer();
        irq.config_change();
        assert_eq!(irq.generation(), 1);
        assert_eq!(irq.status(), STATUS_USED_BUFFER | STATUS_CONFIG_CHANGE);
        assert_eq!(irq.line().read().unwrap(), 2);
        irq.acknowledge(STATUS_USED_BUFFER);
        assert_eq!(irq.status(), STATUS_CONFIG_CHANGE);
        irq.raised_by_kernel();
        irq.acknowledge(STATUS_USED_BUFFER);
        assert_eq!(irq.status(), STATUS_USED_BUFFER | STATUS_CONFIG_CHANGE);
        irq.needs_reset();
        assert!(irq.is_reset_needed());
        irq.reset();
        assert!(!irq.is_reset_needed());
        assert_eq!(irq.status(), 0);
    }

    #[test]
    fn what_the_kernel_raises_stands_in_the_page_until_a_reset() {
        let region = std::sync::Arc::new(vm_memory::MmapRegion::new(4096).unwrap());
        let page = RegisterPage::new(region, 0);
        let word = || page.as_ref().unwrap().word(VIRTIO_MMIO_INTERRUPT_STATUS).load(Ordering::SeqCst);
        let irq = Interrupt::new().unwrap().shown(page.clone());
        irq.raised_by_kernel();
        irq.config_change();
        irq.acknowledge(STATUS_USED_BUFFER | STATUS_CONFIG_CHANGE);
        assert_eq!(u32::from_le(word()), STATUS_USED_BUFFER);
        irq.reset();
        assert_eq!(word(), 0);
        irq.used_buffer();
        irq.acknowledge(STATUS_USED_BUFFER);
        assert_eq!(word(), 0);
    }
}
