//! The digest of one chunk of an archive, `H(0xa5 | length u32 | chunk)`, read a few KiB at a time.
//!
//! SHA-256 waits for each round of itself, also where the processor has instructions for it. Two chunks of one length
//! that take turns for 64 bytes each overlap: the processor begins the one while the other waits.

use std::io;

use sha2::block_api::compress256;
use sha2::{Digest, Sha512};

use crate::ReadAt;

/// Bytes before a chunk.
const HEAD: usize = 5;
/// Bytes that SHA-256 takes at a time.
const BLOCK: usize = 64;
/// Bytes of each chunk that are read at a time: two chunks' fit the processor's nearest caches.
const READ: usize = 32 << 10;
/// FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A chunk that is not read yet.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    pub(super) section: &'a dyn ReadAt,
    /// Where it begins, in bytes from the section's start.
    pub(super) start: u64,
    /// At most 1 MiB.
    pub(super) len: u32,
}

impl Chunk<'_> {
    fn head(&self) -> [u8; HEAD] {
        let [a, b, c, d] = self.len.to_le_bytes();
        [0xa5, a, b, c, d]
    }
}

/// SHA-512 of `chunk` into `digest`.
pub(super) fn sha512(chunk: &Chunk<'_>, buffer: &mut Vec<u8>, digest: &mut [u8]) -> io::Result<()> {
    buffer.resize(READ, 0);
    let mut hash = Sha512::new_with_prefix(chunk.head());
    let end = chunk.start + u64::from(chunk.len);
    for at in (chunk.start..end).step_by(READ) {
        let part = &mut buffer[..usize::try_from(end - at).map_or(READ, |left| left.min(READ))];
        chunk.section.read_exact_at(part, at)?;
        hash.update(part);
    }
    digest.copy_from_slice(&hash.finalize());
    Ok(())
}

/// SHA-256 of `N` chunks, which have one length, into as many digests of 32 bytes.
pub(super) fn sha256<const N: usize>(
    chunks: [Chunk<'_>; N],
    buffer: &mut Vec<u8>,
    digests: &mut [u8],
) -> io::Result<()> {
    let len = usize::try_from(chunks[0].len).expect("at most 1 MiB");
    let mut states = [INITIAL; N];
    // Each chunk's part of the buffer: what it reads, and behind its last byte the padding of up to two blocks.
    const PART: usize = READ + 2 * BLOCK;
    buffer.resize(N * PART, 0);
    let parts = buffer.as_chunks_mut::<PART>().0;
    // Of the message, which is head and chunk, the bytes that are hashed, and the bytes that the buffer begins with.
    let (mut done, mut held) = (0, HEAD);
    for (part, chunk) in parts.iter_mut().zip(&chunks) {
        part[..HEAD].copy_from_slice(&chunk.head());
    }
    while done + held < HEAD + len {
        // Up to a multiple of a block each time, so that only the last one is padded.
        let here = (HEAD + len - done - held).min(READ - held);
        let at = (done + held - HEAD) as u64;
        for (part, chunk) in parts.iter_mut().zip(&chunks) {
            chunk.section.read_exact_at(&mut part[held..held + here], chunk.start + at)?;
        }
        held += here;
        if held == READ {
            in_turns(&mut states, parts, READ);
            (done, held) = (done + READ, 0);
        }
    }
    let padded = (held + 9).next_multiple_of(BLOCK);
    let bits = 8 * (HEAD + len) as u64;
    for part in parts.iter_mut() {
        part[held..padded].fill(0);
        part[held] = 0x80;
        part[padded - 8..padded].copy_from_slice(&bits.to_be_bytes());
    }
    in_turns(&mut states, parts, padded);
    for (word, digest) in states.as_flattened().iter().zip(digests.as_chunks_mut().0) {
        *digest = word.to_be_bytes();
    }
    Ok(())
}

/// Takes the first `len` bytes of each part into its state, a block of each in turn.
fn in_turns<const N: usize, const PART: usize>(states: &mut [[u32; 8]; N], parts: &[[u8; PART]], len: usize) {
    for at in (0..len).step_by(BLOCK) {
        for (state, part) in states.iter_mut().zip(parts) {
            compress256(state, part[at..at + BLOCK].as_chunks().0);
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::Sha256;

    use super::*;

    /// The definition: head and bytes, hashed as one.
    fn naive<D: Digest>(bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        D::new().chain_update([0xa5]).chain_update(len).chain_update(bytes).finalize().to_vec()
    }

    #[test]
    fn chunks_of_every_edge() {
        let bytes: Vec<u8> = (0..2 << 20).map(|i: usize| (i ^ i >> 9).to_le_bytes()[0]).collect();
        let mut buffer = vec![0xff; 99];
        for edge in [0, BLOCK, READ, 2 * READ, 1 << 20] {
            for len in edge.saturating_sub(16)..=(edge + 60).min(1 << 20) {
                let (a, b) = (&bytes[..len], &bytes[bytes.len() - len..]);
                let chunk = |start: usize| Chunk {
                    section: &bytes,
                    start: start as u64,
                    len: u32::try_from(len).unwrap(),
                };
                let (first, second) = (chunk(0), chunk(bytes.len() - len));
                let mut digests = [0; 64];
                sha256([first, second], &mut buffer, &mut digests).unwrap();
                let expected = [naive::<Sha256>(a), naive::<Sha256>(b)].concat();
                assert_eq!(digests[..], expected, "{len} bytes, two");
                sha256([second], &mut buffer, &mut digests[..32]).unwrap();
                assert_eq!(digests[..32], expected[32..], "{len} bytes");
                sha512(&first, &mut buffer, &mut digests).unwrap();
                assert_eq!(digests[..], naive::<Sha512>(a), "{len} bytes, SHA-512");
                if len > 1 << 16 && len != 1 << 20 && len % 8 != 0 {
                    break; // long ones take their time
                }
            }
        }
    }

    #[test]
    fn a_chunk_past_the_end_is_an_error() {
        let bytes = vec![0u8; 10];
        let chunk = Chunk { section: &bytes, start: 8, len: 3 };
        assert!(sha256([chunk], &mut Vec::new(), &mut [0; 32]).is_err());
        assert!(sha512(&chunk, &mut Vec::new(), &mut [0; 64]).is_err());
    }
}
