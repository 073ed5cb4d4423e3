//! Log lines of this process: one line each on stderr, apart from the guest's output on stdout.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            // A closed stderr is no reason to stop the VM.
            let _ = writeln!(std::io::stderr().lock(), "vmm: {level}: {}", record.args());
        }
    }

    fn flush(&self) {}
}

/// Sends log lines to stderr: warnings and errors, or all with `verbose`.
pub fn start(verbose: bool) {
    static LOGGER: Stderr = Stderr;
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(if verbose { LevelFilter::Debug } else { LevelFilter::Warn });
    }
}
