//! Archives and signers for the tests of this crate, with every field open to forgery.

use std::io::Cursor;

use super::algorithm::{ContentDigest, SECP256R1, SignatureAlgorithm};
use super::digest::SignedContent;
use super::manifest::Manifest;
use super::pack::Packer;
use super::sign::{SigningKey, put_block, sign};
use super::verify::Scheme;
use super::zip::ZipSections;
use crate::der::{element, tag};
use crate::fields::{prefixed, sequence};

/// A key for tests and nothing else: the scalar 1.
pub(crate) fn key() -> SigningKey {
    key_of(1)
}

/// The key of a small scalar.
pub(crate) fn key_of(number: u8) -> SigningKey {
    let mut scalar = [0; 32];
    scalar[31] = number;
    SigningKey::from_der(&sec1(SECP256R1, &scalar)).unwrap()
}

/// A key over a curve, as SEC 1 writes it.
pub(crate) fn sec1(curve: &[u8], scalar: &[u8]) -> Vec<u8> {
    let curve = element(tag::CONTEXT_0, &[&element(tag::OBJECT_IDENTIFIER, &[curve])]);
    element(tag::SEQUENCE, &[&element(tag::INTEGER, &[&[1]]), &element(tag::OCTET_STRING, &[scalar]), &curve])
}

/// An unsigned archive with a manifest and one entry of these bytes.
pub(crate) fn pack(content: &[u8]) -> Vec<u8> {
    let manifest = Manifest { package: "com.example.test".into(), version_code: 3 };
    let mut packer = Packer::new(Cursor::new(Vec::new()), &manifest, "1.0").unwrap();
    packer.add("assets/content", content).unwrap();
    packer.finish().unwrap().into_inner()
}

/// `apk`, signed with [`key`].
pub(crate) fn signed(apk: &[u8], schemes: &[Scheme]) -> Vec<u8> {
    let mut out = Vec::new();
    sign(&apk, &key(), schemes, &mut out).unwrap();
    out
}

/// The digest of an unsigned archive's content.
pub(crate) fn digest(apk: &[u8], algorithm: ContentDigest) -> Vec<u8> {
    let sections = ZipSections::read(&apk).unwrap();
    SignedContent::new(&apk, &sections, sections.central_directory).unwrap().digest(algorithm).unwrap()
}

/// An unsigned archive with a signing block of these records put in.
pub(crate) fn with_block(apk: &[u8], records: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let sections = ZipSections::read(&apk).unwrap();
    let end = sections.central_directory;
    let content = SignedContent::new(&apk, &sections, end).unwrap();
    let mut out = Vec::new();
    put_block(&content, end, records, &mut out).unwrap();
    out
}

/// What a signer's record is made of.
pub(crate) struct Forged {
    pub(crate) key: SigningKey,
    /// Listed in the signed data.
    pub(crate) digests: Vec<(u32, Vec<u8>)>,
    pub(crate) certificates: Vec<Vec<u8>>,
    pub(crate) signed_sdk: (u32, u32),
    pub(crate) attributes: Vec<(u32, Vec<u8>)>,
    /// Behind the attributes.
    pub(crate) trailing: Vec<u8>,
    /// Outside of the signed data.
    pub(crate) sdk: (u32, u32),
    /// Algorithms said to be used; the signature is by the key's own whatever they are.
    pub(crate) algorithms: Vec<u32>,
    pub(crate) public_key: Vec<u8>,
}

impl Forged {
    /// A good signer of `apk` for SDKs from 28 on.
    pub(crate) fn of(apk: &[u8]) -> Self {
        let key = key();
        let id = SignatureAlgorithm::EcdsaSha256.id();
        Self {
            digests: vec![(id, digest(apk, ContentDigest::ChunkedSha256))],
            certificates: vec![key.certificate().to_vec()],
            signed_sdk: (28, u32::MAX),
            attributes: Vec::new(),
            trailing: Vec::new(),
            sdk: (28, u32::MAX),
            algorithms: vec![id],
            public_key: key.public_key().to_vec(),
            key,
        }
    }

    /// The same for another range of SDKs.
    pub(crate) fn for_sdk(self, first: u32, last: u32) -> Self {
        Self { signed_sdk: (first, last), sdk: (first, last), ..self }
    }

    /// The same by another key.
    pub(crate) fn by(self, key: SigningKey) -> Self {
        let certificates = vec![key.certificate().to_vec()];
        Self { certificates, public_key: key.public_key().to_vec(), key, ..self }
    }

    /// The same with one more attribute.
    pub(crate) fn saying(mut self, id: u32, value: &[u8]) -> Self {
        self.attributes.push((id, value.to_vec()));
        self
    }

    pub(crate) fn v3(&self) -> Vec<u8> {
        self.record(true)
    }

    pub(crate) fn v2(&self) -> Vec<u8> {
        self.record(false)
    }

    fn record(&self, has_sdk: bool) -> Vec<u8> {
        let range = |(first, last): (u32, u32)| match has_sdk {
            true => [first.to_le_bytes(), last.to_le_bytes()].concat(),
            false => Vec::new(),
        };
        let digests = list(self.digests.iter().map(|(id, digest)| numbered(*id, &prefixed(digest))));
        let attributes = list(self.attributes.iter().map(|(id, value)| numbered(*id, value)));
        let certificates = list(self.certificates.iter().cloned());
        let data =
            [digests, certificates, range(self.signed_sdk), attributes, self.trailing.clone()].concat();
        let signature = prefixed(&self.key.sign(&data));
        let signatures = list(self.algorithms.iter().map(|id| numbered(*id, &signature)));
        [prefixed(&data), range(self.sdk), signatures, prefixed(&self.public_key)].concat()
    }
}

/// A scheme's record of the signing block: its signers.
pub(crate) fn signers(records: &[Vec<u8>]) -> Vec<u8> {
    sequence(records.iter().map(Vec::as_slice))
}

/// A proof of rotation through these keys.
pub(crate) fn lineage(keys: &[SigningKey]) -> Vec<u8> {
    let id = SignatureAlgorithm::EcdsaSha256.id().to_le_bytes();
    let mut proof = 1u32.to_le_bytes().to_vec();
    for (index, key) in keys.iter().enumerate() {
        let first = index == 0;
        let signed = [&prefixed(key.certificate())[..], if first { &[0; 4] } else { &id }].concat();
        let signature = if first { Vec::new() } else { keys[index - 1].sign(&signed) };
        proof.extend(prefixed(&[&prefixed(&signed)[..], &[0; 4], &id, &prefixed(&signature)].concat()));
    }
    proof
}

fn numbered(id: u32, bytes: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], bytes].concat()
}

fn list(records: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let records: Vec<Vec<u8>> = records.collect();
    signers(&records)
}
