//! Files that make somebody wait, fail, or are many.

use super::*;

#[test]
fn a_file_cut_short_under_the_vm_is_an_io_error_and_the_device_lives() {
    let (mut driver, file) = writable();
    file.set_len(1000).unwrap();
    for _ in 0..3 {
        assert_eq!(read(&mut driver, 1, 1024).0, Outcome { status: IOERR, used: 0 });
    }
    assert_eq!(read(&mut driver, 0, 512).0.status, OK);
    let mut block = driver.device().lock().unwrap();
    assert_eq!(block.server.errors.admit(Instant::now()), None, "the log has had its line");
}

/// A part of a disk that may be written, or not, and its bytes.
fn part() -> impl Strategy<Value = (Content, Vec<u8>)> {
    let bytes = prop::collection::vec(any::<u8>(), 1..3000);
    prop_oneof![
        bytes.clone().prop_map(|b| (Content::Bytes(b.clone().into()), b)),
        (1usize..3000).prop_map(|len| (Content::Zeros, vec![0; len])),
        (bytes.clone(), 0usize..50).prop_map(|(b, offset)| {
            let file = file_of(&[vec![0xee; offset], b.clone(), vec![0xee; 20]].concat());
            (Content::File { file, offset: offset as u64, writable: true }, b)
        }),
        (bytes, 0usize..50).prop_map(|(b, offset)| {
            let file = file_of(&[vec![0xee; offset], b.clone()].concat());
            (Content::File { file, offset: offset as u64, writable: false }, b)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any reads and writes, several at a time, over any extents, served in any way: as on a flat disk.
    #[test]
    fn v1_2_5_2_6_random_requests_over_random_extents_are_those_of_a_flat_disk(
        parts in prop::collection::vec(part(), 1..12), way in 0usize..5,
        requests in prop::collection::vec((0u64..24, 1usize..8, any::<bool>(), any::<u8>()), 1..16),
    ) {
        // The flat disk: each byte, and whether it may be written.
        let mut flat = vec![];
        for (content, bytes) in &parts {
            let writable = matches!(content, Content::File { writable: true, .. });
            flat.extend(bytes.iter().map(|&byte| (byte, writable)));
        }
        let mut start = 0;
        let mut extents = vec![];
        for (content, bytes) in parts {
            extents.push(Extent { start, len: bytes.len() as u64, content });
            start += bytes.len() as u64;
        }
        let Some(mut driver) = start_as(WAYS[way], CompositeDisk::new(extents).unwrap(), 1, FLUSH) else { return Ok(()) };
        let capacity = flat.len() / 512 * 512;
        for (sector, sectors, is_write, seed) in requests {
            let begin = usize::try_from(sector).unwrap() * 512;
            let range = begin..begin + 512 * sectors;
            let on_disk = range.end <= capacity;
            if is_write {
                let data: Vec<u8> = pattern(512 * sectors).iter().map(|b| b ^ seed).collect();
                let status = write(&mut driver, sector, &data).status;
                let first_bad = range.clone().find(|&at| !on_disk || !flat[at].1);
                prop_assert_eq!(status, if first_bad.is_none() { OK } else { IOERR });
                // What lies before the first byte that cannot be written was.
                let until = if on_disk { first_bad.unwrap_or(range.end) } else { begin };
                for at in begin..until {
                    flat[at].0 = data[at - begin];
                }
            } else {
                let (outcome, data) = read(&mut driver, sector, 512 * sectors);
                prop_assert_eq!(outcome.status, if on_disk { OK } else { IOERR });
                if on_disk {
                    let expected: Vec<u8> = flat[range].iter().map(|pair| pair.0).collect();
                    prop_assert_eq!(data, expected);
                }
            }
        }
        // And all of it at once, in as many requests as there are sectors, each its own.
        let queue = driver.queue(0);
        let mut buffers = vec![];
        for sector in 0..capacity / 512 {
            let head = queue.allocate(&header(VIRTIO_BLK_T_IN, sector as u64));
            let tail = queue.allocate(&[NONE; 513]);
            queue.add(&[head], &[tail]);
            buffers.push(tail);
        }
        driver.kick(0);
        settle(&mut driver);
        for (buffer, expected) in buffers.into_iter().zip(flat.chunks_exact(512)) {
            let data = driver.queue(0).content(buffer);
            prop_assert_eq!(data[512], OK);
            prop_assert!(data.iter().zip(expected).all(|(byte, pair)| *byte == pair.0));
        }
    }
}

/// A device of the host as a disk.
fn device(path: &str) -> CompositeDisk {
    let file = File::options().read(true).write(true).open(path).unwrap();
    CompositeDisk::from_file(Arc::new(file), 4096, true).unwrap()
}

#[test]
fn the_hosts_errors_are_io_errors_and_the_device_lives() {
    for how in WAYS {
        let Some(mut driver) = start_as(how, device("/dev/full"), 1, ALL) else { continue };
        for _ in 0..3 {
            assert_eq!(write(&mut driver, 0, &[1; 512]).status, IOERR, "{how:?}: no space");
            let zeroes = ranges(&[(0, 1, 0)]);
            assert_eq!(request(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, &zeroes, 0).0.status, IOERR);
            assert_eq!(read(&mut driver, 0, 512).0.status, OK);
        }
        let file = file_of(&pattern(1000));
        let Some(mut driver) = start_as(how, CompositeDisk::from_file(file, 4096, true).unwrap(), 1, ALL)
        else {
            continue;
        };
        assert_eq!(read(&mut driver, 1, 1024).0, Outcome { status: IOERR, used: 0 }, "{how:?}: cut short");
        assert_eq!(read(&mut driver, 0, 512).0.status, OK);
        // Address 0 of this process is nothing that can be read: EIO.
        let file = Arc::new(File::open("/proc/self/mem").unwrap());
        let Some(mut driver) = start_as(how, CompositeDisk::from_file(file, 4096, false).unwrap(), 1, ALL)
        else {
            continue;
        };
        assert_eq!(read(&mut driver, 0, 512).0.status, IOERR, "{how:?}: EIO");
    }
}

#[test]
fn v1_2_5_2_6_2_without_flush_every_write_is_durable_when_it_completes() {
    // What is written to /dev/null cannot be made durable, which tells whether it was tried.
    for how in WAYS {
        for (features, expected) in [(ALL, OK), (ALL & !FLUSH, IOERR)] {
            let Some(mut driver) = start_as(how, device("/dev/null"), 1, features) else { continue };
            assert_eq!(write(&mut driver, 0, &[1; 512]).status, expected, "{how:?}");
            assert_eq!(request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, &[], 0).0.status, IOERR, "{how:?}");
        }
    }
    let block = Block::new(device("/dev/null"), "", false).unwrap();
    block.flush().unwrap_err();
}

#[test]
fn v1_2_5_2_6_2_a_flush_waits_for_the_writes_before_it() {
    for engine in WAITING {
        let Some(Held { mut driver, gate, flushed }) = held(engine) else { continue };
        let first = offer(&mut driver, VIRTIO_BLK_T_OUT, &[1; 512]);
        let flush = offer(&mut driver, VIRTIO_BLK_T_FLUSH, &[]);
        let id = offer(&mut driver, VIRTIO_BLK_T_GET_ID, &[]);
        let status = |driver: &mut Driver<Block>, at| driver.queue(0).content(at)[0];
        assert_eq!(status(&mut driver, first), NONE, "{engine:?}");
        assert_eq!(status(&mut driver, flush), NONE, "{engine:?}: the flush did not wait");
        assert_eq!(status(&mut driver, id), OK, "{engine:?}: others need not wait");
        assert_eq!(driver.device().lock().unwrap().under_way(), 1);
        let _open = gate.open();
        settle(&mut driver);
        assert_eq!(status(&mut driver, first), OK, "{engine:?}");
        assert_eq!(status(&mut driver, flush), flushed, "{engine:?}");
        let order: Vec<u32> = std::iter::from_fn(|| driver.queue(0).take_used()).map(|used| used.0).collect();
        assert_eq!(order, [5, 0, 3], "{engine:?}: GET_ID, write, flush");
    }
}

#[test]
fn v1_2_2_4_a_reset_with_requests_in_flight_answers_none_of_them() {
    for engine in WAITING {
        let Some(Held { mut driver, gate, .. }) = held(engine) else { continue };
        let write = offer(&mut driver, VIRTIO_BLK_T_OUT, &[1; 512]);
        let flush = offer(&mut driver, VIRTIO_BLK_T_FLUSH, &[]);
        assert_eq!(driver.device().lock().unwrap().under_way(), 1);
        // The reset waits for what others have of guest memory, which this lets go on.
        let opening = std::thread::spawn(move || gate.open());
        driver.reset();
        let open = opening.join().unwrap();
        driver.run();
        assert_eq!(driver.device().lock().unwrap().under_way(), 0);
        assert_eq!(
            driver.queue(0).used_idx(),
            0,
            "{engine:?}: a completion of the old epoch reached the ring"
        );
        assert_eq!(driver.queue(0).content(write), [NONE]);
        assert_eq!(driver.queue(0).content(flush), [NONE]);
        assert_eq!(driver.take_interrupts(), 0);
        drop(open);
    }
}

/// The device gives up while the engine has a request: that is answered before it, or never.
#[test]
fn a_broken_chain_while_requests_are_under_way_ends_them_too() {
    for engine in WAITING {
        let Some(Held { mut driver, gate, .. }) = held(engine) else { continue };
        let write = offer(&mut driver, VIRTIO_BLK_T_OUT, &[1; 512]);
        let head = driver.queue(0).allocate(&header(VIRTIO_BLK_T_FLUSH, 0));
        driver.queue(0).add(&[head], &[]);
        let opening = std::thread::spawn(move || gate.open());
        driver.kick(0);
        let open = opening.join().unwrap();
        assert_eq!(driver.read(VIRTIO_MMIO_STATUS), 15 | 64, "{engine:?}");
        assert_eq!(driver.device().lock().unwrap().under_way(), 0);
        let used = driver.queue(0).used_idx();
        assert_eq!(driver.queue(0).content(write), [if used == 0 { NONE } else { OK }], "{engine:?}");
        driver.run();
        assert_eq!(driver.queue(0).used_idx(), used, "{engine:?}");
        drop(open);
    }
}

#[test]
fn errors_are_told_now_and_then() {
    let mut log = server::ErrorLog::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(log.admit(at(0)), Some(0));
    assert_eq!(log.admit(at(1)), None);
    assert_eq!(log.admit(at(9)), None);
    assert_eq!(log.admit(at(10)), Some(2));
    assert_eq!(log.admit(at(11)), None);
    assert_eq!(log.admit(at(21)), Some(1));
}
