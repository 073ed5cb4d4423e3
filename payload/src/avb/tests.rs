use proptest::prelude::*;

use super::boot::{BootError, InitrdKind, verify_boot};
use super::make::testing::key;
use super::make::{SigningKey, Statement, hash_descriptor, image_with_hashtree};
use super::*;

fn statement() -> Statement {
    let descriptors = vec![
        Descriptor::Property { key: "com.example.one".into(), value: b"1".to_vec() },
        hash_descriptor(b"kernel", b"salt", "boot"),
        Descriptor::KernelCommandLine { flags: 1, text: "quiet".into() },
        Descriptor::Chain(ChainDescriptor {
            rollback_index_location: 2,
            partition_name: "other".into(),
            public_key: vec![7; 9],
            flags: 0,
        }),
        Descriptor::Other { tag: 77 },
    ];
    Statement { descriptors, rollback_index: 5, ..Statement::default() }
}

#[test]
fn what_is_made_verifies_and_reads_the_same() {
    for sha512 in [false, true] {
        let made = Statement { sha512, ..statement() };
        let vbmeta = VbMeta::verify(&made.to_vbmeta(Some(key()))).unwrap();
        assert_eq!(vbmeta.descriptors, made.descriptors);
        assert_eq!(vbmeta.public_key, key().public_key());
        assert_eq!((vbmeta.rollback_index, vbmeta.flags, vbmeta.release.as_str()), (5, 0, "kapsel"));
        let name = if sha512 { "SHA512_RSA2048" } else { "SHA256_RSA2048" };
        assert_eq!(vbmeta.algorithm.to_string(), name);
    }
}

#[test]
fn every_changed_byte_that_is_signed_is_noticed() {
    let bytes = statement().to_vbmeta(Some(key()));
    let authentication = 256..256 + 32 + 256;
    for at in (0..bytes.len()).filter(|at| !(authentication.end..256 + 320).contains(at)) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(VbMeta::verify(&changed).is_err(), "byte {at}");
    }
    let changed = |at: usize| {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        VbMeta::verify(&changed)
    };
    assert!(matches!(changed(256), Err(AvbError::Hash)));
    assert!(matches!(changed(256 + 40), Err(AvbError::Signature)));
    assert!(matches!(changed(bytes.len() - 70), Err(AvbError::Hash)));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = statement().to_vbmeta(Some(key()));
    for len in 0..bytes.len() {
        assert!(VbMeta::verify(&bytes[..len]).is_err(), "{len} bytes");
    }
    // What is behind the blocks belongs to nobody.
    VbMeta::verify(&[&bytes[..], &[9; 100]].concat()).unwrap();
}

#[test]
fn unsigned_ones_can_be_read_and_are_not_believed() {
    let bytes = statement().to_vbmeta(None);
    assert_eq!(VbMeta::read_unverified(&bytes).unwrap().descriptors, statement().descriptors);
    assert!(matches!(VbMeta::verify(&bytes), Err(AvbError::Unsigned)));
}

/// Every number in the header, and in the descriptors, set to values that wrap sums.
#[test]
fn hostile_lengths_are_refused() {
    let bytes = statement().to_vbmeta(None);
    let sizes = (12..28).step_by(8).chain((32..112).step_by(8));
    for at in sizes {
        for value in [u64::MAX, u64::MAX - 63, 1 << 63, (1 << 32) - 64, u64::from(u32::MAX)] {
            let mut hostile = bytes.clone();
            hostile[at..at + 8].copy_from_slice(&value.to_be_bytes());
            assert!(VbMeta::read_unverified(&hostile).is_err(), "{value:#x} at {at}");
        }
    }
    for at in (256..bytes.len() - 7).step_by(4) {
        for value in [u64::MAX, u64::MAX - 7, u64::from(u32::MAX) << 32] {
            let mut hostile = bytes.clone();
            hostile[at..at + 8].copy_from_slice(&value.to_be_bytes());
            if let Ok(read) = VbMeta::read_unverified(&hostile) {
                assert_ne!(hostile, bytes);
                assert!(read.descriptors.len() <= statement().descriptors.len(), "{value:#x} at {at}");
            }
        }
    }
}

