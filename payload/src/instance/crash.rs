//! Power cuts at every moment of a replacement: whatever sectors of those written since the last flush have reached the
//! disk, there is the old record or the new one, for this reader and for one that only knows the published format.

use std::io;

use proptest::prelude::*;

use super::*;
use crate::ReadAt;

const OTHER: Uuid = Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888);

type Epoch = Vec<(u64, [u8; SECTOR])>;

/// A disk that remembers what was written between which flushes.
#[derive(Clone)]
struct Disk {
    before: Vec<u8>,
    now: Vec<u8>,
    epochs: Vec<Epoch>,
}

impl Disk {
    fn new(content: Vec<u8>) -> Self {
        Self { before: content.clone(), now: content, epochs: vec![Epoch::new()] }
    }

    /// What is on it when the power goes in epoch `epoch`, of which the sectors of `survivors` have arrived.
    fn cut(&self, epoch: usize, survivors: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut content = self.before.clone();
        let earlier = self.epochs[..epoch].iter().flatten();
        let surviving = self.epochs[epoch].iter().enumerate().filter(|(index, _)| survivors(*index));
        for (offset, sector) in earlier.chain(surviving.map(|(_, write)| write)) {
            let offset = usize::try_from(*offset).unwrap();
            content[offset..offset + SECTOR].copy_from_slice(sector);
        }
        content
    }

    /// Every state there can be.
    fn cuts(&self) -> Vec<Vec<u8>> {
        let mut states = Vec::new();
        for (index, epoch) in self.epochs.iter().enumerate() {
            assert!(epoch.len() <= 12, "too many to try them all");
            states.extend((0..1u32 << epoch.len()).map(|set| self.cut(index, |bit| set >> bit & 1 == 1)));
        }
        states
    }
}

impl ReadAt for Disk {
    fn len(&self) -> io::Result<u64> {
        ReadAt::len(&self.now)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.now.read_exact_at(buffer, offset)
    }
}

impl Storage for Disk {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset.is_multiple_of(512) && bytes.len().is_multiple_of(SECTOR), "whole sectors only");
        self.now.write_all_at(bytes, offset)?;
        for (index, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let epoch = self.epochs.last_mut().unwrap();
            let offset = offset + (index * SECTOR) as u64;
            assert!(epoch.iter().all(|(other, _)| *other != offset), "a sector twice: its order matters");
            epoch.push((offset, sector.try_into().unwrap()));
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.epochs.push(Epoch::new());
        Ok(())
    }
}

/// The payload that a reader of the published format finds, which knows nothing of retired records.
fn published(image: &[u8], uuid: Uuid) -> Option<Vec<u8>> {
    let mut at = SECTOR;
    loop {
        let header = &image[at..at + SECTOR];
        if header[..16] == [0; 16] {
            return None;
        }
        let len = usize::try_from(u64::from_le_bytes(header[16..24].try_into().unwrap())).unwrap();
        if header[..16] == *uuid.as_bytes() {
            return Some(image[at + SECTOR..at + SECTOR + len].to_vec());
        }
        at += SECTOR + len.next_multiple_of(SECTOR);
    }
}

/// The payload that counts; both readers agree.
fn found(image: &[u8], uuid: Uuid) -> Option<Vec<u8>> {
    let opened = InstanceImage::open(image.to_vec()).unwrap();
    let ours = opened.find(uuid).unwrap().map(|record| opened.read(&record).unwrap());
    assert_eq!(ours, published(image, uuid));
    ours
}

/// Replaces on a copy of `image`, and gives the disk with its history.
fn replace(image: &[u8], uuid: Uuid, payload: &[u8]) -> Result<Disk, InstanceError> {
    let mut opened = InstanceImage::open(Disk::new(image.to_vec()))?;
    opened.put(uuid, payload)?;
    Ok(opened.into_storage())
}

fn blank(sectors: usize) -> Vec<u8> {
    let mut image = vec![0xee; sectors * SECTOR];
    format(&mut image).unwrap();
    image
}

fn payload(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251).to_le_bytes()[0] ^ seed).collect()
}

