use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::ReadAt;

const OTHER: Uuid = Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888);

/// Made by another implementation (Python's cryptography 48): CDI 0, 1, .. 31; nonce 100, 101, .. 111; the keys of all
/// maps in the order of the published sources.
const GOLDEN: &str = concat!(
    "6465666768696a6b6c6d6e6f0b87ff9d1d24d7d925b76d6e9b62d2f1b9ee24f3fa019dea727ee152f0ddccffa5f437ec",
    "69e05dfc337677ee8155534653189b53a33454d5bc07e8f6445787eeb14adfce81aff19178fc6408af7d23ce2e362741",
    "1fd749d52c59db73e0b4e06f54c20dc91e7ec77b4ba961fefd138f5efa2aef4efea0a3af742e73b9bc6f9008ec73021c",
    "3c29943a5b72db91c4a282997585ba0dfd478137d63ca6b3d3581a0075c0572676f0be81a681447584ca18c267323b21",
    "3e86cf4be7b5708c25038d0c7de745feaabc69c55a48a87859cdd16934bce0e05ef41a9eda28df41f465dc95a812f867",
    "c9b5d7b425368b4f59d772eb59ceb8c8a21447cc0314e64a81a9a5d7afd9ee4e1e8b419213560e6ad0ad13a9cdea1425",
    "ee89b6cf84c8072abd7807c958e8ee55b979e8fc6d5ce53f524c1b03c4fea0caf5c3f8b741fd941655d51a3669f4cc37",
    "e5b2d6bcbf44b416f1af052fd8cc11f1e42726429fa2",
);

pub(super) fn golden_record() -> ManagerRecord {
    let apex = |name: &str| ApexData { name: name.into(), ..ApexData::default() };
    ManagerRecord {
        salt: vec![1, 2, 200],
        apk_data: ApkData {
            root_hash: vec![3],
            cert_hash: vec![255, 0],
            package_name: "com.example".into(),
            version_code: (1 << 32) + 5,
        },
        extra_apks_data: Vec::new(),
        apex_data: vec![
            ApexData {
                manifest_name: Some("b".into()),
                manifest_version: Some(300),
                public_key: vec![24],
                root_digest: vec![23],
                last_update_seconds: 70_000,
                is_factory: true,
                ..apex("a")
            },
            apex("c"),
        ],
    }
}

fn cdi(seed: u8) -> SealingCdi {
    SealingCdi::new([seed; 32])
}

fn blank(len: usize) -> Vec<u8> {
    let mut image = vec![0; len];
    format(&mut image).unwrap();
    image
}

fn counting() -> impl FnMut(&mut [u8]) -> io::Result<()> {
    let mut count = 0;
    move |buffer| {
        count += 1;
        buffer.fill(count);
        Ok(())
    }
}

/// An image of 16 sectors with the golden record, sealed by the CDI of this seed.
fn provisioned(seed: u8) -> Vec<u8> {
    let mut image = InstanceImage::open(blank(16 * SECTOR)).unwrap();
    image.set_manager_record(&cdi(seed), &golden_record(), &mut counting()).unwrap();
    image.into_storage()
}

/// Section 6: the image byte for byte, and the key derivation, cipher and CBOR of others.
#[test]
fn the_format_is_the_published_one() {
    let blank = blank(1024);
    assert_eq!(&blank[..19], b"Android-VM-instance");
    assert_eq!(blank[19..21], [1, 0]);
    assert!(blank[21..].iter().all(|byte| *byte == 0));

    let payload: Vec<u8> =
        (0..GOLDEN.len() / 2).map(|i| u8::from_str_radix(&GOLDEN[2 * i..2 * i + 2], 16).unwrap()).collect();
    let mut image = vec![0; 8 * SECTOR];
    image[..21].copy_from_slice(&blank[..21]);
    image[512..528].copy_from_slice(&[
        0xcf, 0x9a, 0xfe, 0x9a, 0x06, 0x62, 0x11, 0xec, 0xa3, 0x29, 0xc3, 0x26, 0x63, 0xa0, 0x9d, 0x75,
    ]);
    image[528..536].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    image[1024..1024 + payload.len()].copy_from_slice(&payload);
    let cdi = SealingCdi::new(std::array::from_fn(|i| i.to_le_bytes()[0]));
    let image = InstanceImage::open(image).unwrap();
    assert_eq!(image.manager_record(&cdi).unwrap(), Some(golden_record()));
    assert!(!image.is_blank().unwrap());
}

