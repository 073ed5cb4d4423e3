#![no_main]
//! Kernels, ELF files and bzImages: the input is the image. A load that succeeds has put nothing below 1 MiB but its tables.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use boot::{BootSpec, Kernel, layout};
use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryMmap};

const MEMORY: usize = 8 << 20;

static MEM: LazyLock<GuestMemoryMmap> =
    LazyLock::new(|| GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("8 MiB"));

/// An unlinked file that every run writes its image to.
static IMAGE: LazyLock<File> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("boot_elf-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    std::fs::remove_file(path).expect("unlink it");
    file.write_all(&[]).expect("write to it");
    file
});

fuzz_target!(|data: &[u8]| {
    let parsed = Kernel::parse_with(data.len() as u64, |offset, buffer| {
        let from = usize::try_from(offset).expect("within the image");
        buffer.copy_from_slice(&data[from..from + buffer.len()]);
        Ok(())
    });
    let Ok(kernel) = parsed else { return };
    for pair in kernel.segments().windows(2) {
        assert!(pair[0].end() <= pair[1].address);
    }
    IMAGE.set_len(0).expect("truncate");
    IMAGE.write_all_at(data, 0).expect("write");
    let spec = BootSpec { cmdline: "quiet", ..BootSpec::new(&IMAGE) };
    if let Ok(state) = boot::load(&MEM, &spec) {
        assert!((layout::HIGH_MEMORY_START..MEMORY as u64).contains(&state.rip));
    }
});
