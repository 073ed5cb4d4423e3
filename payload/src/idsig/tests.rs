use super::*;
use crate::apk::Scheme;
use crate::apk::testing::{pack, signed};

fn apk() -> Vec<u8> {
    signed(&pack(&vec![0x5a; 600_000]), &[Scheme::V3])
}

fn idsig_of(apk: &[u8], salt: &[u8]) -> (Idsig, Vec<u8>) {
    let (idsig, tree) = Idsig::create(&apk, salt).unwrap();
    let bytes = idsig.to_bytes(&tree);
    (idsig, bytes)
}

#[test]
fn what_is_made_is_read_and_verifies() {
    let apk = apk();
    for salt in [&b""[..], b"salt", &[7; 32], &[9; 64]] {
        let (made, mut bytes) = idsig_of(&apk, salt);
        bytes.resize(bytes.len().next_multiple_of(4096) + 4096, 0);
        let read = Idsig::read(&bytes).unwrap();
        assert_eq!(read, made);
        read.verify(&bytes, &apk).unwrap();
        assert_eq!(read.padded_salt().len(), if salt.is_empty() { 0 } else { 64 });
        assert!(read.padded_salt().starts_with(salt));
        let mut written = Vec::new();
        made.write(&Tree::build(&apk, &made.padded_salt()).unwrap(), &mut written).unwrap();
        assert_eq!(written, bytes[..written.len()]);
    }
    assert!(matches!(Idsig::create(&apk, &[0; 65]), Err(IdsigError::Malformed("salt"))));
}

/// Section 3: sizes and the place of each field, for no salt.
#[test]
fn the_header_is_the_published_one() {
    let (idsig, bytes) = idsig_of(&apk(), b"");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(4), word(8), bytes[12], word(13), word(17)), (2, 45, 1, 12, 0, 32));
    assert_eq!(bytes[21..53], idsig.root_hash);
}
