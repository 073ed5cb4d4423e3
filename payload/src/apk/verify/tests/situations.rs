//! The situations that signing tools and attackers make, with the verdict that the published schemes give for SDK 35.

use super::*;
use crate::apk::algorithm::SECP384R1;
use crate::apk::sign::SigningKey;
use crate::apk::signing_block::{PADDING, record_name};
use crate::apk::testing::sec1;

fn records_of(apk: &[u8], records: &[(u32, Vec<u8>)]) -> Result<Verified, VerifyError> {
    verify_all(&with_block(apk, records), SDK)
}

fn all_of(records: &[(u32, Vec<u8>)]) -> Result<Verified, VerifyError> {
    records_of(&apk(), records)
}

#[track_caller]
fn refused(found: Result<Verified, VerifyError>, scheme: Scheme, expected: &SignerError) {
    match found {
        Err(VerifyError::Signer { scheme: found, source }) => {
            assert_eq!((found, &source), (scheme, expected))
        }
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

#[track_caller]
fn stripped(found: Result<Verified, VerifyError>, signed: Scheme, missing: Scheme) {
    match found {
        Err(VerifyError::Stripped { signed: s, missing: m }) => assert_eq!((s, m), (signed, missing)),
        other => panic!("{other:?}"),
    }
}

const ECDSA: u32 = 0x0201;

/// v2 with two and with ten signers is good, with eleven it is not; a VM takes one.
#[test]
fn several_v2_signers_are_all_told() {
    let keys: Vec<_> = (1..=11).map(key_of).collect();
    let certificates: Vec<_> = keys.iter().map(|key| key.certificate().to_vec()).collect();
    let records: Vec<_> = keys.into_iter().map(|key| good().by(key).v2()).collect();
    for count in [1, 2, 10] {
        let value = signers(&records[..count]);
        let verified = all_of(&[(V2, value.clone())]).unwrap();
        assert_eq!(verified.scheme, Scheme::V2);
        let found: Vec<_> = verified.signers.into_iter().map(|signer| signer.certificate).collect();
        assert_eq!(found, certificates[..count]);
        match (count, verify_records(&[(V2, value)])) {
            (1, Ok(_)) => {}
            (2.., Err(VerifyError::SignerCount { scheme: Scheme::V2, found, .. })) => {
                assert_eq!(found, count)
            }
            (_, other) => panic!("{count}: {other:?}"),
        }
    }
    let eleven = all_of(&[(V2, signers(&records))]).unwrap_err();
    assert_eq!(eleven.to_string(), "11 signers found in the v2 signature, which may have 10");
}

/// A second v2 signer without signatures, without a known one, with a broken one, or over other content.
#[test]
fn one_bad_v2_signer_is_enough() {
    let second = || good().by(key_of(2));
    let two = |bad: Forged| all_of(&[(V2, signers(&[good().v2(), bad.v2()]))]);
    assert!(two(second()).is_ok());
    refused(two(Forged { algorithms: Vec::new(), ..second() }), Scheme::V2, &SignerError::NoAlgorithm);
    refused(two(Forged { algorithms: vec![0x0777], ..second() }), Scheme::V2, &SignerError::NoAlgorithm);
    let dsa = SignerError::Refused(SignatureAlgorithm::VerityDsaSha256);
    refused(two(Forged { algorithms: vec![0x0301, 0x0425], ..second() }), Scheme::V2, &dsa);
    let broken = Forged { public_key: key_of(3).public_key().to_vec(), ..second() };
    refused(two(broken), Scheme::V2, &SignerError::Signature(KeyError::Invalid));
    let mut other = second();
    other.digests[0].1[0] ^= 0x80;
    let (expected, computed) = (other.digests[0].1.clone(), digest(&apk(), ContentDigest::ChunkedSha256));
    refused(two(other), Scheme::V2, &SignerError::Digest { computed, expected });
}

/// Two signers with digests of different strength: each is compared with its own.
#[test]
fn signers_are_compared_with_their_own_digest() {
    let sha512 = SignatureAlgorithm::EcdsaSha512.id();
    let key = || SigningKey::from_der(&sec1(SECP384R1, &[1; 48])).unwrap();
    let two = |digest| {
        let strong =
            Forged { digests: vec![(sha512, digest)], algorithms: vec![sha512], ..good().by(key()) }.v2();
        all_of(&[(V2, signers(&[good().v2(), strong]))])
    };
    let right = digest(&apk(), ContentDigest::ChunkedSha512);
    let found: Vec<_> = two(right.clone()).unwrap().signers.iter().map(|signer| signer.algorithm).collect();
    assert_eq!(found, [SignatureAlgorithm::EcdsaSha256, SignatureAlgorithm::EcdsaSha512]);
    let mut wrong = right.clone();
    wrong[63] ^= 1;
    refused(two(wrong.clone()), Scheme::V2, &SignerError::Digest { computed: right, expected: wrong });
}

/// Algorithms that nobody knows are passed over, in front and behind.
#[test]
fn unknown_algorithms_are_ignored() {
    let sha256 = digest(&apk(), ContentDigest::ChunkedSha256);
    let list = [0x1122, ECDSA, 0x0777_7777];
    let forged = || Forged {
        digests: list
            .iter()
            .map(|id| (*id, if *id == ECDSA { sha256.clone() } else { vec![1, 2] }))
            .collect(),
        algorithms: list.to_vec(),
        ..good()
    };
    assert_eq!(all_of(&[(V3, signers(&[forged().v3()]))]).unwrap().signers.len(), 1);
    assert!(all_of(&[(V2, signers(&[forged().v2()]))]).is_ok());
    let one_more = Forged { algorithms: [&list[..], &[0x9999]].concat(), ..forged() };
    refused(all_of(&[(V2, signers(&[one_more.v2()]))]), Scheme::V2, &SignerError::AlgorithmsDiffer);
    let swapped = Forged { algorithms: vec![ECDSA, 0x1122, 0x0777_7777], ..forged() };
    refused(all_of(&[(V3, signers(&[swapped.v3()]))]), Scheme::V3, &SignerError::AlgorithmsDiffer);
}

/// An algorithm of the wrong kind for the key, or another hash than was used.
#[test]
fn a_signature_is_by_the_algorithm_that_is_told() {
    for (id, expected) in [
        (SignatureAlgorithm::EcdsaSha512.id(), KeyError::Invalid),
        (SignatureAlgorithm::RsaPkcs1Sha256.id(), KeyError::Kind),
        (SignatureAlgorithm::RsaPssSha512.id(), KeyError::Kind),
    ] {
        let digest = digest(&apk(), SignatureAlgorithm::from_id(id).unwrap().content_digest());
        let forged = Forged { digests: vec![(id, digest)], algorithms: vec![id], ..good() };
        refused(all_of(&[(V3, signers(&[forged.v3()]))]), Scheme::V3, &SignerError::Signature(expected));
    }
}

/// Unknown records, attributes and bytes behind a v2 signer's attributes mean nothing.
#[test]
fn what_nobody_knows_is_ignored() {
    let v3 = || good().saying(0x1122_3344, b"before").saying(0x99aa_bbcc, b"");
    let records = [(0x5566_7788, b"unknown".to_vec()), (V3, signers(&[v3().v3()])), (0x6dff_800d, vec![1])];
    assert_eq!(all_of(&records).unwrap().scheme, Scheme::V3);
    assert!(all_of(&[(V2, signers(&[v3().v2()]))]).is_ok());
    let trailing = Forged { trailing: vec![0; 4], ..good() };
    assert!(all_of(&[(V2, signers(&[trailing.v2()]))]).is_ok());
}

/// The first record of a number counts; a second one changes nothing.
#[test]
fn the_first_record_counts() {
    let (good, bad) =
        (signers(&[good().v3()]), signers(&[Forged { certificates: Vec::new(), ..good() }.v3()]));
    assert!(all_of(&[(V3, good.clone()), (V3, bad.clone())]).is_ok());
    refused(all_of(&[(V3, bad), (V3, good)]), Scheme::V3, &SignerError::NoCertificates);
}

/// Of an attribute that stands twice, none may say that something is missing.
#[test]
fn every_attribute_of_a_number_counts() {
    let number = |value: u32| value.to_le_bytes();
    let twice = good().saying(STRIPPING_PROTECTION, &number(0)).saying(STRIPPING_PROTECTION, &number(3));
    stripped(all_of(&[(V2, signers(&[twice.v2()]))]), Scheme::V2, Scheme::V3);
    let v31 = signers(&[good().by(key_of(2)).for_sdk(36, u32::MAX).v3()]);
    let twice = |second| {
        let v3 = good().saying(ROTATION_MIN_SDK, &number(36)).saying(ROTATION_MIN_SDK, &number(second));
        all_of(&[(V3, signers(&[v3.v3()])), (V31, v31.clone())])
    };
    assert!(twice(36).is_ok());
    stripped(twice(37), Scheme::V3, Scheme::V31);
    let proof = lineage(&[key_of(5), key_of(1)]);
    let two = good().saying(lineage::ATTRIBUTE, &proof).saying(lineage::ATTRIBUTE, &proof);
    refused(all_of(&[(V3, signers(&[two.v3()]))]), Scheme::V3, &LineageError::Several.into());
    // A v2 signer may say that schemes unknown here have signed as well; it may not say it badly.
    let unknown = good().saying(STRIPPING_PROTECTION, &number(4));
    assert!(all_of(&[(V2, signers(&[unknown.v2()]))]).is_ok());
    let short = good().saying(STRIPPING_PROTECTION, &[3]);
    refused(all_of(&[(V2, signers(&[short.v2()]))]), Scheme::V2, &SignerError::Malformed("attribute"));
}

/// v3.1 from 33 with v3 up to 32 that knows, does not know, or knows otherwise; and without v3.
#[test]
fn v31_beside_v3() {
    let rotated = || {
        let proof = lineage(&[key_of(1), key_of(2)]);
        good().by(key_of(2)).for_sdk(33, u32::MAX).saying(lineage::ATTRIBUTE, &proof)
    };
    let both = |v3: Forged, v31: &[Forged]| {
        let v31: Vec<_> = v31.iter().map(Forged::v3).collect();
        all_of(&[(V3, signers(&[v3.v3()])), (V31, signers(&v31))])
    };
    let old = || good().for_sdk(28, 32);
    let knows = |from: u32| old().saying(ROTATION_MIN_SDK, &from.to_le_bytes());
    for v3 in [old(), knows(33)] {
        let verified = both(v3, &[rotated()]).unwrap();
        assert_eq!(verified.scheme, Scheme::V31);
        assert_eq!(verified.signers[0].lineage.len(), 2);
    }
    stripped(both(knows(34), &[rotated()]), Scheme::V3, Scheme::V31);
    stripped(all_of(&[(V3, signers(&[knows(33).v3()]))]), Scheme::V3, Scheme::V31);
    stripped(all_of(&[(V31, signers(&[rotated().v3()]))]), Scheme::V31, Scheme::V3);
    // Nobody for this SDK, and no reason why.
    let none = all_of(&[(V3, signers(&[old().v3()]))]);
    assert!(matches!(none, Err(VerifyError::SignerCount { scheme: Scheme::V3, found: 0, .. })), "{none:?}");
    // A block of the scheme without signers, and two for one SDK.
    let empty = both(good(), &[]);
    assert!(
        matches!(empty, Err(VerifyError::SignerCount { scheme: Scheme::V31, found: 0, .. })),
        "{empty:?}"
    );
    let two = both(knows(33), &[rotated(), rotated()]);
    assert!(matches!(two, Err(VerifyError::SignerCount { scheme: Scheme::V31, found: 2, .. })), "{two:?}");
    // Several for several SDKs; what the others' proofs say is not asked, as on a device.
    let later = good().by(key_of(3)).for_sdk(40, u32::MAX);
    let first =
        good().by(key_of(2)).for_sdk(33, 39).saying(lineage::ATTRIBUTE, &lineage(&[key_of(1), key_of(2)]));
    let verified = both(knows(33), &[first, later]).unwrap();
    assert_eq!(verified.signers[0].certificate, key_of(2).certificate());
    // A broken v3 block is noticed, although nothing of it counts.
    let broken = all_of(&[(V3, vec![1]), (V31, signers(&[rotated().v3()]))]);
    refused(broken, Scheme::V3, &SignerError::Malformed("list"));
}

/// v3.1 for a later SDK than ours leaves v3 to count; for previews of the next SDK, too.
#[test]
fn v31_that_does_not_reach() {
    let from = |sdk: u32, preview: bool| {
        let v3 = good().saying(ROTATION_MIN_SDK, &sdk.to_le_bytes());
        let v31 = good().by(key_of(2)).for_sdk(sdk, u32::MAX);
        let v31 = if preview { v31.saying(ROTATION_ON_DEVELOPMENT_RELEASE, b"") } else { v31 };
        all_of(&[(V3, signers(&[v3.v3()])), (V31, signers(&[v31.v3()]))]).unwrap().scheme
    };
    assert_eq!((from(34, false), from(35, false), from(36, false)), (Scheme::V31, Scheme::V31, Scheme::V3));
    assert_eq!((from(34, true), from(35, true), from(10_000, true)), (Scheme::V31, Scheme::V3, Scheme::V3));
    // The attribute means nothing in v3.
    let v3 = good().for_sdk(35, u32::MAX).saying(ROTATION_ON_DEVELOPMENT_RELEASE, b"");
    assert_eq!(all_of(&[(V3, signers(&[v3.v3()]))]).unwrap().scheme, Scheme::V3);
}

/// Certificates behind the first belong to it, whatever they are; they must be some.
#[test]
fn all_certificates_are_certificates() {
    let own = key_of(1).certificate().to_vec();
    let with = |second: Vec<u8>| {
        let forged = Forged { certificates: vec![own.clone(), second], ..good() };
        all_of(&[(V3, signers(&[forged.v3()]))])
    };
    assert_eq!(with(key_of(2).certificate().to_vec()).unwrap().signers[0].certificate, own);
    refused(with(b"none".to_vec()), Scheme::V3, &SignerError::Malformed("certificate"));
}

#[test]
fn the_identity_is_the_certificates_hash() {
    let signer = verify_v3_of(&[good()]).unwrap();
    assert_eq!(signer.certificate_sha256()[..], Sha256::digest(key_of(1).certificate())[..]);
    assert_eq!(signer.certificate_sha512()[..], Sha512::digest(key_of(1).certificate())[..]);
}

/// An end record with the longest comment is found; bytes between the directory and it are not skipped.
#[test]
fn end_records() {
    let apk = apk();
    let commented = |len: u16| {
        let mut apk = apk.clone();
        let at = apk.len() - 2;
        apk[at..].copy_from_slice(&len.to_le_bytes());
        apk.resize(apk.len() + usize::from(len), b'c');
        apk
    };
    for len in [1, u16::MAX] {
        let apk = commented(len);
        let forged = Forged::of(&apk);
        assert!(records_of(&apk, &[(V3, signers(&[forged.v3()]))]).is_ok(), "{len}");
        let verity = Forged::of(&apk).v2();
        assert!(records_of(&apk, &[(V2, signers(&[verity]))]).is_ok(), "{len}");
    }
    let signed = signed(&apk, &[Scheme::V2, Scheme::V3]);
    let end = signed.len() - 22;
    let apart = [&signed[..end], b"GARBAGE", &signed[end..]].concat();
    assert!(matches!(verify_all(&apart, SDK), Err(VerifyError::Sections(ZipError::Layout { .. }))));
}

/// A signature does not make an archive of a broken or empty directory.
#[test]
fn directories_are_whole() {
    let empty = [&b"PK\x05\x06"[..], &[0; 18]].concat();
    for schemes in [&[Scheme::V2][..], &[Scheme::V3]] {
        let refused = verify_all(&signed(&empty, schemes), SDK);
        assert!(matches!(refused, Err(VerifyError::Directory(DirectoryError::Empty))), "{refused:?}");
    }
    // The directory's last byte taken away, its length in the end record put right.
    let mut apk = apk();
    let sections = ZipSections::read(&apk).unwrap();
    let at = usize::try_from(sections.end_record).unwrap();
    apk.remove(at - 1);
    let len = u32::try_from(sections.end_record - sections.central_directory - 1).unwrap();
    apk[at - 1 + 12..][..4].copy_from_slice(&len.to_le_bytes());
    let refused = verify_all(&signed(&apk, &[Scheme::V2]), SDK);
    assert!(matches!(refused, Err(VerifyError::Directory(DirectoryError::Record { .. }))), "{refused:?}");
}

/// The block's magic or one of its sizes is damaged.
#[test]
fn damaged_blocks_are_no_signatures() {
    let good = signed(&apk(), &[Scheme::V2, Scheme::V3]);
    let end = usize::try_from(ZipSections::read(&good).unwrap().central_directory).unwrap();
    let damaged = |at: usize| {
        let mut apk = good.clone();
        apk[at] ^= 1;
        std::error::Error::source(&verify_all(&apk, SDK).unwrap_err()).unwrap().to_string()
    };
    assert_eq!(damaged(end - 1), "No APK Signing Block");
    let start = usize::try_from(SigningBlock::read(&good, &ZipSections::read(&good).unwrap()).unwrap().start);
    let sizes = damaged(start.unwrap());
    assert!(sizes.contains("sizes in header and footer do not match"), "{sizes}");
}

/// DSA is refused by a verdict, and its archives can be named all the same.
#[test]
fn dsa_signed_archives_list_their_digest() {
    let apk = apk();
    let listed = |id: u32, digest: Vec<u8>| {
        let forged = Forged { digests: vec![(id, digest)], algorithms: vec![id], ..good() };
        let apk = with_block(&apk, &[(V2, signers(&[forged.v2()]))]);
        assert!(matches!(
            verify_all(&apk, SDK),
            Err(VerifyError::Signer { scheme: Scheme::V2, source: SignerError::Refused(_) })
        ));
        listed_digest(&apk).unwrap()
    };
    assert_eq!(listed(0x0301, vec![3; 32]), (SignatureAlgorithm::DsaSha256, vec![3; 32]));
    assert_eq!(listed(0x0425, vec![4; 40]), (SignatureAlgorithm::VerityDsaSha256, vec![4; 40]));
}

#[test]
fn a_report_tells_everything() {
    let v2 = signers(&[good().v2(), Forged { certificates: Vec::new(), ..good() }.v2()]);
    let v3 = signers(&[good().for_sdk(28, 34).v3(), good().by(key_of(2)).for_sdk(35, 40).v3()]);
    let records = [(V3, v3.clone()), (V2, v2), (0x504b_4453, vec![0; 7]), (V3, v3), (0x1234, Vec::new())];
    let report = report(&with_block(&apk(), &records), SDK).unwrap();
    let schemes: Vec<_> = report.schemes.iter().map(|it| (it.scheme, it.id, it.signers.len())).collect();
    assert_eq!(schemes, [(Scheme::V3, V3, 2), (Scheme::V2, V2, 2)]);
    let [v3, v2] = &report.schemes[..] else { panic!() };
    v3.result.as_ref().unwrap();
    assert_eq!(v3.signers[0].sdk, 28..=34);
    assert_eq!(v3.signers[1].result.as_ref().unwrap().certificate, key_of(2).certificate());
    assert!(v2.signers[0].result.is_ok());
    assert_eq!(v2.signers[1].result, Err(SignerError::NoCertificates));
    assert!(matches!(v2.result, Err(VerifyError::Signer { source: SignerError::NoCertificates, .. })));
    let others: Vec<_> = report.others.iter().map(|it| (it.id, it.name)).collect();
    let padding = (PADDING, record_name(PADDING));
    assert_eq!(others, [(0x504b_4453, Some("dependency information")), (V3, None), (0x1234, None), padding]);
    assert_eq!((report.others[0].len, report.left_off), (7, 0));
}

#[test]
fn a_report_is_bounded() {
    let records: Vec<_> = (0..100).map(|id| (id, Vec::new())).collect();
    let many = signers(&(1..=12).map(|key| good().by(key_of(key)).v2()).collect::<Vec<_>>());
    let apart = signers(&(0..12).map(|sdk| good().for_sdk(24 + sdk, 24 + sdk).v3()).collect::<Vec<_>>());
    let records = [records, vec![(V2, many), (V3, apart)]].concat();
    let report = report(&with_block(&apk(), &records), SDK).unwrap();
    assert_eq!((report.others.len(), report.left_off), (64, 100 - 64 + 1));
    let [v3, v2] = &report.schemes[..] else { panic!() };
    assert_eq!((v3.signers.len(), v2.signers.len()), (10, 10));
    // The twelfth is the one for this SDK.
    assert!(v3.result.is_ok());
    assert!(matches!(v2.result, Err(VerifyError::TooManySigners { found: 12, .. })));
    let unsigned = super::report(&apk(), SDK).unwrap_err();
    assert!(matches!(unsigned, VerifyError::Block(SigningBlockError::Missing)));
}
