//! Whole loads, against what the boot protocol says and against another loader.

use std::fs::File;
use std::io::{Seek, Write};

use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::boot_params;
use linux_loader::loader::elf::Elf;
use proptest::prelude::*;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::*;
use crate::bootconfig::{BootConfig, BootValue};
use crate::bzimage;
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
    load(mem, &BootSpec { cmdline: "quiet", ..BootSpec::new(&kernel) })
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
    assert_eq!(gdt[..], gdt::bytes(Mode::Long));
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
    let spec = BootSpec { initrds: &[&a, &b], ..BootSpec::new(&kernel) };
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
    let spec = BootSpec { initrds: &[&initrd], ..BootSpec::new(&kernel) };
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
        [
            (0, 0x9_e000, 1),
            (0x9_e000, 0x2000, 2),
            (0xe_0000, 0x2_0000, 2),
            (MIB, (3 << 30) - MIB, 1),
            (4 << 30, 2 << 30, 1),
        ]
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
    let try_load = |cmdline: &str, vcpus| load(&mem, &BootSpec { cmdline, vcpus, ..BootSpec::new(&kernel) });
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
    let spec = BootSpec { initrds: &[&initrd], ..BootSpec::new(&kernel) };
    let error = load(&memory(32 * MIB), &spec).unwrap_err();
    assert!(matches!(error, LoadError::InitrdTooLarge { .. }), "{error}");
    load(&memory(64 * MIB), &spec).unwrap();
    initrd.set_len(1 << 40).unwrap();
    assert!(matches!(load(&memory(64 * MIB), &spec), Err(LoadError::InitrdTooLarge { .. })));
}

/// `boot_params` of a loaded kernel.
fn params(mem: &GuestMemoryMmap, state: &BootState) -> boot_params {
    let mut params = boot_params::default();
    params.as_mut_slice().copy_from_slice(&read(mem, state.rsi, 0x1000));
    params
}

#[test]
fn a_bzimage_is_loaded_as_another_loader_does() {
    let kernel: Vec<u8> = (0..0x5000_u32).map(|n| n.to_le_bytes()[usize::from(n % 2 == 0)]).collect();
    let image = bzimage::tests::image(&kernel);
    let (ours, theirs) = (memory(32 * MIB), memory(32 * MIB));
    let state = load_bytes(&ours, &image).unwrap();
    let mut source = file(&image);
    source.rewind().unwrap();
    let offset = Some(GuestAddress(bzimage::tests::PREF));
    let result =
        linux_loader::loader::bzimage::BzImage::load(&theirs, offset, &mut source, Some(GuestAddress(MIB)))
            .unwrap();
    let len = usize::try_from(31 * MIB).unwrap();
    assert!(read(&ours, MIB, len) == read(&theirs, MIB, len));
    assert_eq!(read(&ours, 16 * MIB, kernel.len()), kernel);
    assert_eq!(state, BootState::long_mode(result.kernel_load.0 + 0x200));
    // The kernel's own header, and ours in it.
    let (ours, theirs) = (params(&ours, &state).hdr, result.setup_header.unwrap());
    assert_eq!(({ ours.init_size }, { ours.pref_address }), ({ theirs.init_size }, { theirs.pref_address }));
    assert_eq!((ours.setup_sects, { ours.syssize }), (theirs.setup_sects, { theirs.syssize }));
    assert_eq!((ours.type_of_loader, { ours.cmd_line_ptr }), (0xff, 0x2_0000));
}

#[test]
fn a_bzimage_sets_limits() {
    let mut image = bzimage::tests::image(&[7; 0x1000]);
    image[0x22c..0x230].copy_from_slice(&0x17f_ffff_u32.to_le_bytes());
    image[0x238..0x23c].copy_from_slice(&4_u32.to_le_bytes());
    let (kernel, initrd) = (file(&image), file(&[7; 100]));
    let spec = BootSpec { initrds: &[&initrd], cmdline: "four", ..BootSpec::new(&kernel) };
    let mem = memory(64 * MIB);
    let state = load(&mem, &spec).unwrap();
    assert_eq!({ params(&mem, &state).hdr.ramdisk_image }, 0x17f_f000, "below its initrd_addr_max");
    let error = load(&mem, &BootSpec { cmdline: "fives", ..spec }).unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "5 bytes, expected at most 4");
    // The memory that it needs to unpack itself is not there.
    let mut image = bzimage::tests::image(&[7; 0x1000]);
    image[0x260..0x264].copy_from_slice(&0x0400_0000_u32.to_le_bytes());
    assert!(matches!(load_bytes(&memory(64 * MIB), &image), Err(LoadError::SegmentOutside { .. })));
}

