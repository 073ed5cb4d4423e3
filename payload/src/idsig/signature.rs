//! The signature in an idsig: who vouches for root hash and length of an archive.
//!
//! ```text
//!   u32 size, counting itself | u64 size of the archive | u32 hash | u8 log2(block) | +salt | +root hash
//!   | +digest of the archive | +certificate | +additional
//! ```
//!
//! Little-endian; `+` is a 32-bit length of what follows. Public key, algorithm and what later versions of the scheme
//! put behind the signature are not signed.

use super::read::MAX_SIGNING_LEN;
use super::{Idsig, IdsigError, LOG2_BLOCK_LEN, SHA256};
use crate::ReadAt;
use crate::apk::sign::SigningKey;
use crate::apk::{KeyError, SignatureAlgorithm, certifies};
use crate::der;
use crate::fields::prefixed;

/// Why the signature of an idsig is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error("it is not signed")]
    Missing,
    /// An algorithm of another number than those of archives.
    #[error("signature algorithm {0:#x} is not known")]
    Algorithm(u32),
    /// The public key did not sign this.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What should be a certificate is none.
    #[error("the certificate is malformed")]
    Certificate,
    /// The certificate is another key's.
    #[error("Public key mismatch between certificate and signature record")]
    KeyMismatch,
}

impl Idsig {
    /// Signs it for the archive that fills `apk`: sets certificate, public key, algorithm and signature. Additional data
    /// is signed as it is now.
    ///
    /// # Errors
    /// When the archive does not tell its length, or there is so much additional data that nobody would read it.
    pub fn sign(&mut self, apk: &dyn ReadAt, key: &SigningKey) -> Result<(), IdsigError> {
        let apk_len = apk.len().map_err(IdsigError::ReadApk)?;
        let limit = |len: usize| {
            let (found, most) = (len as u64, MAX_SIGNING_LEN as u64);
            (found <= most).then_some(()).ok_or(IdsigError::Length { field: "signing info", found, most })
        };
        limit(self.signing.additional_data.len())?;
        let mut signed = self.clone();
        signed.signing.certificate = key.certificate().to_vec();
        signed.signing.public_key = key.public_key().to_vec();
        signed.signing.algorithm = key.algorithm().id();
        signed.signing.signature = key.sign(&signed.signed_data(apk_len));
        let header = signed.header();
        limit(header.len())?;
        signed.tree_offset = header.len() as u64;
        *self = signed;
        Ok(())
    }

    /// Checks that the key of the certificate signed this root hash for the archive that fills `apk`, which is not
    /// hashed ([`Idsig::verify`] does that). Whose certificate it is, is for the caller to judge:
    /// [`SigningInfo::certificate`](super::SigningInfo::certificate) is to be that of who signed the archive.
    ///
    /// # Errors
    /// [`IdsigError::Signature`] unless the signature holds, and as of [`Idsig::check_apk`].
    pub fn verify_signature(&self, apk: &dyn ReadAt) -> Result<(), IdsigError> {
        let len = apk.len().map_err(IdsigError::ReadApk)?;
        self.verify_signed_data(len).map_err(IdsigError::Signature)?;
        self.check_apk(apk)
    }

    fn verify_signed_data(&self, apk_len: u64) -> Result<(), SignatureError> {
        let it = &self.signing;
        if it.signature.is_empty() {
            return Err(SignatureError::Missing);
        }
        let algorithm =
            SignatureAlgorithm::from_id(it.algorithm).ok_or(SignatureError::Algorithm(it.algorithm))?;
        algorithm.verify(&it.public_key, &self.signed_data(apk_len), &it.signature)?;
        let certified = der::certificate_public_key(&it.certificate).ok_or(SignatureError::Certificate)?;
        match certifies(certified, &it.public_key) {
            true => Ok(()),
            false => Err(SignatureError::KeyMismatch),
        }
    }

    fn signed_data(&self, apk_len: u64) -> Vec<u8> {
        let data = [
            apk_len.to_le_bytes().as_slice(),
            &SHA256.to_le_bytes(),
            &[LOG2_BLOCK_LEN],
            &prefixed(&self.salt),
            &prefixed(&self.root_hash),
            &prefixed(&self.signing.apk_digest),
            &prefixed(&self.signing.certificate),
            &prefixed(&self.signing.additional_data),
        ]
        .concat();
        let len = u32::try_from(4 + data.len()).expect("was checked when it was made or read");
        [&len.to_le_bytes()[..], &data].concat()
    }
}

#[cfg(test)]
mod tests;
