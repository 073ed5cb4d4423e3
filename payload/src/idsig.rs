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
//! block that is hashed. What the host makes carries no signature: the guest verifies the archive itself.

use std::io::{self, Write};

use crate::ReadAt;
use crate::apk::verify::{VerifyError, listed_digest};
use crate::fields::{Fields, prefixed};
use crate::hex::Hex;
use crate::merkle::{self, DIGEST_LEN, Tree};

const VERSION: u32 = 2;
const SHA256: u32 = 1;
const LOG2_BLOCK_LEN: u8 = 12;
/// A salt is padded to SHA-256's block.
const PADDED_SALT_LEN: usize = 64;
/// Longest signing info read: a certificate, a key and a signature of a few kilobytes each.
const MAX_SIGNING_LEN: u32 = 64 << 10;
/// Everything before the tree fits in this many bytes.
const MAX_HEADER_LEN: u64 = MAX_SIGNING_LEN as u64 + 1024;
/// Bytes of the tree compared at a time.
const COMPARED: usize = 1 << 20;

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
    /// Another version, hash or block size.
    #[error("the idsig has {what} {found}, which is not supported")]
    Unsupported {
        /// What it is that has the value.
        what: &'static str,
        /// The value.
        found: u32,
    },
    /// Fields that do not fit each other, or end early.
    #[error("the idsig's {0} is malformed")]
    Malformed(&'static str),
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
    #[error("the idsig's tree is damaged")]
    Tree,
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
    /// Number of the signature algorithm.
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
    /// When the archive cannot be read or is not signed, or the salt is longer than 64 bytes.
    pub fn create(apk: &dyn ReadAt, salt: &[u8]) -> Result<(Self, Tree), IdsigError> {
        let (algorithm, apk_digest) = listed_digest(apk).map_err(IdsigError::ApkDigest)?;
        let tree = Tree::build(apk, &padded_salt(salt)?).map_err(IdsigError::ReadApk)?;
        let signing = SigningInfo { apk_digest, algorithm: algorithm.id(), ..SigningInfo::default() };
        let mut idsig = Self {
            salt: salt.to_vec(),
            root_hash: tree.root,
            signing,
            tree_offset: 0,
            tree_len: u32::try_from(tree.levels.len())
                .map_err(|_| IdsigError::Malformed("tree size"))?
                .into(),
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

    /// Reads everything but the tree from a file or a padded partition.
    ///
    /// # Errors
    /// [`IdsigError`] unless all fields fit each other and the tree lies within `reader`.
    pub fn read(reader: &dyn ReadAt) -> Result<Self, IdsigError> {
        let len = reader.len().map_err(IdsigError::Read)?;
        let mut bytes = vec![0; usize::try_from(len.min(MAX_HEADER_LEN)).expect("at most 65 KiB")];
        reader.read_exact_at(&mut bytes, 0).map_err(IdsigError::Read)?;
        let mut fields = Fields::new(&bytes);
        expect("version", fields.u32(), VERSION)?;
        let (salt, root_hash) = hashing_info(&mut fields)?;
        let signing = signing_info(&mut fields).ok_or(IdsigError::Malformed("signing info"))?;
        let tree_len = u64::from(fields.u32().ok_or(IdsigError::Malformed("tree size"))?);
        let tree_offset = (bytes.len() - fields.rest().len()) as u64;
        if tree_len > len - tree_offset {
            return Err(IdsigError::Malformed("tree size"));
        }
        Ok(Self { salt, root_hash, signing, tree_offset, tree_len })
    }

    /// Checks, without hashing it, that this is the idsig of the archive that fills `apk`: it names the digest which
    /// the archive lists, and its tree has the length of one over the archive.
    ///
    /// # Errors
    /// [`IdsigError::OtherApk`] or [`IdsigError::TreeLen`], or when the archive is no signed one.
    pub fn check_apk(&self, apk: &dyn ReadAt) -> Result<(), IdsigError> {
        let (_, listed) = listed_digest(apk).map_err(IdsigError::ApkDigest)?;
        if listed != self.signing.apk_digest {
            return Err(IdsigError::OtherApk { named: self.signing.apk_digest.clone(), listed });
        }
        let apk_len = apk.len().map_err(IdsigError::ReadApk)?;
        let expected = merkle::tree_len(apk_len).map_err(IdsigError::ReadApk)? as u64;
        if expected != self.tree_len {
            return Err(IdsigError::TreeLen { found: self.tree_len, expected });
        }
        Ok(())
    }

    /// Checks all of it against the archive, which is hashed: digest, root hash, and the tree in `reader` (what
    /// [`Idsig::read`] was given), byte for byte.
    ///
    /// # Errors
    /// [`IdsigError`] for the first difference.
    pub fn verify(&self, reader: &dyn ReadAt, apk: &dyn ReadAt) -> Result<(), IdsigError> {
        self.check_apk(apk)?;
        let tree = Tree::build(apk, &padded_salt(&self.salt)?).map_err(IdsigError::ReadApk)?;
        if tree.root != self.root_hash {
            return Err(IdsigError::Root);
        }
        let mut buffer = vec![0; COMPARED.min(tree.levels.len())];
        let mut offset = self.tree_offset;
        for expected in tree.levels.chunks(COMPARED) {
            let found = &mut buffer[..expected.len()];
            reader.read_exact_at(found, offset).map_err(IdsigError::Read)?;
            if found != expected {
                return Err(IdsigError::Tree);
            }
            offset += expected.len() as u64;
        }
        Ok(())
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

fn padded_salt(salt: &[u8]) -> Result<Vec<u8>, IdsigError> {
    match salt.len() {
        0 => Ok(Vec::new()),
        1..=PADDED_SALT_LEN => {
            let mut padded = salt.to_vec();
            padded.resize(PADDED_SALT_LEN, 0);
            Ok(padded)
        }
        _ => Err(IdsigError::Malformed("salt")),
    }
}

fn expect(what: &'static str, found: Option<u32>, expected: u32) -> Result<(), IdsigError> {
    match found {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(IdsigError::Unsupported { what, found }),
        None => Err(IdsigError::Malformed(what)),
    }
}

fn hashing_info(fields: &mut Fields<'_>) -> Result<(Vec<u8>, [u8; DIGEST_LEN]), IdsigError> {
    let malformed = || IdsigError::Malformed("hashing info");
    let mut info = Fields::new(fields.prefixed().ok_or_else(malformed)?);
    expect("hash algorithm", info.u32(), SHA256)?;
    expect("block size 2 to the power of", info.u8().map(u32::from), LOG2_BLOCK_LEN.into())?;
    let salt = info.prefixed().ok_or_else(malformed)?;
    padded_salt(salt)?;
    let root = info.prefixed().and_then(|root| root.try_into().ok()).ok_or_else(malformed)?;
    if !info.is_empty() {
        return Err(malformed());
    }
    Ok((salt.to_vec(), root))
}

fn signing_info(fields: &mut Fields<'_>) -> Option<SigningInfo> {
    let info = fields.prefixed()?;
    u32::try_from(info.len()).ok().filter(|len| *len <= MAX_SIGNING_LEN)?;
    let mut info = Fields::new(info);
    Some(SigningInfo {
        apk_digest: info.prefixed()?.to_vec(),
        certificate: info.prefixed()?.to_vec(),
        additional_data: info.prefixed()?.to_vec(),
        public_key: info.prefixed()?.to_vec(),
        algorithm: info.u32()?,
        signature: info.prefixed()?.to_vec(),
        rest: info.rest().to_vec(),
    })
}

#[cfg(test)]
mod tests;
