use super::super::algorithm::KeyError;
use super::super::lineage::LineageError;
use super::super::testing::{Forged, digest, key_of, lineage, pack, signed, signers, with_block};
use super::rotation::{ROTATION_MIN_SDK, ROTATION_ON_DEVELOPMENT_RELEASE};
use super::*;
use crate::apk::signing_block::{V2, V3, V31};

mod situations;

fn apk() -> Vec<u8> {
    pack(b"content")
}

fn verify_records(records: &[(u32, Vec<u8>)]) -> Result<Signer, VerifyError> {
    verify(&with_block(&apk(), records), SDK)
}

fn verify_v3_of(forged: &[Forged]) -> Result<Signer, VerifyError> {
    let records: Vec<Vec<u8>> = forged.iter().map(Forged::v3).collect();
    verify_records(&[(V3, signers(&records))])
}

#[track_caller]
fn assert_refused(found: Result<Signer, VerifyError>, scheme: Scheme, expected: &SignerError) {
    match found {
        Err(VerifyError::Signer { scheme: found, source }) => {
            assert_eq!((found, &source), (scheme, expected))
        }
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

fn good() -> Forged {
    Forged::of(&apk())
}

#[test]
fn the_forgery_itself_is_good() {
    let signer = verify_v3_of(&[good()]).unwrap();
    assert_eq!(signer.scheme, Scheme::V3);
    assert_eq!(verify_records(&[(V2, signers(&[good().v2()]))]).unwrap().scheme, Scheme::V2);
    assert_eq!(verify(&signed(&apk(), &[Scheme::V3]), SDK).unwrap().certificate, signer.certificate);
}

/// Section 4: exactly one v3 signer for the SDK.
#[test]
fn one_signer_for_the_sdk() {
    let count = |found| {
        move |result| {
            assert!(
                matches!(result, Err(VerifyError::SignerCount { scheme: Scheme::V3, found: f, sdk: SDK }) if f == found),
                "{result:?}"
            );
        }
    };
    count(0)(verify_v3_of(&[]));
    count(0)(verify_v3_of(&[good().for_sdk(36, 40)]));
    count(0)(verify_v3_of(&[good().for_sdk(40, 30)]));
    count(2)(verify_v3_of(&[good(), good()]));
    count(2)(verify_v3_of(&[good().for_sdk(28, 35), good().for_sdk(35, 35)]));
    assert!(verify_v3_of(&[good().for_sdk(28, 34), good().for_sdk(35, 35)]).is_ok());
    let said = verify_v3_of(&[]).unwrap_err().to_string();
    assert!(said.contains("0 signers found"), "{said}");
}

/// Section 4: what is signed agrees with what is not. The sentences are the published ones.
#[test]
fn disagreements_are_refused() {
    let ecdsa = SignatureAlgorithm::EcdsaSha256.id();
    let other = key_of(2);
    let cases: [(Forged, SignerError, &str); 9] = [
        (Forged { sdk: (27, u32::MAX), ..good() }, SignerError::SdkRange, "SDK versions mismatch"),
        (
            Forged { digests: Vec::new(), ..good() },
            SignerError::AlgorithmsDiffer,
            "Signature algorithms don't match",
        ),
        (
            Forged { algorithms: vec![ecdsa, 0x0301], ..good() },
            SignerError::AlgorithmsDiffer,
            "Signature algorithms don't match",
        ),
        (
            Forged { certificates: Vec::new(), ..good() },
            SignerError::NoCertificates,
            "No certificates listed",
        ),
        (
            Forged { certificates: vec![other.certificate().to_vec()], ..good() },
            SignerError::KeyMismatch,
            "Public key mismatch",
        ),
        (
            Forged { algorithms: vec![0x0105], ..good() },
            SignerError::NoAlgorithm,
            "No supported APK signatures found",
        ),
        (
            Forged { algorithms: vec![0x0301], ..good() },
            SignerError::Refused(SignatureAlgorithm::DsaSha256),
            "No supported APK signatures found: DSA with SHA-256 is not accepted",
        ),
        (
            Forged { public_key: other.public_key().to_vec(), ..good() },
            SignerError::Signature(KeyError::Invalid),
            "Signature is invalid",
        ),
        (
            Forged { certificates: vec![b"certificate".to_vec()], ..good() },
            SignerError::Malformed("certificate"),
            "malformed",
        ),
    ];
    for (forged, expected, sentence) in cases {
        let found = verify_v3_of(&[forged]);
        let said = found.as_ref().unwrap_err().to_string();
        assert!(said.contains(sentence), "{said}");
        assert_refused(found, Scheme::V3, &expected);
    }
}

#[test]
fn another_digest_is_a_digest_mismatch() {
    let mut forged = good();
    let expected = vec![0; 32];
    forged.digests[0].1 = expected.clone();
    let computed = digest(&apk(), ContentDigest::ChunkedSha256);
    let found = verify_v3_of(&[forged]);
    assert!(found.as_ref().unwrap_err().to_string().contains("Digest mismatch"));
    assert_refused(found, Scheme::V3, &SignerError::Digest { computed, expected });
}

/// Section 4: the strongest digest counts (SHA-512, then verity, then SHA-256), wherever it stands.
#[test]
fn the_strongest_algorithm_counts() {
    let sha256 = SignatureAlgorithm::EcdsaSha256.id();
    let verity = SignatureAlgorithm::VerityEcdsaSha256.id();
    let wrong = vec![0; 32];
    for order in [[0, 1], [1, 0]] {
        let both = [(sha256, wrong.clone()), (verity, vec![0; 40])];
        let digests = order.map(|index| both[index].clone()).to_vec();
        let algorithms = digests.iter().map(|(id, _)| *id).collect();
        let record = Forged { digests, algorithms, ..good() }.v3();
        let signature = verify_signature(&with_block(&apk(), &[(V3, signers(&[record]))]), SDK).unwrap();
        assert_eq!(signature.signer().algorithm, SignatureAlgorithm::VerityEcdsaSha256);
        assert_eq!(signature.0.signers[0].1, [0; 40]);
    }
    assert!(ContentDigest::ChunkedSha512 > ContentDigest::VerityChunkedSha256);
}

/// A hash tree needs the block at a multiple of 4096 bytes.
#[test]
fn verity_content_must_be_aligned() {
    let verity = SignatureAlgorithm::VerityEcdsaSha256.id();
    let forged = Forged { digests: vec![(verity, vec![0; 40])], algorithms: vec![verity], ..good() };
    let apk = with_block(&apk(), &[(V3, signers(&[forged.v3()]))]);
    assert!(matches!(verify(&apk, SDK), Err(VerifyError::Content(_))));
}

/// Section 4: a better signature cannot be stripped.
#[test]
fn stripped_signatures_are_noticed() {
    let stripped = |result, signed, missing| match result {
        Err(VerifyError::Stripped { signed: s, missing: m }) => assert_eq!((s, m), (signed, missing)),
        other => panic!("{other:?}"),
    };
    let three = 3u32.to_le_bytes();
    let v2 = signers(&[good().saying(STRIPPING_PROTECTION, &three).v2()]);
    stripped(verify_records(&[(V2, v2.clone())]), Scheme::V2, Scheme::V3);
    // With the v3 record there, v2 does not count, not even when it is broken.
    assert!(verify_records(&[(V2, v2), (V3, signers(&[good().v3()]))]).is_ok());
    assert!(verify_records(&[(V2, vec![1]), (V3, signers(&[good().v3()]))]).is_ok());

    let from = 36u32.to_le_bytes();
    let v3 = signers(&[good().saying(ROTATION_MIN_SDK, &from).v3()]);
    let v31_from = |sdk| signers(&[good().by(key_of(2)).for_sdk(sdk, u32::MAX).v3()]);
    stripped(verify_records(&[(V3, v3.clone())]), Scheme::V3, Scheme::V31);
    stripped(verify_records(&[(V3, v3.clone()), (V31, v31_from(37))]), Scheme::V3, Scheme::V31);
    // It must be the one that was meant, also where v3.1 is the one that counts.
    stripped(verify_records(&[(V3, v3.clone()), (V31, v31_from(34))]), Scheme::V3, Scheme::V31);
    assert_eq!(verify_records(&[(V3, v3), (V31, v31_from(36))]).unwrap().scheme, Scheme::V3);
    stripped(verify_records(&[(V31, v31_from(28))]), Scheme::V31, Scheme::V3);
    // An attribute too short to be a number is no way around it.
    let short = signers(&[good().saying(ROTATION_MIN_SDK, &[1]).v3()]);
    assert_refused(verify_records(&[(V3, short)]), Scheme::V3, &SignerError::Malformed("attribute"));
}

#[test]
fn v31_comes_before_v3_where_it_reaches() {
    let v3 = signers(&[good().for_sdk(28, 32).v3()]);
    let newer = key_of(2);
    let certificate = newer.certificate().to_vec();
    let v31 = signers(&[good().by(newer).for_sdk(33, u32::MAX).v3()]);
    let signer = verify_records(&[(V3, v3.clone()), (V31, v31.clone())]).unwrap();
    assert_eq!((signer.scheme, signer.certificate), (Scheme::V31, certificate));
    let mut broken = v31;
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(matches!(
        verify_records(&[(V3, v3), (V31, broken)]),
        Err(VerifyError::Signer { scheme: Scheme::V31, .. })
    ));
}

/// Section 4: proof of rotation.
#[test]
fn a_lineage_is_verified_link_by_link() {
    let keys = || [key_of(5), key_of(6), key_of(1)];
    let with = |proof: &[u8]| verify_v3_of(&[good().saying(lineage::ATTRIBUTE, proof)]);
    let signer = with(&lineage(&keys())).unwrap();
    let expected: Vec<Vec<u8>> = keys().iter().map(|key| key.certificate().to_vec()).collect();
    assert_eq!(signer.lineage, expected);
    assert_eq!(with(&lineage(&[key_of(1)])).unwrap().lineage.len(), 1);

    let refused = |proof: &[u8], error| assert_refused(with(proof), Scheme::V3, &SignerError::Lineage(error));
    refused(&lineage(&[key_of(1), key_of(6)]), LineageError::OtherSigner);
    refused(&lineage(&[key_of(1), key_of(6), key_of(1)]), LineageError::Duplicate(3));
    refused(&1u32.to_le_bytes(), LineageError::Malformed);
    refused(&[2, 0, 0, 0], LineageError::Malformed);
    refused(&[], LineageError::Malformed);
    let proof = lineage(&keys());
    let certificate = key_of(1).certificate().to_vec();
    for len in 0..proof.len() {
        assert!(lineage::verify(&proof[..len], &certificate).is_err(), "{len} bytes");
    }
    // The last byte belongs to the last signature.
    let mut forged = proof;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    refused(&forged, LineageError::Signature { node: 3, source: KeyError::Invalid });
    let many: Vec<_> = (0..65).map(|_| key_of(1)).collect();
    refused(&lineage(&many), LineageError::Malformed);
}

/// Section 4: up to ten v2 signers, all of which must verify; a VM needs one.
#[test]
fn v2_signers_are_all_verified() {
    let count = |records: &[Vec<u8>]| match verify_records(&[(V2, signers(records))]) {
        Err(VerifyError::SignerCount { scheme: Scheme::V2, found, .. }) => found,
        other => panic!("{other:?}"),
    };
    assert_eq!(count(&[]), 0);
    assert_eq!(count(&[good().v2(), good().by(key_of(2)).v2()]), 2);
    let many = verify_records(&[(V2, signers(&vec![good().v2(); 11]))]);
    assert!(matches!(many, Err(VerifyError::TooManySigners { scheme: Scheme::V2, found: 11 })), "{many:?}");
    let bad = Forged { certificates: Vec::new(), ..good() }.v2();
    let found = verify_records(&[(V2, signers(&[good().v2(), bad]))]);
    assert_refused(found, Scheme::V2, &SignerError::NoCertificates);
}

#[test]
fn unsigned_archives_are_named_so() {
    let said = |error: VerifyError| std::error::Error::source(&error).map(ToString::to_string);
    let unsigned = verify(&apk(), SDK).unwrap_err();
    assert!(matches!(unsigned, VerifyError::Block(SigningBlockError::Missing)));
    assert_eq!(said(unsigned).as_deref(), Some("No APK Signing Block"));
    assert!(matches!(verify_records(&[]), Err(VerifyError::NoScheme)));
    let small = verify(&vec![0u8; 21], SDK).unwrap_err();
    assert!(said(small).unwrap().contains("APK too small"));
}

/// Every four bytes of a signer set to 2^32 - 1 and its neighbours are parsed or refused, and verify nothing.
#[test]
fn hostile_lengths_are_refused() {
    let rotated = good().saying(lineage::ATTRIBUTE, &lineage(&[key_of(5), key_of(1)]));
    for (id, layout, record) in
        [(V3, Layout::V3, signers(&[rotated.v3()])), (V2, Layout::V2, signers(&[good().v2()]))]
    {
        let mut refused = 0;
        for at in 0..record.len() - 3 {
            for len in [u32::MAX, u32::MAX - 3, 0x8000_0000, 0x7fff_ffff] {
                let mut hostile = record.clone();
                hostile[at..at + 4].copy_from_slice(&len.to_le_bytes());
                let parsed = SignerRecord::parse_all(&hostile, layout)
                    .and_then(|signers| signers.into_iter().try_for_each(|it| it.digests(layout).map(drop)));
                refused += u32::from(parsed.is_err());
                // Signatures cost time: a few of those that are well-formed, and all of those that are not.
                if hostile != record && (parsed.is_err() || at % 64 == 0) {
                    assert!(verify_records(&[(id, hostile)]).is_err(), "{id:x}: byte {at} as {len:x}");
                }
            }
        }
        assert!(refused > 40, "{refused} lengths were refused");
    }
}

/// Every length in a signed archive's block set to 2^32 - 1 and 2^64 - 1, in the records' order: nothing is believed.
#[test]
fn hostile_lengths_of_the_block_are_refused() {
    let apk = signed(&apk(), &[Scheme::V2, Scheme::V3]);
    let sections = ZipSections::read(&apk).unwrap();
    let end = usize::try_from(sections.central_directory).unwrap();
    let start = usize::try_from(SigningBlock::read(&apk, &sections).unwrap().start).unwrap();
    let mut lengths = vec![start, end - 24];
    let mut at = start + 8;
    while at < end - 24 {
        lengths.push(at);
        at += 8 + usize::try_from(u64::from_le_bytes(apk[at..at + 8].try_into().unwrap())).unwrap();
    }
    assert_eq!(lengths.len(), 2 + 3, "two sizes; v2, v3 and padding");
    for at in lengths {
        for len in [u64::MAX, u64::MAX - 7, u64::MAX / 2, u64::from(u32::MAX), 0, 3] {
            let mut hostile = apk.clone();
            hostile[at..at + 8].copy_from_slice(&len.to_le_bytes());
            assert!(verify_all(&hostile, SDK).is_err(), "{len:#x} at {at}");
            assert!(report(&hostile, SDK).is_err(), "{len:#x} at {at}");
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = signed(&apk(), &[Scheme::V2, Scheme::V3]);
    for len in 0..bytes.len() {
        let cut = bytes[..len].to_vec();
        assert!(verify(&cut, SDK).is_err(), "{len} bytes");
        assert!(verify_all(&cut, SDK).is_err(), "{len} bytes");
        assert!(report(&cut, SDK).is_err(), "{len} bytes");
        assert!(listed_digest(&cut).is_err(), "{len} bytes");
    }
    let record = signers(&[good().v3()]);
    for len in 0..record.len() {
        assert!(verify_records(&[(V3, record[..len].to_vec())]).is_err(), "{len} bytes of the record");
    }
}

#[test]
fn the_listed_digest_is_the_strongest_of_v3() {
    let apk = apk();
    let listed = |records: &[(u32, Vec<u8>)]| listed_digest(&with_block(&apk, records));
    let sha512 = SignatureAlgorithm::EcdsaSha512.id();
    let strong = Forged { digests: vec![(sha512, vec![7; 64])], ..good() };
    let (v2, v3) = (signers(&[strong.v2()]), signers(&[good().v3()]));
    let weak = digest(&apk, ContentDigest::ChunkedSha256);
    assert_eq!(
        listed(&[(V2, v2.clone()), (V3, v3)]).unwrap(),
        (SignatureAlgorithm::EcdsaSha256, weak.clone())
    );
    assert_eq!(listed(&[(V2, v2)]).unwrap(), (SignatureAlgorithm::EcdsaSha512, vec![7; 64]));
    let both = signers(&[good().v3(), strong.v3()]);
    assert_eq!(listed(&[(V3, both)]).unwrap().1, [7; 64]);
    let none = Forged { digests: Vec::new(), ..good() };
    assert!(matches!(
        listed(&[(V3, signers(&[none.v3()]))]),
        Err(VerifyError::Signer { source: SignerError::NoAlgorithm, .. })
    ));
}
