//! What a vbmeta says about images.
//!
//! ```text
//!   tag u64 | bytes that follow u64, a multiple of 8 | fields | names, salts, digests | zeros
//! ```

use sha2::{Digest, Sha256, Sha512};

use super::fields::{Fields, text};
use super::{AvbError, malformed};
use crate::ReadAt;
use crate::merkle::{self, BLOCK_LEN, DIGEST_LEN, Tree};

/// Bytes behind the fields of a descriptor that later versions may use.
const RESERVED: usize = 60;
/// Bytes of the field with an algorithm's name.
const ALGORITHM_NAME: usize = 32;
/// Bytes hashed or compared at a time.
const CHUNK: usize = 1 << 20;

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// A name with a value.
    Property {
        /// The name.
        key: String,
        /// The value, without the NUL behind it.
        value: Vec<u8>,
    },
    /// An image verified as it is read.
    Hashtree(HashtreeDescriptor),
    /// An image verified before it is used.
    Hash(HashDescriptor),
    /// More for the kernel's command line.
    KernelCommandLine {
        /// When it is to be used.
        flags: u32,
        /// The text.
        text: String,
    },
    /// A partition with a vbmeta of its own.
    Chain(ChainDescriptor),
    /// Of a kind that is not known here.
    Other {
        /// The kind's number.
        tag: u64,
    },
}

/// An image with a dm-verity tree (hash type 1) behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashtreeDescriptor {
    /// Version of the hash format for dm-verity: 1.
    pub dm_verity_version: u32,
    /// Bytes of the image.
    pub image_size: u64,
    /// Where the tree begins, in bytes.
    pub tree_offset: u64,
    /// Bytes of the tree.
    pub tree_size: u64,
    /// Bytes of a block of the image.
    pub data_block_size: u32,
    /// Bytes of a block of the tree.
    pub hash_block_size: u32,
    /// Parity bytes for forward error correction, which is not used here.
    pub fec_num_roots: u32,
    /// Where they begin.
    pub fec_offset: u64,
    /// Bytes of them.
    pub fec_size: u64,
    /// Name of the hash algorithm.
    pub hash_algorithm: String,
    /// The partition meant; may be empty.
    pub partition_name: String,
    /// Salt, before every block.
    pub salt: Vec<u8>,
    /// Digest of the top of the tree.
    pub root_digest: Vec<u8>,
    /// Flags.
    pub flags: u32,
}

/// An image with one digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashDescriptor {
    /// Bytes of the image.
    pub image_size: u64,
    /// Name of the hash algorithm.
    pub hash_algorithm: String,
    /// The partition meant.
    pub partition_name: String,
    /// Salt, before the image.
    pub salt: Vec<u8>,
    /// Digest of salt and image.
    pub digest: Vec<u8>,
    /// Flags.
    pub flags: u32,
}

/// Who may sign another partition's vbmeta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainDescriptor {
    /// Where that partition's rollback index is kept.
    pub rollback_index_location: u32,
    /// The partition.
    pub partition_name: String,
    /// The key, in AVB's encoding; not looked into.
    pub public_key: Vec<u8>,
    /// Flags.
    pub flags: u32,
}

impl Descriptor {
    /// Reads descriptors until none is left; each takes at least 16 bytes.
    pub(super) fn parse_all(bytes: &[u8]) -> Result<Vec<Self>, AvbError> {
        let mut fields = Fields::new(bytes);
        let mut descriptors = Vec::new();
        while !fields.is_empty() {
            let header = fields.u64().zip(fields.u64());
            let (tag, len) = header.ok_or_else(|| wrong("header", "16 bytes"))?;
            let len = usize::try_from(len).ok().filter(|len| len.is_multiple_of(8));
            let body = len.and_then(|len| fields.bytes(len));
            let body =
                body.ok_or_else(|| wrong("length", "a multiple of 8 that ends with the descriptors"))?;
            descriptors.push(Self::parse(tag, Fields::new(body))?);
        }
        Ok(descriptors)
    }

    fn parse(tag: u64, body: Fields<'_>) -> Result<Self, AvbError> {
        let expected = "texts and lengths that fit the descriptor";
        match tag {
            0 => property(body).ok_or_else(|| wrong("property", expected)),
            1 => hashtree(body).map(Self::Hashtree).ok_or_else(|| wrong("hashtree", expected)),
            2 => hash(body).map(Self::Hash).ok_or_else(|| wrong("hash", expected)),
            3 => command_line(body).ok_or_else(|| wrong("kernel command line", expected)),
            4 => chain(body).map(Self::Chain).ok_or_else(|| wrong("chain partition", expected)),
            tag => Ok(Self::Other { tag }),
        }
    }
}

