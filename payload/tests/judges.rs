//! What this crate makes, judged by the tools that others use: apksigner, zipalign, openssl.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use payload::apk::manifest::Manifest;
use payload::apk::pack::Packer;
use payload::apk::sign::{SigningKey, sign};
use payload::apk::{ContentDigest, SDK, Scheme, verify};
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

#[test]
fn apksigner_accepts_what_we_sign() {
    if !can_run("apksigner_accepts_what_we_sign", &["apksigner", "zipalign"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    // Where SDK 24 counts, v2 is looked at beside v3.
    for (schemes, sdk, v2, v3) in [
        (&[Scheme::V3][..], 28, false, true),
        (&[Scheme::V2, Scheme::V3], 24, true, true),
        (&[Scheme::V2], 24, true, false),
    ] {
        let mut apk = Vec::new();
        sign(&unsigned(3_000_000), &key, schemes, &mut apk).unwrap();
        let path = write(dir.path(), "signed.apk", &apk);
        let sdk = format!("--min-sdk-version={sdk}");
        let said = succeeds("apksigner", &["verify", "--verbose", "--print-certs", &sdk, &path]);
        assert!(said.contains(&format!("Scheme v2): {v2}")), "{said}");
        assert!(said.contains(&format!("Scheme v3): {v3}")), "{said}");
        assert!(said.contains("Number of signers: 1"), "{said}");
        succeeds("zipalign", &["-c", "-p", "4", &path]);
        // The lowest SDK is found in the manifest when it is not given.
        succeeds("apksigner", &["verify", &path]);
    }
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

#[test]
fn we_accept_what_apksigner_signs() {
    if !can_run("we_accept_what_apksigner_signs", &["apksigner", "openssl"]) {
        return;
    }
    const V3: &[&str] = &["--v2-signing-enabled=false"];
    const V2: &[&str] = &["--v3-signing-enabled=false"];
    const VERITY: &[&str] = &["--v2-signing-enabled=false", "--verity-enabled=true"];
    let chunked = [ContentDigest::ChunkedSha256, ContentDigest::ChunkedSha512];
    let verity = [ContentDigest::VerityChunkedSha256; 2];
    for (key, args, scheme, digests) in [
        ("ec_paramgen_curve:P-256", V3, Scheme::V3, chunked),
        ("ec_paramgen_curve:P-256", V2, Scheme::V2, chunked),
        ("ec_paramgen_curve:P-256", VERITY, Scheme::V3, verity),
        ("ec_paramgen_curve:P-384", V3, Scheme::V3, chunked),
        ("ec_paramgen_curve:P-521", V3, Scheme::V3, chunked),
        ("rsa_keygen_bits:2048", V2, Scheme::V2, chunked),
        ("rsa_keygen_bits:2048", VERITY, Scheme::V3, verity),
        ("rsa_keygen_bits:4096", V3, Scheme::V3, chunked),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let kind = if key.starts_with("ec") { "ec" } else { "rsa" };
        let path = signed_by_apksigner(dir.path(), &["-newkey", kind, "-pkeyopt", key], args, 2_500_000);
        let file = File::open(&path).unwrap();
        let signer = verify(&file, SDK).unwrap_or_else(|error| panic!("{key} {args:?}: {error:?}"));
        assert_eq!(signer.scheme, scheme, "{key} {args:?}");
        assert!(digests.contains(&signer.algorithm.content_digest()), "{key} {args:?}: {signer:?}");
        let certificate = dir.path().join("cert.pem");
        let listed = succeeds("openssl", &["x509", "-in", certificate.to_str().unwrap()]);
        let ours = write(dir.path(), "found.der", &signer.certificate);
        assert_eq!(succeeds("openssl", &["x509", "-inform", "DER", "-in", &ours]), listed);
    }
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

#[test]
fn openssl_reads_our_certificate_and_key() {
    if !can_run("openssl_reads_our_certificate_and_key", &["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    let certificate = write(dir.path(), "cert.der", key.certificate());
    let text = succeeds("openssl", &["x509", "-inform", "DER", "-in", &certificate, "-noout", "-text"]);
    assert!(text.contains("Version: 3") && text.contains("9999"), "{text}");
    let pem = dir.path().join("cert.pem").to_str().unwrap().to_owned();
    succeeds("openssl", &["x509", "-inform", "DER", "-in", &certificate, "-out", &pem]);
    let verified = succeeds("openssl", &["verify", "-check_ss_sig", "-CAfile", &pem, &pem]);
    assert!(verified.contains("OK"), "{verified}");

    let private = write(dir.path(), "key.pem", key.to_pem().unwrap().as_bytes());
    let of_key = succeeds("openssl", &["pkey", "-in", &private, "-pubout"]);
    assert_eq!(succeeds("openssl", &["x509", "-in", &pem, "-noout", "-pubkey"]), of_key);
    let made = succeeds("openssl", &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let begin = made.find("-----BEGIN PRIVATE").unwrap();
    SigningKey::from_pem(&made[begin..]).unwrap();
}