#[test]
fn a_file_keeps_what_is_written() {
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(DEFAULT_LEN).unwrap();
    format(&mut file).unwrap();
    let mut image = InstanceImage::open(&file).unwrap();
    assert!(image.is_blank().unwrap());
    assert_eq!(image.manager_record(&cdi(1)).unwrap(), None);
    for version in 0..5 {
        let mut record = golden_record();
        record.apk_data.version_code = version;
        image.set_manager_record(&cdi(1), &record, &mut os_random).unwrap();
        let read = InstanceImage::open(&file).unwrap().manager_record(&cdi(1)).unwrap();
        assert_eq!(read, Some(record));
    }
    // Two places are used in turn.
    assert_eq!(image.records().unwrap().len(), 2);
    assert_eq!(ReadAt::len(&file).unwrap(), DEFAULT_LEN);
}

#[test]
fn blank_and_provisioned_are_told_apart() {
    assert!(InstanceImage::open(blank(4096)).unwrap().is_blank().unwrap());
    assert!(!InstanceImage::open(provisioned(1)).unwrap().is_blank().unwrap());
    let mut foreign = InstanceImage::open(blank(4096)).unwrap();
    foreign.put(OTHER, b"x").unwrap();
    assert!(!foreign.is_blank().unwrap());
    assert_eq!(foreign.manager_record(&cdi(1)).unwrap(), None);
    // A zeroed file is not blank, it is no image.
    assert!(matches!(InstanceImage::open(vec![0; 4096]), Err(InstanceError::Magic)));
    let mut later = blank(4096);
    later[19] = 2;
    assert!(matches!(InstanceImage::open(later), Err(InstanceError::Version(2))));
    assert!(matches!(format(&mut vec![0; 1023]), Err(InstanceError::TooSmall(1023))));
}

/// Formatting what was an image leaves no record.
#[test]
fn formatting_forgets() {
    let mut image = provisioned(1);
    format(&mut image).unwrap();
    assert!(InstanceImage::open(image).unwrap().is_blank().unwrap());
}

