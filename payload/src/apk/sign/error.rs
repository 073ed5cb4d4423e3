//! What may be wrong with a key, or with the certificate a user brings for it.

/// Why there is no key to sign with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// A text without a private key.
    #[error("no private key: expected a PEM block PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY")]
    Missing,
    /// A key that only its password opens.
    #[error("the private key is encrypted: decrypt it first with `openssl pkey -in KEY -out DECRYPTED`")]
    Encrypted,
    /// A key that archives are not signed with.
    #[error("the private key is {0}: expected RSA, or ECDSA over P-256, P-384 or P-521")]
    Kind(String),
    /// Bytes that are not what they should be, or numbers that do not fit each other.
    #[error("the private key is malformed {0}")]
    Malformed(&'static str),
    /// An RSA key too short to be safe or too long to be verified.
    #[error("the RSA key has {0} bits: expected 2048 to 16384")]
    RsaBits(u32),
    /// A certificate that does not go with the key.
    #[error("the certificate {0}")]
    Certificate(&'static str),
    /// The operating system gave no random numbers.
    #[error("make a key: no random numbers")]
    Random,
}
