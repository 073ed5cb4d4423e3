//! SHA-256 of whole blocks behind a prefix that they share, two blocks at a time.
//!
//! One stream of SHA-256 waits for each round of itself, also where the processor has instructions for it. Two
//! streams that take turns for 64 bytes each overlap: the processor begins the one while the other waits.

use sha2::block_api::compress256;

use super::{BLOCK_LEN, DIGEST_LEN};

/// Bytes that SHA-256 takes at a time.
const CHUNK: usize = 64;
/// The end of a message: a bit, and its length in bits in 8 bytes.
const PADDING: usize = 9;
/// FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The hash of blocks behind one prefix.
pub(super) struct BlockHash {
    /// After all whole chunks of the prefix.
    state: [u32; 8],
    /// What of the prefix is left: it shares a chunk with the first bytes of a block.
    head: Vec<u8>,
    /// What follows the last bytes of a block, which are as many as `head` has, up to the end of the last chunk.
    tail: Vec<u8>,
}

impl BlockHash {
    pub(super) fn new(prefix: &[u8]) -> Self {
        let (chunks, head) = prefix.as_chunks::<CHUNK>();
        let mut state = INITIAL;
        compress256(&mut state, chunks);
        let mut tail = vec![0; (head.len() + PADDING).next_multiple_of(CHUNK) - head.len()];
        tail[0] = 0x80;
        let bits = 8 * (prefix.len() as u64 + BLOCK_LEN as u64);
        *tail.last_chunk_mut().expect("at least the padding") = bits.to_be_bytes();
        Self { state, head: head.to_vec(), tail }
    }

    /// The hash of one block.
    pub(super) fn block(&self, block: &[u8; BLOCK_LEN]) -> [u8; DIGEST_LEN] {
        let [digest] = self.in_turns([block]);
        digest
    }

    /// The hashes of `blocks` into `digests`, for as many as both have.
    pub(super) fn blocks(&self, blocks: &[[u8; BLOCK_LEN]], digests: &mut [[u8; DIGEST_LEN]]) {
        let (pairs, last) = blocks.as_chunks::<2>();
        let mut digests = digests.iter_mut();
        for [a, b] in pairs {
            digests.by_ref().zip(self.in_turns([a, b])).for_each(|(to, digest)| *to = digest);
        }
        digests.zip(last).for_each(|(to, block)| *to = self.block(block));
    }

    /// The hashes of `N` blocks, each of which takes a chunk in turn.
    fn in_turns<const N: usize>(&self, blocks: [&[u8; BLOCK_LEN]; N]) -> [[u8; DIGEST_LEN]; N] {
        let mut states = [self.state; N];
        let mut rests = blocks.map(|block| &block[..]);
        if !self.head.is_empty() {
            for (state, rest) in states.iter_mut().zip(&mut rests) {
                let (first, others) = rest.split_at(CHUNK - self.head.len());
                let mut chunk = [0; CHUNK];
                chunk[..self.head.len()].copy_from_slice(&self.head);
                chunk[self.head.len()..].copy_from_slice(first);
                compress256(state, &[chunk]);
                *rest = others;
            }
        }
        let chunks = rests.map(|rest| rest.as_chunks::<CHUNK>());
        for index in 0..chunks[0].0.len() {
            for (state, (chunks, _)) in states.iter_mut().zip(&chunks) {
                compress256(state, &chunks[index..=index]);
            }
        }
        for (state, (_, end)) in states.iter_mut().zip(&chunks) {
            let mut last = [0; 2 * CHUNK];
            let len = end.len() + self.tail.len();
            last[..end.len()].copy_from_slice(end);
            last[end.len()..len].copy_from_slice(&self.tail);
            compress256(state, last[..len].as_chunks().0);
        }
        states.map(|state| {
            let mut digest = [0; DIGEST_LEN];
            digest.as_chunks_mut().0.iter_mut().zip(state).for_each(|(to, word)| *to = word.to_be_bytes());
            digest
        })
    }
}
