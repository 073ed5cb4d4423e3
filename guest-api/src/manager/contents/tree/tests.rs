use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn tree(entries: &[(&str, bool)]) -> Result<Tree, TreeError> {
    Tree::new(entries.iter().copied())
}

fn walk(tree: &Tree, path: &str) -> Option<u64> {
    path.split('/').try_fold(ROOT, |ino, name| tree.lookup(ino, name.as_bytes()))
}

#[test]
fn files_directories_and_what_lies_between_are_found() {
    let tree = tree(&[("lib/x86_64/a.so", false), ("assets", true), ("a", false)]).unwrap();
    assert_eq!(tree.kind(walk(&tree, "lib/x86_64/a.so").unwrap()), Some(Kind::File(0)));
    assert_eq!(tree.kind(walk(&tree, "lib/x86_64").unwrap()), Some(Kind::Directory));
    assert_eq!(tree.kind(walk(&tree, "assets").unwrap()), Some(Kind::Directory));
    assert_eq!(tree.kind(walk(&tree, "a").unwrap()), Some(Kind::File(2)));
    assert_eq!(walk(&tree, "b"), None);
    assert_eq!(walk(&tree, "a/b"), None, "a file has no children");
    assert_eq!(tree.kind(ROOT), Some(Kind::Directory));
    for ino in [0, tree.len() as u64 + 1, u64::MAX] {
        assert_eq!(tree.kind(ino), None);
        assert!(tree.list(ino, 0).is_none());
        assert_eq!(tree.lookup(ino, b"a"), None);
    }
}

#[test]
fn a_listing_can_be_resumed_after_any_line() {
    let tree = tree(&[("b", false), ("a/x", false), ("c", true)]).unwrap();
    let all: Vec<_> = tree.list(ROOT, 0).unwrap().map(|item| item.name).collect();
    assert_eq!(all, [".", "..", "a", "b", "c"]);
    for item in tree.list(ROOT, 0).unwrap() {
        let rest: Vec<_> = tree.list(ROOT, item.next).unwrap().map(|item| item.name).collect();
        assert_eq!(rest, all[usize::try_from(item.next).unwrap()..]);
    }
    assert_eq!(tree.list(ROOT, u64::MAX).unwrap().count(), 0);
    let a = walk(&tree, "a").unwrap();
    let inos: Vec<_> = tree.list(a, 0).unwrap().map(|item| item.ino).collect();
    assert_eq!(inos[..2], [a, ROOT]);
    assert_eq!(tree.subdirectories(ROOT), 2);
    assert!(tree.list(walk(&tree, "b").unwrap(), 0).is_none(), "a file has no listing");
}

#[test]
fn names_that_no_file_system_has_are_refused() {
    let long = "x".repeat(MAX_NAME + 1);
    for path in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0b", &long] {
        assert_eq!(tree(&[(path, false)]).unwrap_err(), TreeError::Name(path.to_owned()), "{path:?}");
    }
    assert!(tree(&[(&long[1..], false)]).is_ok());
    assert!(tree(&[("..a/...", false)]).is_ok());
}

#[test]
fn paths_that_cannot_be_there_at_once_are_refused() {
    for (entries, ok) in [
        ([("a", false), ("a", false)], false),
        ([("a", false), ("a/b", false)], false),
        ([("a/b", false), ("a", false)], false),
        ([("a", false), ("a", true)], false),
        ([("a", true), ("a", false)], false),
        ([("a", true), ("a", true)], true),
        ([("a/b", false), ("a", true)], true),
        ([("a/b", false), ("a/c", false)], true),
    ] {
        assert_eq!(tree(&entries).is_ok(), ok, "{entries:?}");
    }
}

#[test]
fn the_number_of_inodes_is_bounded_whatever_the_paths_are() {
    let paths: Vec<String> = (0..70).map(|i| format!("{i}{}", "/d".repeat(2000))).collect();
    let entries = paths.iter().map(|path| (path.as_str(), false));
    assert_eq!(Tree::new(entries).unwrap_err(), TreeError::TooMany);
}

#[test]
fn an_archive_as_full_as_possible_is_a_tree() {
    let paths: Vec<String> = (0..65534).map(|i| format!("assets/{i}")).collect();
    let tree = Tree::new(paths.iter().map(|path| (path.as_str(), false))).unwrap();
    assert_eq!(tree.len(), 65534 + 2);
    let assets = walk(&tree, "assets").unwrap();
    assert_eq!(tree.list(assets, 0).unwrap().count(), 65534 + 2);
    assert_eq!(tree.kind(walk(&tree, "assets/65533").unwrap()), Some(Kind::File(65533)));
}

proptest! {
    /// What a walk over listings finds is exactly what was put in, and each is found by name too.
    #[test]
    fn listing_and_lookup_agree_with_the_entries(paths in prop::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,3}", 0..12)) {
        let inside = |path: &String| paths.iter().any(|other| other.starts_with(&format!("{path}/")));
        let entries: Vec<(&str, bool)> = paths.iter().map(|path| (path.as_str(), inside(path))).collect();
        let tree = Tree::new(entries.iter().copied()).unwrap();
        let mut files = BTreeSet::new();
        let mut left = vec![(ROOT, String::new())];
        while let Some((directory, path)) = left.pop() {
            for item in tree.list(directory, 2).unwrap() {
                let full = if path.is_empty() { item.name.to_owned() } else { format!("{path}/{}", item.name) };
                prop_assert_eq!(walk(&tree, &full), Some(item.ino));
                prop_assert_eq!(tree.kind(item.ino), Some(item.kind));
                match item.kind {
                    Kind::Directory => left.push((item.ino, full)),
                    Kind::File(entry) => {
                        prop_assert_eq!(entries[entry].0, &full);
                        files.insert(full);
                    }
                }
            }
        }
        let expected: BTreeSet<_> = paths.iter().filter(|path| !inside(path)).cloned().collect();
        prop_assert_eq!(files, expected);
    }
}
