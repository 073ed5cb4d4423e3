//! A shared component.

use payload::ReadAt;
use payload::apex::{Apex, ApexError};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::draw::{Mark, Page, Segment};
use crate::fault::causes;
use crate::text::{hex, size};

/// What is in an APEX.
#[derive(Debug, Serialize)]
pub struct ApexFacts {
    name: String,
    version: i64,
    /// SHA-256 of the key in AVB's encoding.
    public_key_sha256: String,
    root_digest: String,
    salt: String,
    hash: String,
    image: ImageFacts,
    /// SHA-256 of the certificate of the archive's signer, when it verifies.
    container_certificate_sha256: Option<String>,
    container_problem: Option<String>,
}

/// Where in the file the image is, in bytes.
#[derive(Debug, Serialize)]
struct ImageFacts {
    offset: u64,
    size: u64,
    /// Bytes of the image that are the filesystem.
    filesystem: u64,
    /// Bytes of its hash tree.
    tree: u64,
    end: u64,
}

/// Looks at the component that fills `source`, all of which is read; with what is wrong with it.
///
/// # Errors
/// When there is none that its key vouches for.
pub fn gather(source: &dyn ReadAt) -> Result<(ApexFacts, Vec<String>), ApexError> {
    let apex = Apex::open(source)?;
    let problems = apex.verify().err().map(|error| causes(&error).join(": "));
    let (container, container_problem) = match apex.container_signer() {
        Ok(signer) => (Some(hex(&Sha256::digest(&signer.certificate))), None),
        Err(error) => (None, Some(causes(&error).join(": "))),
    };
    let facts = ApexFacts {
        name: apex.name.clone(),
        version: apex.version,
        public_key_sha256: hex(&Sha256::digest(&apex.public_key)),
        root_digest: hex(&apex.root_digest),
        salt: hex(&apex.hashtree.salt),
        hash: apex.hashtree.hash_algorithm.clone(),
        image: ImageFacts {
            offset: apex.image_offset,
            size: apex.image_len,
            filesystem: apex.hashtree.image_size,
            tree: apex.hashtree.tree_size,
            end: apex.archive().sections().len,
        },
        container_certificate_sha256: container,
        container_problem,
    };
    Ok((facts, problems.into_iter().collect()))
}

impl ApexFacts {
    /// Draws them.
    pub fn draw(&self, page: &mut Page, good: bool) {
        page.field("name", &self.name);
        page.field("version", &self.version.to_string());
        page.gap();
        let image = &self.image;
        let part = |tag: &str, len: u64, frame: bool| Segment { tag: tag.into(), len, used: len, frame };
        let rest = image.size.saturating_sub(image.filesystem).saturating_sub(image.tree);
        let segments = [
            part("zip", image.offset, true),
            part("filesystem", image.filesystem, false),
            part("tree", image.tree, false),
            part("vbmeta", rest, true),
            part("zip", image.end.saturating_sub(image.offset).saturating_sub(image.size), true),
        ];
        page.map(&segments, ("0", &size(image.end)));
        page.gap();
        let verdict = match good {
            true => (Mark::Good, "the key vouches for every byte of the filesystem"),
            false => (Mark::Bad, "the filesystem is not what the key vouches for"),
        };
        page.mark("image", verdict.0, verdict.1);
        page.field("root", &self.root_digest);
        page.field("key hash", &self.public_key_sha256);
        page.field("salt", if self.salt.is_empty() { "none" } else { &self.salt });
        match (&self.container_certificate_sha256, &self.container_problem) {
            (Some(certificate), _) => {
                page.mark("container", Mark::Good, "signed as an APK is; SHA-256 of the certificate:");
                page.field("", certificate);
            }
            (None, problem) => {
                let why = problem.as_deref().unwrap_or("nobody signed it");
                page.mark("container", Mark::Note, &format!("not signed as an APK is: {why}"));
            }
        }
    }
}
