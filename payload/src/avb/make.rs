//! Making vbmetas and images with footers, for whoever needs one to test with. Equal inputs give equal bytes.

use std::convert::Infallible;

use rsa::RsaPrivateKey;
use rsa::pkcs8::DecodePrivateKey;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PublicKeyParts;
use sha2::{Digest, Sha256};

use super::vbmeta::{BLOCK_ALIGNMENT, HEADER_LEN, RELEASE_LEN, VERSION};
use super::{
    Algorithm, ChainDescriptor, Descriptor, FOOTER_LEN, Footer, HashDescriptor, HashtreeDescriptor, PublicKey,
};
use crate::merkle::{BLOCK_LEN, Tree};

/// Who made it.
const RELEASE: &str = "kapsel";
/// Images with a footer have a multiple of as many bytes.
const IMAGE_ALIGNMENT: usize = BLOCK_LEN;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a private key.
    #[error("the key is not an RSA private key of 2048, 4096 or 8192 bits in PKCS#8")]
    Key,
    /// No key can be made of this size.
    #[error("make an RSA key of {0} bits")]
    Size(usize),
}

/// A private RSA key.
pub struct SigningKey {
    key: RsaPrivateKey,
    public_key: Vec<u8>,
}

impl SigningKey {
    /// The key in PKCS#8, DER.
    ///
    /// # Errors
    /// [`KeyError::Key`].
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        Self::new(RsaPrivateKey::from_pkcs8_der(der).map_err(|_| KeyError::Key)?).ok_or(KeyError::Key)
    }

    /// The key that follows from `seed`, always the same: as secret as the seed is.
    ///
    /// # Errors
    /// [`KeyError::Size`] unless `bits` is 2048, 4096 or 8192.
    pub fn from_seed(seed: [u8; 32], bits: usize) -> Result<Self, KeyError> {
        let size = || KeyError::Size(bits);
        let known = matches!(bits, 2048 | 4096 | 8192);
        let key = known.then(|| RsaPrivateKey::new(&mut Stream { seed, counter: 0 }, bits));
        key.and_then(Result::ok).and_then(Self::new).ok_or_else(size)
    }

    fn new(key: RsaPrivateKey) -> Option<Self> {
        let public_key = PublicKey::encode(&key.n_bytes())?;
        PublicKey::parse(&public_key).ok()?;
        Some(Self { key, public_key })
    }

    /// Its public half, in AVB's encoding.
    pub fn public_key(&self) -> Vec<u8> {
        self.public_key.clone()
    }

    fn sign(&self, algorithm: Algorithm, hash: &[u8]) -> Vec<u8> {
        self.key.sign(algorithm.padding(), hash).expect("a hash is shorter than any of these keys")
    }
}

/// SHA-256 of a seed and a counter: enough for numbers that must be the same each time.
struct Stream {
    seed: [u8; 32],
    counter: u64,
}

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(32) {
            let block =
                Sha256::new_with_prefix(self.seed).chain_update(self.counter.to_le_bytes()).finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
            self.counter += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for Stream {}

/// What a vbmeta is to say.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    /// About images.
    pub descriptors: Vec<Descriptor>,
    /// The rollback index.
    pub rollback_index: u64,
    /// Flags.
    pub flags: u32,
    /// Whether SHA-512 is to be used, not SHA-256.
    pub sha512: bool,
}

impl Statement {
    /// The vbmeta, signed with `key`; without one its algorithm is NONE.
    pub fn to_vbmeta(&self, key: Option<&SigningKey>) -> Vec<u8> {
        let algorithm = match (key.map(|key| key.public_key.len()), self.sha512) {
            (None, _) => Algorithm::None,
            (Some(520), false) => Algorithm::Sha256Rsa2048,
            (Some(520), true) => Algorithm::Sha512Rsa2048,
            (Some(1032), false) => Algorithm::Sha256Rsa4096,
            (Some(1032), true) => Algorithm::Sha512Rsa4096,
            (Some(_), false) => Algorithm::Sha256Rsa8192,
            (Some(_), true) => Algorithm::Sha512Rsa8192,
        };
        let descriptors: Vec<u8> = self.descriptors.iter().flat_map(Descriptor::to_bytes).collect();
        let public_key = key.map(SigningKey::public_key).unwrap_or_default();
        let auxiliary = aligned([&descriptors[..], &public_key].concat(), BLOCK_ALIGNMENT);
        let (hash_len, signature_len) = match algorithm {
            Algorithm::None => (0, 0),
            _ => (algorithm.hash([b"", b""]).len(), u64::from(algorithm.key_bits() / 8)),
        };
        let hash_len = hash_len as u64;
        let authentication_len = (hash_len + signature_len).next_multiple_of(BLOCK_ALIGNMENT);

        let mut header = b"AVB0".to_vec();
        words(&mut header, &[VERSION.0, 0]);
        longs(&mut header, &[authentication_len, auxiliary.len() as u64]);
        words(&mut header, &[algorithm.id()]);
        longs(&mut header, &[0, hash_len, hash_len, signature_len]);
        let [descriptors_len, key_len] = [descriptors.len() as u64, public_key.len() as u64];
        longs(&mut header, &[descriptors_len, key_len, descriptors_len + key_len, 0, 0, descriptors_len]);
        longs(&mut header, &[self.rollback_index]);
        words(&mut header, &[self.flags, 0]);
        header.extend(padded(RELEASE.as_bytes(), RELEASE_LEN));
        header.resize(HEADER_LEN, 0);

        let mut authentication = Vec::new();
        if let Some(key) = key {
            let hash = algorithm.hash([&header, &auxiliary]);
            authentication = [&hash[..], &key.sign(algorithm, &hash)].concat();
        }
        [header, aligned(authentication, BLOCK_ALIGNMENT), auxiliary].concat()
    }