fn wrong(field: &'static str, expected: &'static str) -> AvbError {
    malformed("descriptor", field, expected)
}

/// Bytes behind a length of 64 bits, where another field may stand between.
fn long(fields: &mut Fields<'_>) -> Option<usize> {
    usize::try_from(fields.u64()?).ok()
}

fn string(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok().filter(|text| !text.contains('\0'))
}

fn property(mut body: Fields<'_>) -> Option<Descriptor> {
    let (key_len, value_len) = (long(&mut body)?, long(&mut body)?);
    let key = string(body.bytes(key_len)?)?;
    let key_end = body.bytes(1)?;
    let value = body.bytes(value_len)?.to_vec();
    let value_end = body.bytes(1)?;
    (key_end == [0] && value_end == [0] && padding(body)).then_some(Descriptor::Property { key, value })
}

/// Whether what is left is no more than what fills eight bytes.
fn padding(body: Fields<'_>) -> bool {
    body.rest().len() < 8
}

fn hashtree(mut body: Fields<'_>) -> Option<HashtreeDescriptor> {
    let dm_verity_version = body.u32()?;
    let (image_size, tree_offset, tree_size) = (body.u64()?, body.u64()?, body.u64()?);
    let (data_block_size, hash_block_size, fec_num_roots) = (body.u32()?, body.u32()?, body.u32()?);
    let (fec_offset, fec_size) = (body.u64()?, body.u64()?);
    let hash_algorithm = text(body.bytes(ALGORITHM_NAME)?)?.to_owned();
    let (name_len, salt_len, digest_len, flags) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    body.bytes(RESERVED)?;
    let descriptor = HashtreeDescriptor {
        dm_verity_version,
        image_size,
        tree_offset,
        tree_size,
        data_block_size,
        hash_block_size,
        fec_num_roots,
        fec_offset,
        fec_size,
        hash_algorithm,
        partition_name: string(body.counted(name_len)?)?,
        salt: body.counted(salt_len)?.to_vec(),
        root_digest: body.counted(digest_len)?.to_vec(),
        flags,
    };
    padding(body).then_some(descriptor)
}

fn hash(mut body: Fields<'_>) -> Option<HashDescriptor> {
    let image_size = body.u64()?;
    let hash_algorithm = text(body.bytes(ALGORITHM_NAME)?)?.to_owned();
    let (name_len, salt_len, digest_len, flags) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    body.bytes(RESERVED)?;
    let descriptor = HashDescriptor {
        image_size,
        hash_algorithm,
        partition_name: string(body.counted(name_len)?)?,
        salt: body.counted(salt_len)?.to_vec(),
        digest: body.counted(digest_len)?.to_vec(),
        flags,
    };
    padding(body).then_some(descriptor)
}

fn command_line(mut body: Fields<'_>) -> Option<Descriptor> {
    let (flags, len) = (body.u32()?, body.u32()?);
    let text = string(body.counted(len)?)?;
    padding(body).then_some(Descriptor::KernelCommandLine { flags, text })
}

