//! Full verification of a signed archive of 500 MiB in the page cache: signature, chunks' digests, all processors.
//!
//! `cargo bench -p payload --bench verify`: in each round `openssl speed` (SHA-256, 16 KiB, one process and one for each
//! processor) and our verification as a process of its own, timed from start to end. Prints medians, ratios, and our
//! peak memory. `KAPSEL_BENCH_MIB` is another size, `TMPDIR` the place of the archive.
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

mod support;

use std::fs::File;

use payload::apk::{SDK, verify};
use support::{child, median, processors};

const ROUNDS: usize = 7;

fn main() {
    match support::child_args() {
        Some(args) => {
            verify(&File::open(&args[0]).unwrap(), SDK).unwrap();
            support::end_child();
        }
        None => measure(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
fn measure() {
    let mib = std::env::var("KAPSEL_BENCH_MIB").map_or(500, |mib| mib.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let apk = support::signed_apk(directory.path(), mib);
    let len = std::fs::metadata(&apk).unwrap().len();
    let (mut seconds, mut limits, mut peak) = (Vec::new(), Vec::new(), 0);
    for round in 0..=ROUNDS {
        let limit = support::openssl_speed();
        let (took, used) = child(&[apk.to_str().unwrap()]);
        // The first round only fills the page cache.
        if round > 0 {
            seconds.push(took.as_secs_f64());
            limits.extend(limit);
            peak = peak.max(used);
        }
    }
    let speed = len as f64 / median(&seconds);
    println!("{len} bytes, {} processors, medians of {ROUNDS} rounds", processors());
    println!(
        "verify: {:.3} s, {:.3} GB/s, peak {:.1} MiB",
        median(&seconds),
        speed / 1e9,
        peak as f64 / f64::from(1 << 20)
    );
    if limits.is_empty() {
        println!("no openssl to compare with");
        return;
    }
    let one = median(&limits.iter().map(|(one, _)| *one).collect::<Vec<_>>());
    let together = median(&limits.iter().map(|(_, together)| *together).collect::<Vec<_>>());
    println!(
        "openssl sha256, 16 KiB: {:.3} GB/s, all processors together {:.3} GB/s",
        one / 1e9,
        together / 1e9
    );
    let all = one * processors() as f64;
    println!(
        "ratio: {:.3} of processors x openssl, {:.3} of openssl together",
        speed / all,
        speed / together
    );
}
