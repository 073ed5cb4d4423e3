//! A hash tree with its header.

use payload::ReadAt;
use payload::apk::SignatureAlgorithm;
use payload::idsig::{Idsig, IdsigError};
use payload::merkle::{BLOCK_LEN, DIGEST_LEN};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::draw::{Mark, Page};
use crate::text::{count, hex, size};

/// What an idsig says.
#[derive(Debug, Serialize)]
pub struct IdsigFacts {
    version: u32,
    hash: &'static str,
    block_size: usize,
    salt: String,
    /// The root hash.
    pub root_hash: String,
    /// Digest of the APK that it is of.
    apk_digest: String,
    algorithm: Option<String>,
    tree_offset: u64,
    tree_size: u64,
    levels: Vec<LevelFacts>,
    signed: bool,
    certificate_sha256: Option<String>,
}

/// One level of the tree.
#[derive(Debug, Serialize)]
struct LevelFacts {
    /// Bytes, whole blocks.
    size: u64,
}

/// Reads the header; the tree is measured and not read.
pub fn gather(source: &dyn ReadAt) -> Result<IdsigFacts, IdsigError> {
    Ok(of(&Idsig::read(source)?))
}

/// The facts about one that was read.
pub fn of(idsig: &Idsig) -> IdsigFacts {
    let signing = &idsig.signing;
    let certificate = (!signing.certificate.is_empty()).then(|| hex(&Sha256::digest(&signing.certificate)));
    IdsigFacts {
        version: 2,
        hash: "SHA-256",
        block_size: BLOCK_LEN,
        salt: hex(&idsig.salt),
        root_hash: hex(&idsig.root_hash),
        apk_digest: hex(&signing.apk_digest),
        algorithm: SignatureAlgorithm::from_id(signing.algorithm).map(|algorithm| algorithm.to_string()),
        tree_offset: idsig.tree_offset,
        tree_size: idsig.tree_len,
        levels: levels(idsig.tree_len).into_iter().map(|size| LevelFacts { size }).collect(),
        signed: !signing.signature.is_empty(),
        certificate_sha256: certificate,
    }
}

/// Sizes of the levels of a tree of `len` bytes, top first: the leaves are as many blocks as give that length with the
/// levels above them. Nothing for a length that no tree has.
fn levels(len: u64) -> Vec<u64> {
    const BLOCK: u64 = BLOCK_LEN as u64;
    const DIGESTS: u64 = BLOCK / DIGEST_LEN as u64;
    let above = |leaves: u64| {
        let mut sizes = vec![leaves];
        while sizes[0] > 1 {
            sizes.insert(0, sizes[0].div_ceil(DIGESTS));
        }
        sizes
    };
    let blocks = len / BLOCK;
    if blocks == 0 || !len.is_multiple_of(BLOCK) {
        return Vec::new();
    }
    // The sum grows with the leaves, of which there are 127 in 128 blocks or a few fewer.
    let (mut low, mut high) = (1, blocks);
    while low < high {
        let middle = low + (high - low) / 2;
        if above(middle).iter().sum::<u64>() < blocks { low = middle + 1 } else { high = middle }
    }
    let sizes = above(low);
    if sizes.iter().sum::<u64>() == blocks {
        sizes.iter().map(|size| size * BLOCK).collect()
    } else {
        Vec::new()
    }
}

impl IdsigFacts {
    /// Draws them.
    pub fn draw(&self, page: &mut Page) {
        page.field("root hash", &self.root_hash);
        page.field("salt", if self.salt.is_empty() { "none" } else { &self.salt });
        page.field("made of", &format!("{}, blocks of {}", self.hash, size(self.block_size as u64)));
        page.field(
            "APK",
            if self.apk_digest.is_empty() { "of no digest: it was not signed" } else { &self.apk_digest },
        );
        match (&self.certificate_sha256, self.signed) {
            (Some(certificate), true) => {
                let algorithm = self.algorithm.as_deref().unwrap_or("an unknown algorithm");
                page.mark("signature", Mark::Note, "not verified, which takes the APK");
                page.field("", &format!("{algorithm}; SHA-256 of the certificate:"));
                page.field("", certificate);
            }
            _ => page.field("signature", "none: the APK's own signature vouches for it"),
        }
        page.gap();
        let last = self.levels.len().saturating_sub(1);
        let mut rows: Vec<(String, u64, String)> = self
            .levels
            .iter()
            .enumerate()
            .map(|(index, level)| {
                let name = match index {
                    _ if index == last => "leaves".to_owned(),
                    0 => "top".to_owned(),
                    _ => format!("level {index}"),
                };
                let blocks = count(level.size / self.block_size as u64, "block");
                (name, level.size, format!("{blocks}, {}", size(level.size)))
            })
            .collect();
        if rows.is_empty() {
            rows.push(("tree".into(), self.tree_size, size(self.tree_size)));
        }
        page.bars(&rows);
    }
}

#[cfg(test)]
mod tests {
    use payload::merkle::tree_len;

    use super::*;

    #[test]
    fn levels_are_found_by_the_length_of_the_tree() {
        for blocks in [2u64, 127, 128, 129, 128 * 128, 128 * 128 + 1, 1 << 18, 128 * 128 * 128 + 77] {
            let len = tree_len(blocks * 4096).unwrap() as u64;
            let sizes = levels(len);
            assert_eq!(sizes.iter().sum::<u64>(), len, "{blocks}");
            assert_eq!(sizes.last(), Some(&(blocks.div_ceil(128) * 4096)), "{blocks}");
            assert_eq!(sizes[0], 4096, "{blocks}");
        }
        for len in [0, 1, 4095, 2 * 4096, u64::MAX] {
            assert!(levels(len).is_empty(), "{len}");
        }
    }
}
