use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::*;
use crate::disk::{DiskPlan, DiskReader, Filler, GuidSource, Part, PartitionSpec, plan};

/// Data, three megabytes of hole, one byte of data, a hole to the end.
fn sparse(path: &Path) -> u64 {
    let file = File::create(path).unwrap();
    file.write_all_at(&[7; 5000], 0).unwrap();
    file.write_all_at(&[9], 3 << 20).unwrap();
    file.set_len((4 << 20) + 3).unwrap();
    (4 << 20) + 3
}

fn plan_of(path: &Path, len: u64) -> DiskPlan {
    let specs = [
        PartitionSpec {
            label: "joined".into(),
            writable: false,
            filler: Filler::Size,
            parts: vec![Part::Bytes(Arc::from(*b"head")), Part::File { path: path.into(), len }],
        },
        PartitionSpec::read_only("b", Filler::None, Part::Bytes(Arc::from([5; 600]))),
    ];
    plan(&specs, GuidSource::Seed(b"flat")).unwrap()
}

fn assert_image(plan: &DiskPlan, out: &File) {
    let mut image = vec![0; usize::try_from(plan.len).unwrap()];
    ReadAt::read_exact_at(out, &mut image, 0).unwrap();
    let mut expected = vec![0; image.len()];
    DiskReader::of_plan(plan).unwrap().read_exact_at(&mut expected, 0).unwrap();
    assert!(image == expected);
    assert_eq!(ReadAt::len(out).unwrap(), plan.len);
    let stored = out.metadata().unwrap().blocks() * 512;
    assert!(stored < 1 << 20, "{stored} bytes are stored of an image that is mostly holes");
}

#[test]
fn holes_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("content");
    let plan = plan_of(&path, sparse(&path));
    let out = tempfile::tempfile_in(dir.path()).unwrap();
    out.write_all_at(&vec![0xee; 1 << 16], 0).unwrap();
    let mut told = Vec::new();
    write(&plan.extents, &out, &mut |done| told.push(done)).unwrap();
    assert_image(&plan, &out);
    assert!(told.is_sorted() && told.last() == Some(&plan.len), "{told:?}");
    assert!(told.len() > plan.extents.len(), "a file's own progress is told");
}

/// What the kernel will not copy goes through memory: here because the image is on another file system.
#[test]
fn another_file_system_makes_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("content");
    let plan = plan_of(&path, sparse(&path));
    let out = File::from(rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    write(&plan.extents, &out, &mut |_| {}).unwrap();
    assert_image(&plan, &out);
}

#[test]
fn zeros_that_go_through_memory_become_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("content");
    let mut content = vec![0; 5 << 20];
    content[5000] = 1;
    std::fs::write(&path, &content).unwrap();
    let plan = plan_of(&path, content.len() as u64);
    let out = tempfile::tempfile_in(dir.path()).unwrap();
    let extent = plan.extents.iter().find(|it| matches!(it.content, Content::File { .. })).unwrap();
    out.set_len(extent.start + extent.len).unwrap();
    let copy = FileCopy { in_kernel: false, ..FileCopy::new(&path, 0, extent, &out).unwrap() };
    copy.run(&mut |_| {}).unwrap();
    let mut copied = vec![1; content.len()];
    ReadAt::read_exact_at(&out, &mut copied, extent.start).unwrap();
    assert!(copied == content);
    assert!(out.metadata().unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_file_that_became_shorter_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("content");
    let len = sparse(&path);
    let plan = plan_of(&path, len);
    let out = tempfile::tempfile_in(dir.path()).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(len - 1).unwrap();
    let error = write(&plan.extents, &out, &mut |_| {}).unwrap_err();
    assert!(matches!(error, FlatError::Shorter { len: now, needed, .. } if (now, needed) == (len - 1, len)));
    assert!(error.to_string().contains("/content:"), "{error}");

    // Cut while it is copied: in the data, and in the hole at the end.
    for (in_kernel, cut) in [(true, 4000), (false, 4000), (true, len - 10), (false, len - 10)] {
        sparse(&path);
        let extent = plan.extents.iter().find(|it| matches!(it.content, Content::File { .. })).unwrap();
        let copy = FileCopy { in_kernel, ..FileCopy::new(&path, 0, extent, &out).unwrap() };
        file.set_len(cut).unwrap();
        let error = copy.run(&mut |_| {}).unwrap_err();
        assert!(matches!(error, FlatError::Shorter { len: now, .. } if now == cut), "{error:?}");
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let out = tempfile::tempfile_in(dir.path()).unwrap();
    for path in [fifo, dir.path().to_path_buf(), dir.path().join("absent")] {
        let error = write(&plan_of(&path, 100).extents, &out, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn an_image_that_cannot_be_written_is_no_fault_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("content");
    let plan = plan_of(&path, sparse(&path));
    let read_only = File::open(&path).unwrap();
    assert!(matches!(write(&plan.extents, &read_only, &mut |_| {}), Err(FlatError::Write(_))));
}
