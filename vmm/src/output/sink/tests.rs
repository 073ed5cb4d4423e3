use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use event_manager::{EventManager, SubscriberOps};

use super::*;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

fn pipe() -> (io::PipeReader, File) {
    let (reader, writer) = io::pipe().unwrap();
    (reader, File::from(OwnedFd::from(writer)))
}

#[test]
fn a_file_gets_every_byte_at_once() {
    let mut file = tempfile::tempfile().unwrap();
    let sink = Sink::new("test", file.try_clone().unwrap(), 16);
    sink.put(&pattern(100_000));
    let mut got = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut got).unwrap();
    assert!(got == pattern(100_000));
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up_and_misses_the_oldest() {
    let sockets = || {
        let (reader, writer) = UnixStream::pair().unwrap();
        (Box::new(reader) as Box<dyn Read + Send>, File::from(OwnedFd::from(writer)))
    };
    let pipes = || {
        let (reader, writer) = pipe();
        (Box::new(reader) as Box<dyn Read + Send>, writer)
    };
    for (mut reader, writer) in [pipes(), sockets()] {
        let sink = Sink::new("test", writer, 1 << 20);
        let all = pattern(8 << 20);
        for chunk in all.chunks(1000) {
            sink.put(chunk);
        }
        let dropped = usize::try_from(sink.lock().dropped).unwrap();
        assert!(dropped > 0 && sink.lock().ring.len() == 1 << 20);
        let rest = all.len() - dropped;
        let read = std::thread::spawn(move || {
            let mut got = vec![0; rest];
            reader.read_exact(&mut got).unwrap();
            got
        });
        sink.finish(None);
        let got = read.join().unwrap();
        let head = rest - (1 << 20);
        assert!(got[..head] == all[..head], "what the destination took comes first");
        assert!(got[head..] == all[all.len() - (1 << 20)..], "then the end of the stream");
    }
}

#[test]
fn the_event_loop_passes_on_what_waited() {
    let (mut reader, writer) = pipe();
    let sink = Sink::new("test", writer, 1 << 20);
    let mut manager = EventManager::<Arc<Sink>>::new().unwrap();
    manager.add_subscriber(Arc::clone(&sink));
    let all = pattern(300_000);
    sink.put(&all);
    assert!(!sink.lock().ring.is_empty());
    let mut got = Vec::new();
    let mut chunk = [0; 4096];
    while got.len() < all.len() {
        let read = reader.read(&mut chunk).unwrap();
        got.extend_from_slice(&chunk[..read]);
        manager.run_with_timeout(0).unwrap();
    }
    assert!(got == all);
    assert!(sink.lock().ring.is_empty());
    assert_eq!(manager.run_with_timeout(0).unwrap(), 0, "nothing wakes the loop once nothing waits");
}

#[test]
fn a_writer_a_reader_and_the_event_loop_lose_nothing_between_them() {
    let all = pattern(3 << 20);
    for chunk in [1000, 4096, 70_000] {
        let (mut reader, writer) = pipe();
        let sink = Sink::new("test", writer, all.len());
        let of_loop = Arc::clone(&sink);
        // It ends with the process: bytes that wait for a loop which nobody wakes would never be read.
        std::thread::spawn(move || {
            let mut manager = EventManager::<Arc<Sink>>::new().unwrap();
            manager.add_subscriber(of_loop);
            while manager.run().is_ok() {}
        });
        let mut got = vec![0; all.len()];
        std::thread::scope(|scope| {
            scope.spawn(|| all.chunks(chunk).for_each(|bytes| sink.put(bytes)));
            reader.read_exact(&mut got).unwrap();
        });
        assert!(got == all);
    }
}

#[test]
fn an_absent_reader_is_given_up_on() {
    let (reader, writer) = pipe();
    let sink = Sink::new("test", writer, 1 << 20);
    assert!(!sink.is_waiting());
    sink.put(&pattern(200_000));
    assert!(sink.is_waiting());
    sink.finish(Some(Duration::ZERO));
    assert!(!sink.is_waiting());
    drop(reader);
    sink.put(b"x");
    assert!(sink.lock().failed, "a reader that is gone is an end, not a panic");
    sink.put(&pattern(200_000));
    assert!(sink.lock().ring.is_empty());
}

#[test]
fn the_tail_is_whole_lines_of_the_end() {
    let sink = Sink::new("test", tempfile::tempfile().unwrap(), 16);
    sink.put(b"first\nlast\n");
    assert_eq!(sink.tail(), b"first\nlast\n");
    for _ in 0..1000 {
        sink.put(b"0123456789\n");
    }
    let tail = sink.tail();
    assert!(tail.len() <= TAIL_LEN && tail.len() > TAIL_LEN - 11, "{}", tail.len());
    assert!(tail.starts_with(b"0123456789\n") && tail.ends_with(b"\n"));
}

#[test]
fn what_others_share_stays_blocking() {
    let (_reader, writer) = pipe();
    let shared = writer.try_clone().unwrap();
    let _sink = Sink::new("test", writer, 16);
    // SAFETY: asks for the flags of an open descriptor.
    let flags = unsafe { libc::fcntl(shared.as_raw_fd(), libc::F_GETFL) };
    assert_eq!(flags & libc::O_NONBLOCK, 0);
}
