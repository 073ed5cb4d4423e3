//! What a driver asks, one request at a time (5.2.6).

use super::*;

#[test]
fn v1_2_5_2_4_the_configuration_is_the_disks() {
    let (disk, flat) = composite();
    let driver = start(disk, true, 0);
    assert_eq!(flat.len(), 40 * 512 + 360);
    assert_eq!(config(&driver, 0, 8), 40, "whole sectors");
    assert_eq!(config(&driver, 12, 4), 254, "a chain of 256 without header and status");
    assert_eq!(config(&driver, 20, 4), 512);
    assert_eq!(config(&driver, 57, 8), 0);
    assert_eq!(config(&driver, u64::from(u32::MAX), 8), 0);
    assert_eq!(
        (config(&driver, 24, 1), config(&driver, 26, 2)),
        (3, 8),
        "blocks of 4 KiB behind those of 512"
    );
    assert_eq!((config(&driver, 34, 2), config(&driver, 36, 8)), (1, 0), "one queue, nothing to discard");
    let both = 1 << 2 | 1 << 6 | 1 << 10;
    assert_eq!(driver.read(VIRTIO_MMIO_DEVICE_FEATURES) & 0xffff, both | 1 << 5, "read-only");
    let (driver, _) = writable();
    let features = driver.read(VIRTIO_MMIO_DEVICE_FEATURES) & 0xffff;
    assert_eq!(features, both | 1 << 9 | 1 << 13 | 1 << 14, "flush, discard, write zeroes");
    assert_eq!([36, 40, 44, 48, 52].map(|at| config(&driver, at, 4)), [1 << 21, 16, 8, 1 << 17, 16]);
    assert_eq!(config(&driver, 56, 4), 1, "zeroes may unmap");
}

#[test]
fn v1_2_5_2_6_a_composite_read_through_the_queue_is_its_bytes() {
    for sectors in [1, 3, 8, 40] {
        let (disk, flat) = composite();
        let mut driver = start(disk, true, EVENT_IDX);
        let mut got = vec![];
        for sector in (0..40).step_by(sectors) {
            let len = 512 * sectors.min(40 - sector);
            let (outcome, data) = read(&mut driver, sector as u64, len);
            assert_eq!(outcome, Outcome { status: OK, used: u32::try_from(len).unwrap() + 1 });
            got.extend(data);
        }
        assert_eq!(got, flat[..40 * 512]);
    }
}

proptest! {
    /// However a driver cuts its buffers (2.7.4), header, data and status are the same bytes.
    #[test]
    fn v1_2_2_7_4_framing_does_not_matter(
        cuts in prop::collection::vec(1u32..700, 0..12), sector in 0u64..35, sectors in 1usize..6,
    ) {
        let (disk, flat) = composite();
        let mut driver = start(disk, true, 0);
        let len = 512 * sectors;
        let queue = driver.queue(0);
        let head = queue.allocate(&header(VIRTIO_BLK_T_IN, sector));
        let tail = queue.allocate(&vec![NONE; len + 1]);
        let cut = |mut buffer: Buffer| {
            let mut pieces = vec![];
            for &cut in &cuts {
                if cut < buffer.len {
                    pieces.push(Buffer { addr: buffer.addr, len: cut });
                    buffer = Buffer { addr: vm_memory::GuestAddress(buffer.addr.0 + u64::from(cut)), len: buffer.len - cut };
                }
            }
            pieces.push(buffer);
            pieces
        };
        queue.add(&cut(head), &cut(tail));
        driver.kick(0);
        let used = driver.queue(0).take_used();
        prop_assert_eq!(used, Some((0, u32::try_from(len).unwrap() + 1)));
        let start = usize::try_from(sector).unwrap() * 512;
        let data = driver.queue(0).content(tail);
        prop_assert_eq!(&data[..len], &flat[start..start + len]);
        prop_assert_eq!(data[len], OK);
    }

    /// Any chain of any bytes: answered once with a status, or the device needs a reset; never a panic, and
    /// the disk is as long as it was.
    #[test]
    fn hostile_chains_are_answered_or_end_the_device(
        descriptors in prop::collection::vec((0u64..0x2_0000, 0u32..2000, any::<bool>()), 1..6),
        kind in prop_oneof![0u32..16, any::<u32>()], sector in prop_oneof![0u64..10, any::<u64>()],
    ) {
        let (mut driver, file) = writable();
        let queue = driver.queue(0);
        let head = queue.allocate(&header(kind, sector));
        queue.set_descriptor(0, RawDescriptor { addr: head.addr.0, len: head.len, flags: NEXT, next: 1 });
        for (index, &(addr, len, is_writable)) in (1u16..).zip(&descriptors) {
            let more = if usize::from(index) < descriptors.len() { NEXT } else { 0 };
            let flags = more | if is_writable { WRITE } else { 0 };
            // Buffers of the arena's free part, so that the rings stay what they are.
            let addr = queue.descriptor_area() + 0x80000 + addr;
            queue.set_descriptor(index, RawDescriptor { addr, len, flags, next: index + 1 });
        }
        queue.publish(0);
        driver.kick(0);
        settle(&mut driver);
        let needs_reset = driver.read(VIRTIO_MMIO_STATUS) & 64 != 0;
        prop_assert_eq!(driver.queue(0).take_used().is_some(), !needs_reset);
        prop_assert_eq!(driver.queue(0).take_used(), None);
        prop_assert_eq!(file.metadata().unwrap().len(), 4096);
    }
}

