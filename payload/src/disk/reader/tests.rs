use super::*;
use crate::disk::{Component, Filler, GuidSource, Part, PartitionSpec, PartitionTable, plan};

fn all(disk: &DiskReader) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.len).unwrap()];
    disk.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_composite_disk_reads_like_a_flat_one() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("a", &[1; 4096]);
    write("b", b"..bbbb");
    let at = |path: &str, offset, file_offset| Component {
        path: path.into(),
        offset,
        file_offset,
        writable: false,
    };
    let absolute = dir.path().join("a").to_str().unwrap().to_string();
    let components = vec![at("b", 4096, 2), at("a", 0, 0), at(&absolute, 8000, 4000)];
    let spec = CompositeSpec::new(super::super::composite::CompositeVersion::Relative, components, 8096);
    write("spec", &spec.unwrap().to_bytes().unwrap());

    let disk = open(&dir.path().join("spec")).unwrap();
    assert!(disk.composite().is_some());
    let expected = [vec![1; 4096], vec![b'b'; 4], vec![0; 3900], vec![1; 96]].concat();
    assert_eq!(all(&disk), expected);
    for (start, len) in [(4094, 4), (4099, 2), (0, 8096), (8095, 1), (8096, 0)] {
        let mut some = vec![0xee; len];
        disk.read_exact_at(&mut some, start as u64).unwrap();
        assert_eq!(some, expected[start..start + len]);
    }
    for (start, len) in [(8096, 1), (0, 8097), (u64::MAX, 1)] {
        let error = disk.read_exact_at(&mut vec![0; len], start).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    assert_eq!(disk.files.len(), 2, "each path is opened once");
}

#[test]
fn a_raw_image_is_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw");
    for content in [&b""[..], b"composite_disk", b"anything longer than fifteen bytes"] {
        std::fs::write(&path, content).unwrap();
        let disk = open(&path).unwrap();
        assert!(disk.composite().is_none());
        assert_eq!(all(&disk), content);
    }
}

#[test]
fn a_plan_is_read_without_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, [9; 5000]).unwrap();
    let part = Part::File { path: path.clone(), len: 5000 };
    let plan = plan(&[PartitionSpec::read_only("p", Filler::Size, part)], GuidSource::Random).unwrap();
    let disk = DiskReader::of_plan(&plan).unwrap();
    let table = PartitionTable::read(&disk).unwrap();
    assert_eq!(table.problems, []);
    let mut got = [0; 3];
    disk.read_exact_at(&mut got, table.partitions[0].start().unwrap() + 4998).unwrap();
    assert_eq!(got, [9, 9, 0]);

    std::fs::File::options().write(true).open(&path).unwrap().set_len(4000).unwrap();
    let error = disk.read_exact_at(&mut got, 20480 + 4500).unwrap_err();
    assert!(error.to_string().contains("it has become shorter"), "{error}");
    let error = DiskReader::of_plan(&plan).unwrap_err();
    assert!(matches!(error, OpenError::ShortFile { len: 4000, needed: 5000, .. }), "{error}");
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for path in [fifo, dir.path().to_path_buf(), "/dev/null".into(), dir.path().join("absent")] {
        let error = open(&path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let path = dir.path().join("spec");
    std::fs::write(&path, b"composite_disk\x1d").unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Composite { .. }), "{error}");
}
