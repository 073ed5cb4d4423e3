//! Segment registers, in the terms of their descriptors (Intel SDM vol. 3, 3.4.5).

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Selector: the visible part.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes (the last valid offset).
    pub limit: u32,
    /// Attributes as they stand in bits 40 to 55 of the descriptor, the limit's bits (8 to 11 here) zero.
    pub attributes: u16,
}

impl Segment {
    const fn bits(&self, shift: u32, mask: u8) -> u8 {
        // Two bytes: the shift leaves the wanted bits in the low one.
        (self.attributes >> shift).to_le_bytes()[0] & mask
    }

    /// Type: 4 bits.
    pub const fn kind(&self) -> u8 {
        self.bits(0, 0xf)
    }
    /// S: 1 for code and data, 0 for system segments.
    pub const fn s(&self) -> u8 {
        self.bits(4, 1)
    }
    /// Descriptor privilege level: 2 bits.
    pub const fn dpl(&self) -> u8 {
        self.bits(5, 3)
    }
    /// P: present.
    pub const fn present(&self) -> u8 {
        self.bits(7, 1)
    }
    /// AVL: free for software.
    pub const fn avl(&self) -> u8 {
        self.bits(12, 1)
    }
    /// L: 64-bit code.
    pub const fn l(&self) -> u8 {
        self.bits(13, 1)
    }
    /// D/B: 32-bit code or stack.
    pub const fn db(&self) -> u8 {
        self.bits(14, 1)
    }
    /// G: the descriptor counts its limit in pages.
    pub const fn g(&self) -> u8 {
        self.bits(15, 1)
    }
}
