//! What the benchmarks of this crate measure with: other tools, memory, medians, and a large signed archive.
#![allow(dead_code, reason = "every benchmark takes from it what it needs")]

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use payload::apk::Scheme;
use payload::apk::manifest::Manifest;
use payload::apk::pack::Packer;
use payload::apk::sign::{SigningKey, sign};

/// Processors that this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Whether `tool` is installed; says so when it is not.
pub fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    if !found {
        println!("{tool} is not installed: not compared");
    }
    found
}

/// Bytes that openssl's SHA-256 takes in a second, 16 KiB at a time: of one process, and of one for each processor
/// together.
pub fn openssl_speed() -> Option<(f64, f64)> {
    let speed = |processes: &str| {
        let output = Command::new("openssl")
            .args(["speed", "-seconds", "1", "-bytes", "16384", "-multi", processes, "-evp", "sha256"])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        // The last line: the name, and thousands of bytes.
        let said = String::from_utf8(output.stdout).ok()?;
        let thousands: f64 = said.split_whitespace().next_back()?.strip_suffix('k')?.parse().ok()?;
        Some(thousands * 1e3)
    };
    Some((speed("1")?, speed(&processors().to_string())?))
}

/// The most memory this process ever had in use, in bytes.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

/// Runs this program with these arguments, all of them words of one: how long it took, and the peak memory that it
/// ends its output with (see [`end_child`]).
pub fn child(args: &[&str]) -> (Duration, u64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let started = Instant::now();
    let output = command.arg("--child").args(args).stderr(Stdio::inherit()).output().unwrap();
    let took = started.elapsed();
    assert!(output.status.success(), "{args:?} failed");
    (took, String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
}

/// The arguments of a [`child`], when this process is one.
pub fn child_args() -> Option<Vec<String>> {
    let mut args = std::env::args().skip(1);
    (args.next()? == "--child").then(|| args.collect())
}

/// The last thing that a [`child`] does.
pub fn end_child() {
    println!("{}", peak_memory());
}

/// How long `program` takes, which must succeed.
pub fn time(program: &str, args: &[&str]) -> Duration {
    let started = Instant::now();
    let output = Command::new(program).args(args).output().unwrap();
    let took = started.elapsed();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    took
}

/// The median; of an even number the upper of the two.
pub fn median<T: PartialOrd + Copy>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    sorted[sorted.len() / 2]
}

/// A signed archive with `mib` MiB of content that does not compress, in `directory`, and its key in PEM beside it.
pub fn signed_apk(directory: &Path, mib: usize) -> PathBuf {
    let manifest = Manifest { package: "com.example.bench".into(), version_code: 1 };
    let unsigned = File::create_new(directory.join("unsigned.apk")).unwrap();
    let mut packer = Packer::new(BufWriter::new(&unsigned), &manifest, "1").unwrap();
    const PART: usize = 64;
    let mut state = 1u64;
    for (number, start) in (0..mib).step_by(PART).enumerate() {
        let len = PART.min(mib - start) << 20;
        let content: Vec<u8> = (0..len / 8)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        packer.add(&format!("assets/{number}"), &content).unwrap();
    }
    packer.finish().unwrap().flush().unwrap();
    (&unsigned).rewind().unwrap();
    let path = directory.join("signed.apk");
    let key = SigningKey::generate().unwrap();
    let mut out = BufWriter::new(File::create_new(&path).unwrap());
    sign(&unsigned, &key, &[Scheme::V2, Scheme::V3], &mut out).unwrap();
    out.into_inner().unwrap();
    std::fs::remove_file(directory.join("unsigned.apk")).unwrap();
    std::fs::write(directory.join("key.pem"), key.to_pem().unwrap()).unwrap();
    std::fs::write(directory.join("certificate.der"), key.certificate()).unwrap();
    path
}
