//! Guest RAM: private anonymous memory in huge pages where the host has them, one KVM slot per region.
//!
//! Anonymous rather than a memfd, because only anonymous memory gets huge pages from hosts as they are set up
//! by default, and they halve the time of a guest's boot: the host serves one fault where it served 512, and
//! both levels of page tables are a level shorter. Nothing shares the memory with another process; a device
//! that needs that will ask for a memfd of its own.

use std::sync::Arc;

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VmFd};
use vm_memory::mmap::FromRangesError;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};

/// Why the guest has no memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// mmap.
    #[error("map guest memory")]
    Map(#[source] FromRangesError),
    /// A ROM's pages cannot be filled.
    #[error("fill the ROM at {start:#x}")]
    Rom {
        /// Guest address.
        start: u64,
    },
    /// mmap, for registers.
    #[error("map pages of device registers")]
    Pages(#[source] vm_memory::mmap::MmapRegionError),
    /// KVM took no slot for it.
    #[error("give KVM the memory at {start:#x}")]
    Slot {
        /// Guest address.
        start: u64,
        /// KVM's error.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// Size of a huge page, in bytes.
const HUGE_PAGE: u64 = 2 << 20;

/// Makes guest RAM of `regions` (guest address, length in bytes), for a guest that begins with `image` bytes of
/// kernel and initrd. One that is smaller than a huge page touches a few small pages only: clearing huge ones
/// would take longer than all else that its start takes.
///
/// # Errors
/// When the host has not enough memory or addresses.
pub fn allocate(regions: &[(u64, u64)], image: u64) -> Result<GuestMemoryMmap, MemoryError> {
    let ranges: Vec<_> = regions
        .iter()
        .map(|&(start, len)| (GuestAddress(start), usize::try_from(len).unwrap_or(usize::MAX)))
        .collect();
    let memory = GuestMemoryMmap::from_ranges(&ranges).map_err(MemoryError::Map)?;
    for region in memory.iter().filter(|_| image >= HUGE_PAGE) {
        let len = usize::try_from(region.len()).unwrap_or_default();
        // A host without huge pages refuses, and serves small ones.
        // SAFETY: the range is this mapping's own, and the advice changes none of its content.
        unsafe { libc::madvise(region.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    }
    Ok(memory)
}

/// Gives `memory` to KVM, slot by slot. To be called before interrupt controllers and eventfds exist: a slot
/// set right after those waits for a grace period of 4 to 8 ms in the kernel.
///
/// # Errors
/// When KVM refuses a slot.
pub fn register(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let start = region.start_addr().0;
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: start,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region stays mapped as long as the VM: `Vm` owns both and drops the VM first.
        unsafe { vm.set_user_memory_region(slot) }.map_err(|source| MemoryError::Slot { start, source })?;
    }
    Ok(())
}

/// Pages of device registers from guest address `start` on, for the guest to read without an exit; its writes still exit.
/// None where KVM has no memory that is only read: then reads exit too.
///
/// # Errors
/// When the host has no memory, or KVM takes no slot.
pub fn register_pages(
    vm: &VmFd,
    slot: u32,
    start: u64,
    len: u64,
) -> Result<Option<Arc<MmapRegion>>, MemoryError> {
    if len == 0 || !vm.check_extension(Cap::ReadonlyMem) {
        return Ok(None);
    }
    let size = usize::try_from(len).unwrap_or(usize::MAX);
    let region = MmapRegion::new(size).map_err(MemoryError::Pages)?;
    let slot = kvm_userspace_memory_region {
        slot,
        flags: KVM_MEM_READONLY,
        guest_phys_addr: start,
        memory_size: len,
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the region is mapped for `len` bytes; the VM keeps the mapping as long as its vCPUs.
    unsafe { vm.set_user_memory_region(slot) }.map_err(|source| MemoryError::Slot { start, source })?;
    Ok(Some(Arc::new(region)))
}

/// Gives KVM the pages of `rom`, behind the slots of guest RAM, for the guest to read only. They are not part of its
/// RAM: no device reaches them.
///
/// # Errors
/// When the host has no memory, or KVM takes no slot.
pub fn register_rom(
    vm: &VmFd,
    ram: &GuestMemoryMmap,
    rom: &boot::Rom,
) -> Result<GuestMemoryMmap, MemoryError> {
    let start = rom.address();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(start), rom.image().len())])
        .map_err(MemoryError::Map)?;
    memory.write_slice(rom.image(), GuestAddress(start)).map_err(|_| MemoryError::Rom { start })?;
    let host = memory.get_host_address(GuestAddress(start)).map_err(|_| MemoryError::Rom { start })?;
    let flags = if vm.check_extension(Cap::ReadonlyMem) { KVM_MEM_READONLY } else { 0 };
    let slot = kvm_userspace_memory_region {
        slot: u32::try_from(ram.num_regions()).unwrap_or(u32::MAX),
        flags,
        guest_phys_addr: start,
        memory_size: rom.image().len() as u64,
        userspace_addr: host as u64,
    };
    // SAFETY: the region is mapped for `memory_size` bytes from `host`; the VM keeps the mapping as long as its vCPUs.
    unsafe { vm.set_user_memory_region(slot) }.map_err(|source| MemoryError::Slot { start, source })?;
    Ok(memory)
}