#[test]
fn v1_2_5_2_6_what_is_written_is_on_the_disk() {
    let (mut driver, file) = writable();
    let mut expected = pattern(4096);
    expected[1024..2048].fill(0x77);
    assert_eq!(write(&mut driver, 2, &[0x77; 1024]), Outcome { status: OK, used: 1 });
    assert_eq!(contents_of(&file), expected);
    let (outcome, data) = read(&mut driver, 0, 4096);
    assert_eq!((outcome.status, data), (OK, expected));
    let (outcome, _) = request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[], 0);
    assert_eq!(outcome, Outcome { status: OK, used: 1 });
}

#[test]
fn requests_that_no_disk_of_this_length_has_are_io_errors() {
    let (mut driver, file) = writable();
    let past = [(8, 512), (7, 1024), (9, 512), (u64::MAX, 512), (1 << 55, 512), (u64::MAX / 512, 512)];
    for (sector, len) in past {
        let (outcome, data) = read(&mut driver, sector, len);
        assert_eq!(outcome, Outcome { status: IOERR, used: 0 }, "{sector}");
        assert_eq!(data, vec![0; len]);
        assert_eq!(write(&mut driver, sector, &vec![1; len]), Outcome { status: IOERR, used: 1 });
    }
    for len in [1, 511, 513] {
        assert_eq!(read(&mut driver, 0, len).0.status, IOERR, "{len} bytes are not whole sectors (5.2.6.1)");
        assert_eq!(write(&mut driver, 0, &vec![1; len]).status, IOERR);
    }
    assert_eq!(read(&mut driver, 8, 0).0, Outcome { status: OK, used: 1 }, "nothing, at the end");
    assert_eq!(contents_of(&file), pattern(4096));
}

#[test]
fn v1_2_5_2_6_2_a_read_only_disk_is_not_written() {
    let file = file_of(&pattern(4096));
    let disk = CompositeDisk::from_file(Arc::clone(&file), 4096, true).unwrap();
    let mut driver = start(disk, true, 0);
    assert_eq!(write(&mut driver, 0, &[1; 512]), Outcome { status: IOERR, used: 1 });
    assert_eq!(contents_of(&file), pattern(4096));

    let (disk, flat) = composite();
    let mut driver = start(disk, false, FLUSH);
    for sector in 0..40 {
        assert_eq!(write(&mut driver, sector, &[1; 512]).status, IOERR, "no extent is writable");
    }
    assert_eq!(read(&mut driver, 0, 40 * 512).1, flat[..40 * 512]);
}

