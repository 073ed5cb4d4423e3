//! Digests of an archive's content: entries, central directory and end record, without the signing block.
//!
//! ```text
//!   chunked:  top = H(0x5a | count u32 | d0 | d1 | ..)     di = H(0xa5 | len u32 | chunk i), chunks of 1 MiB that
//!                                                          begin anew with each of the three sections
//!   verity:   root of the hash tree over the three as one | length u64; each block behind 8 zero bytes
//! ```
//!
//! In the end record, the central directory's offset is replaced by the signing block's: the same bytes are digested
//! before and after the block is put in.

use std::io;

use sha2::{Digest, Sha256, Sha512};

use super::algorithm::ContentDigest;
use super::zip::{END_RECORD_OFFSET_FIELD, ZipSections};
use crate::merkle::{BLOCK_LEN, Tree};
use crate::read_at::adapters::Chain;
use crate::{ReadAt, Section, parallel};

mod chunk;

use chunk::Chunk;

const CHUNK: u64 = 1 << 20;
const VERITY_PREFIX: [u8; 8] = [0; 8];

/// The three sections that are digested.
pub(super) struct SignedContent<'a> {
    entries: Section<&'a dyn ReadAt>,
    directory: Section<&'a dyn ReadAt>,
    end_record: Vec<u8>,
}

impl<'a> SignedContent<'a> {
    /// The content of the archive in `reader`, whose entries end at `entries_end`.
    pub(super) fn new(reader: &'a dyn ReadAt, sections: &ZipSections, entries_end: u64) -> io::Result<Self> {
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidData, "the archive passes 4 GiB");
        let offset = u32::try_from(entries_end).map_err(too_large)?;
        let len = usize::try_from(sections.len - sections.end_record).map_err(too_large)?;
        let mut end_record = vec![0; len];
        reader.read_exact_at(&mut end_record, sections.end_record)?;
        end_record[END_RECORD_OFFSET_FIELD..][..4].copy_from_slice(&offset.to_le_bytes());
        let directory_len = sections.end_record - sections.central_directory;
        Ok(Self {
            entries: Section::new(reader, 0, entries_end)?,
            directory: Section::new(reader, sections.central_directory, directory_len)?,
            end_record,
        })
    }

    /// Entries, central directory, and the end record as it is digested.
    pub(super) fn sections(&self) -> [&dyn ReadAt; 3] {
        [&self.entries, &self.directory, &self.end_record]
    }

    /// Digests everything, on all processors; memory is 64 KiB for each, and a digest for each
    /// chunk or block.
    ///
    /// # Errors
    /// When the archive cannot be read, or its sections are not aligned as a hash tree needs them.
    pub(super) fn digest(&self, algorithm: ContentDigest) -> io::Result<Vec<u8>> {
        match algorithm {
            ContentDigest::ChunkedSha256 => {
                chunked::<Sha256>(&self.sections(), true, |chunks, buffer, digests| match *chunks {
                    [one] => chunk::sha256([one], buffer, digests),
                    [one, other] => chunk::sha256([one, other], buffer, digests),
                    _ => unreachable!("one or two at a time"),
                })
            }
            ContentDigest::ChunkedSha512 => {
                chunked::<Sha512>(&self.sections(), false, |chunks, buffer, digests| {
                    chunks.iter().try_for_each(|it| chunk::sha512(it, buffer, digests))
                })
            }
            ContentDigest::VerityChunkedSha256 => self.verity(),
        }
    }

    /// As [`SignedContent::digest`], for a caller that keeps what was `computed` before.
    pub(super) fn digest_once<'c>(
        &self,
        algorithm: ContentDigest,
        computed: &'c mut Vec<(ContentDigest, Vec<u8>)>,
    ) -> io::Result<&'c [u8]> {
        let index = match computed.iter().position(|(known, _)| *known == algorithm) {
            Some(index) => index,
            None => {
                computed.push((algorithm, self.digest(algorithm)?));
                computed.len() - 1
            }
        };
        Ok(&computed[index].1)
    }

    fn verity(&self) -> io::Result<Vec<u8>> {
        if !ReadAt::len(&self.entries)?.is_multiple_of(BLOCK_LEN as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the APK Signing Block does not begin at a multiple of 4096 bytes",
            ));
        }
        let chain = Chain::new(&self.sections())?;
        let mut digest = Tree::build(&chain, &VERITY_PREFIX)?.root.to_vec();
        digest.extend_from_slice(&ReadAt::len(&chain)?.to_le_bytes());
        Ok(digest)
    }
}

/// The chunks of all sections, in order.
fn chunks<'a>(sections: &[&'a dyn ReadAt]) -> io::Result<Vec<Chunk<'a>>> {
    let mut chunks = Vec::new();
    for section in sections {
        let end = section.len()?;
        chunks.extend((0..end.div_ceil(CHUNK)).map(|index| {
            let start = index * CHUNK;
            let len = u32::try_from((end - start).min(CHUNK)).expect("at most 1 MiB");
            Chunk { section: *section, start, len }
        }));
    }
    Ok(chunks)
}

/// The digest over the digests of chunks that `each` makes of one chunk or of two of one length.
fn chunked<D: Digest>(
    sections: &[&dyn ReadAt],
    pairs: bool,
    each: impl Fn(&[Chunk<'_>], &mut Vec<u8>, &mut [u8]) -> io::Result<()> + Sync,
) -> io::Result<Vec<u8>> {
    let chunks = chunks(sections)?;
    let count = u32::try_from(chunks.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "too many chunks to digest"))?;
    let digest_len = <D as Digest>::output_size();
    let mut digests = vec![0; chunks.len() * digest_len];
    let threads = parallel::threads(u64::from(count));
    // Two at a time only where that leaves no processor without work.
    let at_a_time = if pairs && chunks.len() >= 4 * threads { 2 } else { 1 };
    let work = chunks.chunks(at_a_time).zip(digests.chunks_mut(at_a_time * digest_len));
    parallel::try_for_each(work, threads, |(chunks, digests), buffer| match chunks {
        [a, b] if a.len != b.len => {
            let (first, second) = digests.split_at_mut(digest_len);
            each(&[*a], buffer, first)?;
            each(&[*b], buffer, second)
        }
        chunks => each(chunks, buffer, digests),
    })?;
    let top = D::new().chain_update([0x5a]).chain_update(count.to_le_bytes()).chain_update(&digests);
    Ok(top.finalize().to_vec())
}

#[cfg(test)]
mod tests;