#[test]
fn a_pvh_kernel_is_entered_in_32_bit_mode() {
    let note: Vec<u8> = [4_u32, 4, 18].iter().flat_map(|v| v.to_le_bytes()).collect();
    let note = [&note[..], b"Xen\0", &0x100_0020_u32.to_le_bytes()].concat();
    let programs = [
        Program::load(0x1000, 16 * MIB, 0x100, 0x100),
        Program { kind: 4, offset: 0x1800, address: 0, file_size: 20, memory_size: 20 },
    ];
    let mut image = image(0, &programs, 0x2000);
    image[0x1800..0x1814].copy_from_slice(&note);
    let (kernel, initrd) = (file(&image), file(b"module"));
    let mem = memory(64 * MIB);
    let spec =
        BootSpec { initrds: &[&initrd], cmdline: "quiet", seed: Some(&[7; 32]), ..BootSpec::new(&kernel) };
    let state = load(&mem, &spec).unwrap();
    assert_eq!((state.rip, state.rbx, state.cr0, state.cr4, state.efer), (0x100_0020, 0x7000, 0x11, 0, 0));
    assert_eq!((state.cs.db(), state.cs.l(), state.data.db(), state.data.limit), (1, 0, 1, u32::MAX));
    assert_eq!(state.rflags & (1 << 9 | 1 << 8 | 1 << 17), 0, "IF, TF and VM are clear");
    let info = read(&mem, state.rbx, 56);
    assert_eq!(info[..4], 0x336e_c578_u32.to_le_bytes());
    let module = u64::from_le_bytes(info[16..24].try_into().unwrap());
    let at = u64::from_le_bytes(read(&mem, module, 8).try_into().unwrap());
    assert_eq!(read(&mem, at, 8), b"module\0\0");
    assert_eq!(read(&mem, layout::SETUP_DATA_ADDR, 48), [0; 48], "nothing that it could not find");
}

#[test]
fn the_seed_and_the_bootconfig_are_where_linux_looks() {
    let (kernel, initrd) = (file(&kernel_image()), file(b"ramdisk"));
    let mut bootconfig = BootConfig::new();
    bootconfig.insert("kapsel.test", BootValue::Number(7)).unwrap();
    let seed: [u8; 32] = std::array::from_fn(|n| u8::try_from(n + 1).unwrap());
    let spec = BootSpec {
        initrds: &[&initrd],
        bootconfig: &bootconfig,
        seed: Some(&seed),
        ..BootSpec::new(&kernel)
    };
    let mem = memory(64 * MIB);
    let state = load(&mem, &spec).unwrap();
    let hdr = params(&mem, &state).hdr;
    let entry = read(&mem, hdr.setup_data, 48);
    assert_eq!(
        (&entry[..16], &entry[16..]),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0][..], &seed[..])
    );
    let size = usize::try_from(hdr.ramdisk_size).unwrap();
    let ramdisk = read(&mem, hdr.ramdisk_image.into(), size);
    assert_eq!(ramdisk, [&b"ramdisk\0"[..], &bootconfig.trailer().unwrap()].concat());
    // A bootconfig makes a ramdisk of its own.
    let spec = BootSpec { initrds: &[], ..spec };
    let state = load(&memory(64 * MIB), &spec).unwrap();
    assert_eq!(state.rip, 16 * MIB + 0x123);
}

#[test]
fn a_machine_reset_by_a_jump_to_the_top_of_real_mode_is_reset() {
    let mem = memory(64 * MIB);
    load_bytes(&mem, &kernel_image()).unwrap();
    assert_eq!(read(&mem, 0xf_fff0, 5), [0xb0, 0xfe, 0xe6, 0x64, 0xf4]);
}

#[test]
fn a_rom_ends_at_4_gib_and_has_its_shadow() {
    let mem = memory(64 * MIB);
    let content: Vec<u8> = (0..0x1_2345_u32).map(|n| n.to_le_bytes()[usize::from(n % 2 == 0)]).collect();
    let rom = Rom::read(&file(&content)).unwrap();
    assert_eq!((rom.address(), rom.image().len()), (0xffff_e000 - 0x1_1000, 0x1_3000));
    assert!(rom.image().ends_with(&content));
    let state = load_rom(&mem, &rom, 2, &[]).unwrap();
    assert_eq!(state.cs.base + state.rip, 0xffff_fff0);
    assert_eq!((state.cs.selector, state.cr0 & 1, state.efer), (0xf000, 0, 0));
    assert_eq!(read(&mem, 0xf_0000, 0x1_0000), content[content.len() - 0x1_0000..]);
    assert_eq!(read(&mem, layout::ACPI_ADDR, 8), b"RSD PTR ");
    let small = Rom::read(&file(&[0xf4; 16])).unwrap();
    assert_eq!(small.address(), 0xffff_f000);
    load_rom(&mem, &small, 1, &[]).unwrap();
    for len in [0, 15, (16 << 20) + 1] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        assert!(matches!(Rom::read(&file), Err(LoadError::RomSize { .. })), "{len}");
    }
}

proptest! {
    #[test]
    fn whatever_a_bzimage_says_it_stays_off_the_tables(
        changes in prop::collection::vec((0x1f1_usize..0x290, any::<u8>()), 0..5),
    ) {
        let mut image = bzimage::tests::image(&[7; 0x1000]);
        for (at, byte) in changes {
            image[at] = byte;
        }
        let mem = memory(32 * MIB);
        if let Ok(state) = load_bytes(&mem, &image) {
            prop_assert!(state.rip >= MIB && state.rip < 32 * MIB);
            let bare = memory(32 * MIB);
            load_bytes(&bare, &bzimage::tests::image(&[7; 0x1000])).unwrap();
            for (from, to) in [(0, 0x7000), (0x8000, 0xf_8000)] {
                prop_assert!(read(&mem, from, to) == read(&bare, from, to));
            }
        }
    }

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