#[test]
fn v1_2_5_2_6_other_types_are_unsupported() {
    let (mut driver, _) = writable();
    for kind in [VIRTIO_BLK_T_SCSI_CMD, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, 3, 9, u32::MAX] {
        let (outcome, data) = request(&mut driver, kind, 0, &[1; 512], 512);
        assert_eq!(outcome, Outcome { status: UNSUPP, used: 0 }, "{kind}");
        assert_eq!(data, [0; 512]);
        assert_eq!(request(&mut driver, kind, 0, &[], 0).0, Outcome { status: UNSUPP, used: 1 });
    }
}

#[test]
fn v1_2_5_2_6_the_id_is_as_much_as_fits() {
    let (mut driver, _) = writable();
    let id = b"a-disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let (outcome, data) = request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], 20);
    assert_eq!((outcome, &data[..]), (Outcome { status: OK, used: 21 }, &id[..]));
    let (outcome, data) = request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], 4);
    assert_eq!((outcome, &data[..]), (Outcome { status: OK, used: 5 }, &id[..4]));
    for room in [21, 30] {
        let (outcome, data) = request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], room);
        assert_eq!((outcome, &data[..20]), (Outcome { status: OK, used: 20 }, &id[..]));
    }

    let disk = CompositeDisk::from_file(file_of(&[0; 512]), 512, true).unwrap();
    let block = Block::new(disk, "a name of more than twenty bytes", false).unwrap();
    let mut driver = Driver::new(&guest_memory(), block);
    driver.start(0);
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], 20).1, b"a name of more than ");
}

#[test]
fn a_request_without_room_for_a_status_or_a_header_needs_a_reset() {
    type Offer<'a> = &'a dyn Fn(&mut Driver<Block>);
    let chains: [Offer<'_>; 3] = [
        &|driver| {
            let head = driver.queue(0).allocate(&header(VIRTIO_BLK_T_FLUSH, 0));
            driver.queue(0).add(&[head], &[]);
        },
        &|driver| {
            let status = driver.queue(0).allocate(&[NONE]);
            driver.queue(0).add(&[], &[status]);
        },
        &|driver| {
            let short = driver.queue(0).allocate(&header(VIRTIO_BLK_T_FLUSH, 0)[..15]);
            let status = driver.queue(0).allocate(&[NONE]);
            driver.queue(0).add(&[short], &[status]);
        },
    ];
    for chain in chains {
        let (mut driver, _) = writable();
        chain(&mut driver);
        driver.kick(0);
        assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15 | 64);
        assert_eq!(driver.read(VIRTIO_MMIO_INTERRUPT_STATUS), 2);
        assert_eq!(driver.queue(0).take_used(), None);
    }
}

/// The header at an odd address, or in two buffers, and the status beside the data or apart: the same request.
#[test]
fn v1_2_2_7_4_a_header_may_lie_anywhere_and_in_parts() {
    let part = |buffer: Buffer, from: u32, len: u32| Buffer {
        addr: vm_memory::GuestAddress(buffer.addr.0 + u64::from(from)),
        len,
    };
    for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
        for shape in 0..4 {
            let (mut driver, file) = writable();
            let queue = driver.queue(0);
            let odd = queue.allocate(&[&[0xff][..], &header(kind, 2)].concat());
            let data = queue.allocate(&[0x33; 512]);
            let status = queue.allocate(&[NONE]);
            let mut readable = match shape {
                0 => vec![part(odd, 1, 16)],
                1 => vec![part(odd, 1, 3), part(odd, 4, 13)],
                2 => (1..17).map(|at| part(odd, at, 1)).collect(),
                _ => vec![part(odd, 1, 8), part(odd, 9, 8)],
            };
            let mut writable = vec![status];
            if kind == VIRTIO_BLK_T_IN { &mut writable } else { &mut readable }.push(data);
            if kind == VIRTIO_BLK_T_IN {
                writable.rotate_right(1);
            }
            queue.add(&readable, &writable);
            driver.kick(0);
            settle(&mut driver);
            let used = if kind == VIRTIO_BLK_T_IN { 513 } else { 1 };
            assert_eq!(driver.queue(0).take_used(), Some((0, used)), "{kind} {shape}");
            assert_eq!(driver.queue(0).content(status), [OK]);
            assert_eq!(driver.queue(0).content(data), contents_of(&file)[1024..1536], "{kind} {shape}");
            let expected =
                if kind == VIRTIO_BLK_T_IN { pattern(4096)[1024..1536].to_vec() } else { vec![0x33; 512] };
            assert_eq!(contents_of(&file)[1024..1536], expected);
        }
    }
}

