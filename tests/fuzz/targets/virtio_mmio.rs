#![no_main]
//! The registers of virtio-mmio: any reads and writes of any width, in any order, on several devices' transports.
//!
//! ```text
//!   input: u8, which device and how it is placed | { kind u8 | offset u16 | value u32 } ..
//! ```

use std::sync::{Arc, Mutex};

use devices::bus::BusDevice;
use devices::virtio::balloon::Balloon;
use devices::virtio::blk::{Block, BlockSpec, CompositeDisk, Content, EngineChoice, Extent};
use devices::virtio::console::Console;
use devices::virtio::mmio::{MMIO_SIZE, Placement, RegisterPage};
use devices::virtio::{MmioTransport, Rng, VirtioDevice};
use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryMmap, MmapRegion, VolatileMemory};

fn device(kind: u8) -> Arc<Mutex<dyn VirtioDevice>> {
    match kind & 5 {
        0 => return Arc::new(Mutex::new(Rng::new().expect("a descriptor"))),
        4 => return Arc::new(Mutex::new(Console::new(Box::new(std::io::sink())).expect("descriptors"))),
        5 => return Arc::new(Mutex::new(Balloon::new().expect("descriptors"))),
        _ => {}
    }
    let disk = CompositeDisk::new(vec![Extent { start: 0, len: 4096, content: Content::Zeros }]);
    let spec = BlockSpec { id: String::new(), read_only: false, queues: 3, engine: EngineChoice::Sync };
    Arc::new(Mutex::new(Block::with(disk.expect("an extent"), &spec).expect("descriptors")))
}

fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    let memory =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000), (GuestAddress(0x2_0000), 0x1_0000)])
            .expect("a little memory");
    let region = Arc::new(MmapRegion::new(0x1000).expect("a page"));
    // A balloon's configuration changes when its driver writes it: such devices have no page.
    let page = (kind & 5 != 5).then(|| RegisterPage::new(Arc::clone(&region), 0).expect("the page is there"));
    let is_shown = page.is_some();
    let placement = Placement { page, access_platform: kind & 2 != 0 };
    let transport = MmioTransport::placed(placement, memory, device(*kind)).expect("descriptors");
    for access in rest.as_chunks::<7>().0.iter().take(512) {
        let [kind, low, high, value @ ..] = *access;
        let offset = u64::from(u16::from_le_bytes([low, high])) % (MMIO_SIZE + 0x10);
        let width = [4, 4, 4, 1, 2, 8, 4, 4][usize::from(kind >> 1 & 7)];
        let mut wide = [0; 8];
        wide[..4].copy_from_slice(&value);
        if kind & 1 == 0 {
            transport.write(offset, &wide[..width]);
        } else {
            transport.read(offset, &mut wide[..width]);
        }
        // What the guest reads from its page is what an exit would have given it.
        for offset in (0..0x200).step_by(4).filter(|_| is_shown) {
            let mut data = [0; 4];
            transport.read(offset, &mut data);
            let at = usize::try_from(offset).expect("small");
            let shown: u32 = region.get_ref(at).expect("in the page").load();
            assert_eq!(u32::from_le_bytes(data), shown, "register {offset:#x}");
        }
    }
});
