//! Blocks checked one by one, each by the few blocks of the tree between it and the root.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::block_hash::BlockHash;
use super::{BLOCK_LEN, DIGEST_LEN, PER_BLOCK, READ, level_sizes, tree_len};
use crate::ReadAt;

/// Blocks of each level that are remembered; a tree has at most eight levels, and two over most archives.
const REMEMBERED: usize = 16;

/// Why a block is not believed.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The tree cannot be read.
    #[error("read block {block} of the hash tree")]
    ReadTree {
        /// Block of the tree, from its start.
        block: u64,
        /// Why not.
        source: io::Error,
    },
    /// A tree that cannot be of this data.
    #[error("the hash tree has {found} bytes, one over {data_len} bytes has {expected}")]
    TreeLen {
        /// Its bytes.
        found: u64,
        /// Bytes there must be.
        expected: u64,
        /// Bytes of the data.
        data_len: u64,
    },
    /// The tree is not the root's.
    #[error("block {block} of the hash tree is damaged")]
    Tree {
        /// Block of the tree, from its start.
        block: u64,
    },
    /// The data is not the tree's.
    #[error("block {block} is damaged")]
    Data {
        /// Block of the data.
        block: u64,
    },
    /// There is no such block.
    #[error("there is no block {block} of {len} bytes in data of {data_len} bytes")]
    NoBlock {
        /// Block of the data.
        block: u64,
        /// Bytes given as it.
        len: usize,
        /// Bytes of the data.
        data_len: u64,
    },
}

