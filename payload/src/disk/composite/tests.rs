use proptest::prelude::*;

use super::*;

fn component(path: &str, offset: u64) -> Component {
    Component { path: path.into(), offset, file_offset: 0, writable: false }
}

fn spec(components: Vec<Component>, len: u64) -> Result<CompositeSpec, CompositeError> {
    CompositeSpec::new(CompositeVersion::Relative, components, len)
}

fn problem(result: Result<CompositeSpec, CompositeError>) -> ComponentProblem {
    match result {
        Err(CompositeError::Component { problem, .. }) => problem,
        other => panic!("expected a component's problem, got {other:?}"),
    }
}

fn file(message: &wire::CompositeDisk) -> Vec<u8> {
    [COMPOSITE_MAGIC.as_slice(), &message.encode_to_vec()].concat()
}

fn message() -> wire::CompositeDisk {
    let disk = |path: &str, offset| wire::ComponentDisk {
        file_path: path.into(),
        offset,
        ..wire::ComponentDisk::default()
    };
    wire::CompositeDisk {
        version: 2,
        component_disks: vec![disk("head", 0), disk("/a/b.apk", 20480)],
        length: 65536,
    }
}

/// Section 2: magic, field numbers and wire types, checked by hand against the table.
#[test]
fn bytes_are_the_published_ones() {
    let components = vec![
        component("h", 0),
        Component { path: "/d".into(), offset: 512, file_offset: 300, writable: true },
    ];
    let bytes = spec(components, 1024).unwrap().to_bytes().unwrap();
    let mut expected = b"composite_disk\x1d".to_vec();
    expected.extend([0x08, 2]); // version
    expected.extend([0x12, 3, 0x0a, 1, b'h']); // component_disks { file_path
    expected.extend([0x12, 12, 0x0a, 2, b'/', b'd', 0x10, 0x80, 0x04, 0x18, 1, 0x20, 0xac, 0x02]);
    expected.extend([0x18, 0x80, 0x08]); // length
    assert_eq!(bytes, expected);
}

#[test]
fn components_may_come_in_any_order() {
    let mut shuffled = message();
    shuffled.component_disks.reverse();
    let read = CompositeSpec::read(&file(&shuffled)).unwrap();
    assert_eq!(read, CompositeSpec::read(&file(&message())).unwrap());
    assert_eq!(read.components()[0].path, Path::new("head"));
}

#[test]
fn what_is_no_composite_disk_is_refused() {
    let read = |message: &wire::CompositeDisk| CompositeSpec::read(&file(message));
    for version in [0, 3, u32::MAX] {
        let error = read(&wire::CompositeDisk { version, ..message() }).unwrap_err();
        assert!(matches!(error, CompositeError::Version(found) if found == version), "{error}");
    }
    for length in [0, 20480, i64::MAX.unsigned_abs() + 1, u64::MAX] {
        let error = read(&wire::CompositeDisk { length, ..message() }).unwrap_err();
        assert!(matches!(error, CompositeError::Length { last: 20480, .. }), "{error}");
    }
    let change = |change: fn(&mut wire::ComponentDisk)| {
        let mut message = message();
        change(&mut message.component_disks[1]);
        read(&message)
    };
    assert_eq!(problem(change(|it| it.offset = 0)), ComponentProblem::SameOffset(0));
    assert_eq!(problem(change(|it| it.read_write_capability = 2)), ComponentProblem::Capability(2));
    assert_eq!(problem(change(|it| it.read_write_capability = -1)), ComponentProblem::Capability(-1));
    assert_eq!(problem(change(|it| it.file_path.clear())), ComponentProblem::Path);
    assert_eq!(problem(change(|it| it.file_path = "a\0b".into())), ComponentProblem::Path);
    for offset in [u64::MAX, i64::MAX.unsigned_abs()] {
        let mut message = message();
        message.component_disks[1].file_offset = offset;
        assert_eq!(problem(read(&message)), ComponentProblem::FileRange(offset));
    }
    let mut late = message();
    late.component_disks[0].offset = 512;
    assert!(matches!(read(&late), Err(CompositeError::Start(512))));
    let old = wire::CompositeDisk { version: 1, ..message() };
    assert_eq!(problem(read(&old)), ComponentProblem::Relative);
    let none = wire::CompositeDisk { component_disks: Vec::new(), ..message() };
    assert!(matches!(read(&none), Err(CompositeError::Components(0))));
    let many = (0..1025).map(|i| component("x", i)).collect();
    assert!(matches!(spec(many, 4096), Err(CompositeError::Components(1025))));
}

