//! `make-test-apks DIRECTORY`: compiles, packs and signs everything that `tests/tests/linux.rs` runs in VMs. It runs where a C
//! compiler is; the tests may run elsewhere, with `KAPSEL_TEST_APKS` naming the directory.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use tests::{apk, compile, cpio, vsock_test};

/// APKs that need nothing but their library: the source's name is the APK's.
const PLAIN: [&str; 4] = ["memory", "wait", "output", "missing_symbol"];
/// How payloads end; each is an APK of its own.
const OUTCOMES: [&str; 8] =
    ["return 0", "return 42", "return 255", "return 256", "exit 7", "signal 6", "signal 9", "signal 11"];
/// Size of the asset whose hash is taken in the VM: several blocks and a bit.
const BLOB: usize = (1 << 20) + 12_345;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: make-test-apks DIRECTORY");
        return ExitCode::from(2);
    };
    match make(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(directory: &Path) -> Result<(), Box<dyn Error>> {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory)?;
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.join(name), bytes);
    let library = |name: &str| compile::payload(&compile::guests().join(format!("{name}.c")));

    let nonce: String = random(32)?.iter().map(|byte| format!("{byte:02x}")).collect();
    let blob = random(BLOB)?;
    let assets = [("assets/nonce", nonce.as_bytes()), ("assets/blob", &blob)];
    let signed = apk::with_library(&library("nonce")?, &assets);
    write("nonce", nonce.as_bytes())?;
    write("blob", &blob)?;
    write("nonce.idsig", &apk::idsig(&signed))?;
    write("nonce.apk", &signed)?;

    for name in PLAIN {
        write(&format!("{name}.apk"), &apk::with_library(&library(name)?, &[]))?;
    }
    let identity = apk::with_library(&library("identity")?, &[("assets/outcome", b"-")]);
    write("identity.apk", &identity)?;
    let ending = library("outcome")?;
    for outcome in OUTCOMES {
        let signed = apk::with_library(&ending, &[("assets/outcome", outcome.as_bytes())]);
        write(&format!("{}.apk", outcome.replace(' ', "-")), &signed)?;
    }
    for outcome in ["polite", "deaf"] {
        let signed = apk::with_library(&library("stopping")?, &[("assets/outcome", outcome.as_bytes())]);
        write(&format!("{outcome}.apk"), &signed)?;
    }
    // More than is read of it again, and than is pushed out of the guest's page cache.
    let large = random(12 << 20)?;
    for outcome in ["read", "map"] {
        let assets = [("assets/outcome", outcome.as_bytes()), ("assets/blob", &large)];
        write(&format!("damaged-{outcome}.apk"), &apk::with_library(&library("damaged")?, &assets))?;
    }
    let probe = compile::program(&compile::guests().join("probe"))?;
    write("hostile", &compile::kernel(&compile::guests().join("hostile.c"))?)?;
    write("probe.cpio", &cpio::initramfs(&probe))?;
    // Beside the directory, which is made anew each time.
    if let Some(programs) = vsock_test::build(directory.parent().unwrap_or(directory))? {
        write("vsock_test.cpio", &cpio::initramfs(&programs.vsock))?;
        write("vsock_test", &programs.vsock)?;
        write("vsock_test_unix", &programs.unix)?;
    }
    Ok(())
}

fn random(len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
