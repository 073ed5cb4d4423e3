//! The images of shared components, judged by the tools that others use.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;

use payload::apex::{Apex, make};
use payload::avb::make::SigningKey;
use payload::read_at::ReadAt;

mod judge;
use judge::{can_run, run, succeeds};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Section 4: the root digest and the descriptor's numbers are all that dm-verity needs.
#[test]
fn veritysetup_verifies_a_component() {
    if !can_run("veritysetup_verifies_a_component", &["veritysetup"]) {
        return;
    }
    let key = SigningKey::from_seed([3; 32], 2048).unwrap();
    let filesystem: Vec<u8> = (0..1000 * 4096).map(|i: usize| (i % 251).to_le_bytes()[0]).collect();
    let bytes = make::apex("com.example.a", 1, filesystem, &[9; 32], &key).unwrap();
    let apex = Apex::open(bytes).unwrap();
    let image = apex.image().unwrap();
    let mut content = vec![0; usize::try_from(image.len().unwrap()).unwrap()];
    image.read_exact_at(&mut content, 0).unwrap();
    let verify = |content: &[u8], judged: &dyn Fn(&str, &[&str])| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let path = file.path().to_str().unwrap();
        let tree = &apex.hashtree;
        let blocks = format!("--data-blocks={}", tree.image_size / 4096);
        let offset = format!("--hash-offset={}", tree.tree_offset);
        let salt = format!("--salt={}", hex(&tree.salt));
        let root = hex(&apex.root_digest);
        let fixed = ["--no-superblock", "--format=1", "--hash=sha256", "verify", path, path, &root];
        judged("veritysetup", &[&[blocks.as_str(), &offset, &salt], &fixed[..]].concat());
    };
    verify(&content, &|program, args| drop(succeeds(program, args)));
    content[5] ^= 1;
    verify(&content, &|program, args| assert!(!run(program, args).status.success()));
}
