//! The vbmeta: header, hash, signature, key and descriptors.

use std::fmt;

use rsa::Pkcs1v15Sign;
use sha2::{Digest, Sha256, Sha512};

use super::descriptor::Descriptor;
use super::fields::{Fields, text};
use super::key::PublicKey;
use super::{AvbError, malformed};

/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 256;
/// The blocks behind it have a multiple of as many bytes.
pub(super) const BLOCK_ALIGNMENT: u64 = 64;
/// The newest version of libavb whose images are read: major, minor.
pub(super) const VERSION: (u32, u32) = (1, 3);
/// Bytes of the field with the name of the tool that made it.
pub(super) const RELEASE_LEN: usize = 48;

/// How a vbmeta is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Not at all.
    None,
    /// SHA-256, RSA of 2048 bits.
    Sha256Rsa2048,
    /// SHA-256, RSA of 4096 bits.
    Sha256Rsa4096,
    /// SHA-256, RSA of 8192 bits.
    Sha256Rsa8192,
    /// SHA-512, RSA of 2048 bits.
    Sha512Rsa2048,
    /// SHA-512, RSA of 4096 bits.
    Sha512Rsa4096,
    /// SHA-512, RSA of 8192 bits.
    Sha512Rsa8192,
}

impl Algorithm {
    const ALL: [Self; 7] = [
        Self::None,
        Self::Sha256Rsa2048,
        Self::Sha256Rsa4096,
        Self::Sha256Rsa8192,
        Self::Sha512Rsa2048,
        Self::Sha512Rsa4096,
        Self::Sha512Rsa8192,
    ];

    /// The algorithm numbered `id` in headers.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Its number in headers.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Bits of its keys; 0 without one.
    pub fn key_bits(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Sha256Rsa2048 | Self::Sha512Rsa2048 => 2048,
            Self::Sha256Rsa4096 | Self::Sha512Rsa4096 => 4096,
            Self::Sha256Rsa8192 | Self::Sha512Rsa8192 => 8192,
        }
    }

    pub(super) fn is_sha512(self) -> bool {
        matches!(self, Self::Sha512Rsa2048 | Self::Sha512Rsa4096 | Self::Sha512Rsa8192)
    }

    /// The hash of `parts`, one behind the other.
    pub(super) fn hash(self, parts: [&[u8]; 2]) -> Vec<u8> {
        fn digest<H: Digest>(parts: [&[u8]; 2]) -> Vec<u8> {
            H::new_with_prefix(parts[0]).chain_update(parts[1]).finalize().to_vec()
        }
        if self.is_sha512() { digest::<Sha512>(parts) } else { digest::<Sha256>(parts) }
    }

    pub(super) fn padding(self) -> Pkcs1v15Sign {
        if self.is_sha512() { Pkcs1v15Sign::new::<Sha512>() } else { Pkcs1v15Sign::new::<Sha256>() }
    }
}

/// The name that `avbtool` has for it.
impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_sha512(), self.key_bits()) {
            (_, 0) => f.write_str("NONE"),
            (false, bits) => write!(f, "SHA256_RSA{bits}"),
            (true, bits) => write!(f, "SHA512_RSA{bits}"),
        }
    }
}

/// What a vbmeta says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VbMeta {
    /// How it is signed.
    pub algorithm: Algorithm,
    /// The key in it, in AVB's encoding ([`PublicKey`]): whether it is one to be trusted is for the caller to say.
    pub public_key: Vec<u8>,
    /// What its maker says about the key.
    pub public_key_metadata: Vec<u8>,
    /// Grows with every version that must not be undone.
    pub rollback_index: u64,
    /// Where the last such index is kept.
    pub rollback_index_location: u32,
    /// Bit 0: hash trees are not to be checked; bit 1: nothing is.
    pub flags: u32,
    /// The tool that made it.
    pub release: String,
    /// What it says about images.
    pub descriptors: Vec<Descriptor>,
}

impl VbMeta {
    /// Reads a vbmeta and verifies that the key in it signed it. What is behind its blocks is not looked at.
    ///
    /// # Errors
    /// [`AvbError`] unless it is whole, signed, and every descriptor of a known kind has sense.
    pub fn verify(bytes: &[u8]) -> Result<Self, AvbError> {
        let sections = Sections::read(bytes)?;
        sections.verify()?;
        sections.parse()
    }

    /// Reads a vbmeta without verifying anything, as tools do that show what is in it.
    ///
    /// # Errors
    /// [`AvbError`] unless it is whole and every descriptor of a known kind has sense.
    pub fn read_unverified(bytes: &[u8]) -> Result<Self, AvbError> {
        Sections::read(bytes)?.parse()
    }

    /// Refuses flags: each of them leaves something unverified.
    ///
    /// # Errors
    /// [`AvbError::Flags`].
    pub fn refuse_flags(&self) -> Result<(), AvbError> {
        if self.flags == 0 { Ok(()) } else { Err(AvbError::Flags(self.flags)) }
    }
}

