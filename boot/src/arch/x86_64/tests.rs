//! Whole loads, against what the boot protocol says and against another loader.

use std::fs::File;
use std::io::{Seek, Write};

use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::elf::Elf;
use proptest::prelude::*;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::*;
use crate::elf::tests::{Program, image};

const MIB: u64 = 1 << 20;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn memory(size: u64) -> GuestMemoryMmap {
    let ranges: Vec<_> = memory_regions(size)
        .into_iter()
        .map(|(start, len)| (GuestAddress(start), usize::try_from(len).unwrap()))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

fn read(mem: &GuestMemoryMmap, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

fn kernel_image() -> Vec<u8> {
    let programs = [
        Program::load(0x1000, 16 * MIB, 0x2345, 0x2345),
        Program::load(0x4000, 18 * MIB, 0x1001, 0x5000),
        Program::load(0x200, MIB, 0x10, 0x10),
    ];
    image(16 * MIB + 0x123, &programs, 0x6000)
}

fn load_bytes(mem: &GuestMemoryMmap, kernel: &[u8]) -> Result<BootState, LoadError> {
    let kernel = file(kernel);
    load(mem, &BootSpec { kernel: &kernel, initrds: &[], cmdline: "quiet", vcpus: 1 })
}

#[test]
fn registers_are_as_the_64_bit_protocol_demands() {
    let mem = memory(64 * MIB);
    let state = load_bytes(&mem, &kernel_image()).unwrap();
    assert_eq!(state.rip, 16 * MIB + 0x123);
    assert_eq!(state.rflags & (1 << 9), 0, "interrupts are disabled");
    assert_eq!((state.cs.selector, state.data.selector), (0x10, 0x18));
    // Paging, protection, PAE, long mode enabled and active: nothing else.
    assert_eq!((state.cr0, state.cr4, state.efer), (0x8000_0011, 0x20, 0x500));
    let gdt = read(&mem, state.gdt.base, usize::from(state.gdt.limit) + 1);
    assert_eq!(gdt[..], gdt::bytes());
    // %rsi points to boot_params, which points to the command line.
    let mut params = boot_params::default();
    params.as_mut_slice().copy_from_slice(&read(&mem, state.rsi, 0x1000));
    let hdr = params.hdr;
    assert_eq!({ hdr.boot_flag }, 0xaa55);
    assert_eq!(read(&mem, hdr.cmd_line_ptr.into(), 6), b"quiet\0");
    assert_eq!(({ hdr.ramdisk_image }, { hdr.ramdisk_size }), (0, 0));
    // The stack is below what it would overwrite.
    assert!(state.rsp <= state.cr3 && state.rsp >= state.rsi + 0x1000 + 0x1000);
}

#[test]
fn memory_is_the_same_as_another_loader_makes_it() {
    let image = kernel_image();
    let (ours, theirs) = (memory(32 * MIB), memory(32 * MIB));
    let state = load_bytes(&ours, &image).unwrap();
    let mut kernel = file(&image);
    kernel.rewind().unwrap();
    let result = Elf::load(&theirs, None, &mut kernel, Some(GuestAddress(MIB))).unwrap();
    assert_eq!(state.rip, result.kernel_load.0);
    let len = usize::try_from(31 * MIB).unwrap();
    assert!(read(&ours, MIB, len) == read(&theirs, MIB, len));
    assert_eq!(read(&ours, 18 * MIB, 0x1001), image[0x4000..0x5001]);
    assert!(read(&ours, 18 * MIB + 0x1001, 0x4000).iter().all(|b| *b == 0));
}

#[test]
fn the_initrd_is_where_boot_params_says() {
    let mem = memory(64 * MIB);
    let (kernel, a, b) = (file(&kernel_image()), file(b"first"), file(&[7; 0x3001]));
    let spec = BootSpec { kernel: &kernel, initrds: &[&a, &b], cmdline: "", vcpus: 1 };
    let state = load(&mem, &spec).unwrap();
    let mut params = boot_params::default();
    params.as_mut_slice().copy_from_slice(&read(&mem, state.rsi, 0x1000));
    let (at, size) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
    assert_eq!((at % 0x1000, size), (0, 8 + 0x3004));
    assert_eq!(u64::from(at), 64 * MIB - 0x4000, "at the top of RAM");
    let mut want = b"first\0\0\0".to_vec();
    want.extend_from_slice(&[7; 0x3001]);
    want.extend_from_slice(&[0; 3]);
    assert_eq!(read(&mem, at.into(), want.len()), want);
    // Loading twice from the same files gives the same: positions do not matter.
    let again = memory(64 * MIB);
    assert_eq!(load(&again, &spec).unwrap(), state);
    assert_eq!(read(&again, at.into(), want.len()), want);
}

#[test]
fn the_initrd_stays_below_its_highest_address() {
    let mem = memory(5 << 30);
    let (kernel, initrd) = (file(&kernel_image()), file(&[7; 100]));
    let spec = BootSpec { kernel: &kernel, initrds: &[&initrd], cmdline: "", vcpus: 1 };
    let state = load(&mem, &spec).unwrap();
    let mut params = boot_params::default();
    params.as_mut_slice().copy_from_slice(&read(&mem, state.rsi, 0x1000));
    assert_eq!(u64::from(params.hdr.ramdisk_image), layout::INITRD_ADDR_MAX + 1 - 0x1000);
    let map: Vec<_> = params.e820_table[..usize::from(params.e820_entries)]
        .iter()
        .map(|e| ({ e.addr }, { e.size }, { e.r#type }))
        .collect();
    assert_eq!(
        map,
        [(0, 0x9_e000, 1), (0x9_e000, 0x2000, 2), (MIB, (3 << 30) - MIB, 1), (4 << 30, 2 << 30, 1),]
    );
}

#[test]
fn segments_stay_off_tables_and_inside_ram() {
    let place = |address, size| image(address, &[Program::load(0x1000, address, 0x10, size)], 0x2000);
    for (address, size) in [
        (0, 0x1000),
        (layout::ZERO_PAGE_ADDR, 0x10),
        (layout::CMDLINE_ADDR, 0x10),
        (MIB - 1, 0x10),
        (0x9_f000, 0x10),
        (32 * MIB - 1, 0x10),
        (32 * MIB, 0x10),
        (MIB, 31 * MIB + 1),
        (MIB, u64::MAX / 2),
        (1 << 40, 0x1000),
    ] {
        let mem = memory(32 * MIB);
        let error = load_bytes(&mem, &place(address, size)).unwrap_err();
        assert!(matches!(error, LoadError::SegmentOutside { index: 0, .. }), "{address:#x}: {error}");
        assert!(read(&mem, 0, 0x20_0000).iter().all(|b| *b == 0), "nothing is written");
    }
    let error = load_bytes(&memory(32 * MIB), &place(0x7000, 0x1000)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel segment 0 wants 0x7000..0x8000, usable memory is 0x100000..0x2000000"
    );
    load_bytes(&memory(32 * MIB), &place(MIB, 31 * MIB)).unwrap();
    // Above 4 GiB there is RAM, but a kernel is not started there.
    let error = load_bytes(&memory(5 << 30), &place(4 << 30, 0x1000)).unwrap_err();
    assert!(matches!(error, LoadError::SegmentOutside { .. }));
}

#[test]
fn command_lines_and_cpus_are_checked() {
    let kernel = file(&kernel_image());
    let mem = memory(64 * MIB);
    let max = "x".repeat(layout::CMDLINE_MAX);
    let try_load =
        |cmdline: &str, vcpus| load(&mem, &BootSpec { kernel: &kernel, initrds: &[], cmdline, vcpus });
    try_load(&max, 1).unwrap();
    assert_eq!(read(&mem, layout::CMDLINE_ADDR, 2048), [max.as_bytes(), b"\0"].concat());
    assert!(matches!(try_load(&format!("{max}x"), 1), Err(LoadError::Cmdline(_))));
    assert!(matches!(try_load("a\0b", 1), Err(LoadError::Cmdline(_))));
    assert!(matches!(try_load("a", 0), Err(LoadError::Vcpus { .. })));
    assert!(matches!(try_load("a", 255), Err(LoadError::Vcpus { .. })));
}

#[test]
fn a_kernel_that_shrinks_while_it_is_read_is_an_error() {
    let kernel = file(&kernel_image());
    let parsed = Kernel::parse(&kernel).unwrap();
    kernel.set_len(0x2000).unwrap();
    let error = parsed.read_into(&memory(32 * MIB), &kernel).unwrap_err();
    assert!(matches!(error, LoadError::ReadSegment { .. }), "{error}");
}

#[test]
fn an_initrd_that_does_not_fit_is_an_error() {
    let (kernel, initrd) = (file(&kernel_image()), tempfile::tempfile().unwrap());
    initrd.set_len(16 * MIB).unwrap();
    let spec = BootSpec { kernel: &kernel, initrds: &[&initrd], cmdline: "", vcpus: 1 };
    let error = load(&memory(32 * MIB), &spec).unwrap_err();
    assert!(matches!(error, LoadError::InitrdTooLarge { .. }), "{error}");
    load(&memory(64 * MIB), &spec).unwrap();
    initrd.set_len(1 << 40).unwrap();
    assert!(matches!(load(&memory(64 * MIB), &spec), Err(LoadError::InitrdTooLarge { .. })));
}

proptest! {
    #[test]
    fn whatever_the_headers_say_nothing_below_1_mib_is_the_kernels(
        changes in prop::collection::vec((16_usize..64 + 3 * 56, any::<u8>()), 0..5),
    ) {
        let mut image = kernel_image();
        for (at, byte) in changes {
            image[at] = byte;
        }
        let mem = memory(32 * MIB);
        if let Ok(state) = load_bytes(&mem, &image) {
            prop_assert!(state.rip >= MIB && state.rip < 32 * MIB);
            // A load of the same memory without the kernel's bytes leaves the same tables.
            let bare = memory(32 * MIB);
            load_bytes(&bare, &kernel_image()).unwrap();
            prop_assert_eq!(read(&mem, 0, 0x10_0000), read(&bare, 0, 0x10_0000));
        }
    }
}
