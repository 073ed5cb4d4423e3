use super::*;

fn bytes(archive: &Archive) -> Vec<u8> {
    let mut out = Vec::new();
    let written = archive.write(&mut out).unwrap();
    assert_eq!(written, u64::try_from(out.len()).unwrap());
    out
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    mode: u32,
    ino: u32,
    content: Vec<u8>,
}

/// Reads an archive as the format's description says, checking all that is fixed.
fn read(mut rest: &[u8]) -> Vec<Entry> {
    let whole = rest.len();
    let mut entries = Vec::new();
    loop {
        assert_eq!(&rest[..6], b"070701");
        let field = |n: usize| {
            let digits = std::str::from_utf8(&rest[6 + 8 * n..14 + 8 * n]).unwrap();
            u32::from_str_radix(digits, 16).unwrap()
        };
        for zero in [2, 3, 5, 7, 8, 9, 10, 12] {
            assert_eq!(field(zero), 0, "field {zero}");
        }
        let (name_size, size) = (usize::try_from(field(11)).unwrap(), usize::try_from(field(6)).unwrap());
        let name = std::str::from_utf8(&rest[110..110 + name_size - 1]).unwrap().to_owned();
        assert_eq!(rest[110 + name_size - 1], 0);
        let start = (110 + name_size).next_multiple_of(4);
        let end = start + size;
        if name == "TRAILER!!!" {
            assert_eq!(rest.len(), start, "nothing follows the end");
            assert_eq!(whole % 4, 0);
            return entries;
        }
        entries.push(Entry { name, mode: field(1), ino: field(0), content: rest[start..end].to_vec() });
        assert!(rest[end..end.next_multiple_of(4)].iter().all(|byte| *byte == 0));
        rest = &rest[end.next_multiple_of(4)..];
    }
}

#[test]
fn an_empty_tree_has_its_root_with_mode_755() {
    let entries = read(&bytes(&Archive::default()));
    assert_eq!(entries, [Entry { name: ".".into(), mode: 0o040_755, ino: 1, content: vec![] }]);
}

#[test]
fn a_tree_reads_back_with_parents_first() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::write(&source, b"12345").unwrap();
    let mut archive = Archive::default();
    archive.file("/usr/lib/b", 0o644, Content::File(source)).unwrap();
    archive.file("/init", 0o755, Content::Bytes(b"abc".to_vec())).unwrap();
    archive.directory("/tmp", 0o1777).unwrap();
    assert!(archive.contains("/usr") && archive.contains("/init") && !archive.contains("/ini"));
    let entries = read(&bytes(&archive));
    let names: Vec<(&str, u32, &[u8])> =
        entries.iter().map(|e| (e.name.as_str(), e.mode, e.content.as_slice())).collect();
    let expected: [(&str, u32, &[u8]); 6] = [
        (".", 0o040_755, b""),
        ("init", 0o100_755, b"abc"),
        ("tmp", 0o041_777, b""),
        ("usr", 0o040_755, b""),
        ("usr/lib", 0o040_755, b""),
        ("usr/lib/b", 0o100_644, b"12345"),
    ];
    assert_eq!(names, expected);
    let inos: std::collections::BTreeSet<u32> = entries.iter().map(|e| e.ino).collect();
    assert_eq!(inos.len(), entries.len(), "inode numbers differ, or equal ones would become hard links");
}

#[test]
fn the_order_of_adding_does_not_matter() {
    let build = |paths: &[&str]| {
        let mut archive = Archive::default();
        for path in paths {
            archive.file(path, 0o644, Content::Bytes(path.as_bytes().to_vec())).unwrap();
        }
        bytes(&archive)
    };
    assert_eq!(build(&["/a/b", "/a-b", "/c"]), build(&["/c", "/a/b", "/a-b"]));
}

#[test]
fn paths_that_are_not_plain_are_refused() {
    for path in ["", "a", "/", "//a", "/a/", "/a/../b", "/./a", "/a\0b"] {
        let mut archive = Archive::default();
        assert!(archive.file(path, 0o644, Content::Bytes(vec![])).is_err(), "{path:?}");
    }
}

#[test]
fn one_path_has_one_content() {
    let mut archive = Archive::default();
    archive.file("/a", 0o644, Content::Bytes(vec![1])).unwrap();
    archive.file("/a", 0o644, Content::Bytes(vec![1])).unwrap();
    assert!(archive.file("/a", 0o644, Content::Bytes(vec![2])).is_err());
    assert!(archive.file("/a/b", 0o644, Content::Bytes(vec![])).is_err(), "below a file");
    assert!(archive.directory("/a", 0o755).is_err());
}

#[test]
fn a_file_that_is_not_there_or_not_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for source in [dir.path().join("absent"), dir.path().to_path_buf()] {
        let mut archive = Archive::default();
        archive.file("/x", 0o644, Content::File(source.clone())).unwrap();
        let error = format!("{:#}", archive.write(Vec::new()).unwrap_err());
        assert!(error.contains("/x") && error.contains(&source.display().to_string()), "{error}");
    }
}
