//! Signatures and keys, judged by the tools that others use: apksigner, zipalign, openssl.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use payload::apk::manifest::Manifest;
use payload::apk::pack::Packer;
use payload::apk::sign::{SigningKey, SigningKeyError, sign};
use payload::apk::{
    ContentDigest, KeyError, SDK, Scheme, SignatureAlgorithm, SignerError, VerifyError, verify, verify_all,
};

mod judge;
use judge::{can_run, succeeds};

/// A key of the longest kind, which takes minutes to make: for tests and nothing else.
const RSA_16384: &str = include_str!("data/rsa-16384.pem");

fn unsigned(content: usize) -> Vec<u8> {
    let manifest = Manifest { package: "com.example.judged".into(), version_code: 7 << 32 | 3 };
    let mut packer = Packer::new(Cursor::new(Vec::new()), &manifest, "1.0").unwrap();
    packer.add("assets/vm_config.json", b"{}").unwrap();
    let library: Vec<u8> = (0..content).map(|i| (i * 7 % 253).to_le_bytes()[0]).collect();
    packer.add("lib/x86_64/libpayload.so", &library).unwrap();
    packer.finish().unwrap().into_inner()
}

/// The path of `name` in `dir`.
fn at(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().into()
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> String {
    fs::write(dir.join(name), bytes).unwrap();
    at(dir, name)
}

/// Keys that openssl makes, in the formats it has: PKCS#8, PKCS#1, and SEC 1 behind the curve's parameters.
const KEYS: [(&str, &[&str], SignatureAlgorithm); 7] = [
    ("RSA PRIVATE KEY", &["genrsa", "-traditional", "2048"], SignatureAlgorithm::RsaPkcs1Sha256),
    ("PRIVATE KEY", &["genrsa", "3072"], SignatureAlgorithm::RsaPkcs1Sha256),
    ("PRIVATE KEY", &["genrsa", "-3", "4096"], SignatureAlgorithm::RsaPkcs1Sha512),
    ("EC PARAMETERS", &["ecparam", "-genkey", "-name", "prime256v1"], SignatureAlgorithm::EcdsaSha256),
    (
        "EC PRIVATE KEY",
        &["ecparam", "-genkey", "-noout", "-name", "prime256v1"],
        SignatureAlgorithm::EcdsaSha256,
    ),
    (
        "PRIVATE KEY",
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        SignatureAlgorithm::EcdsaSha512,
    ),
    (
        "EC PRIVATE KEY",
        &["ecparam", "-genkey", "-noout", "-name", "secp521r1"],
        SignatureAlgorithm::EcdsaSha512,
    ),
];

fn made_by_openssl(args: &[&str]) -> String {
    let said = succeeds("openssl", args);
    said[said.find("-----BEGIN").unwrap()..].into()
}

/// What apksigner says of an archive that `key` signed with these schemes.
fn judged(dir: &Path, key: &SigningKey, schemes: &[Scheme]) -> String {
    let mut apk = Vec::new();
    sign(&unsigned(1_300_000), key, schemes, &mut apk).unwrap();
    assert_eq!(verify(&apk, SDK).unwrap().certificate, key.certificate());
    let path = write(dir, "signed.apk", &apk);
    succeeds("zipalign", &["-c", "-p", "4", &path]);
    // Where SDK 24 counts, v2 is looked at beside v3.
    let sdk = if schemes.contains(&Scheme::V2) { 24 } else { 28 };
    let sdk = format!("--min-sdk-version={sdk}");
    let said = succeeds("apksigner", &["verify", "--verbose", "--print-certs", &sdk, &path]);
    assert!(said.contains("Number of signers: 1"), "{said}");
    for scheme in [Scheme::V2, Scheme::V3] {
        let verified = format!("Scheme {scheme}): {}", schemes.contains(&scheme));
        assert!(said.contains(&verified), "{said}");
    }
    said
}

/// Section 4: every kind of key, with the algorithm that the reference signer takes for it.
#[test]
fn apksigner_accepts_what_every_key_signs() {
    if !can_run("apksigner_accepts_what_every_key_signs", &["apksigner", "zipalign", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = KEYS.map(|(label, args, algorithm)| (label, made_by_openssl(args), algorithm));
    let longest = ("PRIVATE KEY", RSA_16384.to_owned(), SignatureAlgorithm::RsaPkcs1Sha512);
    for (label, pem, algorithm) in made.into_iter().chain([longest]) {
        assert!(pem.starts_with(&format!("-----BEGIN {label}-----")), "{pem}");
        let key = SigningKey::from_pem(&pem).unwrap_or_else(|error| panic!("{label} {algorithm}: {error}"));
        assert_eq!(key.algorithm(), algorithm, "{label}");
        judged(dir.path(), &key, &[Scheme::V2, Scheme::V3]);
        let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(again.certificate(), key.certificate(), "{label} {algorithm}");
    }
}

#[test]
fn apksigner_accepts_each_scheme_alone() {
    if !can_run("apksigner_accepts_each_scheme_alone", &["apksigner", "zipalign", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    judged(dir.path(), &key, &[Scheme::V2]);
    judged(dir.path(), &key, &[Scheme::V3]);
    // The lowest SDK is found in the manifest when it is not given.
    succeeds("apksigner", &["verify", &at(dir.path(), "signed.apk")]);
    let rsa = SigningKey::from_pem(&made_by_openssl(&["genrsa", "2048"])).unwrap();
    judged(dir.path(), &rsa, &[Scheme::V3]);
}

/// A user's certificate, with one of whoever issued it behind it.
#[test]
fn a_users_certificate_is_the_one_that_counts() {
    if !can_run("a_users_certificate_is_the_one_that_counts", &["apksigner", "zipalign", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let signer = Made::by_openssl(dir.path(), "user", &["-newkey", "rsa:2048"]);
    let issuer = Made::by_openssl(dir.path(), "issuer", &["-newkey", "rsa:2048"]);
    let [pem, other, key] =
        [&signer.certificate, &issuer.certificate, &signer.key].map(|it| fs::read(it).unwrap());
    let key = || SigningKey::from_bytes(&key).unwrap();
    let chained = key().with_certificate(&[&pem[..], &other].concat()).unwrap();
    assert_eq!(chained.certificates().len(), 2);
    let said = judged(dir.path(), &chained, &[Scheme::V2, Scheme::V3]);
    assert!(said.contains("CN=user"), "{said}");
    let der = at(dir.path(), "user.der");
    succeeds("openssl", &["x509", "-in", &signer.certificate, "-outform", "DER", "-out", &der]);
    let der = fs::read(der).unwrap();
    assert_eq!(key().with_certificate(&der).unwrap().certificate(), chained.certificate());
    assert_eq!(
        key().with_certificate(&other).unwrap_err(),
        SigningKeyError::Certificate("is of another key")
    );
    assert_ne!(key().certificate(), chained.certificate());
}

/// A key and a certificate for apksigner.
struct Made {
    /// PKCS#8, PEM.
    key: String,
    /// PKCS#8, DER, as apksigner reads it.
    pk8: String,
    /// PEM.
    certificate: String,
}

impl Made {
    fn by_openssl(dir: &Path, name: &str, algorithm: &[&str]) -> Self {
        let [key, pk8, certificate] = ["key", "pk8", "cert"].map(|kind| at(dir, &format!("{name}.{kind}")));
        let subject = format!("/CN={name}");
        let request = ["req", "-x509", "-nodes", "-days", "9", "-subj", &subject, "-keyout", &key];
        succeeds("openssl", &[&request, algorithm, &["-out", &certificate]].concat());
        succeeds("openssl", &["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", &key, "-out", &pk8]);
        Self { key, pk8, certificate }
    }

    fn arguments(&self) -> [&str; 4] {
        ["--key", &self.pk8, "--cert", &self.certificate]
    }
}

/// An archive signed by apksigner: options of the signers, and others.
fn signed_by_apksigner(dir: &Path, signers: &[&Made], args: &[&str]) -> String {
    let input = write(dir, "unsigned.apk", &unsigned(2_500_000));
    let output = at(dir, "signed.apk");
    let signers: Vec<[&str; 4]> = signers.iter().map(|signer| signer.arguments()).collect();
    let sign = ["sign", "--min-sdk-version", "28", "--in", &input, "--out", &output];
    succeeds("apksigner", &[&sign, args, &signers.join(&"--next-signer")].concat());
    output
}

fn openssl_der(certificate: &str) -> Vec<u8> {
    let der = format!("{certificate}.der");
    succeeds("openssl", &["x509", "-in", certificate, "-outform", "DER", "-out", &der]);
    fs::read(der).unwrap()
}

const V3: &[&str] = &["--v2-signing-enabled=false"];
const V2: &[&str] = &["--v3-signing-enabled=false"];
const VERITY: &[&str] = &["--v2-signing-enabled=false", "--verity-enabled=true"];

#[test]
fn we_accept_what_apksigner_signs() {
    if !can_run("we_accept_what_apksigner_signs", &["apksigner", "openssl"]) {
        return;
    }
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
        let made = Made::by_openssl(dir.path(), "judge", &["-newkey", kind, "-pkeyopt", key]);
        let path = signed_by_apksigner(dir.path(), &[&made], args);
        let signer = verify(&File::open(&path).unwrap(), SDK)
            .unwrap_or_else(|error| panic!("{key} {args:?}: {error:?}"));
        assert_eq!(signer.scheme, scheme, "{key} {args:?}");
        assert!(digests.contains(&signer.algorithm.content_digest()), "{key} {args:?}: {signer:?}");
        assert_eq!(signer.certificate, openssl_der(&made.certificate));
        // The key that apksigner used signs as it did.
        let ours = SigningKey::from_bytes(&fs::read(&made.pk8).unwrap()).unwrap();
        assert!(args == VERITY || ours.algorithm() == signer.algorithm, "{key}: {}", signer.algorithm);
    }
}

/// Section 4: DSA is refused, with chunks and with a hash tree; by its name.
#[test]
fn dsa_by_apksigner_is_refused_by_name() {
    if !can_run("dsa_by_apksigner_is_refused_by_name", &["apksigner", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let parameters = at(dir.path(), "dsa.pem");
    succeeds("openssl", &["dsaparam", "-out", &parameters, "2048"]);
    let made = Made::by_openssl(dir.path(), "dsa", &["-newkey", &format!("dsa:{parameters}")]);
    for (args, algorithm) in [
        (V2, SignatureAlgorithm::DsaSha256),
        (V3, SignatureAlgorithm::DsaSha256),
        (VERITY, SignatureAlgorithm::VerityDsaSha256),
    ] {
        let path = signed_by_apksigner(dir.path(), &[&made], args);
        let refused = verify_all(&File::open(&path).unwrap(), SDK).unwrap_err();
        assert!(refused.to_string().contains("DSA"), "{refused}");
        match refused {
            VerifyError::Signer { source: SignerError::Refused(found), .. } => assert_eq!(found, algorithm),
            other => panic!("{other:?}"),
        }
    }
    let refused = SigningKey::from_bytes(&fs::read(&made.key).unwrap()).unwrap_err();
    assert_eq!(refused, SigningKeyError::Kind("a DSA key".into()));
}

/// Section 4: v2 has several signers, all of which are told; a VM has one.
#[test]
fn two_signers_by_apksigner() {
    if !can_run("two_signers_by_apksigner", &["apksigner", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rsa = Made::by_openssl(dir.path(), "one", &["-newkey", "rsa:4096"]);
    let ec = Made::by_openssl(dir.path(), "two", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let apk = File::open(signed_by_apksigner(dir.path(), &[&rsa, &ec], V2)).unwrap();
    let verified = verify_all(&apk, SDK).unwrap();
    let found: Vec<_> =
        verified.signers.into_iter().map(|signer| (signer.certificate, signer.algorithm)).collect();
    let expected = [
        (openssl_der(&rsa.certificate), SignatureAlgorithm::RsaPkcs1Sha512),
        (openssl_der(&ec.certificate), SignatureAlgorithm::EcdsaSha256),
    ];
    assert_eq!((verified.scheme, &found[..]), (Scheme::V2, &expected[..]));
    assert!(matches!(verify(&apk, SDK), Err(VerifyError::SignerCount { found: 2, .. })));
}

/// Section 4: proof of rotation, as the reference signer writes it.
#[test]
fn rotation_by_apksigner() {
    if !can_run("rotation_by_apksigner", &["apksigner", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let old = Made::by_openssl(dir.path(), "old", &["-newkey", "rsa:2048"]);
    let new = Made::by_openssl(dir.path(), "new", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let lineage = at(dir.path(), "lineage");
    let rotate = ["rotate", "--out", &lineage, "--old-signer"];
    succeeds("apksigner", &[&rotate[..], &old.arguments(), &["--new-signer"], &new.arguments()].concat());
    for args in [&["--lineage", lineage.as_str()][..], &["--lineage", &lineage, "--v2-signing-enabled=false"]]
    {
        let path = signed_by_apksigner(dir.path(), &[&old, &new], args);
        let signer = verify(&File::open(path).unwrap(), SDK).unwrap();
        let [old, new] = [&old, &new].map(|made| openssl_der(&made.certificate));
        assert_eq!((signer.scheme, &signer.certificate), (Scheme::V3, &new));
        assert_eq!(signer.lineage, [old, new]);
    }
}

/// RSA of the longest kind, and both paddings, by openssl; a salt of another length is refused.
#[test]
fn openssl_signatures_verify() {
    if !can_run("openssl_signatures_verify", &["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let message = write(dir.path(), "message", b"message");
    for pem in [made_by_openssl(&["genrsa", "2048"]), RSA_16384.to_owned()] {
        let key = write(dir.path(), "key.pem", pem.as_bytes());
        let info = at(dir.path(), "public.der");
        succeeds("openssl", &["pkey", "-in", &key, "-pubout", "-outform", "DER", "-out", &info]);
        let public = fs::read(info).unwrap();
        assert_eq!(SigningKey::from_pem(&pem).unwrap().public_key(), public);
        let pss = |salt| {
            vec![
                "-sigopt".to_owned(),
                "rsa_padding_mode:pss".into(),
                "-sigopt".into(),
                format!("rsa_pss_saltlen:{salt}"),
            ]
        };
        for (algorithm, hash, options, expected) in [
            (SignatureAlgorithm::RsaPkcs1Sha256, "-sha256", Vec::new(), Ok(())),
            (SignatureAlgorithm::RsaPkcs1Sha512, "-sha512", Vec::new(), Ok(())),
            (SignatureAlgorithm::RsaPkcs1Sha512, "-sha256", Vec::new(), Err(KeyError::Invalid)),
            (SignatureAlgorithm::RsaPssSha256, "-sha256", pss(32), Ok(())),
            (SignatureAlgorithm::RsaPssSha512, "-sha512", pss(64), Ok(())),
            (SignatureAlgorithm::RsaPssSha256, "-sha256", pss(0), Err(KeyError::Invalid)),
            (SignatureAlgorithm::RsaPssSha256, "-sha256", pss(64), Err(KeyError::Invalid)),
            (SignatureAlgorithm::RsaPssSha256, "-sha256", Vec::new(), Err(KeyError::Invalid)),
        ] {
            let signature = at(dir.path(), "signature");
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let sign = ["dgst", hash, "-sign", &key, "-out", &signature];
            succeeds("openssl", &[&sign[..], &options, &[&message]].concat());
            let signature = fs::read(signature).unwrap();
            assert_eq!(
                algorithm.verify(&public, b"message", &signature),
                expected,
                "{algorithm} {options:?}"
            );
            assert_eq!(algorithm.verify(&public, b"massage", &signature), Err(KeyError::Invalid));
        }
    }
}

/// What we sign, openssl verifies, and it reads our keys and certificates.
#[test]
fn openssl_reads_what_we_make() {
    if !can_run("openssl_reads_what_we_make", &["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let message = write(dir.path(), "message", b"message");
    let mut keys: Vec<_> =
        KEYS.iter().map(|(_, args, _)| SigningKey::from_pem(&made_by_openssl(args)).unwrap()).collect();
    keys.push(SigningKey::generate().unwrap());
    for key in keys {
        let der = write(dir.path(), "cert.der", key.certificate());
        let text = succeeds("openssl", &["x509", "-inform", "DER", "-in", &der, "-noout", "-text"]);
        assert!(text.contains("Version: 3") && text.contains("9999"), "{text}");
        let pem = at(dir.path(), "cert.pem");
        succeeds("openssl", &["x509", "-inform", "DER", "-in", &der, "-out", &pem]);
        let verified = succeeds("openssl", &["verify", "-check_ss_sig", "-CAfile", &pem, &pem]);
        assert!(verified.contains("OK"), "{verified}");

        let private = write(dir.path(), "key.pem", key.to_pem().unwrap().as_bytes());
        let of_key = succeeds("openssl", &["pkey", "-in", &private, "-check", "-noout"]);
        assert!(of_key.contains("valid"), "{of_key}");
        let public = succeeds("openssl", &["pkey", "-in", &private, "-pubout"]);
        assert_eq!(succeeds("openssl", &["x509", "-in", &pem, "-noout", "-pubkey"]), public);
        let public = write(dir.path(), "public.pem", public.as_bytes());
        let signature = write(dir.path(), "signature", &key.sign(b"message"));
        let sha512 = key.algorithm().content_digest() == ContentDigest::ChunkedSha512;
        let hash = if sha512 { "-sha512" } else { "-sha256" };
        succeeds("openssl", &["dgst", hash, "-verify", &public, "-signature", &signature, &message]);
    }
}

/// Keys that nobody can sign archives with, as openssl writes them.
#[test]
fn openssl_keys_of_other_kinds_are_named() {
    if !can_run("openssl_keys_of_other_kinds_are_named", &["openssl"]) {
        return;
    }
    let password = ["-aes128", "-passout", "pass:judge"];
    for (args, expected) in [
        (vec!["genpkey", "-algorithm", "ED25519"], "an Ed25519 key"),
        (vec!["genpkey", "-algorithm", "ED448"], "an Ed448 key"),
        (vec!["genpkey", "-algorithm", "X25519"], "an X25519 key"),
        (vec!["genpkey", "-algorithm", "RSA-PSS"], "for PSS alone"),
        (vec!["ecparam", "-genkey", "-name", "secp256k1"], "another curve"),
        (
            vec!["ecparam", "-genkey", "-name", "prime256v1", "-param_enc", "explicit"],
            "a curve without a name",
        ),
        (vec!["genrsa", "1024"], "1024 bits"),
        (vec!["genrsa", "-primes", "3", "2048"], "malformed RSA key"),
        ([&["genrsa"], &password[..], &["2048"]].concat(), "decrypt it first with `openssl pkey"),
        (
            [&["genrsa"], &password[..], &["-traditional", "2048"]].concat(),
            "decrypt it first with `openssl pkey",
        ),
        (vec!["dsaparam", "-genkey", "-noout", "1024"], "a DSA key"),
    ] {
        let refused = SigningKey::from_pem(&made_by_openssl(&args)).unwrap_err().to_string();
        assert!(refused.contains(expected), "{args:?}: {refused}");
    }
}