/// Section 6, atomic replacement: cuts at every moment of a history of records that grow, shrink and stay, and again at
/// every moment of the replacement after the cut.
#[test]
fn old_or_new_after_every_cut_and_every_cut_after_it() {
    let mut image = blank(24);
    let mut old = None;
    let other = payload(0x77, 700);
    let lens = [600, 600, 600, 1500, 100, 100, 0, 1024, 1025, 511, 512, 1500];
    let mut states = 0;
    for (step, len) in lens.into_iter().enumerate() {
        if step == 2 {
            image = replace(&image, OTHER, &other).unwrap().now;
        }
        let new = payload(u8::try_from(step).unwrap() + 1, len);
        let disk = replace(&image, MANAGER, &new).unwrap();
        let expected_other = (step >= 2).then(|| other.clone());
        for cut in disk.cuts() {
            let survivor = found(&cut, MANAGER);
            assert!(survivor == old || survivor.as_ref() == Some(&new), "step {step}");
            assert_eq!(found(&cut, OTHER), expected_other, "step {step}");
            let next = payload(0xf0, 600);
            let again = replace(&cut, MANAGER, &next).unwrap();
            for second in again.cuts() {
                let found = found(&second, MANAGER);
                assert!(found == survivor || found.as_ref() == Some(&next), "step {step}");
                states += 1;
            }
            assert_eq!(found(&again.now, MANAGER), Some(next), "step {step}");
            assert_eq!(found(&again.now, OTHER), expected_other, "step {step}");
        }
        image = disk.now;
        assert_eq!(found(&image, MANAGER).as_ref(), Some(&new), "step {step}");
        old = Some(new);
    }
    assert!(states > 2_000, "{states} states are not what this test is for");
}

/// The same for the sealed record: it authenticates after every cut.
#[test]
fn a_sealed_record_opens_after_every_cut() {
    let cdi = SealingCdi::new([5; 32]);
    let mut counter = 0;
    let mut random = |buffer: &mut [u8]| {
        counter += 1;
        buffer.fill(counter);
        Ok(())
    };
    let record = |version_code| ManagerRecord {
        apk_data: ApkData {
            version_code,
            cert_hash: vec![200; 64],
            root_hash: vec![100; 32],
            ..ApkData::default()
        },
        ..ManagerRecord::default()
    };
    let mut image = blank(16);
    let mut old = None;
    for version in 0..6 {
        let new = record(version);
        let mut opened = InstanceImage::open(Disk::new(image)).unwrap();
        opened.set_manager_record(&cdi, &new, &mut random).unwrap();
        let disk = opened.into_storage();
        for cut in disk.cuts() {
            let found = InstanceImage::open(cut).unwrap().manager_record(&cdi).unwrap();
            assert!(found == old || found.as_ref() == Some(&new), "version {version}");
        }
        image = disk.now;
        old = Some(new);
    }
}

/// Room for three records of the longest is room for ever.
#[test]
fn replacing_does_not_use_up_the_image() {
    let longest = 5 * SECTOR;
    let mut image = blank(2 + 3 * 6);
    let mut random = 1u64;
    for step in 0..2000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let len = usize::try_from(random >> 33).unwrap() % (longest + 1);
        let mut opened = InstanceImage::open(image).unwrap();
        opened.put(MANAGER, &payload(1, len)).unwrap_or_else(|error| panic!("step {step}: {error}"));
        image = opened.into_storage();
        assert_eq!(found(&image, MANAGER), Some(payload(1, len)), "step {step}");
    }
}

#[derive(Clone, Debug)]
struct Step {
    other: bool,
    len: usize,
    /// In which epoch the power goes, and which of its sectors have arrived.
    cut: Option<(usize, u64)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cut = prop::option::of((0usize..8, any::<u64>()));
    let step = (any::<bool>(), 0usize..4000, cut).prop_map(|(other, len, cut)| Step { other, len, cut });
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Section 6, atomic replacement: any history of two owners' records, with power cuts, in an image that is small
    /// enough to be full at times.
    #[test]
    fn any_history_leaves_old_or_new(steps in steps(), sectors in 4usize..40) {
        let mut image = blank(sectors);
        let mut expected: [Option<Vec<u8>>; 2] = [None, None];
        for (index, step) in steps.into_iter().enumerate() {
            let uuid = if step.other { OTHER } else { MANAGER };
            let new = payload(index.to_le_bytes()[0], step.len);
            match replace(&image, uuid, &new) {
                Ok(disk) => {
                    image = match step.cut {
                        Some((epoch, set)) => {
                            disk.cut(epoch % disk.epochs.len(), |bit| set >> (bit % 64) & 1 == 1)
                        }
                        None => disk.now,
                    };
                    let survivor = found(&image, uuid);
                    let old = &expected[usize::from(step.other)];
                    let is_new = survivor.as_ref() == Some(&new);
                    prop_assert!(is_new || step.cut.is_some() && survivor == *old);
                    expected[usize::from(step.other)] = survivor;
                }
                Err(InstanceError::Full { needed, free }) => prop_assert!(needed > free),
                Err(other) => prop_assert!(false, "{other}"),
            }
            prop_assert_eq!(&found(&image, MANAGER), &expected[0]);
            prop_assert_eq!(&found(&image, OTHER), &expected[1]);
        }
    }
}
