//! Proof of rotation: each key a signer had before, and how it handed over to the next.
//!
//! ```text
//!   version u32 = 1 | (+node)*
//!   node        = +signed_data | flags u32 | algorithm u32 | +signature
//!   signed_data = +certificate | algorithm u32          of the signature by the node before
//! ```
//!
//! A node's `algorithm` is the one its own key signs the next node with.

use super::algorithm::{KeyError, SignatureAlgorithm};
use crate::der;
use crate::fields::Fields;

/// Attribute of a signer that holds the proof.
pub(super) const ATTRIBUTE: u32 = 0x3ba0_6f8c;

const VERSION: u32 = 1;
/// Rotations that are followed: each costs a signature check.
const MAX_NODES: usize = 64;

/// Why a proof of rotation does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// Cut short, of another version, empty or endless.
    #[error("the proof of rotation is malformed")]
    Malformed,
    /// A node's signature is not by the key before it.
    #[error("certificate #{node} of the proof of rotation is not signed by the one before")]
    Signature {
        /// Its number, from 1.
        node: usize,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// A node was signed by an algorithm that is not accepted, or not the one that was signed.
    #[error("certificate #{0} of the proof of rotation is signed by an algorithm that does not hold")]
    Algorithm(usize),
    /// A certificate that stands twice.
    #[error("certificate #{0} of the proof of rotation stands twice")]
    Duplicate(usize),
    /// More than one proof, which might tell different stories.
    #[error("there are two proofs of rotation")]
    Several,
    /// The last certificate is not the signer's.
    #[error("the proof of rotation does not end at the signer's certificate")]
    OtherSigner,
}

/// The certificates of a proof whose last is `signer`, oldest first; every signature holds.
pub(super) fn verify(proof: &[u8], signer: &[u8]) -> Result<Vec<Vec<u8>>, LineageError> {
    let mut fields = Fields::new(proof);
    if fields.u32() != Some(VERSION) {
        return Err(LineageError::Malformed);
    }
    let records = fields.records().ok_or(LineageError::Malformed)?;
    if records.is_empty() || records.len() > MAX_NODES {
        return Err(LineageError::Malformed);
    }
    let mut certificates: Vec<Vec<u8>> = Vec::new();
    let mut handover = 0;
    for (index, record) in records.into_iter().enumerate() {
        let number = index + 1;
        let node = Node::parse(record).ok_or(LineageError::Malformed)?;
        if let Some(before) = certificates.last() {
            node.verify(number, before, handover)?;
        }
        if certificates.iter().any(|known| known == node.certificate) {
            return Err(LineageError::Duplicate(number));
        }
        certificates.push(node.certificate.to_vec());
        handover = node.next_algorithm;
    }
    match certificates.last() {
        Some(last) if last == signer => Ok(certificates),
        _ => Err(LineageError::OtherSigner),
    }
}

struct Node<'a> {
    signed_data: &'a [u8],
    certificate: &'a [u8],
    signed_algorithm: u32,
    next_algorithm: u32,
    signature: &'a [u8],
}

impl<'a> Node<'a> {
    fn parse(mut record: Fields<'a>) -> Option<Self> {
        let signed_data = record.prefixed()?;
        let _flags = record.u32()?;
        let next_algorithm = record.u32()?;
        let signature = record.prefixed()?;
        let mut data = Fields::new(signed_data);
        let certificate = data.prefixed()?;
        Some(Self { signed_data, certificate, signed_algorithm: data.u32()?, next_algorithm, signature })
    }

    /// `handover` is the algorithm that the certificate before says it signs with.
    fn verify(&self, node: usize, before: &[u8], handover: u32) -> Result<(), LineageError> {
        let algorithm = SignatureAlgorithm::from_id(handover)
            .filter(|_| handover == self.signed_algorithm)
            .ok_or(LineageError::Algorithm(node))?;
        let key = der::certificate_public_key(before).ok_or(LineageError::Malformed)?;
        algorithm
            .verify(key, self.signed_data, self.signature)
            .map_err(|source| LineageError::Signature { node, source })
    }
}
