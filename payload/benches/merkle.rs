//! The hash tree of an archive of 1 GiB in the page cache, beside what else makes one.
//!
//! `cargo bench -p payload --bench merkle`: in each round `openssl speed` (SHA-256, 16 KiB, one process and one for each
//! processor), our tree without and with a salt, our idsig, `fsverity digest`, and `apksigner sign` with a v4 signature and
//! without one (their difference is what its v4 takes), each a process of its own and timed from start to end. Prints
//! medians, ratios, and our peak memory.
//! `KAPSEL_BENCH_MIB` is another size, `TMPDIR` the place of the archive.
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

mod support;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use payload::idsig::Idsig;
use payload::merkle::{Tree, tree_len};
use support::{child, installed, median, processors, time};

const ROUNDS: usize = 7;
const SIGN: &str = "apksigner v3";
const SIGN_V4: &str = "apksigner v3+v4";
const SALT: [u8; 32] = [0x5a; 32];

fn main() {
    match support::child_args() {
        Some(args) => work(&args[0], Path::new(&args[1])),
        None => compare(),
    }
}

/// What a process of ours does.
fn work(what: &str, path: &Path) {
    let file = File::open(path).unwrap();
    match what {
        "tree" => drop(Tree::build(&file, &[]).unwrap()),
        "salted tree" => drop(Tree::build(&file, &[SALT, [0; 32]].concat()).unwrap()),
        "idsig" => {
            let (idsig, tree) = Idsig::create(&file, &[]).unwrap();
            idsig.write(&tree, &mut File::create(path.with_extension("ours")).unwrap()).unwrap();
        }
        other => panic!("no such work: {other}"),
    }
    support::end_child();
}

/// What is timed, with all times there are.
struct Timed<'a> {
    name: &'static str,
    run: Box<dyn Fn() -> (Duration, u64) + 'a>,
    seconds: Vec<f64>,
    peak: u64,
}

fn compare() {
    let mib = std::env::var("KAPSEL_BENCH_MIB").map_or(1024, |mib| mib.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let apk = support::signed_apk(directory.path(), mib);
    let len = std::fs::metadata(&apk).unwrap().len();
    let path = apk.to_str().unwrap();
    let mut all: Vec<Timed<'_>> = Vec::new();
    let mut add = |name, run: Box<dyn Fn() -> (Duration, u64)>| {
        all.push(Timed { name, run, seconds: Vec::new(), peak: 0 });
    };
    for name in ["tree", "salted tree", "idsig"] {
        let path = path.to_owned();
        add(name, Box::new(move || child(&[name, &path])));
    }
    if installed("fsverity") {
        let path = path.to_owned();
        add("fsverity digest", Box::new(move || (time("fsverity", &["digest", &path]), 0)));
    }
    if installed("apksigner") && installed("openssl") {
        for (name, v4) in [(SIGN, "false"), (SIGN_V4, "true")] {
            let args = sign_args(directory.path(), path, v4);
            add(name, Box::new(move || (time("apksigner", &args.each_ref().map(String::as_str)), 0)));
        }
    }
    let mut limits = Vec::new();
    for round in 0..=ROUNDS {
        let limit = support::openssl_speed();
        for timed in &mut all {
            let (took, peak) = (timed.run)();
            // The first round only fills the page cache.
            if round > 0 {
                timed.seconds.push(took.as_secs_f64());
                timed.peak = timed.peak.max(peak);
            }
        }
        limits.extend(limit.filter(|_| round > 0));
    }
    print(&all, &limits, len);
}

/// One line: name, time, speed, and the speed's ratio to the limits.
fn row(name: &str, seconds: f64, speed: f64, (one, together): (f64, f64)) {
    let (all, together) = (speed / one, speed / together);
    print!("{name:24} {seconds:8.3} {:8.3} {all:17.3} {together:17.3}", speed / 1e9);
}

#[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
fn print(all: &[Timed<'_>], limits: &[(f64, f64)], len: u64) {
    let (processors, len_f64) = (processors(), len as f64);
    let one = median(&limits.iter().map(|(one, _)| *one).collect::<Vec<_>>());
    let together = median(&limits.iter().map(|(_, together)| *together).collect::<Vec<_>>());
    let limits = (one * processors as f64, together);
    let tree = tree_len(len).unwrap() as u64;
    println!("{len} bytes, {processors} processors, medians of {ROUNDS} rounds");
    println!(
        "openssl sha256, 16 KiB: {:.3} GB/s, {processors} together {:.3} GB/s",
        one / 1e9,
        together / 1e9
    );
    println!(
        "{:24} {:>8} {:>8} {:>17} {:>17} {:>16}",
        "", "seconds", "GB/s", "/(cpus x openssl)", "/openssl together", "peak beside tree"
    );
    for timed in all {
        let seconds = median(&timed.seconds);
        row(timed.name, seconds, len_f64 / seconds, limits);
        match timed.peak.checked_sub(tree) {
            Some(beside) if timed.peak > 0 => println!(" {:12.1} MiB", beside as f64 / f64::from(1 << 20)),
            _ => println!(),
        }
    }
    let seconds_of = |name| all.iter().find(|timed| timed.name == name).map(|timed| median(&timed.seconds));
    if let (Some(without), Some(with)) = (seconds_of(SIGN), seconds_of(SIGN_V4)) {
        row("apksigner v4, difference", with - without, len_f64 / (with - without), limits);
        println!();
    }
}

/// The arguments with which apksigner signs the archive once more.
fn sign_args(directory: &Path, apk: &str, v4: &str) -> [String; 11] {
    let in_directory = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (pem, key, certificate) =
        (in_directory("key.pem"), in_directory("key.pk8"), in_directory("certificate.der"));
    let args = ["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", &pem, "-out", &key];
    assert!(Command::new("openssl").args(args).status().unwrap().success());
    let (v4, out) = (format!("--v4-signing-enabled={v4}"), in_directory("again.apk"));
    let only_v3 = "--v2-signing-enabled=false";
    ["sign", "--key", &key, "--cert", &certificate, "--min-sdk-version=28", only_v3, &v4, "--out", &out, apk]
        .map(str::to_owned)
}
