//! Registers that the guest reads as memory.
//!
//! Each read of a register is an exit to this process, 9 us on an emulated host, and Linux reads InterruptStatus with every
//! interrupt. A page that KVM maps for the guest to read only shows the same values without any; writes still come here,
//! and all that a write changes is shown before the vCPU goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

/// Bytes of address space that a transport answers.
pub const MMIO_SIZE: u64 = 0x200;

/// A page of registers, for a device whose configuration space changes by the driver's writes only.
#[derive(Clone, Debug)]
pub struct RegisterPage {
    region: Arc<MmapRegion>,
    offset: usize,
}

impl RegisterPage {
    /// The page at `offset` of `region`; none if it does not lie in it, at a multiple of its registers' size.
    pub fn new(region: Arc<MmapRegion>, offset: usize) -> Option<Self> {
        let size = usize::try_from(MMIO_SIZE).ok()?;
        let end = offset.checked_add(size)?;
        (end <= region.size() && offset.is_multiple_of(size)).then_some(Self { region, offset })
    }

    /// The register at `offset`, which is below `MMIO_SIZE` and a multiple of 4.
    pub(crate) fn word(&self, offset: u32) -> &AtomicU32 {
        self.region.get_atomic_ref(self.offset + offset as usize).expect("`new` has seen that it is there")
    }

    pub(crate) fn show(&self, offset: u32, value: u32) {
        self.word(offset).store(value.to_le(), Ordering::SeqCst);
    }

    pub(crate) fn show_configuration(&self, config: &[u8]) {
        let slice = self.region.as_volatile_slice();
        // As much as there is room for, which `new` has seen to.
        let _ = slice.write(config, self.offset + VIRTIO_MMIO_CONFIG as usize);
    }
}
