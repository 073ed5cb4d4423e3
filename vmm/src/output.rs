//! Where the guest's serial bytes go: console or log. Both share ttyS0, one after the other.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which of the two streams the serial port carries now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What the kernel and PID 1 print.
    Console,
    /// What the payload prints.
    Log,
}

/// The two destinations behind one serial port; clones share them.
#[derive(Clone)]
pub struct Output(Arc<Mutex<State>>);

struct State {
    console: File,
    log: File,
    stream: Stream,
}

impl Output {
    /// Sends the console and the payload's log to open files; they may be the same.
    pub fn new(console: File, log: File) -> Self {
        Self(Arc::new(Mutex::new(State { console, log, stream: Stream::Console })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is written from now on to `stream`.
    pub fn switch(&self, stream: Stream) {
        self.lock().stream = stream;
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        match state.stream {
            Stream::Console => state.console.write(bytes),
            Stream::Log => state.log.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn bytes_go_to_the_stream_that_is_current() {
        let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let [console, log] = files.each_ref().map(|f| f.try_clone().unwrap());
        let output = Output::new(console, log);
        let mut port = output.clone();
        port.write_all(b"kernel\n").unwrap();
        output.switch(Stream::Log);
        port.write_all(b"payload\n").unwrap();
        output.switch(Stream::Console);
        port.write_all(b"bye\n").unwrap();
        let [console, log] = files.map(|mut file| {
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!((console.as_str(), log.as_str()), ("kernel\nbye\n", "payload\n"));
    }
}