#[test]
fn versions_and_algorithms_are_checked() {
    let bytes = statement().to_vbmeta(Some(key()));
    let with = |at: usize, value: u8| {
        let mut changed = bytes.clone();
        changed[at] = value;
        VbMeta::verify(&changed)
    };
    assert!(matches!(with(7, 2), Err(AvbError::Version { major: 2, .. })));
    assert!(matches!(with(11, 4), Err(AvbError::Version { minor: 4, .. })));
    assert!(matches!(with(31, 7), Err(AvbError::Algorithm(7))));
    assert!(matches!(with(0, b'a'), Err(AvbError::Malformed { field: "magic", .. })));
    // A key of another size than the algorithm's, all else right.
    let mut other = bytes.clone();
    other[31] = 2;
    let authentication_end = 256 + 320;
    let hash = Algorithm::Sha256Rsa4096.hash([&other[..256], &other[authentication_end..]]);
    other[256..256 + 32].copy_from_slice(&hash);
    let found = VbMeta::verify(&other);
    assert!(matches!(found, Err(AvbError::Malformed { structure: "public key", field: "size", .. })));
}

#[test]
fn footers_name_ranges_inside_the_image() {
    let image = statement().append_to(vec![1; 5000], 5000, Some(key()));
    let (footer, vbmeta) = verify_footer(&image).unwrap();
    assert_eq!((footer.original_image_size, footer.vbmeta_offset), (5000, 8192));
    assert_eq!(vbmeta.rollback_index, 5);
    let at = image.len() - FOOTER_LEN;
    assert_eq!(footer.to_bytes(), image[at..]);
    for (field, value) in [
        (12, 8193),
        (12, u64::MAX),
        (20, u64::MAX),
        (20, image.len() as u64),
        (28, u64::MAX),
        (28, MAX_VBMETA_LEN + 1),
        (28, at as u64 - 8192 + 1),
    ] {
        let mut hostile = image.clone();
        hostile[at + field..at + field + 8].copy_from_slice(&value.to_be_bytes());
        let found = Footer::read(&hostile);
        assert!(
            matches!(found, Err(AvbError::Malformed { structure: "footer", .. })),
            "{value:#x} at {field}"
        );
    }
    let version = |major| {
        let mut other = image.clone();
        other[at + 7] = major;
        Footer::read(&other)
    };
    assert!(matches!(version(2), Err(AvbError::Version { structure: "footer", .. })));
    assert!(matches!(Footer::read(&vec![0; 63]), Err(AvbError::NoFooter)));
    assert!(matches!(Footer::read(&vec![0; 64]), Err(AvbError::NoFooter)));
}

