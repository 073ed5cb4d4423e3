//! Discards and zeroes (5.2.6.2).

use super::*;

#[test]
fn v1_2_5_2_6_2_zeroes_are_read_where_they_were_written_and_nowhere_else() {
    for how in WAYS {
        for unmap in [0, 1] {
            let file = file_of(&pattern(64 * 512));
            let disk = CompositeDisk::from_file(Arc::clone(&file), 64 * 512, true).unwrap();
            let Some(mut driver) = start_as(how, disk, 1, ALL) else { continue };
            let data = ranges(&[(3, 5, unmap), (10, 0, 0), (20, 33, unmap)]);
            let (outcome, _) = request(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, &data, 0);
            assert_eq!(outcome, Outcome { status: OK, used: 1 }, "{how:?}");
            let mut expected = pattern(64 * 512);
            expected[3 * 512..8 * 512].fill(0);
            expected[20 * 512..53 * 512].fill(0);
            assert_eq!(contents_of(&file), expected, "{how:?} {unmap}");
        }
    }
}

#[test]
fn v1_2_5_2_6_2_a_discard_leaves_the_rest_of_the_disk_alone() {
    for how in WAYS {
        let file = file_of(&pattern(64 * 512));
        let disk = CompositeDisk::from_file(Arc::clone(&file), 64 * 512, true).unwrap();
        let Some(mut driver) = start_as(how, disk, 1, ALL) else { continue };
        let data = ranges(&[(8, 16, 0), (63, 1, 0)]);
        assert_eq!(request(&mut driver, VIRTIO_BLK_T_DISCARD, 0, &data, 0).0.status, OK, "{how:?}");
        let (got, expected) = (contents_of(&file), pattern(64 * 512));
        assert_eq!(got[..8 * 512], expected[..8 * 512]);
        assert_eq!(got[24 * 512..63 * 512], expected[24 * 512..63 * 512]);
        assert_eq!(got.len(), expected.len(), "the file is as long as it was");
    }
}

#[test]
fn v1_2_5_2_6_2_ranges_are_checked() {
    let (driver, file) = writable();
    drop(driver);
    let mut driver = start(CompositeDisk::from_file(Arc::clone(&file), 4096, true).unwrap(), false, ALL);
    let mut status = |kind, data: &[u8]| request(&mut driver, kind, 0, data, 0).0.status;
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(status(kind, &ranges(&[(0, 1, 2)])), UNSUPP, "an unknown flag");
        for bad in [
            (8, 1, 0),
            (0, 9, 0),
            (u64::MAX, 1, 0),
            (u64::MAX / 512, 1, 0),
            (1 << 55, 1, 0),
            (0, u32::MAX, 0),
        ] {
            assert_eq!(status(kind, &ranges(&[bad])), IOERR, "{bad:?}");
            assert_eq!(status(kind, &ranges(&[(0, 1, 0), bad])), IOERR, "{bad:?} after a good one");
        }
        assert_eq!(status(kind, &ranges(&[(0, 0, 0); 17])), IOERR, "more ranges than were offered");
        for data in [&[][..], &ranges(&[(0, 1, 0)])[..15], &[0; 17]] {
            assert_eq!(status(kind, data), IOERR, "{} bytes", data.len());
        }
        assert_eq!(status(kind, &ranges(&[(0, 0, 0); 16])), OK, "as many as were offered, of nothing");
    }
    assert_eq!(status(VIRTIO_BLK_T_DISCARD, &ranges(&[(0, 1, 1)])), UNSUPP, "unmap is not for a discard");
    assert_eq!(contents_of(&file), pattern(4096));

    let (disk, _) = composite();
    let mut driver = start(disk, false, ALL);
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let (outcome, _) = request(&mut driver, kind, 0, &ranges(&[(0, 4, 0)]), 0);
        assert_eq!(outcome.status, IOERR, "no extent is writable");
    }
}

/// The limits of one range are those of the configuration (5.2.4): up to them it is done, past them refused.
#[test]
fn v1_2_5_2_6_2_a_range_has_as_many_sectors_as_were_offered() {
    const SECTORS: u64 = 1 << 22;
    let file = tempfile::tempfile().unwrap();
    file.set_len(SECTORS * 512).unwrap();
    let disk = CompositeDisk::from_file(Arc::new(file), SECTORS * 512, true).unwrap();
    let mut driver = start(disk, false, ALL);
    let limits = [(VIRTIO_BLK_T_DISCARD, 36), (VIRTIO_BLK_T_WRITE_ZEROES, 48)];
    for (kind, at) in limits {
        let most = u32::try_from(config(&driver, at, 4)).unwrap();
        let mut status =
            |sector, count| request(&mut driver, kind, 0, &ranges(&[(sector, count, 0)]), 0).0.status;
        assert_eq!(status(1, most), OK);
        assert_eq!(status(SECTORS - u64::from(most), most), OK, "up to the end");
        assert_eq!(status(0, most + 1), IOERR);
        assert_eq!(status(SECTORS - u64::from(most) + 1, most), IOERR, "past the end");
    }
}

/// A driver that did not negotiate them, or could not since the disk is read-only, cannot ask for them.
#[test]
fn v1_2_5_2_6_1_ranges_that_were_not_negotiated_are_unsupported() {
    let (mut plain, file) = writable();
    let read_only = CompositeDisk::from_file(Arc::clone(&file), 4096, false).unwrap();
    let mut read_only = start(read_only, true, 0);
    for driver in [&mut plain, &mut read_only] {
        for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
            for data in [&ranges(&[(0, 1, 0)])[..], &[]] {
                let (outcome, _) = request(driver, kind, 0, data, 0);
                assert_eq!(outcome, Outcome { status: UNSUPP, used: 1 });
            }
        }
    }
    assert_eq!(contents_of(&file), pattern(4096));
}
