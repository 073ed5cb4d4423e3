//! The idsig file (APK Signature Scheme v4): an archive's hash tree, by which its blocks are verified when they are read.
//!
//! ```text
//!   u32 version = 2
//!   u32 size | u32 hash = 1 (SHA-256) | u8 log2(block) = 12 | +salt | +root hash                      hashing info
//!   u32 size | +digest of the archive | +certificate | +additional | +key | u32 algorithm | +signature | ..   signing
//!   u32 size | tree, top level first
//! ```
//!
//! Little-endian; `+` is a 32-bit length of what follows. A salt is padded with zeros to 64 bytes and stands before every
//! block that is hashed. What the host makes for itself carries no signature, since the guest verifies the archive;
//! [`Idsig::sign`] adds one for those who want it.

use std::io::{self, Write};

use crate::apk::signing_block::SigningBlockError;
use crate::apk::verify::{VerifyError, listed_digest};
use crate::apk::{SignatureAlgorithm, SignerError};
use crate::fields::prefixed;
use crate::hex::Hex;
use crate::merkle::{self, BlockError, BlockVerifier, DIGEST_LEN, Tree};
use crate::{ReadAt, Section};

mod read;
mod signature;

pub use signature::SignatureError;

const VERSION: u32 = 2;
const SHA256: u32 = 1;
const LOG2_BLOCK_LEN: u8 = 12;
/// A salt is padded to SHA-256's block.
const PADDED_SALT_LEN: usize = 64;
/// Bytes of the tree compared at a time.
const COMPARED: usize = 64 << 10;

