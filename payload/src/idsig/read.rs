//! The idsig's fields, read from hostile bytes.

use super::{Idsig, IdsigError, LOG2_BLOCK_LEN, PADDED_SALT_LEN, SHA256, SigningInfo, VERSION};
use crate::ReadAt;
use crate::fields::Fields;
use crate::merkle::{BLOCK_LEN, DIGEST_LEN};

/// Longest hashing info: algorithm, block size, salt, root hash.
const MAX_HASHING_LEN: usize = 4 + 1 + 4 + PADDED_SALT_LEN + 4 + DIGEST_LEN;
/// Longest signing info read: a certificate, a key and a signature of a few kilobytes each.
pub(super) const MAX_SIGNING_LEN: usize = 64 << 10;
/// Everything before the tree fits in this many bytes: the version, and three lengths.
const MAX_HEADER_LEN: usize = MAX_HASHING_LEN + MAX_SIGNING_LEN + 4 * 4;

impl Idsig {
    /// Reads everything but the tree from a file or a padded partition.
    ///
    /// # Errors
    /// [`IdsigError`] unless all fields fit each other and the tree lies within `reader`.
    pub fn read(reader: &dyn ReadAt) -> Result<Self, IdsigError> {
        let len = reader.len().map_err(IdsigError::Read)?;
        let mut bytes = vec![0; usize::try_from(len).map_or(MAX_HEADER_LEN, |len| len.min(MAX_HEADER_LEN))];
        reader.read_exact_at(&mut bytes, 0).map_err(IdsigError::Read)?;
        let mut fields = Fields::new(&bytes);
        expect(&mut fields, "version", VERSION, "2")?;
        let (salt, root_hash) = hashing_info(limited(&mut fields, "hashing info", MAX_HASHING_LEN)?)?;
        let signing = signing_info(limited(&mut fields, "signing info", MAX_SIGNING_LEN)?)?;
        let tree_len = number(&mut fields, "tree size")?;
        let tree_offset = (bytes.len() - fields.rest().len()) as u64;
        let (found, most) = (u64::from(tree_len), len - tree_offset);
        if found > most {
            return Err(IdsigError::Length { field: "tree", found, most });
        }
        if !found.is_multiple_of(BLOCK_LEN as u64) {
            let expected = "a multiple of 4096";
            return Err(IdsigError::Unsupported { what: "tree size", found: tree_len, expected });
        }
        Ok(Self { salt, root_hash, signing, tree_offset, tree_len: found })
    }

    /// As [`Idsig::read`], from a file, behind the tree of which there is nothing.
    ///
    /// # Errors
    /// As of [`Idsig::read`], and [`IdsigError::Length`] when something follows the tree.
    pub fn read_file(reader: &dyn ReadAt) -> Result<Self, IdsigError> {
        let idsig = Self::read(reader)?;
        let (found, most) = (reader.len().map_err(IdsigError::Read)?, idsig.file_len());
        match found > most {
            true => Err(IdsigError::Length { field: "file", found, most }),
            false => Ok(idsig),
        }
    }
}

fn number(fields: &mut Fields<'_>, field: &'static str) -> Result<u32, IdsigError> {
    fields.u32().ok_or(IdsigError::Ends(field))
}

/// A length, and as many bytes.
fn bytes<'a>(fields: &mut Fields<'a>, field: &'static str) -> Result<&'a [u8], IdsigError> {
    limited(fields, field, usize::MAX)
}

/// A length of at most `most`, and as many bytes.
fn limited<'a>(fields: &mut Fields<'a>, field: &'static str, most: usize) -> Result<&'a [u8], IdsigError> {
    let len = number(fields, field)?;
    let most = most.min(fields.rest().len());
    let found = usize::try_from(len).ok().filter(|len| *len <= most);
    let refused = IdsigError::Length { field, found: len.into(), most: most as u64 };
    found.and_then(|len| fields.bytes(len)).ok_or(refused)
}

fn expect(
    fields: &mut Fields<'_>,
    what: &'static str,
    value: u32,
    expected: &'static str,
) -> Result<(), IdsigError> {
    match number(fields, what)? {
        found if found == value => Ok(()),
        found => Err(IdsigError::Unsupported { what, found, expected }),
    }
}

fn hashing_info(info: &[u8]) -> Result<(Vec<u8>, [u8; DIGEST_LEN]), IdsigError> {
    let mut fields = Fields::new(info);
    expect(&mut fields, "hash algorithm", SHA256, "1, SHA-256")?;
    match fields.u8().ok_or(IdsigError::Ends("block size"))? {
        LOG2_BLOCK_LEN => {}
        found => {
            let (what, expected) = ("block size 2 to the power of", "12");
            return Err(IdsigError::Unsupported { what, found: found.into(), expected });
        }
    }
    let salt = limited(&mut fields, "salt", PADDED_SALT_LEN)?;
    let root = limited(&mut fields, "root hash", DIGEST_LEN)?;
    let root = root.try_into().map_err(|_| {
        let found = u32::try_from(root.len()).expect("at most 32");
        IdsigError::Unsupported { what: "root hash size", found, expected: "32" }
    })?;
    if !fields.is_empty() {
        let (found, most) = (info.len() as u64, (info.len() - fields.rest().len()) as u64);
        return Err(IdsigError::Length { field: "hashing info", found, most });
    }
    Ok((salt.to_vec(), root))
}

fn signing_info(info: &[u8]) -> Result<SigningInfo, IdsigError> {
    let mut info = Fields::new(info);
    Ok(SigningInfo {
        apk_digest: bytes(&mut info, "digest of the archive")?.to_vec(),
        certificate: bytes(&mut info, "certificate")?.to_vec(),
        additional_data: bytes(&mut info, "additional data")?.to_vec(),
        public_key: bytes(&mut info, "public key")?.to_vec(),
        algorithm: number(&mut info, "signature algorithm")?,
        signature: bytes(&mut info, "signature")?.to_vec(),
        rest: info.rest().to_vec(),
    })
}
