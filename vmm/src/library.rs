//! The structure of a payload library, judged on the host before a VM starts: an ELF for this machine that
//! exports the entry point and needs no newer glibc than the guest has.

use object::elf::{self, FileHeader64};
use object::read::elf::{ElfFile64, FileHeader, SectionHeader};
use object::{Endianness, Object, ObjectSymbol};

/// The function that every payload library exports.
const ENTRY_POINT: &str = "AVmPayload_main";

/// Where libraries for this machine lie in an APK.
pub const ABI: &str = "x86_64";
const MACHINE: u16 = elf::EM_X86_64.0;

/// What is wrong with a payload library.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LibraryError {
    /// Not an ELF.
    #[error("not a 64-bit little-endian ELF shared library: {0}")]
    NotElf(String),
    /// An ELF for another processor.
    #[error("an ELF for machine {found}, expected {MACHINE} (x86-64)")]
    Machine {
        /// e_machine.
        found: u16,
    },
    /// An executable or object file.
    #[error("an ELF of type {found}, expected {} (shared library)", elf::ET_DYN.0)]
    Type {
        /// e_type.
        found: u16,
    },
    /// No entry point.
    #[error("exports no function {ENTRY_POINT}")]
    NoEntryPoint,
    /// It needs symbols of a C library that the guest does not have.
    #[error("needs glibc {needed}, the guest image has {guest}: build it against that version or older")]
    Glibc {
        /// The newest version it names.
        needed: String,
        /// The guest's version.
        guest: String,
    },
}

/// Checks `library`, the content of a payload library, against a guest with glibc `guest_glibc` ("2.36").
///
/// # Errors
/// With the first rule that it breaks.
pub fn check(library: &[u8], guest_glibc: &str) -> Result<(), LibraryError> {
    let not_elf = |e: object::Error| LibraryError::NotElf(e.to_string());
    let header = FileHeader64::<Endianness>::parse(library).map_err(not_elf)?;
    let endian = header.endian().map_err(not_elf)?;
    if endian != Endianness::Little {
        return Err(LibraryError::NotElf("big-endian".to_string()));
    }
    let machine = header.e_machine(endian).0;
    if machine != MACHINE {
        return Err(LibraryError::Machine { found: machine });
    }
    let kind = header.e_type(endian).0;
    if kind != elf::ET_DYN.0 {
        return Err(LibraryError::Type { found: kind });
    }
    let file = ElfFile64::<Endianness>::parse(library).map_err(not_elf)?;
    let exported = file
        .dynamic_symbols()
        .any(|s| s.is_definition() && !s.is_local() && s.name_bytes() == Ok(ENTRY_POINT.as_bytes()));
    if !exported {
        return Err(LibraryError::NoEntryPoint);
    }
    let guest = version(guest_glibc.as_bytes());
    match newest_glibc(header, endian, library).map_err(not_elf)? {
        Some(needed) if Some(needed) > guest => Err(LibraryError::Glibc {
            needed: format!("{}.{}", needed.0, needed.1),
            guest: guest_glibc.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Major and minor number.
type Version = (u32, u32);

/// The newest `GLIBC_x.y` among the versions that the library needs (.gnu.version_r).
fn newest_glibc(
    header: &FileHeader64<Endianness>,
    endian: Endianness,
    data: &[u8],
) -> Result<Option<Version>, object::Error> {
    let sections = header.sections(endian, data)?;
    let mut newest = None;
    for section in sections.iter() {
        let Some((mut needs, link)) = section.gnu_verneed(endian, data)? else { continue };
        let strings = sections.strings(endian, data, link)?;
        while let Some((_, mut versions)) = needs.next()? {
            while let Some(need) = versions.next()? {
                let name = need.name(endian, strings)?;
                if let Some(found) = name.strip_prefix(b"GLIBC_").and_then(version) {
                    newest = newest.max(Some(found));
                }
            }
        }
    }
    Ok(newest)
}

/// `2.36` or `2.3.4`: the first two numbers, all that glibc's symbol versions of today differ in.
fn version(text: &[u8]) -> Option<Version> {
    let text = std::str::from_utf8(text).ok()?;
    let mut numbers = text.split('.').map(|n| n.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Compiles `source` as the C compiler of this machine does; its libc is the one that tests run with.
    fn library(source: &str, args: &[&str]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let (c, so) = (dir.path().join("l.c"), dir.path().join("l.so"));
        std::fs::write(&c, source).unwrap();
        let status = Command::new("cc").args(args).arg("-o").arg(&so).arg(&c).status().unwrap();
        assert!(status.success());
        std::fs::read(so).unwrap()
    }

    const SHARED: &[&str] = &["-shared", "-fPIC"];

    #[test]
    fn a_library_with_the_entry_point_passes() {
        check(&library("int AVmPayload_main(void) { return 0; }", SHARED), "2.36").unwrap();
    }

    #[test]
    fn a_library_without_it_does_not() {
        for source in [
            "int main_(void) { return 0; }",
            "int AVmPayload_main(void); int f(void) { return AVmPayload_main(); }",
        ] {
            assert_eq!(check(&library(source, SHARED), "2.36"), Err(LibraryError::NoEntryPoint));
        }
    }

    #[test]
    fn a_newer_glibc_than_the_guests_is_told() {
        let source = "#include <stdio.h>\nint AVmPayload_main(void) { return puts(\"\"); }";
        assert_eq!(
            check(&library(source, SHARED), "2.1"),
            Err(LibraryError::Glibc { needed: "2.2".into(), guest: "2.1".into() })
        );
        check(&library(source, SHARED), "2.36").unwrap();
    }

    #[test]
    fn other_files_are_not_libraries() {
        assert!(matches!(check(b"#!/bin/sh\n", "2.36"), Err(LibraryError::NotElf(_))));
        let object = library("int AVmPayload_main(void) { return 0; }", &["-c"]);
        assert_eq!(check(&object, "2.36"), Err(LibraryError::Type { found: elf::ET_REL.0 }));
        let mut other = library("int AVmPayload_main(void) { return 0; }", SHARED);
        other[18] = 183;
        assert_eq!(check(&other, "2.36"), Err(LibraryError::Machine { found: 183 }));
    }

    #[test]
    fn truncation_anywhere_is_an_error_or_harmless() {
        let whole = library("int AVmPayload_main(void) { return 0; }", SHARED);
        for end in (0..whole.len()).step_by(7) {
            let _ = check(&whole[..end], "2.36");
        }
        assert!(check(&whole[..200], "2.36").is_err());
    }
}
