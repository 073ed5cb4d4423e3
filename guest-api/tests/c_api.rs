//! The C API is written down four times, for four tools: header, version script, stub and implementation. They must agree.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::PathBuf;

fn read(path: &str) -> String {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// C comments are prose, in which functions are named as well.
fn without_comments(source: &str) -> String {
    let mut parts = source.split("/*");
    let mut code = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        code.push_str(part.split_once("*/").unwrap().1);
    }
    code
}

/// Names that begin like those of the API and are followed by `after`.
fn functions(code: &str, after: char) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (start, _) in code.match_indices("AVm") {
        let rest = &code[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if rest[end..].starts_with(after) {
            found.insert(rest[..end].to_owned());
        }
    }
    found
}

#[test]
fn header_version_script_stub_and_implementation_agree() {
    let map = read("libvm_payload.map.txt");
    let exported = functions(&map, ';');
    assert!(exported.len() >= 2, "{exported:?}");
    assert!(map.trim_start().starts_with("LIBVM_PAYLOAD {") && map.contains("local:\n    *;"));
    assert_eq!(functions(&without_comments(&read("include/vm_payload.h")), '('), exported);
    assert_eq!(functions(&without_comments(&read("stub/stub.c")), '('), exported);
    let implemented: BTreeSet<_> = read("src/ffi.rs")
        .split("#[unsafe(no_mangle)]")
        .skip(1)
        .filter_map(|part| functions(part.split_once('{')?.0, '(').pop_first())
        .collect();
    assert_eq!(implemented, exported);
}

#[test]
fn the_entry_point_is_declared_apart() {
    let header = without_comments(&read("include/vm_main.h"));
    assert_eq!(functions(&header, '(').into_iter().collect::<Vec<_>>(), ["AVmPayload_main"]);
    assert!(header.contains("int AVmPayload_main(void);"));
}
