//! Which device answers at an address: one [`Bus`] for ports, one for MMIO.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A device that answers guest accesses on any vCPU thread; it locks inside, and only where it must.
pub trait BusDevice: Send + Sync {
    /// Fills `data` (1, 2, 4 or 8 bytes) from `offset` of the device's range.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes `data` (1, 2, 4 or 8 bytes) written at `offset` of the device's range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A range that cannot be given to a device.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// Zero length, or past the end of the address space.
    #[error("bus range {base:#x}+{len:#x} is empty or wraps around")]
    BadRange {
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Another device answers in the range.
    #[error("bus range {base:#x}+{len:#x} overlaps the device at {other:#x}")]
    Overlap {
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
        /// First address of the device that is there.
        other: u64,
    },
}

/// Devices by address range. Built before the VM runs and read-only from then on, so look-ups take no lock.
#[derive(Default)]
pub struct Bus {
    ranges: BTreeMap<u64, (u64, Arc<dyn BusDevice>)>,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `device` answer `len` addresses from `base`.
    ///
    /// # Errors
    /// When the range is empty, wraps around, or overlaps another device's.
    pub fn insert(&mut self, base: u64, len: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let end = base.checked_add(len).filter(|_| len > 0).ok_or(BusError::BadRange { base, len })?;
        if let Some((&other, (other_len, _))) = self.ranges.range(..end).next_back()
            && other.saturating_add(*other_len) > base
        {
            return Err(BusError::Overlap { base, len, other });
        }
        self.ranges.insert(base, (len, device));
        Ok(())
    }

    fn find(&self, addr: u64, size: usize) -> Option<(u64, &dyn BusDevice)> {
        let (&base, (len, device)) = self.ranges.range(..=addr).next_back()?;
        let offset = addr - base;
        // An access that begins inside a range but leaves it is nobody's: no device sees a half of it.
        (offset.checked_add(size as u64)? <= *len).then_some((offset, device.as_ref()))
    }

    /// Reads; an address nobody answers gives all ones, as an empty bus does. Tells whether a device answered.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        self.find(addr, data.len()).map(|(offset, device)| device.read(offset, data)).is_some()
    }

    /// Writes; an address nobody answers ignores it. Tells whether a device answered.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        self.find(addr, data.len()).map(|(offset, device)| device.write(offset, data)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Probe(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn a_device_sees_offsets_in_its_own_range_only() {
        let probe = Arc::new(Probe::default());
        let mut bus = Bus::new();
        bus.insert(0x3f8, 8, probe.clone()).unwrap();
        let mut byte = [0];
        assert!(bus.read(0x3fd, &mut byte));
        assert_eq!(byte, [5]);
        assert!(bus.write(0x3f8, b"A"));
        assert!(!bus.write(0x3f7, b"B"));
        assert!(!bus.write(0x400, b"C"));
        assert!(!bus.read(0x3ff, &mut [0, 0]), "an access that leaves the range is nobody's");
        assert_eq!(*probe.0.lock().unwrap(), [(0, b"A".to_vec())]);
    }

    #[test]
    fn an_empty_address_reads_all_ones() {
        let mut data = [0; 4];
        assert!(!Bus::new().read(0xcf8, &mut data));
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn ranges_never_overlap_or_wrap() {
        let probe = Arc::new(Probe::default());
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x200, probe.clone()).unwrap();
        for (base, len) in [(0xfff, 2), (0x1000, 1), (0x11ff, 1), (0x1100, 0x10), (0, 0x2000)] {
            assert_eq!(
                bus.insert(base, len, probe.clone()),
                Err(BusError::Overlap { base, len, other: 0x1000 })
            );
        }
        for (base, len) in [(5, 0), (u64::MAX, 2)] {
            assert_eq!(bus.insert(base, len, probe.clone()), Err(BusError::BadRange { base, len }));
        }
        bus.insert(0x1200, 1, probe).unwrap();
    }
}
