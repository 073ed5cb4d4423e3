//! SHA-256 hash trees over 4 KiB blocks, as fs-verity, dm-verity and APK Signature Schemes v3 and v4 have them.
//!
//! ```text
//!   stored:  | top level (1 block) | .. | leaf level |        each level padded with zeros to whole blocks
//!
//!   root = H(prefix | top block)
//!   a level's digest i = H(prefix | block i of the level below), the lowest level being the data, its last block
//!   padded with zeros
//! ```
//!
//! Data of one block has no levels: the root is that block's hash. No data at all has a root of zeros (fs-verity).

use std::io;

use sha2::{Digest, Sha256};

use crate::ReadAt;
use crate::parallel;

/// Bytes of a block, of data and of the tree.
pub const BLOCK_LEN: usize = 4096;

/// Bytes of a digest.
pub const DIGEST_LEN: usize = 32;

/// Blocks that one thread reads and hashes at a time: 1 MiB.
const BATCH: usize = 256;

/// A hash tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The root hash.
    pub root: [u8; DIGEST_LEN],
    /// The levels, top first.
    pub levels: Vec<u8>,
}

impl Tree {
    /// Hashes all of `data`, each block behind `prefix`: reads it once, on all processors. Takes memory for the tree
    /// (1/128 of the data) and 1 MiB for each thread.
    ///
    /// # Errors
    /// When `data` cannot be read, or has a tree that does not fit the address space.
    pub fn build(data: &dyn ReadAt, prefix: &[u8]) -> io::Result<Self> {
        let data_len = data.len()?;
        let hash = BlockHash::new(prefix);
        if data_len <= BLOCK_LEN as u64 {
            return Ok(Self { root: hash.single(data, data_len)?, levels: Vec::new() });
        }
        let sizes = level_sizes(data_len)?;
        let mut levels = vec![0; sizes.iter().sum()];
        // From the end: leaves first, then each level from the one stored behind it.
        let mut end = levels.len();
        let mut start = end - sizes[0];
        hash.leaves(data, data_len, &mut levels[start..])?;
        for size in &sizes[1..] {
            let (above, below) = levels.split_at_mut(start);
            let digests = above[start - size..].chunks_exact_mut(DIGEST_LEN);
            for (block, digest) in below[..end - start].chunks_exact(BLOCK_LEN).zip(digests) {
                digest.copy_from_slice(&hash.block(block));
            }
            end = start;
            start -= size;
        }
        Ok(Self { root: hash.block(&levels[..BLOCK_LEN]), levels })
    }
}

/// Bytes that the levels of the tree over `data_len` bytes take.
///
/// # Errors
/// When they do not fit the address space.
pub fn tree_len(data_len: u64) -> io::Result<usize> {
    if data_len <= BLOCK_LEN as u64 {
        return Ok(0);
    }
    Ok(level_sizes(data_len)?.iter().sum())
}

/// The levels' sizes from the leaves up, for data of more than one block.
fn level_sizes(data_len: u64) -> io::Result<Vec<usize>> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the hash tree does not fit in memory");
    let mut blocks = usize::try_from(data_len.div_ceil(BLOCK_LEN as u64)).map_err(|_| too_long())?;
    let mut sizes = Vec::new();
    while blocks > 1 {
        let size = blocks
            .checked_mul(DIGEST_LEN)
            .and_then(|len| len.checked_next_multiple_of(BLOCK_LEN))
            .filter(|size| isize::try_from(*size).is_ok())
            .ok_or_else(too_long)?;
        sizes.push(size);
        blocks = size / BLOCK_LEN;
    }
    Ok(sizes)
}

/// SHA-256 that has taken the prefix already.
struct BlockHash(Sha256);

impl BlockHash {
    fn new(prefix: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(prefix))
    }

    /// The hash of a whole block.
    fn block(&self, block: &[u8]) -> [u8; DIGEST_LEN] {
        self.0.clone().chain_update(block).finalize().into()
    }

    /// The root over at most one block.
    fn single(&self, data: &dyn ReadAt, len: u64) -> io::Result<[u8; DIGEST_LEN]> {
        if len == 0 {
            return Ok([0; DIGEST_LEN]);
        }
        let mut block = [0; BLOCK_LEN];
        data.read_exact_at(&mut block[..usize::try_from(len).expect("at most a block")], 0)?;
        Ok(self.block(&block))
    }

    /// The digests of all blocks of `data`, which fill the beginning of `level`.
    fn leaves(&self, data: &dyn ReadAt, len: u64, level: &mut [u8]) -> io::Result<()> {
        let batch_len = (BATCH * BLOCK_LEN) as u64;
        let batches = (0..len).step_by(BATCH * BLOCK_LEN).zip(level.chunks_mut(BATCH * DIGEST_LEN));
        let threads = parallel::threads(len.div_ceil(batch_len));
        parallel::try_for_each(batches, threads, |(offset, digests), buffer| {
            let here = usize::try_from((len - offset).min(batch_len)).expect("at most a batch");
            buffer.clear();
            buffer.resize(here.next_multiple_of(BLOCK_LEN), 0);
            data.read_exact_at(&mut buffer[..here], offset)?;
            for (block, digest) in buffer.chunks_exact(BLOCK_LEN).zip(digests.chunks_exact_mut(DIGEST_LEN)) {
                digest.copy_from_slice(&self.block(block));
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        for len in
            [0, 1, 4095, 4096, 4097, 8192, 128 * 4096, 128 * 4096 + 1, 256 * 4096, (128 * 128 + 1) * 4096]
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
}
