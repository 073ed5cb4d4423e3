use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

/// The definition, without regard for speed: levels as lists, bottom up.
fn naive(data: &[u8], prefix: &[u8]) -> Tree {
    let hash = |block: &[u8]| {
        let mut padded = block.to_vec();
        padded.resize(BLOCK_LEN, 0);
        Sha256::digest([prefix, &padded].concat()).to_vec()
    };
    let mut levels: Vec<Vec<u8>> = Vec::new();
    let mut current = data.to_vec();
    while current.len() > BLOCK_LEN {
        let mut level: Vec<u8> = current.chunks(BLOCK_LEN).flat_map(&hash).collect();
        level.resize(level.len().next_multiple_of(BLOCK_LEN), 0);
        levels.insert(0, level.clone());
        current = level;
    }
    let root = if data.is_empty() { vec![0; DIGEST_LEN] } else { hash(&current) };
    Tree { root: root.try_into().unwrap(), levels: levels.concat() }
}

#[test]
fn edges_agree_with_the_definition() {
    for len in [0, 1, 4095, 4096, 4097, 8192, 128 * 4096, 128 * 4096 + 1, 256 * 4096, (128 * 128 + 1) * 4096]
    {
        let data: Vec<u8> = (0..len).map(|i: usize| (i ^ i >> 9).to_le_bytes()[0]).collect();
        let tree = Tree::build(&data, b"").unwrap();
        assert!(tree == naive(&data, b""), "{len} bytes");
        assert_eq!(tree.levels.len(), tree_len(len as u64).unwrap(), "{len} bytes");
    }
}

#[test]
fn huge_lengths_are_computed_or_refused_without_memory() {
    assert_eq!(tree_len(1 << 40).unwrap(), (1 << 33) + (1 << 26) + (1 << 19) + (1 << 12));
    assert!(tree_len(u64::MAX).is_ok_and(|len| len > 1 << 56));
}

#[test]
fn a_source_that_ends_early_is_an_error() {
    struct Liar;
    impl ReadAt for Liar {
        fn len(&self) -> io::Result<u64> {
            Ok(3 << 20)
        }
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            vec![0u8; 2 << 20].read_exact_at(buffer, offset)
        }
    }
    assert_eq!(Tree::build(&Liar, b"").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Section 3: shape, padding, order of levels and prefix.
    #[test]
    fn agrees_with_the_definition(
        len in 0usize..600_000,
        seed in any::<u8>(),
        prefix in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let data: Vec<u8> = (0..len).map(|i| (i * 31 % 251).to_le_bytes()[0] ^ seed).collect();
        prop_assert!(Tree::build(&data, &prefix).unwrap() == naive(&data, &prefix));
    }
}
