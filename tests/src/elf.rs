//! The smallest kernel: a flat ELF64 with one segment.

/// Where [`flat`] puts the code: the first address that a kernel may use.
pub const LOAD_ADDRESS: u64 = 0x10_0000;
const HEADERS: u64 = 64 + 56;

/// An ELF64 executable for x86-64 whose only segment is `code`, loaded and entered at [`LOAD_ADDRESS`].
pub fn flat(code: &[u8]) -> Vec<u8> {
    let size = code.len() as u64;
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let u16s = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let u64s = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    file.extend(u16s(&[2, 62])); // e_type: executable, e_machine: x86-64
    file.extend(1_u32.to_le_bytes()); // e_version
    file.extend(u64s(&[LOAD_ADDRESS, 64, 0])); // e_entry, e_phoff, e_shoff
    file.extend(0_u32.to_le_bytes()); // e_flags
    file.extend(u16s(&[64, 56, 1, 64, 0, 0])); // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    file.extend(1_u32.to_le_bytes()); // p_type: load
    file.extend(7_u32.to_le_bytes()); // p_flags: read, write, execute
    file.extend(u64s(&[HEADERS, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 1])); // p_offset .. p_align
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_kernel() {
        let image = flat(&[0xf4; 5]);
        let kernel = boot::Kernel::parse_with(image.len() as u64, |offset, data| {
            let from = usize::try_from(offset).unwrap();
            data.copy_from_slice(&image[from..from + data.len()]);
            Ok(())
        })
        .unwrap();
        assert_eq!(kernel.entry(), LOAD_ADDRESS);
        let segment = kernel.segments()[0];
        assert_eq!((segment.offset, segment.file_size, segment.address), (HEADERS, 5, LOAD_ADDRESS));
        assert_eq!(image[image.len() - 5..], [0xf4; 5]);
    }
}