fn hashtree(image: &dyn ReadAt) -> HashtreeDescriptor {
    match verify_footer(image).unwrap().1.descriptors.remove(0) {
        Descriptor::Hashtree(descriptor) => descriptor,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hash_trees_verify_until_image_or_tree_changes() {
    let content: Vec<u8> = (0..300 * 4096).map(|i: usize| (i ^ i >> 9).to_le_bytes()[0]).collect();
    let image = image_with_hashtree(content, &[3; 32], "p", key());
    let descriptor = hashtree(&image);
    descriptor.verify(&image).unwrap();
    let verify = |at: usize| {
        let mut changed = image.clone();
        changed[at] ^= 1;
        descriptor.verify(&changed)
    };
    assert!(matches!(verify(0), Err(AvbError::Digest { partition }) if partition == "p"));
    assert!(matches!(verify(300 * 4096 - 1), Err(AvbError::Digest { .. })));
    assert!(matches!(verify(300 * 4096), Err(AvbError::Tree { .. })));
    assert!(matches!(verify(303 * 4096), Err(AvbError::Tree { .. })));
}

#[test]
fn hash_trees_of_other_shapes_are_refused_by_name() {
    let image = image_with_hashtree(vec![5; 3 * 4096], b"", "p", key());
    let good = hashtree(&image);
    let len = image.len() as u64;
    for algorithm in ["sha1", "sha512", "blake2b-256", ""] {
        let other = HashtreeDescriptor { hash_algorithm: algorithm.into(), ..good.clone() };
        match other.check(len) {
            Err(AvbError::HashAlgorithm { algorithm: named, .. }) => assert_eq!(named, algorithm),
            found => panic!("{found:?}"),
        }
    }
    let bad = [
        HashtreeDescriptor { dm_verity_version: 0, ..good.clone() },
        HashtreeDescriptor { data_block_size: 1024, ..good.clone() },
        HashtreeDescriptor { hash_block_size: 512, ..good.clone() },
        HashtreeDescriptor { root_digest: vec![0; 20], ..good.clone() },
        HashtreeDescriptor { image_size: 0, ..good.clone() },
        HashtreeDescriptor { image_size: 3 * 4096 - 1, ..good.clone() },
        HashtreeDescriptor { image_size: !4095, ..good.clone() },
        HashtreeDescriptor { image_size: 4096, tree_offset: 4096, ..good.clone() },
        HashtreeDescriptor { tree_offset: 2 * 4096, ..good.clone() },
        HashtreeDescriptor { tree_offset: 3 * 4096 + 1, ..good.clone() },
        HashtreeDescriptor { tree_offset: !4095, ..good.clone() },
        HashtreeDescriptor { tree_size: u64::MAX, ..good.clone() },
        HashtreeDescriptor { tree_size: 2 * 4096, ..good.clone() },
    ];
    for descriptor in bad {
        let found = descriptor.check(len);
        assert!(matches!(found, Err(AvbError::Malformed { .. })), "{descriptor:?}: {found:?}");
    }
    good.check(len).unwrap();
    assert!(good.check(3 * 4096).is_err(), "the tree would be outside");
}

/// A kernel with descriptors of these.
fn kernel(descriptors: Vec<Descriptor>, flags: u32) -> Vec<u8> {
    let statement = Statement { descriptors, rollback_index: 5, flags, ..Statement::default() };
    statement.append_to(b"kernel".to_vec(), 6, Some(key()))
}

#[test]
fn a_kernel_is_judged_with_its_initrd() {
    let [boot, normal, debug] = [
        hash_descriptor(b"kernel", b"a", "boot"),
        hash_descriptor(b"normal", b"b", "initrd_normal"),
        hash_descriptor(b"debug", b"c", "initrd_debug"),
    ];
    let trusted = key().public_key();
    let judge = |image: &Vec<u8>, initrd: Option<&[u8]>| {
        let initrd = initrd.map(<[u8]>::to_vec);
        verify_boot(image, initrd.as_ref().map(|it| it as &dyn ReadAt), &trusted, 5)
    };
    let both = kernel(vec![boot.clone(), normal.clone(), debug.clone()], 0);
    let kind = |initrd: &[u8]| judge(&both, Some(initrd)).map(|verified| verified.initrd.unwrap().0);
    assert_eq!(kind(b"normal").unwrap(), InitrdKind::Normal);
    assert_eq!(kind(b"debug").unwrap(), InitrdKind::Debug);
    assert!(matches!(kind(b"normal."), Err(BootError::UnknownInitrd)), "more behind the end");
    assert!(matches!(kind(b"norm4l"), Err(BootError::UnknownInitrd)));
    assert!(matches!(judge(&both, None), Err(BootError::NoInitrd)));
    assert!(matches!(
        verify_boot(&both, None, &trusted, 6),
        Err(BootError::Rollback { found: 5, stored: 6 })
    ));
    assert!(matches!(verify_boot(&both, None, &trusted[..519], 5), Err(BootError::Key)));

    let alone = judge(&kernel(vec![boot.clone()], 0), None).unwrap();
    assert_eq!((alone.kernel_size, alone.initrd, alone.rollback_index), (6, None, 5));

    let refused = |descriptors, flags| judge(&kernel(descriptors, flags), Some(b"normal")).unwrap_err();
    let extra = hash_descriptor(b"x", b"", "initrd_extra");
    let command_line = Descriptor::KernelCommandLine { flags: 0, text: String::new() };
    assert!(matches!(refused(vec![normal.clone()], 0), BootError::NoKernel));
    assert!(
        matches!(refused(vec![boot.clone(), boot.clone()], 0), BootError::Duplicate(name) if name == "boot")
    );
    assert!(matches!(
        refused(vec![boot.clone(), normal.clone(), normal.clone()], 0),
        BootError::Duplicate(name) if name == "initrd_normal"
    ));
    assert!(matches!(
        refused(vec![boot.clone(), extra], 0),
        BootError::UnknownPartition(name) if name == "initrd_extra"
    ));
    assert!(matches!(refused(vec![boot.clone(), command_line], 0), BootError::Kind));
    assert!(matches!(refused(vec![boot.clone(), Descriptor::Other { tag: 9 }], 0), BootError::Kind));
    assert!(matches!(refused(vec![boot, normal], 2), BootError::VbMeta(AvbError::Flags(2))));
    let other = hash_descriptor(b"Kernel", b"a", "boot");
    assert!(matches!(refused(vec![other], 0), BootError::Kernel(AvbError::Digest { .. })));
}

#[test]
fn keys_come_from_seeds_of_the_sizes_that_there_are() {
    assert!(SigningKey::from_seed([0; 32], 1024).is_err());
    assert!(SigningKey::from_der(b"no key").is_err());
    assert_eq!(SigningKey::from_seed([1; 32], 2048).unwrap().public_key(), key().public_key());
}

proptest! {
    /// Whatever is in a vbmeta, reading it ends, without a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut vbmeta = statement().to_vbmeta(None);
        let descriptors = vbmeta.len() - 256;
        let len = bytes.len().min(descriptors);
        vbmeta[256..256 + len].copy_from_slice(&bytes[..len]);
        let _ = VbMeta::read_unverified(&vbmeta);
        let _ = VbMeta::read_unverified(&bytes);
    }

    /// Descriptors of any content read as they were written.
    #[test]
    fn descriptors_survive(
        name in "[a-z_]{0,20}",
        salt in prop::collection::vec(any::<u8>(), 0..70),
        digest in prop::collection::vec(any::<u8>(), 0..70),
        sizes in any::<[u64; 5]>(),
        numbers in any::<[u32; 5]>(),
    ) {
        let hashtree = HashtreeDescriptor {
            dm_verity_version: numbers[0], image_size: sizes[0], tree_offset: sizes[1], tree_size: sizes[2],
            data_block_size: numbers[1], hash_block_size: numbers[2], fec_num_roots: numbers[3],
            fec_offset: sizes[3], fec_size: sizes[4], hash_algorithm: name.clone(), partition_name: name.clone(),
            salt: salt.clone(), root_digest: digest.clone(), flags: numbers[4],
        };
        let hash = HashDescriptor {
            image_size: sizes[0], hash_algorithm: name.clone(), partition_name: name.clone(), salt, digest,
            flags: numbers[0],
        };
        let property = Descriptor::Property { key: name, value: hash.salt.clone() };
        let descriptors = vec![Descriptor::Hashtree(hashtree), property, Descriptor::Hash(hash)];
        let made = Statement { descriptors, ..Statement::default() };
        prop_assert_eq!(VbMeta::read_unverified(&made.to_vbmeta(None)).unwrap().descriptors, made.descriptors);
    }
}
