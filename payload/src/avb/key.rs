//! RSA public keys as AVB stores them.
//!
//! ```text
//!   bits u32 | n0inv u32 | modulus n, bits/8 | rr, bits/8          n0inv = -1/n mod 2^32, rr = 2^(2 bits) mod n
//! ```

use rsa::{BoxedUint, Pkcs1v15Sign, RsaPublicKey};

use super::fields::Fields;
use super::{AvbError, malformed};

/// Bits of the longest key.
const MAX_BITS: u32 = 8192;
/// The exponent of every key.
const EXPONENT: u64 = 65537;

/// An RSA public key of 2048, 4096 or 8192 bits and exponent 65537.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    bits: u32,
    key: RsaPublicKey,
}

impl PublicKey {
    /// Reads a key; the two numbers in it that follow from the modulus are computed anew and compared, so that a key has
    /// one encoding only.
    ///
    /// # Errors
    /// [`AvbError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AvbError> {
        let wrong = |field, expected| malformed("public key", field, expected);
        let mut fields = Fields::new(bytes);
        let bits = fields.u32().filter(|bits| matches!(*bits, 2048 | 4096 | MAX_BITS));
        let bits = bits.ok_or_else(|| wrong("size", "2048, 4096 or 8192 bits"))?;
        let n0inv = fields.u32();
        let (modulus, rr) = (fields.counted(bits / 8), fields.counted(bits / 8));
        let (Some(n0inv), Some(modulus), Some(rr), true) = (n0inv, modulus, rr, fields.is_empty()) else {
            return Err(wrong("length", "8 bytes, modulus and rr"));
        };
        if modulus[0] & 0x80 == 0 || modulus.last().is_none_or(|last| last & 1 == 0) {
            return Err(wrong("modulus", "an odd number of as many bits as the key"));
        }
        if n0inv != n0inv_of(modulus) {
            return Err(wrong("n0inv", "-1 / n mod 2^32"));
        }
        if rr_of(modulus, bits).is_none_or(|expected| expected != rr) {
            return Err(wrong("rr", "2^(2 bits) mod n"));
        }
        let key = number(modulus, bits).and_then(|n| {
            let size = 2048..=MAX_BITS as usize;
            RsaPublicKey::new_with_size_limits(n, BoxedUint::from(EXPONENT), size).ok()
        });
        Ok(Self { bits, key: key.ok_or_else(|| wrong("modulus", "an RSA modulus"))? })
    }

    /// The encoding of the key with this modulus, big-endian, of as many bits as it has bytes * 8.
    pub(super) fn encode(modulus: &[u8]) -> Option<Vec<u8>> {
        let bits = u32::try_from(modulus.len().checked_mul(8)?).ok()?;
        let rr = rr_of(modulus, bits)?;
        let encoded =
            [&bits.to_be_bytes()[..], &n0inv_of(modulus).to_be_bytes(), modulus, rr.as_slice()].concat();
        Some(encoded)
    }

    /// Its size.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    pub(super) fn verify(&self, scheme: Pkcs1v15Sign, hash: &[u8], signature: &[u8]) -> Result<(), AvbError> {
        self.key.verify(scheme, hash, signature).map_err(|_| AvbError::Signature)
    }
}

/// -1 / n mod 2^32, for an odd n.
fn n0inv_of(modulus: &[u8]) -> u32 {
    let low = modulus.last_chunk::<4>().map_or(1, |low| u32::from_be_bytes(*low));
    // Newton: an odd number is its own inverse mod 8, and every step doubles the bits that are right.
    let inverse = (0..4).fold(low, |x, _| x.wrapping_mul(2u32.wrapping_sub(low.wrapping_mul(x))));
    inverse.wrapping_neg()
}

/// 2^(2 bits) mod n, in as many bytes as n has.
fn rr_of(modulus: &[u8], bits: u32) -> Option<Vec<u8>> {
    let n = number(modulus, bits)?.to_nz().into_option()?;
    let square = BoxedUint::one_with_precision(2 * bits + 64).shl_vartime(2 * bits)?;
    let rr = square.rem_vartime(&n).to_be_bytes();
    // As many bytes as the precision has, of which the first are zeros.
    let (zeros, rr) = rr.split_at_checked(rr.len().checked_sub(modulus.len())?)?;
    zeros.iter().all(|byte| *byte == 0).then(|| rr.to_vec())
}

fn number(digits: &[u8], bits: u32) -> Option<BoxedUint> {
    BoxedUint::from_be_slice(digits, bits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avb::make::testing::key;

    #[test]
    fn keys_that_are_written_are_read() {
        let encoded = key().public_key();
        let read = PublicKey::parse(&encoded).unwrap();
        assert_eq!((read.bits(), encoded.len()), (2048, 8 + 2 * 256));
    }

    /// The definitions, by other means: n0inv * n = -1 mod 2^32, and rr by doubling 1 as often.
    #[test]
    fn derived_numbers_agree_with_their_definitions() {
        let encoded = key().public_key();
        let n = &encoded[8..264];
        let low = u32::from_be_bytes(n[252..].try_into().unwrap());
        let n0inv = u32::from_be_bytes(encoded[4..8].try_into().unwrap());
        assert_eq!(low.wrapping_mul(n0inv), u32::MAX);

        let mut rest = vec![0u8; 257];
        rest[256] = 1;
        let n = [&[0][..], n].concat();
        for _ in 0..2 * 2048 {
            let mut carry = 0;
            for byte in rest.iter_mut().rev() {
                let doubled = u16::from(*byte) * 2 + carry;
                (*byte, carry) = (doubled.to_le_bytes()[0], doubled >> 8);
            }
            if rest >= n {
                let mut borrow = false;
                for (byte, digit) in rest.iter_mut().zip(&n).rev() {
                    let (less, first) = byte.overflowing_sub(*digit);
                    let (less, second) = less.overflowing_sub(u8::from(borrow));
                    (*byte, borrow) = (less, first || second);
                }
            }
        }
        assert_eq!(rest[1..], encoded[264..]);
    }

    #[test]
    fn every_changed_field_and_every_truncation_is_refused() {
        let encoded = key().public_key();
        for (at, expected) in [
            (0, "size"),
            (2, "size"),
            (4, "n0inv"),
            (8, "modulus"),
            (100, "rr"),
            (263, "modulus"),
            (400, "rr"),
        ] {
            let mut changed = encoded.clone();
            changed[at] ^= if at == 8 { 0x80 } else { 1 };
            match PublicKey::parse(&changed) {
                Err(AvbError::Malformed { structure: "public key", field, .. }) => {
                    assert_eq!(field, expected, "byte {at}");
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
        for len in (0..encoded.len()).step_by(7).chain([encoded.len() - 1]) {
            assert!(PublicKey::parse(&encoded[..len]).is_err(), "{len} bytes");
        }
        assert!(PublicKey::parse(&[&encoded[..], &[0]].concat()).is_err());
        let huge = [&[0xff; 4], &encoded[4..]].concat();
        assert!(PublicKey::parse(&huge).is_err());
    }
}
