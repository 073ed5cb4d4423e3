//! Records that only this instance can read or make.

use std::io;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{InstanceError, SECTOR};

/// Bytes of a nonce.
pub(super) const NONCE: usize = 12;
/// Bytes of a tag.
const TAG: usize = 16;
const INFO: &[u8] = b"microdroid_manager_key";

/// The sealing CDI of the boot node, wiped when dropped.
pub type SealingCdi = Zeroizing<[u8; 32]>;

/// Fills `buffer` with the operating system's random numbers.
///
/// # Errors
/// When it has none to give.
pub fn os_random(buffer: &mut [u8]) -> io::Result<()> {
    getrandom::fill(buffer).map_err(|error| io::Error::other(error.to_string()))
}

/// Bytes of a sealed record of `len` bytes.
pub(super) fn sealed_len(len: usize) -> usize {
    NONCE + len + TAG
}

/// Nonce, ciphertext and tag.
pub(super) fn seal(cdi: &SealingCdi, header: &[u8; SECTOR], plain: &[u8], nonce: [u8; NONCE]) -> Vec<u8> {
    let sealed = cipher(cdi)
        .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: header })
        .expect("a record is shorter than 64 GiB");
    [&nonce[..], &sealed].concat()
}

/// What was sealed, if it was with this key and under this header.
pub(super) fn open(
    cdi: &SealingCdi,
    header: &[u8; SECTOR],
    payload: &[u8],
) -> Result<Zeroizing<Vec<u8>>, InstanceError> {
    let (nonce, sealed) = payload.split_first_chunk::<NONCE>().ok_or(InstanceError::Unseal)?;
    cipher(cdi)
        .decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: header })
        .map(Zeroizing::new)
        .map_err(|_| InstanceError::Unseal)
}

fn cipher(cdi: &SealingCdi) -> Aes256Gcm {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, &**cdi).expand(INFO, &mut *key).expect("32 bytes are one hash");
    Aes256Gcm::new((&*key).into())
}
