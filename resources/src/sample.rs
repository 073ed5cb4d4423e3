//! The sample payload: a C library against `vm_payload.h`, in a signed APK.

use std::fs::{self, OpenOptions};
use std::io::{self, Cursor, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use payload::apk::pack::Packer;
use payload::apk::sign::{SigningKey, sign};
use payload::apk::{Manifest, Scheme};

use crate::place::Place;
use crate::run::Log;
use crate::steps::Step;

/// Compiles the payload, packs and signs it, and puts its configuration beside it.
///
/// # Errors
/// When the compiler fails, or a file cannot be read or written.
pub fn build(place: &Place, step: &Step) -> Result<()> {
    let (source, built) = (place.root.join("resources/sample"), place.sample_dir());
    fs::create_dir_all(&built).with_context(|| format!("Create {}", built.display()))?;
    let library = built.join("libsample.so");
    compile(place, &source.join("payload.c"), &library, step)?;
    let key = key(&place.images.join("sample-key.pem"))?;
    let apk = built.join("sample.apk");
    let unsigned = pack(&source, &library)?;
    let mut signed = Vec::new();
    sign(&unsigned.as_slice(), &key, &[Scheme::V3], &mut signed).context("Sign the sample's APK")?;
    fs::write(&apk, signed).with_context(|| format!("Write {}", apk.display()))?;
    let (from, to) = (source.join("app.json"), built.join("app.json"));
    fs::copy(&from, &to).with_context(|| format!("Copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The library under the name that the APK's `vm_config.json` gives it, and the assets.
fn pack(source: &Path, library: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("Read {}", path.display()));
    let manifest = Manifest { package: "com.example.kapsel.sample".to_owned(), version_code: 1 };
    let mut packer =
        Packer::new(Cursor::new(Vec::new()), &manifest, "1.0").context("Begin the sample's APK")?;
    for name in ["assets/greeting.txt", "assets/vm_config.json"] {
        packer.add(name, &read(&source.join(name))?).context("Pack the sample's APK")?;
    }
    let name = format!("lib/{}/libsample.so", std::env::consts::ARCH);
    packer.add(&name, &read(library)?).context("Pack the sample's APK")?;
    Ok(packer.finish().context("Finish the sample's APK")?.into_inner())
}

/// The key of this checkout's sample: made once, so that the sample keeps its identity.
fn key(path: &Path) -> Result<SigningKey> {
    match fs::read_to_string(path) {
        Ok(pem) => SigningKey::from_pem(&pem)
            .with_context(|| format!("Read the key in {}; remove the file for a new one", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = SigningKey::generate().context("Make a key")?;
            let mut options = OpenOptions::new();
            let pem = key.to_pem().context("Encode the key")?;
            let file = options.write(true).create_new(true).mode(0o600).open(path);
            file.and_then(|mut file| file.write_all(pem.as_bytes()))
                .with_context(|| format!("Write {}", path.display()))?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("Read {}", path.display())),
    }
}

/// Links with the stub, as anyone outside this repository would.
fn compile(place: &Place, source: &Path, library: &Path, step: &Step) -> Result<()> {
    let api = place.root.join("guest-api");
    let mut log = Log::create(&place.log("sample"))?;
    let stub_dir = place.images.join("stub");
    fs::create_dir_all(&stub_dir).with_context(|| format!("Create {}", stub_dir.display()))?;
    let mut stub = compiler(&api);
    stub.arg("-Wl,-soname,libvm_payload.so");
    stub.arg(format!("-Wl,--version-script={}", api.join("libvm_payload.map.txt").display()));
    stub.arg("-o").arg(stub_dir.join("libvm_payload.so")).arg(api.join("stub/stub.c"));
    log.run(stub, &|line| step.doing(line))?;
    let mut payload = compiler(&api);
    payload.args(["-Wl,-soname,libsample.so", "-Wl,--no-undefined", "-Wl,-z,now"]);
    payload.arg("-o").arg(library).arg(source).arg("-L").arg(&stub_dir).arg("-lvm_payload");
    log.run(payload, &|line| step.doing(line))
}

fn compiler(api: &Path) -> Command {
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-I"]);
    cc.arg(api.join("include"));
    cc
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    use payload::apk::{SDK, verify};

    #[test]
    fn the_sample_is_packed_and_signed_and_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libsample.so");
        fs::write(&library, "not really").unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample");
        let unsigned = pack(&source, &library).unwrap();
        let key_path = dir.path().join("key.pem");
        let mut signed = Vec::new();
        sign(&unsigned.as_slice(), &key(&key_path).unwrap(), &[Scheme::V3], &mut signed).unwrap();
        let signer = verify(&signed.as_slice(), SDK).unwrap();
        let again = key(&key_path).unwrap();
        assert_eq!(signer.certificate, again.certificate(), "the key is kept");
        let archive = payload::apk::Apk::open(signed.as_slice()).unwrap();
        let library = format!("lib/{}/libsample.so", std::env::consts::ARCH);
        assert_eq!(archive.read(&library, 100).unwrap(), b"not really");
        let config = archive.read("assets/vm_config.json", 1000).unwrap();
        payload::apk::config::PayloadConfig::parse(&config).unwrap();
    }

    #[test]
    fn a_key_is_for_its_owner_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        key(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "broken").unwrap();
        let error = format!("{:#}", key(&path).err().unwrap());
        assert!(error.contains("key.pem"), "{error}");
    }
}