#[test]
fn other_keys_and_changed_bytes_do_not_open() {
    let image = provisioned(1);
    let opened = InstanceImage::open(image.clone()).unwrap();
    assert!(matches!(opened.manager_record(&cdi(2)), Err(InstanceError::Unseal)));
    let record = opened.find(MANAGER).unwrap().unwrap();
    let payload = usize::try_from(record.payload_len).unwrap();
    // Everything that is authenticated: header and payload.
    for at in 512..1024 + payload {
        for bit in [1, 0x80] {
            let mut changed = image.clone();
            changed[at] ^= bit;
            let found = InstanceImage::open(changed).and_then(|image| image.manager_record(&cdi(1)));
            // With another uuid it is somebody else's.
            let foreign = at < 528 && matches!(found, Ok(None));
            assert!(foreign || found.is_err(), "byte {at}: {found:?}");
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let image = provisioned(1);
    let end =
        usize::try_from(InstanceImage::open(image.clone()).unwrap().find(MANAGER).unwrap().unwrap().end())
            .unwrap();
    for len in 0..end + SECTOR {
        assert!(InstanceImage::open(image[..len].to_vec()).is_err(), "{len} bytes");
    }
    InstanceImage::open(image[..end + SECTOR].to_vec()).unwrap();
}

#[test]
fn hostile_sizes_are_refused() {
    let image = provisioned(1);
    let room = image.len() as u64 - 1024;
    let sizes =
        [u64::MAX, u64::MAX - 511, u64::MAX - 512, u64::MAX - 1535, 1 << 63, u64::from(u32::MAX), room + 1];
    for len in sizes {
        let mut hostile = image.clone();
        hostile[528..536].copy_from_slice(&len.to_le_bytes());
        let found = InstanceImage::open(hostile);
        assert!(
            matches!(found, Err(InstanceError::Record { offset: 512, len: told }) if told == len),
            "{len}"
        );
    }
    // It fits, but nothing ends the list.
    let mut hostile = image.clone();
    hostile[528..536].copy_from_slice(&room.to_le_bytes());
    assert!(matches!(InstanceImage::open(hostile), Err(InstanceError::NoEnd(_))));
    // Longer than what is read, in an image that has room for it.
    let mut hostile = blank(4 << 20);
    hostile[512..528].copy_from_slice(MANAGER.as_bytes());
    hostile[528..536].copy_from_slice(&(MAX_PAYLOAD + 1).to_le_bytes());
    let found = InstanceImage::open(hostile).unwrap().manager_record(&cdi(1));
    assert!(matches!(found, Err(InstanceError::TooLong(len)) if len == MAX_PAYLOAD + 1));
}

/// Records of nothing, as many as there are sectors: following them ends.
#[test]
fn endless_lists_are_refused() {
    let mut hostile = blank(12 << 20);
    for header in hostile[512..].chunks_exact_mut(SECTOR) {
        header[..16].copy_from_slice(OTHER.as_bytes());
    }
    assert!(
        matches!(InstanceImage::open(hostile), Err(InstanceError::NoEnd(end)) if end <= DEFAULT_LEN + 1024)
    );
}

#[test]
fn others_records_stay_as_they_are() {
    let mut image = InstanceImage::open(blank(64 * SECTOR)).unwrap();
    image.put(OTHER, b"theirs").unwrap();
    let record = image.find(OTHER).unwrap().unwrap();
    for len in [0, 10, 2000, 600, 3000, 1] {
        image.put(MANAGER, &vec![7; len]).unwrap();
        assert_eq!(image.find(OTHER).unwrap(), Some(record));
        assert_eq!(image.read(&record).unwrap(), b"theirs");
        let own = image.find(MANAGER).unwrap().unwrap();
        assert_eq!(image.read(&own).unwrap(), vec![7; len]);
    }
    for uuid in [Uuid::nil(), RETIRED] {
        assert!(matches!(image.put(uuid, b""), Err(InstanceError::Reserved(found)) if found == uuid));
    }
    let long = vec![0; usize::try_from(MAX_PAYLOAD).unwrap() + 1];
    assert!(matches!(image.put(MANAGER, &long), Err(InstanceError::TooLong(_))));
}

#[test]
fn a_full_image_says_what_helps_and_keeps_the_old_record() {
    let mut image = InstanceImage::open(blank(6 * SECTOR)).unwrap();
    image.put(MANAGER, &[1; 1000]).unwrap();
    let error = image.put(MANAGER, &[2; 1000]).unwrap_err();
    assert!(matches!(error, InstanceError::Full { needed: 1536, free: 512 }), "{error:?}");
    assert!(error.to_string().contains("create-partition --type instance"), "{error}");
    let record = image.find(MANAGER).unwrap().unwrap();
    assert_eq!(image.read(&record).unwrap(), [1; 1000]);
}

#[test]
fn a_nonce_is_used_once() {
    let mut image = InstanceImage::open(blank(64 * SECTOR)).unwrap();
    let mut stuck = |buffer: &mut [u8]| {
        buffer.fill(9);
        Ok(())
    };
    image.set_manager_record(&cdi(1), &golden_record(), &mut stuck).unwrap();
    let error = image.set_manager_record(&cdi(1), &golden_record(), &mut stuck).unwrap_err();
    assert!(matches!(error, InstanceError::Io { action: "make a nonce", .. }));
    image.set_manager_record(&cdi(1), &golden_record(), &mut os_random).unwrap();
    assert!(image.set_manager_record(&cdi(1), &golden_record(), &mut stuck).is_err(), "retired ones count");
    let mut none = |_: &mut [u8]| Err(io::Error::other("no entropy"));
    let error = image.set_manager_record(&cdi(1), &golden_record(), &mut none).unwrap_err();
    assert!(matches!(error, InstanceError::Io { action: "make a nonce", .. }));
    assert_eq!(image.manager_record(&cdi(1)).unwrap(), Some(golden_record()));
}

/// A storage that fails from a certain write on.
struct Failing {
    content: Vec<u8>,
    writes_left: usize,
}

impl ReadAt for Failing {
    fn len(&self) -> io::Result<u64> {
        ReadAt::len(&self.content)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.content.read_exact_at(buffer, offset)
    }
}

impl Storage for Failing {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.flush()?;
        self.content.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writes_left = self.writes_left.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }
}

#[test]
fn a_failed_write_leaves_an_image_that_can_be_used() {
    let mut succeeded = 0;
    for writes_left in 0..12 {
        let storage = Failing { content: provisioned(1), writes_left };
        let mut image = InstanceImage::open(storage).unwrap();
        let new = ManagerRecord { salt: vec![9], ..golden_record() };
        let random = &mut |buffer: &mut [u8]| {
            buffer.fill(77);
            Ok(())
        };
        let written = image.set_manager_record(&cdi(1), &new, random);
        let found = image.manager_record(&cdi(1)).unwrap().unwrap();
        match written {
            Ok(()) => {
                assert_eq!(found, new);
                succeeded += 1;
            }
            Err(InstanceError::Io { .. }) => assert!(found == golden_record() || found == new),
            Err(other) => panic!("{other}"),
        }
    }
    assert!((1..12).contains(&succeeded));
}

#[test]
fn files_of_other_kinds_are_no_images() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[b'x'; 5000]).unwrap();
    assert!(matches!(InstanceImage::open(file), Err(InstanceError::Magic)));
}

proptest! {
    /// Whatever is in an image, reading it ends, without a panic.
    #[test]
    fn any_bytes_are_read_or_refused(
        content in prop::collection::vec(any::<u8>(), 0..3000),
        record in prop::collection::vec(any::<u8>(), 0..70),
    ) {
        let mut image = blank(4096);
        image[512..512 + content.len()].copy_from_slice(&content);
        if let Ok(image) = InstanceImage::open(image) {
            let _ = image.manager_record(&cdi(1));
        }
        let _ = ManagerRecord::decode(&record);
    }
}
