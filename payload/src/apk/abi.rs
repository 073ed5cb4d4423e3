//! The processors that libraries are made for, by the names that archives have for them.

use std::fmt;

/// First bytes of a library that [`Abi::check`] wants.
pub const HEADER_LEN: usize = 20;

/// A directory of `lib/` in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Abi {
    /// 64-bit Arm.
    Arm64V8a,
    /// 32-bit Arm.
    ArmeabiV7a,
    /// 64-bit RISC-V.
    Riscv64,
    /// 32-bit x86.
    X86,
    /// 64-bit x86.
    X86_64,
}

/// Why a file is no library for an [`Abi`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbiError {
    /// No such directory is looked into.
    #[error("{0:?} is no ABI; there are {names}", names = Names)]
    Unknown(String),
    /// Not an ELF file.
    #[error("not a library: it does not begin with an ELF header")]
    NotElf,
    /// An ELF file, and no shared object.
    #[error("not a library but ELF type {0}; link it with -shared")]
    NotShared(u16),
    /// A library for another processor.
    #[error("made for {found}, not for {wanted}")]
    Machine {
        /// What the library is made for, in words.
        found: String,
        /// What it should be.
        wanted: Abi,
    },
}

impl Abi {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Arm64V8a, Self::ArmeabiV7a, Self::Riscv64, Self::X86, Self::X86_64];

    /// Its directory's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arm64V8a => "arm64-v8a",
            Self::ArmeabiV7a => "armeabi-v7a",
            Self::Riscv64 => "riscv64",
            Self::X86 => "x86",
            Self::X86_64 => "x86_64",
        }
    }

    /// EI_CLASS and e_machine of its libraries.
    fn machine(self) -> (u8, u16) {
        match self {
            Self::Arm64V8a => (2, 183),
            Self::ArmeabiV7a => (1, 40),
            Self::Riscv64 => (2, 243),
            Self::X86 => (1, 3),
            Self::X86_64 => (2, 62),
        }
    }

    /// Checks that a file which begins with `header`, its first [`HEADER_LEN`] bytes or fewer, is a shared library for
    /// this ABI (System V gABI 4.1, chapter 4).
    ///
    /// # Errors
    /// [`AbiError`] when it is not.
    pub fn check(self, header: &[u8]) -> Result<(), AbiError> {
        const SHARED: u16 = 3;
        const LITTLE_ENDIAN: u8 = 1;
        let header = header.first_chunk::<HEADER_LEN>().ok_or(AbiError::NotElf)?;
        if !header.starts_with(b"\x7fELF") {
            return Err(AbiError::NotElf);
        }
        let half = |at: usize| match header[5] {
            LITTLE_ENDIAN => u16::from_le_bytes([header[at], header[at + 1]]),
            _ => u16::from_be_bytes([header[at], header[at + 1]]),
        };
        let (class, kind, machine) = (header[4], half(16), half(18));
        if (class, machine) != self.machine() || header[5] != LITTLE_ENDIAN {
            let known = Self::ALL.iter().find(|abi| abi.machine() == (class, machine));
            let found = known.filter(|_| header[5] == LITTLE_ENDIAN).map_or_else(
                || format!("ELF machine {machine} (class {class}, byte order {})", header[5]),
                Abi::to_string,
            );
            return Err(AbiError::Machine { found, wanted: self });
        }
        if kind != SHARED {
            return Err(AbiError::NotShared(kind));
        }
        Ok(())
    }
}

impl fmt::Display for Abi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Abi {
    type Err = AbiError;

    fn from_str(name: &str) -> Result<Self, AbiError> {
        let found = Self::ALL.into_iter().find(|abi| abi.name() == name);
        found.ok_or_else(|| AbiError::Unknown(name.into()))
    }
}

/// All names, for sentences.
struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Abi::ALL.map(Abi::name).join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a library.
    fn header(class: u8, order: u8, kind: u16, machine: u16) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', class, order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for half in [kind, machine] {
            bytes.extend(if order == 1 { half.to_le_bytes() } else { half.to_be_bytes() });
        }
        bytes
    }

    #[test]
    fn each_abi_takes_its_own_libraries_only() {
        for abi in Abi::ALL {
            assert_eq!(abi.name().parse(), Ok(abi));
            let (class, machine) = abi.machine();
            let library = header(class, 1, 3, machine);
            for other in Abi::ALL {
                let found = other.check(&library);
                let refused = AbiError::Machine { found: abi.to_string(), wanted: other };
                assert_eq!(found, if abi == other { Ok(()) } else { Err(refused) });
            }
            assert_eq!(abi.check(&header(class, 1, 2, machine)), Err(AbiError::NotShared(2)));
            assert!(matches!(abi.check(&header(class, 2, 3, machine)), Err(AbiError::Machine { .. })));
        }
    }

    #[test]
    fn what_is_no_library() {
        let library = header(2, 1, 3, 62);
        Abi::X86_64.check(&library).unwrap();
        for len in 0..library.len() {
            assert_eq!(Abi::X86_64.check(&library[..len]), Err(AbiError::NotElf), "{len} bytes");
        }
        assert_eq!(Abi::X86_64.check(b"#!/bin/sh\necho hello, world\n"), Err(AbiError::NotElf));
        let sentence = "x86-64".parse::<Abi>().unwrap_err().to_string();
        assert_eq!(sentence, "\"x86-64\" is no ABI; there are arm64-v8a, armeabi-v7a, riscv64, x86, x86_64");
    }
}
