//! Both engines against the kernel's own calls.

use super::*;
use crate::virtio::blk::composite::CompositeDisk;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

fn file_of(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

/// Every engine that waits, over a disk of one file.
fn engines(file: &Arc<File>) -> Vec<(Engine, CompositeDisk)> {
    let mut engines = vec![];
    for choice in [EngineChoice::IoUring, EngineChoice::Threads] {
        let disk = CompositeDisk::from_file(Arc::clone(file), 4096, true).unwrap();
        match Engine::new(choice, disk.files(), 8) {
            Ok(engine) => engines.push((engine, disk)),
            Err(e) => {
                assert_eq!(choice, EngineChoice::IoUring, "{e}");
                let line = format!("kapsel-skip: blk::engine io_uring: {e}\n");
                io::stderr().write_all(line.as_bytes()).unwrap();
            }
        }
    }
    engines
}

fn run(engine: &mut Engine, operations: &[Operation]) -> Vec<i64> {
    for (slot, operation) in (0..).zip(operations) {
        // SAFETY: the callers' buffers live until this function has reaped everything.
        unsafe { engine.submit(slot, *operation) }.unwrap();
    }
    let mut results = vec![None; operations.len()];
    while results.iter().any(Option::is_none) {
        engine.start().unwrap();
        engine.wait();
        let mut ended = vec![];
        engine.reap(&mut ended);
        for (slot, result) in ended {
            assert!(results[slot as usize].replace(result).is_none(), "{slot} ended twice");
        }
    }
    results.into_iter().flatten().collect()
}

#[test]
fn each_engine_does_what_the_calls_do() {
    let file = file_of(&[7; 4096]);
    for (mut engine, _disk) in engines(&file) {
        let mut bytes = [[0_u8; 512]; 3];
        let iovecs =
            bytes.each_mut().map(|part| [libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: 512 }]);
        let operation = |kind, offset: u64, n: usize| Operation {
            file: 0,
            kind,
            offset,
            len: 512,
            iovecs: iovecs[n].as_ptr(),
            count: 1,
        };
        let results = run(
            &mut engine,
            &[
                operation(Kind::Read, 0, 0),
                operation(Kind::Read, 4000, 1),
                operation(Kind::Read, 5000, 2),
                operation(Kind::Sync, 0, 0),
            ],
        );
        assert_eq!(results, [512, 96, 0, 0], "{}", engine.name());
        assert_eq!((bytes[0], bytes[1][95], bytes[1][96]), ([7; 512], 7, 0));
        assert!(engine.event().unwrap().read().unwrap() > 0, "the event was not written");
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let punched = run(&mut engine, &[operation(Kind::Allocate(mode), 1024, 0)]);
        assert!([0, -i64::from(libc::EOPNOTSUPP)].contains(&punched[0]), "{punched:?}");
        assert_eq!(file.metadata().unwrap().len(), 4096);
    }
}

#[test]
fn more_operations_than_a_ring_holds_all_end() {
    let file = file_of(&[7; 4096]);
    for (mut engine, _disk) in engines(&file) {
        let mut bytes = vec![[0_u8; 64]; 100];
        let iovecs: Vec<_> = bytes
            .iter_mut()
            .map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: 64 })
            .collect();
        let operations: Vec<_> = iovecs
            .iter()
            .map(|iovec| Operation {
                file: 0,
                kind: Kind::Read,
                offset: 64,
                len: 64,
                iovecs: iovec,
                count: 1,
            })
            .collect();
        assert_eq!(run(&mut engine, &operations), vec![64; 100], "{}", engine.name());
        assert!(bytes.iter().all(|part| part == &[7; 64]));
    }
}

#[test]
fn errors_come_back_as_their_numbers() {
    let full = Arc::new(File::options().write(true).open("/dev/full").unwrap());
    for (mut engine, _disk) in engines(&full) {
        let byte = [1_u8];
        let iovec = [libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: 1 }];
        let operation =
            |file, kind| Operation { file, kind, offset: 0, len: 1, iovecs: iovec.as_ptr(), count: 1 };
        let results = run(&mut engine, &[operation(0, Kind::Write), operation(9, Kind::Write)]);
        assert_eq!(results, [-i64::from(libc::ENOSPC), -i64::from(libc::EBADF)], "{}", engine.name());
    }
}

#[test]
fn a_disk_in_memory_needs_nobody_to_wait() {
    let files = |file| CompositeDisk::from_file(file, 512, false).unwrap();
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: the descriptor is new and nobody else's.
    let memory = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    memory.set_len(512).unwrap();
    let disk = files(Arc::new(memory));
    assert!(disk.files()[0].is_in_memory());
    assert!(!Engine::new(EngineChoice::Auto, disk.files(), 8).unwrap().waits());
    assert!(Engine::new(EngineChoice::Threads, disk.files(), 8).unwrap().waits());
    let device = files(Arc::new(File::open("/dev/zero").unwrap()));
    assert!(!device.files()[0].is_in_memory(), "a device's node is not the device");
    assert!(Engine::new(EngineChoice::Auto, device.files(), 8).unwrap().waits());
}

#[test]
fn an_engine_that_is_gone_holds_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, [7; 4096]).unwrap();
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let lock = |file: &File| {
        // SAFETY: an all-zero flock is valid: all of the file.
        let mut range: libc::flock = unsafe { std::mem::zeroed() };
        range.l_type = libc::c_short::try_from(libc::F_WRLCK).unwrap();
        // SAFETY: the descriptor is open, and `range` is of the type that the call reads.
        unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(file), libc::F_OFD_SETLK, &raw const range) }
    };
    for _ in 0..3 {
        let file = Arc::new(open());
        assert_eq!(lock(&file), 0, "the engine before still holds the file");
        for (mut engine, _disk) in engines(&file) {
            let mut bytes = [0_u8; 64];
            let iovec = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 64 };
            let read = Operation { file: 0, kind: Kind::Read, offset: 0, len: 64, iovecs: &iovec, count: 1 };
            assert_eq!(run(&mut engine, &[read]), [64]);
        }
    }
}