/// A driver has no use for an empty buffer: wherever it stands, the chain is a broken one.
#[test]
fn an_empty_buffer_needs_a_reset() {
    for (kind, at) in
        [(VIRTIO_BLK_T_OUT, 1), (VIRTIO_BLK_T_IN, 1), (VIRTIO_BLK_T_IN, 2), (VIRTIO_BLK_T_FLUSH, 0)]
    {
        let (mut driver, file) = writable();
        let queue = driver.queue(0);
        let head = queue.allocate(&header(kind, 0));
        let (data, status) = (queue.allocate(&[0x44; 512]), queue.allocate(&[NONE]));
        let mut buffers = [head, data, status];
        buffers[at].len = 0;
        let readable = if kind == VIRTIO_BLK_T_IN { 1 } else { 2 };
        queue.add(&buffers[..readable], &buffers[readable..]);
        driver.kick(0);
        assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15 | 64, "{kind} {at}");
        assert_eq!((driver.queue(0).take_used(), contents_of(&file)), (None, pattern(4096)));
    }
}

/// Data where none belongs, and none where some does: nothing is read, written or overrun.
#[test]
fn requests_with_no_data_or_too_much_of_it_are_answered() {
    let (mut driver, file) = writable();
    // Zero sectors are as many as any disk has.
    for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
        assert_eq!(request(&mut driver, kind, 8, &[], 0).0, Outcome { status: OK, used: 1 });
        assert_eq!(
            request(&mut driver, kind, 9, &[], 0).0,
            Outcome { status: IOERR, used: 1 },
            "past the end"
        );
    }
    // A read has no data to give, a write none to take: what is there of the other kind stays as it is.
    let (outcome, data) = request(&mut driver, VIRTIO_BLK_T_IN, 0, &[0x66; 512], 512);
    assert_eq!((outcome, data), (Outcome { status: OK, used: 513 }, pattern(512)));
    let (outcome, data) = request(&mut driver, VIRTIO_BLK_T_OUT, 0, &[0x66; 512], 512);
    assert_eq!((outcome.status, data), (OK, vec![0; 512]));
    assert_eq!(contents_of(&file)[..513], [&[0x66; 512][..], &pattern(4096)[512..513]].concat());
    let (outcome, data) = request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[1; 512], 512);
    assert_eq!((outcome.status, data), (OK, vec![0; 512]));
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, &[], 0).0, Outcome { status: OK, used: 1 });
}

/// A disk of 2.5 sectors has 2, and the rest of its file is nobody's.
#[test]
fn v1_2_5_2_4_a_part_of_a_sector_is_not_on_the_disk() {
    let file = file_of(&pattern(1280));
    let disk = CompositeDisk::from_file(Arc::clone(&file), 1280, true).unwrap();
    let mut driver = start(disk, false, ALL);
    assert_eq!(config(&driver, 0, 8), 2);
    assert_eq!(read(&mut driver, 1, 512).0.status, OK);
    for (sector, len) in [(2, 512), (1, 1024)] {
        assert_eq!(read(&mut driver, sector, len).0.status, IOERR);
        assert_eq!(write(&mut driver, sector, &vec![1; len]).status, IOERR);
    }
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let status =
            |driver: &mut Driver<Block>, range| request(driver, kind, 0, &ranges(&[range]), 0).0.status;
        assert_eq!(status(&mut driver, (1, 2, 0)), IOERR);
        assert_eq!(status(&mut driver, (2, 1, 0)), IOERR);
    }
    assert_eq!(contents_of(&file), pattern(1280));
}