/// Why there is no hash tree to use.
#[derive(Debug, thiserror::Error)]
pub enum IdsigError {
    /// The idsig cannot be read.
    #[error("read the idsig")]
    Read(#[source] io::Error),
    /// The archive cannot be read.
    #[error("hash the archive")]
    ReadApk(#[source] io::Error),
    /// The archive lists no digest of itself.
    #[error("find the digest that the archive lists")]
    ApkDigest(#[source] VerifyError),
    /// The archive lists digests only for algorithms that are not accepted.
    #[error("the archive is signed by {0} only, which is not accepted")]
    Refused(SignatureAlgorithm),
    /// Another version, hash or size.
    #[error("the idsig has {what} {found}, which is not supported: expected {expected}")]
    Unsupported {
        /// What it is that has the value.
        what: &'static str,
        /// The value.
        found: u32,
        /// Values that are supported.
        expected: &'static str,
    },
    /// It ends too early.
    #[error("the idsig ends in its {0}")]
    Ends(&'static str),
    /// A length of more than there can be.
    #[error("the idsig's {field} has {found} bytes, where at most {most} fit")]
    Length {
        /// What has the length.
        field: &'static str,
        /// The length.
        found: u64,
        /// The most that there can be.
        most: u64,
    },
    /// It belongs to another archive.
    #[error("the idsig is of another archive: it names {}, the archive lists {}", Hex(.named), Hex(.listed))]
    OtherApk {
        /// Digest in the idsig.
        named: Vec<u8>,
        /// Digest in the archive.
        listed: Vec<u8>,
    },
    /// A tree that cannot be of an archive of this length.
    #[error("the idsig's tree has {found} bytes, one over this archive has {expected}")]
    TreeLen {
        /// Its bytes.
        found: u64,
        /// Bytes there must be.
        expected: u64,
    },
    /// The archive has another root hash.
    #[error("the archive does not have the idsig's root hash")]
    Root,
    /// The archive has the root hash, and the tree is wrong nevertheless.
    #[error("the idsig's tree is damaged at byte {0}")]
    Tree(
        /// First wrong byte, from the start of the idsig.
        u64,
    ),
    /// Nobody vouches for the root hash.
    #[error("verify the idsig's signature")]
    Signature(#[source] SignatureError),
}

/// Who vouches for the root hash, if anyone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningInfo {
    /// The digest that the archive lists of itself for its strongest algorithm.
    pub apk_digest: Vec<u8>,
    /// X.509 certificate, DER; empty in what the host makes.
    pub certificate: Vec<u8>,
    /// Opaque.
    pub additional_data: Vec<u8>,
    /// Public key, DER; empty in what the host makes.
    pub public_key: Vec<u8>,
    /// Number of the signature algorithm; unsigned, that of the digest.
    pub algorithm: u32,
    /// Signature; empty in what the host makes.
    pub signature: Vec<u8>,
    /// What later versions of the scheme put behind it.
    pub rest: Vec<u8>,
}

/// An idsig without its tree, which it says the place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idsig {
    /// Salt, of at most 64 bytes, as it is written.
    pub salt: Vec<u8>,
    /// Root hash of the archive.
    pub root_hash: [u8; DIGEST_LEN],
    /// Who vouches for it.
    pub signing: SigningInfo,
    /// Where the tree begins, in bytes from the start; not a multiple of anything.
    pub tree_offset: u64,
    /// Bytes of the tree.
    pub tree_len: u64,
}

impl Idsig {
    /// Makes the unsigned idsig of the archive that fills `apk`: reads it once, on all processors.
    ///
    /// # Errors
    /// When the archive cannot be read or is not signed by an algorithm that is accepted, or the salt is longer than 64
    /// bytes.
    pub fn create(apk: &dyn ReadAt, salt: &[u8]) -> Result<(Self, Tree), IdsigError> {
        let (algorithm, apk_digest) = accepted_digest(apk)?;
        Self::hash(apk, salt, (algorithm.id(), apk_digest))
    }

    /// As [`Idsig::create`], also where nobody whom a VM believes has signed the archive: it then names the digest
    /// listed for DSA, or none, and algorithm 0, where none is listed.
    ///
    /// # Errors
    /// As of [`Idsig::create`], but for a missing signature. A broken signing block is not a missing one.
    pub fn create_forced(apk: &dyn ReadAt, salt: &[u8]) -> Result<(Self, Tree), IdsigError> {
        Self::hash(apk, salt, any_digest(apk)?)
    }

    fn hash(
        apk: &dyn ReadAt,
        salt: &[u8],
        (algorithm, apk_digest): (u32, Vec<u8>),
    ) -> Result<(Self, Tree), IdsigError> {
        let salt_padded = padded_salt(salt)?;
        // Before all of it is hashed for nothing.
        let tree_len = tree_len_over(apk)?;
        if tree_len > u32::MAX.into() {
            return Err(IdsigError::Length { field: "tree", found: tree_len, most: u32::MAX.into() });
        }
        let tree = Tree::build(apk, &salt_padded).map_err(IdsigError::ReadApk)?;
        let signing = SigningInfo { apk_digest, algorithm, ..SigningInfo::default() };
        let mut idsig = Self {
            salt: salt.to_vec(),
            root_hash: tree.root,
            signing,
            tree_offset: 0,
            tree_len: tree.levels.len() as u64,
        };
        idsig.tree_offset = idsig.header().len() as u64;
        Ok((idsig, tree))
    }

    /// Writes the whole file.
    ///
    /// # Errors
    /// When `out` refuses a write.
    pub fn write(&self, tree: &Tree, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.header())?;
        out.write_all(&tree.levels)
    }

    /// The whole file in memory.
    pub fn to_bytes(&self, tree: &Tree) -> Vec<u8> {
        [self.header().as_slice(), &tree.levels].concat()
    }

    /// Bytes of the whole file; behind them, a partition is padded.
    pub fn file_len(&self) -> u64 {
        self.tree_offset + self.tree_len
    }

    /// Checks, without hashing it, that this is the idsig of the archive that fills `apk`: it names the digest which
    /// the archive lists, and its tree has the length of one over the archive.
    ///
    /// # Errors
    /// [`IdsigError::OtherApk`] or [`IdsigError::TreeLen`], or when the archive is no signed one.
    pub fn check_apk(&self, apk: &dyn ReadAt) -> Result<(), IdsigError> {
        self.check_digest(accepted_digest(apk)?.1)?;
        self.check_tree_len(tree_len_over(apk)?)
    }

    fn check_digest(&self, listed: Vec<u8>) -> Result<(), IdsigError> {
        if listed != self.signing.apk_digest {
            return Err(IdsigError::OtherApk { named: self.signing.apk_digest.clone(), listed });
        }
        Ok(())
    }

    fn check_tree_len(&self, expected: u64) -> Result<(), IdsigError> {
        if expected != self.tree_len {
            return Err(IdsigError::TreeLen { found: self.tree_len, expected });
        }
        Ok(())
    }

    /// Checks all of it but the signature against the archive, which is hashed: digest (none where the archive lists
    /// none), root hash, and the tree in `reader` (what [`Idsig::read`] was given), byte for byte.
    ///
    /// # Errors
    /// [`IdsigError`] for the first difference.
    pub fn verify(&self, reader: &dyn ReadAt, apk: &dyn ReadAt) -> Result<(), IdsigError> {
        self.check_digest(any_digest(apk)?.1)?;
        self.check_tree_len(tree_len_over(apk)?)?;
        let tree = Tree::build(apk, &padded_salt(&self.salt)?).map_err(IdsigError::ReadApk)?;
        if tree.root != self.root_hash {
            return Err(IdsigError::Root);
        }
        let mut buffer = vec![0; COMPARED.min(tree.levels.len())];
        let mut offset = self.tree_offset;
        for expected in tree.levels.chunks(COMPARED) {
            let found = &mut buffer[..expected.len()];
            reader.read_exact_at(found, offset).map_err(IdsigError::Read)?;
            if let Some(same) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
                return Err(IdsigError::Tree(offset + same as u64));
            }
            offset += expected.len() as u64;
        }
        Ok(())
    }

    /// What checks single blocks of an archive of `apk_len` bytes by this root hash and the tree in `reader` (what
    /// [`Idsig::read`] was given). The tree is not trusted, root hash and length are.
    ///
    /// # Errors
    /// [`IdsigError::TreeLen`] when the tree is not over so many bytes.
    pub fn block_verifier<R: ReadAt>(
        &self,
        reader: R,
        apk_len: u64,
    ) -> Result<BlockVerifier<Section<R>>, IdsigError> {
        let tree = Section::new(reader, self.tree_offset, self.tree_len).map_err(IdsigError::Read)?;
        BlockVerifier::new(self.root_hash, &self.padded_salt(), apk_len, tree).map_err(|error| match error {
            BlockError::TreeLen { found, expected, .. } => IdsigError::TreeLen { found, expected },
            error => IdsigError::Read(error.into()),
        })
    }

    /// The salt as device-mapper is to be told it, which pads nothing itself: empty, or 64 bytes.
    pub fn padded_salt(&self) -> Vec<u8> {
        padded_salt(&self.salt).expect("was checked when it was made or read")
    }

    fn header(&self) -> Vec<u8> {
        let hashing = [
            SHA256.to_le_bytes().as_slice(),
            &[LOG2_BLOCK_LEN],
            &prefixed(&self.salt),
            &prefixed(&self.root_hash),
        ]
        .concat();
        let it = &self.signing;
        let signing = [
            prefixed(&it.apk_digest).as_slice(),
            &prefixed(&it.certificate),
            &prefixed(&it.additional_data),
            &prefixed(&it.public_key),
            &it.algorithm.to_le_bytes(),
            &prefixed(&it.signature),
            &it.rest,
        ]
        .concat();
        let tree_len = u32::try_from(self.tree_len).expect("was checked when it was made or read");
        [&VERSION.to_le_bytes()[..], &prefixed(&hashing), &prefixed(&signing), &tree_len.to_le_bytes()]
            .concat()
    }
}

/// The digest listed for an algorithm that is accepted.
fn accepted_digest(apk: &dyn ReadAt) -> Result<(SignatureAlgorithm, Vec<u8>), IdsigError> {
    match listed_digest(apk).map_err(IdsigError::ApkDigest)? {
        (algorithm, _) if !algorithm.is_accepted() => Err(IdsigError::Refused(algorithm)),
        listed => Ok(listed),
    }
}

/// Number of an algorithm and the digest listed for it, or 0 and nothing.
fn any_digest(apk: &dyn ReadAt) -> Result<(u32, Vec<u8>), IdsigError> {
    match listed_digest(apk) {
        Ok((algorithm, digest)) => Ok((algorithm.id(), digest)),
        Err(
            VerifyError::NoScheme
            | VerifyError::Block(SigningBlockError::Missing)
            | VerifyError::Signer { source: SignerError::NoAlgorithm, .. },
        ) => Ok((0, Vec::new())),
        Err(error) => Err(IdsigError::ApkDigest(error)),
    }
}

fn tree_len_over(apk: &dyn ReadAt) -> Result<u64, IdsigError> {
    let len = apk.len().and_then(merkle::tree_len).map_err(IdsigError::ReadApk)?;
    Ok(len as u64)
}

fn padded_salt(salt: &[u8]) -> Result<Vec<u8>, IdsigError> {
    let mut padded = salt.to_vec();
    match salt.len() {
        0 => {}
        1..=PADDED_SALT_LEN => padded.resize(PADDED_SALT_LEN, 0),
        found => {
            let (found, most) = (found as u64, PADDED_SALT_LEN as u64);
            return Err(IdsigError::Length { field: "salt", found, most });
        }
    }
    Ok(padded)
}

#[cfg(test)]
mod tests;
