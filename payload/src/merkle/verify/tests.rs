use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::super::Tree;
use super::*;

fn data(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251).to_le_bytes()[0] ^ (i >> 12).to_le_bytes()[0] ^ seed).collect()
}

fn verifier(tree: &Tree, prefix: &[u8], len: usize, levels: Vec<u8>) -> BlockVerifier<Vec<u8>> {
    BlockVerifier::new(tree.root, prefix, len as u64, levels).unwrap()
}

/// Counts the blocks read.
struct Counted(Vec<u8>, AtomicU64);

impl ReadAt for &Counted {
    fn len(&self) -> io::Result<u64> {
        ReadAt::len(&self.0)
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        assert_eq!(buffer.len(), BLOCK_LEN);
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_exact_at(buffer, offset)
    }
}

#[test]
fn a_block_takes_one_block_of_each_level_and_none_twice() {
    let bytes = data((128 * 128 + 200) * BLOCK_LEN, 0);
    let tree = Tree::build(&bytes, b"").unwrap();
    let counted = Counted(tree.levels, AtomicU64::new(0));
    let verifier = BlockVerifier::new(tree.root, b"", bytes.len() as u64, &counted).unwrap();
    let read = |index: usize, expected| {
        verifier.verify(index as u64, &bytes[index * BLOCK_LEN..][..BLOCK_LEN]).unwrap();
        assert_eq!(counted.1.swap(0, Ordering::Relaxed), expected, "block {index}");
    };
    read(5, 3);
    read(127, 0);
    read(128, 1);
    read(128 * 129, 2);
    read(6, 0);
    // In place of the leaf level's first block.
    read(128 * REMEMBERED, 1);
    read(6, 1);
}

#[test]
fn only_blocks_there_are_have_a_verdict() {
    let bytes = data(3 * BLOCK_LEN + 5, 0);
    let tree = Tree::build(&bytes, b"").unwrap();
    let verifier = verifier(&tree, b"", bytes.len(), tree.levels.clone());
    verifier.verify(3, &bytes[3 * BLOCK_LEN..]).unwrap();
    let mut padded = bytes[3 * BLOCK_LEN..].to_vec();
    padded.resize(BLOCK_LEN, 0);
    verifier.verify(3, &padded).unwrap();
    for (index, block) in [
        (0, &bytes[..BLOCK_LEN - 1]),
        (0, &bytes[..BLOCK_LEN + 1]),
        (0, &[]),
        (3, &padded[..4]),
        (3, &padded[..6]),
        (4, &[]),
        (4, &padded),
        (u64::MAX, &padded),
        (u64::MAX / 4096 + 1, &padded),
    ] {
        let error = verifier.verify(index, block).unwrap_err();
        assert!(matches!(error, BlockError::NoBlock { .. }), "{index}: {error}");
    }
    for len in [0, BLOCK_LEN - 1, 2 * BLOCK_LEN] {
        let error = BlockVerifier::new(tree.root, b"", bytes.len() as u64, vec![0; len]).err().unwrap();
        assert!(matches!(error, BlockError::TreeLen { expected: 4096, .. }), "{error}");
    }
}

#[test]
fn data_that_ends_early_is_an_error_and_empty_data_has_no_block() {
    let bytes = data(3 * BLOCK_LEN, 0);
    let tree = Tree::build(&bytes, b"").unwrap();
    let verifier = verifier(&tree, b"", bytes.len(), tree.levels.clone());
    let reader = VerifiedReader::new(bytes[..BLOCK_LEN + 9].to_vec(), verifier);
    let mut buffer = vec![1; 2 * BLOCK_LEN];
    reader.read_exact_at(&mut buffer[..BLOCK_LEN], 0).unwrap();
    let error = reader.read_exact_at(&mut buffer, 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(buffer.iter().all(|byte| *byte == 0), "nothing unverified is left");

    let empty = BlockVerifier::new([0; 32], b"", 0, Vec::new()).unwrap();
    assert!(matches!(empty.verify(0, &[]), Err(BlockError::NoBlock { .. })));
    assert!(matches!(empty.verify(0, &[0; BLOCK_LEN]), Err(BlockError::NoBlock { .. })));
}

/// A tree that is damaged here and there, with data that is damaged elsewhere.
#[derive(Debug)]
struct Damage {
    len: usize,
    /// Bit of the data that is flipped, or of the tree behind it.
    bit: usize,
}

fn damage() -> impl Strategy<Value = Damage> {
    (1usize..(3 * 128 + 9) * BLOCK_LEN).prop_flat_map(|len| {
        let bits = 8 * (len + tree_len(len as u64).unwrap());
        (0..bits).prop_map(move |bit| Damage { len, bit })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Section 3: a flipped bit is found in exactly the blocks below it.
    #[test]
    fn damage_is_found_in_exactly_the_blocks_it_affects(
        Damage { len, bit } in damage(),
        prefix in prop::sample::select(vec![vec![], vec![7; 32], vec![9; 64]]),
    ) {
        let mut bytes = data(len, 3);
        let tree = Tree::build(&bytes, &prefix).unwrap();
        let mut levels = tree.levels.clone();
        let byte = bit / 8;
        let affected = match byte.checked_sub(len) {
            None => {
                bytes[byte] ^= 1 << (bit % 8);
                byte / BLOCK_LEN..byte / BLOCK_LEN + 1
            }
            Some(byte) => {
                levels[byte] ^= 1 << (bit % 8);
                let sizes = level_sizes(len as u64).unwrap();
                let leaves = levels.len() / BLOCK_LEN - sizes[0];
                match (byte / BLOCK_LEN).checked_sub(leaves) {
                    // One level above the leaves is all there is over so few.
                    None => 0..len.div_ceil(BLOCK_LEN),
                    Some(leaf) => leaf * PER_BLOCK..((leaf + 1) * PER_BLOCK).min(len.div_ceil(BLOCK_LEN)),
                }
            }
        };
        let verifier = verifier(&tree, &prefix, len, levels);
        for (index, block) in bytes.chunks(BLOCK_LEN).enumerate() {
            let verdict = verifier.verify(index as u64, block);
            prop_assert_eq!(verdict.is_err(), affected.contains(&index), "block {}: {:?}", index, verdict);
        }
    }

    #[test]
    fn ranges_are_read_as_they_are_or_not_at_all(
        len in 1usize..40 * BLOCK_LEN,
        start in any::<prop::sample::Index>(),
        end in any::<prop::sample::Index>(),
        damaged in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let bytes = data(len, 5);
        let tree = Tree::build(&bytes, b"salt").unwrap();
        let mut stored = bytes.clone();
        let damaged = damaged.map(|at| at.index(len));
        if let Some(at) = damaged {
            stored[at] ^= 0x10;
        }
        let reader = VerifiedReader::new(stored, verifier(&tree, b"salt", len, tree.levels.clone()));
        let start = start.index(len + 1);
        let end = start + end.index(len - start + 1);
        let mut found = vec![0xee; end - start];
        let result = reader.read_exact_at(&mut found, start as u64);
        let touched = |at: usize| start < end && (start / BLOCK_LEN..=(end - 1) / BLOCK_LEN).contains(&(at / BLOCK_LEN));
        if damaged.is_some_and(touched) {
            prop_assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
            prop_assert!(found.iter().all(|byte| *byte == 0));
        } else {
            result.unwrap();
            prop_assert!(found == bytes[start..end]);
        }
        let mut past = vec![0; len + 1 - start];
        prop_assert_eq!(reader.read_exact_at(&mut past, start as u64).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
