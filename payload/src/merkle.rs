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
//!
//! A tree is made in one pass ([`Tree::build`]), and blocks are checked with it one by one when they are read
//! ([`BlockVerifier`], [`VerifiedReader`]).

use std::io;

use crate::ReadAt;
use crate::parallel;

mod block_hash;
mod verify;

use block_hash::BlockHash;
pub use verify::{BlockError, BlockVerifier, VerifiedReader};

/// Bytes of a block, of data and of the tree.
pub const BLOCK_LEN: usize = 4096;

/// Bytes of a digest.
pub const DIGEST_LEN: usize = 32;

/// Digests in a block of the tree.
const PER_BLOCK: usize = BLOCK_LEN / DIGEST_LEN;

/// Blocks of the leaf level that one thread makes at a time: two, which are hashed together, over 1 MiB of data.
const BATCH: usize = 2;
/// Bytes of data under them.
const BATCH_DATA: usize = BATCH * PER_BLOCK * BLOCK_LEN;

/// Blocks that a thread reads at a time: few enough to be in the processor's nearest caches when they are hashed.
const READ: usize = 16;

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
    /// (1/128 of the data) and 64 KiB for each thread.
    ///
    /// # Errors
    /// When `data` cannot be read or ends before the length it tells, or has a tree that does not fit in memory.
    pub fn build(data: &dyn ReadAt, prefix: &[u8]) -> io::Result<Self> {
        let data_len = data.len()?;
        let hash = BlockHash::new(prefix);
        if data_len <= BLOCK_LEN as u64 {
            return Ok(Self { root: single(&hash, data, data_len)?, levels: Vec::new() });
        }
        let sizes = level_sizes(data_len)?;
        let mut levels = zeros(sizes.iter().sum::<usize>() * BLOCK_LEN)?;
        let mut root = [[0; DIGEST_LEN]];
        // From the end: leaves first, then each level from the one stored behind it; above the top is the root.
        let blocks = levels.as_chunks_mut().0;
        let mut start = blocks.len();
        for (n, size) in sizes.iter().enumerate() {
            start -= size;
            let (above, level) = blocks.split_at_mut(start);
            let level = &mut level[..*size];
            let digests = match sizes.get(n + 1) {
                Some(size) => digests_in(&mut above[start - size..]),
                None => &mut root,
            };
            if n == 0 {
                lowest_levels(&hash, (data, data_len), level, digests)?;
            } else {
                hash.blocks(level, digests);
            }
        }
        Ok(Self { root: root[0], levels })
    }
}

/// As many zeros, or an error where there is no memory for them: the length may be one that somebody only claims.
fn zeros(len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// The digests that these blocks of a level hold.
fn digests_in(level: &mut [[u8; BLOCK_LEN]]) -> &mut [[u8; DIGEST_LEN]] {
    level.as_flattened_mut().as_chunks_mut().0
}

/// The root over at most one block.
fn single(hash: &BlockHash, data: &dyn ReadAt, len: u64) -> io::Result<[u8; DIGEST_LEN]> {
    if len == 0 {
        return Ok([0; DIGEST_LEN]);
    }
    let mut block = [0; BLOCK_LEN];
    data.read_exact_at(&mut block[..usize::try_from(len).expect("at most a block")], 0)?;
    Ok(hash.block(&block))
}

/// Fills the leaf level with the digests of all blocks of `data`, which has this length, and `above` with those of the
/// leaf level's blocks, each of which is hashed as soon as it is full.
fn lowest_levels(
    hash: &BlockHash,
    (data, len): (&dyn ReadAt, u64),
    leaf: &mut [[u8; BLOCK_LEN]],
    above: &mut [[u8; DIGEST_LEN]],
) -> io::Result<()> {
    let batches = (0..len).step_by(BATCH_DATA).zip(leaf.chunks_mut(BATCH)).zip(above.chunks_mut(BATCH));
    let threads = parallel::threads(len.div_ceil(BATCH_DATA as u64));
    parallel::try_for_each(batches, threads, |((start, leaf), above), buffer| {
        buffer.resize(READ * BLOCK_LEN, 0);
        let offsets = (start..len).step_by(buffer.len());
        for (offset, digests) in offsets.zip(digests_in(leaf).chunks_mut(READ)) {
            let here = usize::try_from(len - offset).map_or(buffer.len(), |left| left.min(buffer.len()));
            let whole = here.next_multiple_of(BLOCK_LEN);
            data.read_exact_at(&mut buffer[..here], offset)?;
            buffer[here..whole].fill(0);
            hash.blocks(buffer[..whole].as_chunks().0, digests);
        }
        hash.blocks(leaf, above);
        Ok(())
    })
}

/// Bytes that the levels of the tree over `data_len` bytes take.
///
/// # Errors
/// When they do not fit the address space.
pub fn tree_len(data_len: u64) -> io::Result<usize> {
    Ok(level_sizes(data_len)?.iter().sum::<usize>() * BLOCK_LEN)
}

/// The levels' blocks from the leaves up: none for data of one block.
fn level_sizes(data_len: u64) -> io::Result<Vec<usize>> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the hash tree does not fit in memory");
    let mut blocks = usize::try_from(data_len.div_ceil(BLOCK_LEN as u64)).map_err(|_| too_long())?;
    let mut sizes = Vec::new();
    while blocks > 1 {
        blocks = blocks.div_ceil(PER_BLOCK);
        sizes.push(blocks);
    }
    // All levels together have less than twice the leaves.
    match sizes.first().is_none_or(|leaf| *leaf < isize::MAX.cast_unsigned() / 2 / BLOCK_LEN) {
        true => Ok(sizes),
        false => Err(too_long()),
    }
}

#[cfg(test)]
mod tests;
