//! The hash tree, judged by the tool that others use: apksigner.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use payload::apk::manifest::Manifest;
use payload::apk::pack::Packer;
use payload::idsig::Idsig;

mod judge;
use judge::{can_run, succeeds};

fn unsigned(content: usize) -> Vec<u8> {
    let manifest = Manifest { package: "com.example.judged".into(), version_code: 7 << 32 | 3 };
    let mut packer = Packer::new(Cursor::new(Vec::new()), &manifest, "1.0").unwrap();
    packer.add("assets/vm_config.json", b"{}").unwrap();
    let library: Vec<u8> = (0..content).map(|i| (i * 7 % 253).to_le_bytes()[0]).collect();
    packer.add("lib/x86_64/libpayload.so", &library).unwrap();
    packer.finish().unwrap().into_inner()
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().into()
}

/// Signed by apksigner with `args`, with a key that openssl makes of `algorithm`.
fn signed_by_apksigner(dir: &Path, algorithm: &[&str], args: &[&str], content: usize) -> String {
    let (key, pk8, pem) = (dir.join("key.pem"), dir.join("key.pk8"), dir.join("cert.pem"));
    let [key, pk8, pem] = [&key, &pk8, &pem].map(|path| path.to_str().unwrap());
    let request = ["req", "-x509", "-nodes", "-days", "9", "-subj", "/CN=judge", "-keyout", key, "-out", pem];
    succeeds("openssl", &[&request, algorithm].concat());
    succeeds("openssl", &["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", key, "-out", pk8]);
    let input = write(dir, "unsigned.apk", &unsigned(content));
    let output = dir.join("signed.apk").to_str().unwrap().to_owned();
    let sign =
        ["sign", "--key", pk8, "--cert", pem, "--min-sdk-version", "28", "--in", &input, "--out", &output];
    succeeds("apksigner", &[&sign, args].concat());
    output
}

/// Section 3: hashing info and tree of the unsigned idsig are those of the signed one, byte for byte.
#[test]
fn our_idsig_is_apksigners() {
    if !can_run("our_idsig_is_apksigners", &["apksigner", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for content in [100, 600_000, 5_000_000] {
        let path = signed_by_apksigner(
            dir.path(),
            &["-newkey", "rsa:2048"],
            &["--v4-signing-enabled=true"],
            content,
        );
        let apk = File::open(&path).unwrap();
        let theirs = fs::read(format!("{path}.idsig")).unwrap();
        let signed = Idsig::read(&theirs).unwrap();
        signed.verify(&theirs, &apk).unwrap();
        assert!(!signed.signing.signature.is_empty());

        let (made, tree) = Idsig::create(&apk, &signed.salt).unwrap();
        let ours = made.to_bytes(&tree);
        assert_eq!(ours[..53], theirs[..53], "version, size and hashing info");
        let tree_start = usize::try_from(signed.tree_offset).unwrap();
        assert!(tree.levels == theirs[tree_start..], "tree over {content} bytes of content");
        assert_eq!(made.signing.apk_digest, signed.signing.apk_digest);
    }
}
