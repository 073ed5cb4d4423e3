use std::io::Cursor as IoCursor;

use super::*;
use crate::apk::{Apk, Compression};

fn pack() -> Vec<u8> {
    let manifest = Manifest { package: "com.example.a".into(), version_code: 1 };
    let mut packer = Packer::new(IoCursor::new(Vec::new()), &manifest, "1.0").unwrap();
    packer.add("assets/odd.txt", b"12345").unwrap();
    packer.add_from("lib/x86_64/liba.so", &vec![7u8; 10_000]).unwrap();
    packer.add("assets/vm_config.json", b"{}").unwrap();
    packer.finish().unwrap().into_inner()
}

#[test]
fn entries_are_stored_and_aligned() {
    let apk = Apk::open(pack()).unwrap();
    let names: Vec<&str> = apk.entries().iter().map(|entry| entry.name.as_str()).collect();
    let expected = ["AndroidManifest.xml", "assets/odd.txt", "lib/x86_64/liba.so", "assets/vm_config.json"];
    assert_eq!(names, expected);
    for entry in apk.entries() {
        assert_eq!(entry.compression, Compression::Stored);
        let align = if entry.name.ends_with(".so") { 16384 } else { 4 };
        assert!(apk.data_start(entry).unwrap().is_multiple_of(align), "{}", entry.name);
    }
    assert_eq!(apk.read("lib/x86_64/liba.so", 10_000).unwrap(), vec![7; 10_000]);
    let manifest = Manifest::parse(&apk.read(manifest::PATH, manifest::MAX_LEN).unwrap()).unwrap();
    assert_eq!(manifest, Manifest { package: "com.example.a".into(), version_code: 1 });
}

#[test]
fn equal_inputs_give_equal_bytes() {
    assert_eq!(pack(), pack());
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let manifest = Manifest { package: "a.b".into(), version_code: 1 };
    let mut packer = Packer::new(IoCursor::new(Vec::new()), &manifest, "").unwrap();
    packer.add("x", b"1").unwrap();
    assert!(matches!(packer.add("x", b"2"), Err(PackError::Duplicate(name)) if name == "x"));
    assert!(matches!(packer.add(manifest::PATH, b""), Err(PackError::Duplicate(_))));
}

/// A packer that drops what it is given.
fn packer() -> Packer<IoCursor<Vec<u8>>> {
    let manifest = Manifest { package: "a.b".into(), version_code: 1 };
    Packer::new(IoCursor::new(Vec::new()), &manifest, "").unwrap()
}

#[test]
fn names_that_readers_disagree_about_are_refused() {
    for name in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\\b", "a\nb", "a\u{1b}[2J", &"x".repeat(65_536)] {
        assert!(matches!(packer().add(name, b""), Err(PackError::Name(found)) if found == name), "{name:?}");
    }
    packer().add("assets/Grüße aus Köln.txt", b"").unwrap();
}

#[test]
fn no_name_is_a_file_and_a_directory() {
    let mut one = packer();
    one.add("a/b", b"").unwrap();
    one.add("a/c/d", b"").unwrap();
    for (name, below) in [("a", "a/b"), ("a/c", "a/c/d")] {
        let refused = one.add(name, b"").unwrap_err().to_string();
        let expected =
            format!("{name:?} is a file, and {below:?} lies below it; give one of them another name");
        assert_eq!(refused, expected);
    }
    assert!(matches!(one.add("a/b/c", b""), Err(PackError::FileAndDirectory { file, .. }) if file == "a/b"));
}

/// A source of any length, which nobody reads.
struct Huge(u64);

impl ReadAt for Huge {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0)
    }

    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[test]
fn archives_that_would_need_zip64_are_refused() {
    for len in [u64::MAX, 1 << 32, 0xffff_ffff] {
        let refused = packer().add_from("assets/huge", &Huge(len));
        assert!(matches!(refused, Err(PackError::TooLarge { len: told, .. }) if told == len));
    }
    let mut many = packer();
    for index in 1..MAX_ENTRIES {
        many.add(&format!("assets/{index}"), b"").unwrap();
    }
    assert!(matches!(many.add("assets/one-more", b""), Err(PackError::TooManyEntries)));
    let apk = Apk::open(many.finish().unwrap().into_inner()).unwrap();
    assert_eq!(apk.entries().len(), MAX_ENTRIES);
}