    /// `content`, padded to 4 KiB, with the vbmeta and a footer behind it; `original_size` of its bytes were the image.
    pub fn append_to(&self, content: Vec<u8>, original_size: usize, key: Option<&SigningKey>) -> Vec<u8> {
        let mut image = aligned(content, IMAGE_ALIGNMENT as u64);
        let vbmeta = self.to_vbmeta(key);
        let footer = Footer {
            original_image_size: original_size as u64,
            vbmeta_offset: image.len() as u64,
            vbmeta_size: vbmeta.len() as u64,
        };
        image.extend(vbmeta);
        let len = (image.len() + FOOTER_LEN).next_multiple_of(IMAGE_ALIGNMENT);
        image.resize(len - FOOTER_LEN, 0);
        image.extend(footer.to_bytes());
        image
    }
}

/// `image` (a multiple of 4 KiB) with its hash tree, vbmeta and footer.
pub fn image_with_hashtree(mut image: Vec<u8>, salt: &[u8], partition: &str, key: &SigningKey) -> Vec<u8> {
    let original_size = image.len();
    let tree = Tree::build(&image, salt).expect("memory can be read");
    let descriptor = HashtreeDescriptor {
        dm_verity_version: 1,
        image_size: original_size as u64,
        tree_offset: original_size as u64,
        tree_size: tree.levels.len() as u64,
        data_block_size: 4096,
        hash_block_size: 4096,
        fec_num_roots: 0,
        fec_offset: 0,
        fec_size: 0,
        hash_algorithm: "sha256".into(),
        partition_name: partition.into(),
        salt: salt.to_vec(),
        root_digest: tree.root.to_vec(),
        flags: 0,
    };
    image.extend(tree.levels);
    let statement = Statement { descriptors: vec![Descriptor::Hashtree(descriptor)], ..Statement::default() };
    statement.append_to(image, original_size, Some(key))
}

/// The descriptor of an image with one digest, by SHA-256.
pub fn hash_descriptor(image: &[u8], salt: &[u8], partition: &str) -> Descriptor {
    Descriptor::Hash(HashDescriptor {
        image_size: image.len() as u64,
        hash_algorithm: "sha256".into(),
        partition_name: partition.into(),
        salt: salt.to_vec(),
        digest: Sha256::new_with_prefix(salt).chain_update(image).finalize().to_vec(),
        flags: 0,
    })
}

impl Descriptor {
    /// Its bytes in a vbmeta.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let tag: u64 = match self {
            Self::Property { key, value } => {
                longs(&mut body, &[key.len() as u64, value.len() as u64]);
                body.extend([key.as_bytes(), &[0], value, &[0]].concat());
                0
            }
            Self::Hashtree(it) => {
                it.put(&mut body);
                1
            }
            Self::Hash(it) => {
                it.put(&mut body);
                2
            }
            Self::KernelCommandLine { flags, text } => {
                words(&mut body, &[*flags, len(text.as_bytes())]);
                body.extend(text.as_bytes());
                3
            }
            Self::Chain(it) => {
                it.put(&mut body);
                4
            }
            Self::Other { tag } => *tag,
        };
        let body = aligned(body, 8);
        [&tag.to_be_bytes()[..], &(body.len() as u64).to_be_bytes(), &body].concat()
    }
}

impl HashtreeDescriptor {
    fn put(&self, body: &mut Vec<u8>) {
        words(body, &[self.dm_verity_version]);
        longs(body, &[self.image_size, self.tree_offset, self.tree_size]);
        words(body, &[self.data_block_size, self.hash_block_size, self.fec_num_roots]);
        longs(body, &[self.fec_offset, self.fec_size]);
        body.extend(padded(self.hash_algorithm.as_bytes(), 32));
        let name = self.partition_name.as_bytes();
        words(body, &[len(name), len(&self.salt), len(&self.root_digest), self.flags]);
        body.extend([&[0; 60][..], name, &self.salt, &self.root_digest].concat());
    }
}

impl HashDescriptor {
    fn put(&self, body: &mut Vec<u8>) {
        longs(body, &[self.image_size]);
        body.extend(padded(self.hash_algorithm.as_bytes(), 32));
        let name = self.partition_name.as_bytes();
        words(body, &[len(name), len(&self.salt), len(&self.digest), self.flags]);
        body.extend([&[0; 60][..], name, &self.salt, &self.digest].concat());
    }
}

impl ChainDescriptor {
    fn put(&self, body: &mut Vec<u8>) {
        let name = self.partition_name.as_bytes();
        words(body, &[self.rollback_index_location, len(name), len(&self.public_key), self.flags]);
        body.extend([&[0; 60][..], name, &self.public_key].concat());
    }
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| out.extend(word.to_be_bytes()));
}

fn longs(out: &mut Vec<u8>, longs: &[u64]) {
    longs.iter().for_each(|long| out.extend(long.to_be_bytes()));
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("what is made is small")
}

fn padded(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut field = bytes.to_vec();
    field.resize(len, 0);
    field
}

fn aligned(mut bytes: Vec<u8>, alignment: u64) -> Vec<u8> {
    let len = (bytes.len() as u64).next_multiple_of(alignment);
    bytes.resize(usize::try_from(len).expect("little more than there is in memory"), 0);
    bytes
}

#[cfg(test)]
pub(crate) mod testing {
    //! One key for the tests of this crate: making it takes as long as all else.

    use std::sync::LazyLock;

    use super::SigningKey;

    /// The key.
    pub(crate) fn key() -> &'static SigningKey {
        static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_seed([1; 32], 2048).unwrap());
        &KEY
    }
}