fn chain(mut body: Fields<'_>) -> Option<ChainDescriptor> {
    let (rollback_index_location, name_len, key_len, flags) =
        (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    body.bytes(RESERVED)?;
    let descriptor = ChainDescriptor {
        rollback_index_location,
        partition_name: string(body.counted(name_len)?)?,
        public_key: body.counted(key_len)?.to_vec(),
        flags,
    };
    padding(body).then_some(descriptor)
}

impl HashDescriptor {
    /// Compares the first [`HashDescriptor::image_size`] bytes of `image` with the digest; what follows them is not
    /// verified.
    ///
    /// # Errors
    /// [`AvbError::Digest`] when they are not what was signed.
    pub fn verify(&self, image: &dyn ReadAt) -> Result<(), AvbError> {
        match self.hash_algorithm.as_str() {
            "sha256" => self.verify_with::<Sha256>(image),
            "sha512" => self.verify_with::<Sha512>(image),
            other => Err(AvbError::HashAlgorithm {
                partition: self.partition_name.clone(),
                algorithm: other.into(),
                expected: "sha256 or sha512",
            }),
        }
    }

    fn verify_with<H: Digest>(&self, image: &dyn ReadAt) -> Result<(), AvbError> {
        let differs = || AvbError::Digest { partition: self.partition_name.clone() };
        if self.image_size > image.len().map_err(AvbError::Read)? {
            return Err(differs());
        }
        let mut hash = H::new_with_prefix(&self.salt);
        let mut buffer = Vec::new();
        let mut offset = 0;
        while offset < self.image_size {
            let here = usize::try_from(self.image_size - offset).unwrap_or(CHUNK).min(CHUNK);
            buffer.resize(here, 0);
            image.read_exact_at(&mut buffer, offset).map_err(AvbError::Read)?;
            hash.update(&buffer);
            offset += here as u64;
        }
        if hash.finalize().as_slice() == self.digest { Ok(()) } else { Err(differs()) }
    }
}

impl HashtreeDescriptor {
    /// Checks, without hashing, that the descriptor is of a tree over SHA-256 and blocks of 4 KiB, that image and tree
    /// lie one behind the other in an image of `len` bytes, and that their sizes fit each other. What dm-verity is to
    /// be told then has sense, and [`HashtreeDescriptor::root`] is the root digest.
    ///
    /// # Errors
    /// [`AvbError::HashAlgorithm`] for `sha1` and others, [`AvbError::Malformed`].
    pub fn check(&self, len: u64) -> Result<(), AvbError> {
        let wrong = |field, expected| malformed("hashtree descriptor", field, expected);
        if self.hash_algorithm != "sha256" {
            return Err(AvbError::HashAlgorithm {
                partition: self.partition_name.clone(),
                algorithm: self.hash_algorithm.clone(),
                expected: "sha256",
            });
        }
        if self.dm_verity_version != 1 {
            return Err(wrong("dm-verity version", "1"));
        }
        let block = BLOCK_LEN as u64;
        if [self.data_block_size, self.hash_block_size].iter().any(|size| u64::from(*size) != block) {
            return Err(wrong("block size", "4096"));
        }
        if self.root_digest.len() != DIGEST_LEN {
            return Err(wrong("root digest", "32 bytes"));
        }
        if self.image_size == 0 || !self.image_size.is_multiple_of(block) {
            return Err(wrong("image size", "a multiple of 4096"));
        }
        if self.tree_offset < self.image_size || !self.tree_offset.is_multiple_of(block) {
            return Err(wrong("tree offset", "a multiple of 4096, behind the image"));
        }
        if self.tree_offset.checked_add(self.tree_size).is_none_or(|end| end > len) {
            return Err(wrong("tree size", "a tree inside the image"));
        }
        let expected = merkle::tree_len(self.image_size).map_err(AvbError::Read)?;
        if usize::try_from(self.tree_size) != Ok(expected) {
            return Err(wrong("tree size", "that of a tree over the image"));
        }
        Ok(())
    }

    /// The root digest, once [`HashtreeDescriptor::check`] has said that it is one.
    pub fn root(&self) -> Option<[u8; DIGEST_LEN]> {
        self.root_digest.as_slice().try_into().ok()
    }

    /// Hashes all of the image, on all processors, and compares root digest and stored tree. Takes memory for the tree.
    ///
    /// # Errors
    /// As [`HashtreeDescriptor::check`]; [`AvbError::Digest`] for another image, [`AvbError::Tree`] for a damaged tree.
    pub fn verify(&self, image: &dyn ReadAt) -> Result<(), AvbError> {
        self.check(image.len().map_err(AvbError::Read)?)?;
        let data = crate::Section::new(image, 0, self.image_size).map_err(AvbError::Read)?;
        let tree = Tree::build(&data, &self.salt).map_err(AvbError::Read)?;
        if Some(tree.root) != self.root() {
            return Err(AvbError::Digest { partition: self.partition_name.clone() });
        }
        let mut buffer = vec![0; CHUNK.min(tree.levels.len())];
        let mut offset = self.tree_offset;
        for expected in tree.levels.chunks(CHUNK) {
            let found = &mut buffer[..expected.len()];
            image.read_exact_at(found, offset).map_err(AvbError::Read)?;
            if found != expected {
                return Err(AvbError::Tree { partition: self.partition_name.clone() });
            }
            offset += expected.len() as u64;
        }
        Ok(())
    }
}
