//! The smallest kernels: a flat ELF64 with one segment, the same with a PVH entry, and a bzImage.

/// Where [`flat`] puts the code: the first address that a kernel may use.
pub const LOAD_ADDRESS: u64 = 0x10_0000;

/// An ELF64 executable for x86-64 whose only segment is `code`, loaded and entered at [`LOAD_ADDRESS`].
pub fn flat(code: &[u8]) -> Vec<u8> {
    with_notes(code, &[])
}

/// The same, entered there in 32-bit mode by the PVH protocol.
pub fn pvh(code: &[u8]) -> Vec<u8> {
    let mut note: Vec<u8> = [4_u32, 8, 18].iter().flat_map(|v| v.to_le_bytes()).collect();
    note.extend(b"Xen\0");
    note.extend(LOAD_ADDRESS.to_le_bytes());
    with_notes(code, &note)
}

fn with_notes(code: &[u8], notes: &[u8]) -> Vec<u8> {
    let count: u16 = if notes.is_empty() { 1 } else { 2 };
    let headers = 64 + 56 * u64::from(count);
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let u16s = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let u64s = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    file.extend(u16s(&[2, 62])); // e_type: executable, e_machine: x86-64
    file.extend(1_u32.to_le_bytes()); // e_version
    file.extend(u64s(&[LOAD_ADDRESS, 64, 0])); // e_entry, e_phoff, e_shoff
    file.extend(0_u32.to_le_bytes()); // e_flags
    file.extend(u16s(&[64, 56, count, 64, 0, 0])); // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    let parts = [(1_u32, notes.len(), code.len(), LOAD_ADDRESS), (4, 0, notes.len(), 0)];
    for (kind, before, size, address) in parts.into_iter().take(count.into()) {
        file.extend(kind.to_le_bytes()); // p_type: load or note
        file.extend(7_u32.to_le_bytes()); // p_flags: read, write, execute
        let (offset, size) = (headers + before as u64, size as u64);
        file.extend(u64s(&[offset, address, address, size, size, 1])); // p_offset .. p_align
    }
    file.extend(notes);
    file.extend(code);
    file
}

/// Where [`bzimage`] puts the code, less the 512 bytes before the 64-bit entry.
pub const BZIMAGE_ADDRESS: u64 = 0x100_0000;

/// A bzImage of protocol 2.15 whose 64-bit entry is `code`.
pub fn bzimage(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 2 * 512];
    let size = (512 + code.len()).next_multiple_of(16);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x1f4, &u32::try_from(size / 16).expect("guests are small").to_le_bytes()); // syssize
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]); // boot_flag, a jump past the header
    put(0x202, b"HdrS\x0f\x02"); // version 2.15
    put(0x211, &[1]); // loadflags: LOADED_HIGH
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(0x236, &[1]); // xloadflags: XLF_KERNEL_64
    put(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    put(0x258, &BZIMAGE_ADDRESS.to_le_bytes()); // pref_address
    put(0x260, &0x1_0000_u32.to_le_bytes()); // init_size
    file.resize(file.len() + 512, 0);
    file.extend(code);
    file.resize(1024 + size, 0);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(image: &[u8]) -> boot::Kernel {
        boot::Kernel::parse_with(image.len() as u64, |offset, data| {
            let from = usize::try_from(offset).unwrap();
            data.copy_from_slice(&image[from..from + data.len()]);
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn each_is_a_kernel_of_its_kind() {
        let (pvh, bzimage) = (parse(&pvh(&[0xf4; 5])), parse(&bzimage(&[0xf4; 5])));
        assert_eq!((pvh.protocol(), pvh.entry()), (boot::Protocol::Pvh, LOAD_ADDRESS));
        assert_eq!((bzimage.protocol(), bzimage.entry()), (boot::Protocol::Linux64, BZIMAGE_ADDRESS + 0x200));
    }

    #[test]
    fn it_is_a_kernel() {
        let image = flat(&[0xf4; 5]);
        let kernel = parse(&image);
        assert_eq!(kernel.entry(), LOAD_ADDRESS);
        let segment = kernel.segments()[0];
        assert_eq!((segment.offset, segment.file_size, segment.address), (64 + 56, 5, LOAD_ADDRESS));
        assert_eq!(image[image.len() - 5..], [0xf4; 5]);
    }
}