#[test]
fn what_is_not_whole_is_refused() {
    let whole = file(&message());
    for len in 0..whole.len() {
        let error = CompositeSpec::read(&whole[..len].to_vec()).unwrap_err();
        let wanted_magic = len < COMPOSITE_MAGIC.len();
        assert_eq!(matches!(error, CompositeError::Magic), wanted_magic, "{len}: {error}");
    }
    let mut long = COMPOSITE_MAGIC.to_vec();
    long.resize(300_000, 0);
    assert!(matches!(CompositeSpec::read(&long), Err(CompositeError::TooLong(300_000))));
    let inner = [COMPOSITE_MAGIC.as_slice(), &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    assert!(matches!(CompositeSpec::read(&inner), Err(CompositeError::Decode(_))));
}

#[test]
fn a_path_that_is_no_text_cannot_be_written() {
    use std::os::unix::ffi::OsStringExt;
    let path = PathBuf::from(std::ffi::OsString::from_vec(b"a\xff".to_vec()));
    let made = spec(vec![Component { path: path.clone(), ..component("", 0) }], 1).unwrap();
    assert!(matches!(made.to_bytes(), Err(CompositeError::PathText(found)) if found == path));
}

#[test]
fn short_files_end_in_zeros_unless_they_may_be_written() {
    let extents = |writable, len: u64| {
        let one = Component { writable, ..component("f", 0) };
        spec(vec![one], 8192).unwrap().extents(Path::new("/d"), |_, _| Ok::<_, CompositeError>(len))
    };
    let found = extents(false, 4097).unwrap();
    let content = Content::File { path: "/d/f".into(), offset: 0, writable: false };
    assert_eq!(
        found,
        [Extent { start: 0, len: 4097, content }, Extent { start: 4097, len: 4095, content: Content::Zeros }]
    );
    assert_eq!(extents(false, 1 << 40).unwrap().len(), 1);
    for (writable, len) in [(false, 4096), (false, 0), (true, 8191)] {
        let error = extents(writable, len).unwrap_err();
        let problem = ComponentProblem::ShortFile { needed: 8192, len };
        assert!(matches!(error, CompositeError::Component { problem: found, .. } if found == problem));
    }
}

proptest! {
    /// Section 2: what is written is read again, and extents cover the disk once, in order.
    #[test]
    fn write_and_read_agree(
        lengths in prop::collection::vec((1u64..1 << 40, 0u64..1 << 40, any::<bool>()), 1..40),
    ) {
        let mut at = 0;
        let mut components = Vec::new();
        for (index, (len, file_offset, writable)) in lengths.iter().enumerate() {
            components.push(Component {
                path: format!("ö-{index}").into(),
                offset: at,
                file_offset: *file_offset,
                writable: *writable,
            });
            at += len;
        }
        let made = spec(components, at).unwrap();
        let read = CompositeSpec::read(&made.to_bytes().unwrap()).unwrap();
        prop_assert_eq!(&read, &made);
        let extents = read.extents(Path::new("d"), |_, _| Ok::<_, CompositeError>(u64::MAX)).unwrap();
        let mut expected = 0;
        for (extent, (len, file_offset, writable)) in extents.iter().zip(&lengths) {
            prop_assert_eq!((extent.start, extent.len), (expected, *len));
            let Content::File { offset, writable: found, .. } = &extent.content else { panic!("a file") };
            prop_assert_eq!((offset, found), (file_offset, writable));
            expected += len;
        }
        prop_assert_eq!(expected, read.len());
    }
}