/// The header's fields, every range resolved.
struct Sections<'a> {
    header: &'a [u8],
    auxiliary: &'a [u8],
    algorithm: Algorithm,
    hash: &'a [u8],
    signature: &'a [u8],
    public_key: &'a [u8],
    public_key_metadata: &'a [u8],
    descriptors: &'a [u8],
    rollback_index: u64,
    flags: u32,
    rollback_index_location: u32,
    release: &'a str,
}

impl<'a> Sections<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, AvbError> {
        let wrong = |field, expected| malformed("vbmeta header", field, expected);
        let header = bytes.get(..HEADER_LEN).ok_or_else(|| wrong("length", "256 bytes"))?;
        let mut fields = Fields::new(header);
        if fields.bytes(4) != Some(b"AVB0") {
            return Err(wrong("magic", "AVB0"));
        }
        let mut words = Words(fields);
        let (major, minor) = (words.u32()?, words.u32()?);
        if major != VERSION.0 || minor > VERSION.1 {
            return Err(AvbError::Version { structure: "vbmeta header", major, minor });
        }
        let [authentication_len, auxiliary_len] = [words.u64()?, words.u64()?];
        let lens = [authentication_len, auxiliary_len];
        if lens.iter().any(|len| !len.is_multiple_of(BLOCK_ALIGNMENT)) {
            return Err(wrong("block sizes", "multiples of 64"));
        }
        let mut blocks = Fields::new(&bytes[HEADER_LEN..]);
        let mut block = |len: u64| usize::try_from(len).ok().and_then(|len| blocks.bytes(len));
        let (Some(authentication), Some(auxiliary)) = (block(authentication_len), block(auxiliary_len))
        else {
            return Err(wrong("block sizes", "blocks inside the vbmeta"));
        };
        let id = words.u32()?;
        let algorithm = Algorithm::from_id(id).ok_or(AvbError::Algorithm(id))?;
        let hash = words.range(authentication, "hash")?;
        let signature = words.range(authentication, "signature")?;
        let public_key = words.range(auxiliary, "public key")?;
        let public_key_metadata = words.range(auxiliary, "public key metadata")?;
        let descriptors = words.range(auxiliary, "descriptors")?;
        let rollback_index = words.u64()?;
        let (flags, rollback_index_location) = (words.u32()?, words.u32()?);
        let release = words.0.bytes(RELEASE_LEN).and_then(text);
        let release = release.ok_or_else(|| wrong("release string", "UTF-8 text with a NUL behind it"))?;
        Ok(Self {
            header,
            auxiliary,
            algorithm,
            hash,
            signature,
            public_key,
            public_key_metadata,
            descriptors,
            rollback_index,
            flags,
            rollback_index_location,
            release,
        })
    }

    fn verify(&self) -> Result<(), AvbError> {
        if self.algorithm == Algorithm::None {
            return Err(AvbError::Unsigned);
        }
        if self.algorithm.hash([self.header, self.auxiliary]) != self.hash {
            return Err(AvbError::Hash);
        }
        let key = PublicKey::parse(self.public_key)?;
        if key.bits() != self.algorithm.key_bits() {
            return Err(malformed("public key", "size", "that of the algorithm's keys"));
        }
        key.verify(self.algorithm.padding(), self.hash, self.signature)
    }

    fn parse(self) -> Result<VbMeta, AvbError> {
        Ok(VbMeta {
            algorithm: self.algorithm,
            public_key: self.public_key.to_vec(),
            public_key_metadata: self.public_key_metadata.to_vec(),
            rollback_index: self.rollback_index,
            rollback_index_location: self.rollback_index_location,
            flags: self.flags,
            release: self.release.to_owned(),
            descriptors: Descriptor::parse_all(self.descriptors)?,
        })
    }
}

/// Fields of the header, which has room for them all.
struct Words<'a>(Fields<'a>);

impl<'a> Words<'a> {
    fn u32(&mut self) -> Result<u32, AvbError> {
        self.0.u32().ok_or_else(short)
    }

    fn u64(&mut self) -> Result<u64, AvbError> {
        self.0.u64().ok_or_else(short)
    }

    /// The bytes of `block` that the next two fields, offset and size, tell.
    fn range<'b>(&mut self, block: &'b [u8], field: &'static str) -> Result<&'b [u8], AvbError> {
        let (offset, size) = (self.u64()?, self.u64()?);
        let range = offset.checked_add(size).and_then(|end| {
            let (start, end) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
            block.get(start..end)
        });
        range.ok_or_else(|| malformed("vbmeta header", field, "a range inside its block"))
    }
}

fn short() -> AvbError {
    malformed("vbmeta header", "length", "256 bytes")
}
