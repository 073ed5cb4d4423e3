use super::*;
use crate::apk::algorithm::SignatureAlgorithm;
use crate::apk::signer::SignerError;
use crate::apk::testing::{key, pack, signed};
use crate::apk::verify::{SDK, VerifyError, verify};

#[test]
fn what_is_signed_verifies() {
    let key = key();
    for (schemes, expected) in [
        (&[Scheme::V3][..], Scheme::V3),
        (&[Scheme::V2, Scheme::V3], Scheme::V3),
        (&[Scheme::V2], Scheme::V2),
    ] {
        let apk = signed(&pack(b"content"), schemes);
        let signer = verify(&apk, SDK).unwrap();
        assert_eq!((signer.scheme, signer.certificate.as_slice()), (expected, key.certificate()));
        assert_eq!((signer.algorithm, signer.lineage.len()), (SignatureAlgorithm::EcdsaSha256, 0));
    }
}

#[test]
fn signing_again_replaces_the_signature() {
    let once = signed(&pack(b"content"), &[Scheme::V3]);
    assert_eq!(signed(&once, &[Scheme::V3]), once, "the same key gives the same signature");
    let other = SigningKey::generate().unwrap();
    let mut again = Vec::new();
    sign(&once, &other, &[Scheme::V3], &mut again).unwrap();
    assert_eq!(verify(&again, SDK).unwrap().certificate, other.certificate());
    assert_eq!(again.len(), once.len());
}

#[test]
fn only_the_signing_blocks_padding_may_change() {
    let apk = signed(&pack(b"content"), &[Scheme::V3]);
    let sections = ZipSections::read(&apk).unwrap();
    let start = usize::try_from(SigningBlock::read(&apk, &sections).unwrap().start).unwrap();
    let end = usize::try_from(sections.central_directory).unwrap();
    for at in (0..start).chain(end..apk.len()) {
        let mut damaged = apk.clone();
        damaged[at] ^= 1;
        match verify(&damaged, SDK) {
            Err(
                VerifyError::Signer { source: SignerError::Digest { .. }, .. } | VerifyError::Sections(_),
            ) => {}
            Err(VerifyError::Directory(_)) if at >= end => {}
            // The end record's offset and length lead to the signing block.
            Err(VerifyError::Block(_)) if at >= apk.len() - 22 => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn schemes_that_cannot_be_made_are_refused() {
    let refused = sign(&pack(b""), &key(), &[Scheme::V31], &mut Vec::new());
    assert!(matches!(refused, Err(SignError::Scheme(Scheme::V31))));
    assert!(matches!(
        sign(&vec![0u8; 99], &key(), &[Scheme::V3], &mut Vec::new()),
        Err(SignError::Sections(_))
    ));
}
