use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::ReadAt;
use crate::disk::{self, DiskReader, GuidSource, Part, PartitionSpec, plan};

#[test]
fn names_keep_their_extension() {
    for (path, beside_it) in [
        ("/d/disk.img", "/d/disk-x.img"),
        ("disk", "disk-x"),
        ("/d/a.b.c", "/d/a.b-x.c"),
        ("/d/.h", "/d/.h-x"),
    ] {
        assert_eq!(beside(Path::new(path), "x"), Path::new(beside_it));
    }
}

#[test]
fn components_below_the_specification_are_relative_to_it() {
    let file = |path: &str| {
        PartitionSpec::read_only(path, Filler::None, Part::File { path: path.into(), len: 4096 })
    };
    let plan = plan(&[file("/a/b/c/in"), file("/a/out")], GuidSource::Random).unwrap();
    let named = |version| {
        let made = CompositeFiles::of_plan(&plan, Path::new("/a/b/disk.img"), version).unwrap();
        let names = made.spec.components().iter().map(|it| it.path.to_str().unwrap().to_string());
        names.collect::<Vec<_>>()
    };
    let relative = ["disk-header.img", "c/in", "/a/out", "disk-footer.img"];
    assert_eq!(named(CompositeVersion::Relative), relative);
    let absolute = ["/a/b/disk-header.img", "/a/b/c/in", "/a/out", "/a/b/disk-footer.img"];
    assert_eq!(named(CompositeVersion::Absolute), absolute);
}

/// For each partition: its filler, and whether each part is a file, and how long.
fn partitions() -> impl Strategy<Value = Vec<(Filler, Vec<(bool, usize)>)>> {
    let parts = prop::collection::vec((any::<bool>(), 1usize..9000), 1..4);
    let filler = prop_oneof![Just(Filler::None), Just(Filler::Zero), Just(Filler::Size)];
    prop::collection::vec((filler, parts), 1..5)
}

fn specs(dir: &Path, partitions: &[(Filler, Vec<(bool, usize)>)]) -> Vec<PartitionSpec> {
    let mut number = 0;
    let mut part = |(is_file, len): &(bool, usize)| {
        number += 1;
        let bytes = vec![number; *len];
        if !is_file {
            return Part::Bytes(bytes.into());
        }
        let path = dir.join(format!("file-{number}"));
        std::fs::write(&path, bytes).unwrap();
        Part::File { path, len: *len as u64 }
    };
    let mut spec = |(index, (filler, parts)): (usize, &(Filler, Vec<_>))| PartitionSpec {
        label: format!("p{index}"),
        writable: false,
        filler: *filler,
        parts: parts.iter().map(&mut part).collect(),
    };
    partitions.iter().enumerate().map(&mut spec).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Section 2: the files of any plan, read through their specification, are the plan's disk.
    #[test]
    fn any_plan_is_read_back_from_its_files(partitions in partitions()) {
        let dir = tempfile::tempdir().unwrap();
        let specs = specs(dir.path(), &partitions);
        let plan = plan(&specs, GuidSource::Seed(b"files")).unwrap();
        let path = dir.path().join("disk.img");
        let made = CompositeFiles::of_plan(&plan, &path, CompositeVersion::Relative).unwrap();
        let mut seen = HashMap::new();
        for new in &made.files {
            prop_assert!(seen.insert(new.path.clone(), ()).is_none(), "{:?} is written twice", new.path);
            new.write(&File::create(&new.path).unwrap()).unwrap();
        }
        std::fs::write(&path, made.spec.to_bytes().unwrap()).unwrap();
        let all = |disk: &DiskReader| {
            let mut bytes = vec![0; usize::try_from(plan.len).unwrap()];
            disk.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        prop_assert!(all(&disk::open(&path).unwrap()) == all(&DiskReader::of_plan(&plan).unwrap()));
    }
}
