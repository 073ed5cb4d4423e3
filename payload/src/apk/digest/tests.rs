use super::*;
use crate::apk::testing::pack;

/// The definition, without regard for speed.
fn naive<D: Digest>(sections: &[&[u8]]) -> Vec<u8> {
    let chunks: Vec<&[u8]> = sections.iter().flat_map(|section| section.chunks(1 << 20)).collect();
    let digests = chunks.iter().copied().flat_map(|chunk: &[u8]| {
        let len = u32::try_from(chunk.len()).unwrap().to_le_bytes();
        D::new().chain_update([0xa5]).chain_update(len).chain_update(chunk).finalize().to_vec()
    });
    let count = u32::try_from(chunks.len()).unwrap().to_le_bytes();
    D::digest([&[0x5a], &count[..], &digests.collect::<Vec<u8>>()].concat()).to_vec()
}

/// Section 4: 1 MiB chunks that begin anew with each section, for so few and so many that they are hashed alone and in
/// pairs.
#[test]
fn chunks_agree_with_the_definition() {
    for len in [0, 1, 1 << 20, (2 << 20) + 7, (9 << 20) + 1] {
        let content: Vec<u8> = (0..len).map(|i: usize| (i ^ i >> 11).to_le_bytes()[0]).collect();
        let apk = pack(&content);
        let sections = ZipSections::read(&apk).unwrap();
        let (directory, end) = (sections.central_directory, sections.end_record);
        let [directory_at, end_at] = [directory, end].map(|at| usize::try_from(at).unwrap());
        // Unsigned, the end record tells what it will be digested with.
        let parts = [&apk[..directory_at], &apk[directory_at..end_at], &apk[end_at..]];
        let content = SignedContent::new(&apk, &sections, directory).unwrap();
        let digest = |algorithm| content.digest(algorithm).unwrap();
        assert_eq!(digest(ContentDigest::ChunkedSha256), naive::<Sha256>(&parts), "{len} bytes");
        assert_eq!(digest(ContentDigest::ChunkedSha512), naive::<Sha512>(&parts), "{len} bytes");
    }
}

/// Section 4: the hash tree is over the three sections as one, each block behind 8 zeros; the length follows the root.
#[test]
fn a_verity_digest_is_root_and_length() {
    let apk = pack(b"content");
    let sections = ZipSections::read(&apk).unwrap();
    let entries_end = usize::try_from(sections.central_directory).unwrap();
    // As behind entries that end with a block.
    let mut padded = vec![7; entries_end.next_multiple_of(4096)];
    let moved = padded.len() - entries_end;
    padded.extend_from_slice(&apk[entries_end..]);
    let start = u32::try_from(padded.len() - (apk.len() - entries_end)).unwrap();
    let at = padded.len() - 22 + END_RECORD_OFFSET_FIELD;
    padded[at..at + 4].copy_from_slice(&start.to_le_bytes());
    let sections = ZipSections {
        central_directory: start.into(),
        end_record: sections.end_record + moved as u64,
        len: padded.len() as u64,
        ..sections
    };
    let content = SignedContent::new(&padded, &sections, start.into()).unwrap();
    let digest = content.digest(ContentDigest::VerityChunkedSha256).unwrap();

    let blocks = padded.chunks(4096).flat_map(|block| {
        let padding = vec![0; 4096 - block.len()];
        Sha256::digest([&[0; 8], block, &padding].concat()).to_vec()
    });
    let mut top = blocks.collect::<Vec<u8>>();
    top.resize(4096, 0);
    let root = Sha256::digest([&[0; 8][..], &top].concat());
    assert_eq!(digest, [&root[..], &(padded.len() as u64).to_le_bytes()].concat());
}