impl From<BlockError> for io::Error {
    fn from(error: BlockError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Checks single blocks of data with a tree that is not trusted and a root that is.
///
/// A block costs one hash, and at most one more for each level of the tree; blocks of the tree that held are
/// remembered, at most 64 KiB for each level.
pub struct BlockVerifier<T> {
    root: [u8; DIGEST_LEN],
    hash: BlockHash,
    data_len: u64,
    tree: T,
    /// From the leaves up.
    levels: Vec<Level>,
}

struct Level {
    /// First block of the level in the tree, from the tree's start.
    start: u64,
    /// Blocks that held, at the place that their number in the level ends with.
    blocks: Mutex<[Option<Held>; REMEMBERED]>,
}

/// A block that held, and its number in its level.
type Held = (u64, Box<[u8; BLOCK_LEN]>);

impl<T: ReadAt> BlockVerifier<T> {
    /// For data of `data_len` bytes, each block of which is hashed behind `prefix`. The tree fills `tree`.
    ///
    /// # Errors
    /// When `tree` does not have the length of one over the data.
    pub fn new(root: [u8; DIGEST_LEN], prefix: &[u8], data_len: u64, tree: T) -> Result<Self, BlockError> {
        let unreadable = |source| BlockError::ReadTree { block: 0, source };
        let (found, expected) =
            (tree.len().map_err(unreadable)?, tree_len(data_len).map_err(unreadable)? as u64);
        if found != expected {
            return Err(BlockError::TreeLen { found, expected, data_len });
        }
        let mut start = expected / BLOCK_LEN as u64;
        let levels = level_sizes(data_len).map_err(unreadable)?.into_iter().map(|size| {
            start -= size as u64;
            Level { start, blocks: Mutex::default() }
        });
        Ok(Self { root, hash: BlockHash::new(prefix), data_len, levels: levels.collect(), tree })
    }

    /// Bytes of the data.
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Checks one block: 4096 bytes, the last one what is left or padded with zeros.
    ///
    /// # Errors
    /// [`BlockError`] unless the block is the one below the root.
    pub fn verify(&self, index: u64, block: &[u8]) -> Result<(), BlockError> {
        let left = index.checked_mul(BLOCK_LEN as u64).and_then(|start| self.data_len.checked_sub(start));
        let whole = left.unwrap_or(0).min(BLOCK_LEN as u64);
        if whole == 0 || block.len() != BLOCK_LEN && block.len() as u64 != whole {
            return Err(BlockError::NoBlock { block: index, len: block.len(), data_len: self.data_len });
        }
        let mut padded = [0; BLOCK_LEN];
        padded[..block.len()].copy_from_slice(block);
        self.verify_blocks(index, &[padded])
    }

    /// Checks as many blocks as there are, the first of which is block `first` of the data, and all of which it has.
    fn verify_blocks(&self, first: u64, blocks: &[[u8; BLOCK_LEN]]) -> Result<(), BlockError> {
        for (first, blocks) in (first..).step_by(READ).zip(blocks.chunks(READ)) {
            let mut digests = [[0; DIGEST_LEN]; READ];
            self.hash.blocks(blocks, &mut digests);
            for (block, digest) in (first..).zip(&digests[..blocks.len()]) {
                if self.expected(0, block)? != *digest {
                    return Err(BlockError::Data { block });
                }
            }
        }
        Ok(())
    }

    /// Digest `index` of a level of the tree, which the root vouches for; above the top level is the root.
    fn expected(&self, level: usize, index: u64) -> Result<[u8; DIGEST_LEN], BlockError> {
        let Some(Level { start, blocks }) = self.levels.get(level) else { return Ok(self.root) };
        let (number, place) = (index / PER_BLOCK as u64, index % PER_BLOCK as u64);
        let place = usize::try_from(place).expect("less than 128");
        let slot = usize::try_from(number % REMEMBERED as u64).expect("less than 16");
        let digest = |block: &[u8; BLOCK_LEN]| block.as_chunks().0[place];
        let lock = || blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = lock()[slot].as_ref().filter(|(held, _)| *held == number) {
            return Ok(digest(block));
        }
        let expected = self.expected(level + 1, number)?;
        let (mut block, at) = (Box::new([0; BLOCK_LEN]), start + number);
        self.tree
            .read_exact_at(&mut block[..], at * BLOCK_LEN as u64)
            .map_err(|source| BlockError::ReadTree { block: at, source })?;
        if self.hash.block(&block) != expected {
            return Err(BlockError::Tree { block: at });
        }
        let found = digest(&block);
        lock()[slot] = Some((number, block));
        Ok(found)
    }
}

/// Data of which every block is checked each time it is read.
pub struct VerifiedReader<R, T> {
    data: R,
    verifier: BlockVerifier<T>,
}

impl<R: ReadAt, T: ReadAt> VerifiedReader<R, T> {
    /// The data that `verifier` is for. What is behind it in `data` is not read.
    pub fn new(data: R, verifier: BlockVerifier<T>) -> Self {
        Self { data, verifier }
    }

    /// What of one block lies in `buffer`, which begins `skip` bytes into the block.
    fn read_part(&self, index: u64, skip: usize, buffer: &mut [u8]) -> io::Result<()> {
        let start = index * BLOCK_LEN as u64;
        let left = usize::try_from(self.verifier.data_len - start).unwrap_or(BLOCK_LEN).min(BLOCK_LEN);
        let mut block = [0; BLOCK_LEN];
        self.data.read_exact_at(&mut block[..left], start)?;
        self.verifier.verify_blocks(index, &[block])?;
        buffer.copy_from_slice(&block[skip..skip + buffer.len()]);
        Ok(())
    }

    fn read_range(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut index = offset / BLOCK_LEN as u64;
        let skip = usize::try_from(offset % BLOCK_LEN as u64).expect("less than a block");
        let mut rest = buffer;
        if skip != 0 {
            let (part, others) = rest.split_at_mut(rest.len().min(BLOCK_LEN - skip));
            self.read_part(index, skip, part)?;
            (index, rest) = (index + 1, others);
        }
        let (whole, end) = rest.split_at_mut(rest.len() / BLOCK_LEN * BLOCK_LEN);
        if !whole.is_empty() {
            self.data.read_exact_at(whole, index * BLOCK_LEN as u64)?;
            let whole = whole.as_chunks().0;
            self.verifier.verify_blocks(index, whole)?;
            index += whole.len() as u64;
        }
        if end.is_empty() { Ok(()) } else { self.read_part(index, 0, end) }
    }
}

impl<R: ReadAt, T: ReadAt> ReadAt for VerifiedReader<R, T> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.verifier.data_len)
    }

    /// As of any source; `InvalidData` of a [`BlockError`] when a block does not hold, and then zeros in `buffer`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let wanted = ReadAt::len(&*buffer)?;
        if offset.checked_add(wanted).is_none_or(|end| end > self.verifier.data_len) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end"));
        }
        self.read_range(buffer, offset).inspect_err(|_| buffer.fill(0))
    }
}

#[cfg(test)]
mod tests;
