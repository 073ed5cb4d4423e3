//! Hash trees and idsigs, judged by the tools that others use: apksigner, fsverity, veritysetup.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use payload::apk::manifest::Manifest;
use payload::apk::pack::Packer;
use payload::apk::sign::{SigningKey, sign};
use payload::apk::{SDK, Scheme, verify};
use payload::idsig::{Idsig, IdsigError};
use payload::merkle::{BLOCK_LEN, Tree};

mod judge;
use judge::{can_run, run, succeeds};

fn unsigned(content: usize) -> Vec<u8> {
    let manifest = Manifest { package: "com.example.judged".into(), version_code: 7 };
    let mut packer = Packer::new(Cursor::new(Vec::new()), &manifest, "1.0").unwrap();
    packer.add("lib/x86_64/libpayload.so", &bytes(content)).unwrap();
    packer.finish().unwrap().into_inner()
}

/// Blocks that all differ.
fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; len];
    bytes.chunks_mut(BLOCK_LEN).zip(0u64..).for_each(|(block, number)| {
        block.iter_mut().zip(number.to_le_bytes()).for_each(|(byte, of_number)| *byte ^= of_number);
    });
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A directory, and the paths of files in it as arguments.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().into()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// A key of openssl's, and a certificate of it.
    fn key(&self, algorithm: &[&str]) -> SigningKey {
        let (key, certificate) = (self.path("key.pem"), self.path("cert.pem"));
        let request = ["req", "-x509", "-nodes", "-days", "9", "-subj", "/CN=judge", "-keyout", &key, "-out"];
        succeeds("openssl", &[&request, &[certificate.as_str()][..], algorithm].concat());
        let pk8 = self.path("key.pk8");
        succeeds("openssl", &["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", &key, "-out", &pk8]);
        let key = SigningKey::from_pem(&fs::read_to_string(key).unwrap()).unwrap();
        key.with_certificate(&self.read("cert.pem")).unwrap()
    }

    /// What apksigner signs with the key and `args`: the archive, and its idsig beside it.
    fn signed_by_apksigner(&self, content: usize, args: &[&str]) -> String {
        let (key, certificate, out) = (self.path("key.pk8"), self.path("cert.pem"), self.path("theirs.apk"));
        let input = self.file("unsigned.apk", &unsigned(content));
        let sign = ["sign", "--key", &key, "--cert", &certificate, "--v4-signing-enabled=true"];
        let files = ["--min-sdk-version=28", "--in", &input, "--out", &out];
        succeeds("apksigner", &[&sign, args, &files].concat());
        out
    }
}

const RSA: &[&str] = &["-newkey", "rsa:2048"];
const RSA_SHA512: &[&str] = &["-newkey", "rsa:4096"];
const P256: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"];

/// Section 3: hashing info and tree of the unsigned idsig are those of the signed one, byte for byte, and where no
/// signature is random, so is the rest once we sign with the same key.
#[test]
fn our_idsig_is_apksigners() {
    if !can_run("our_idsig_is_apksigners", &["apksigner", "openssl"]) {
        return;
    }
    const V2_ONLY: &[&str] = &["--v3-signing-enabled=false"];
    const VERITY: &[&str] = &["--v2-signing-enabled=false", "--verity-enabled=true"];
    for (algorithm, args, content, deterministic) in [
        (RSA, &[][..], 100, true),
        (RSA, V2_ONLY, 600_000, true),
        (RSA, VERITY, 700_000, true),
        (RSA_SHA512, &[], 5_000_000, true),
        (P256, &[], 600_000, false),
        (P384, &[], 70_000, false),
    ] {
        let place = Place::new();
        let key = place.key(algorithm);
        let path = place.signed_by_apksigner(content, args);
        let apk = File::open(&path).unwrap();
        let theirs = place.read("theirs.apk.idsig");
        let signed = Idsig::read_file(&theirs).unwrap();
        signed.verify(&theirs, &apk).unwrap();
        signed.verify_signature(&apk).unwrap();
        assert_eq!(signed.signing.certificate, verify(&apk, SDK).unwrap().certificate);

        let (mut made, tree) = Idsig::create(&apk, &signed.salt).unwrap();
        let ours = made.to_bytes(&tree);
        assert_eq!(ours[..53], theirs[..53], "version, size and hashing info");
        let tree_start = usize::try_from(signed.tree_offset).unwrap();
        assert!(tree.levels == theirs[tree_start..], "tree over {content} bytes of content");
        assert_eq!(made.signing.apk_digest, signed.signing.apk_digest);

        made.signing.additional_data.clone_from(&signed.signing.additional_data);
        made.sign(&apk, &key).unwrap();
        if deterministic {
            assert!(made.to_bytes(&tree) == theirs, "{algorithm:?} {args:?}");
        } else {
            assert_eq!(made.signing.algorithm, signed.signing.algorithm);
            assert_eq!(made.signing.certificate, signed.signing.certificate);
            assert_eq!(made.signing.public_key, signed.signing.public_key);
        }
    }
}

#[test]
fn apksigner_accepts_our_idsig() {
    if !can_run("apksigner_accepts_our_idsig", &["apksigner", "openssl"]) {
        return;
    }
    // It hashes without a salt whatever the idsig says.
    for algorithm in [RSA, P256, P384, RSA_SHA512] {
        let place = Place::new();
        let key = place.key(algorithm);
        let mut apk = Vec::new();
        sign(&unsigned(900_000), &key, &[Scheme::V3], &mut apk).unwrap();
        let (mut made, tree) = Idsig::create(&apk, b"").unwrap();
        made.sign(&apk, &key).unwrap();
        made.verify_signature(&apk).unwrap();
        let path = place.file("ours.apk", &apk);
        let verify = |bytes: &[u8]| {
            let idsig = place.file("ours.apk.idsig", bytes);
            let args = ["verify", "--verbose", "--min-sdk-version=28", "--v4-signature-file", &idsig, &path];
            run("apksigner", &args)
        };
        let good = verify(&made.to_bytes(&tree));
        let said = String::from_utf8_lossy(&good.stdout);
        assert!(good.status.success(), "{algorithm:?}: {said}{}", String::from_utf8_lossy(&good.stderr));
        assert!(said.contains("Scheme v4): true"), "{algorithm:?}: {said}");
        // And it does look: another root hash is refused.
        let mut other = made.clone();
        other.root_hash[0] ^= 1;
        other.sign(&apk, &key).unwrap();
        let said = String::from_utf8(verify(&other.to_bytes(&tree)).stdout).unwrap();
        assert!(!said.contains("Scheme v4): true"), "{algorithm:?}: {said}");
    }
}

/// Lengths around the edges of blocks and levels.
const LENGTHS: [usize; 9] = [
    1,
    4096,
    4097,
    128 * 4096,
    128 * 4096 + 1,
    256 * 4096 - 5,
    3_000_001,
    128 * 128 * 4096,
    128 * 128 * 4096 + 4096,
];

#[test]
fn fsverity_makes_the_same_tree() {
    if !can_run("fsverity_makes_the_same_tree", &["fsverity"]) {
        return;
    }
    let place = Place::new();
    for len in LENGTHS {
        let data = bytes(len);
        let path = place.file("data", &data);
        for salt in [&b""[..], &[0x5a], &[7; 32]] {
            let (tree, descriptor) = (place.path("tree"), place.path("descriptor"));
            let (tree, descriptor) =
                (format!("--out-merkle-tree={tree}"), format!("--out-descriptor={descriptor}"));
            let salt_hex = format!("--salt={}", hex(salt));
            let mut args = vec!["digest", &path, &tree, &descriptor];
            args.extend((!salt.is_empty()).then_some(salt_hex.as_str()));
            succeeds("fsverity", &args);
            let mut prefix = salt.to_vec();
            prefix.resize(salt.len().next_multiple_of(64), 0);
            let ours = Tree::build(&data, &prefix).unwrap();
            assert!(ours.levels == place.read("tree"), "{len} bytes, salt of {}", salt.len());
            // Linux, struct fsverity_descriptor: the root hash is at 16.
            assert_eq!(place.read("descriptor")[16..48], ours.root, "{len} bytes, salt of {}", salt.len());
        }
    }
}

/// Section 5: what the guest tells device-mapper.
#[test]
fn veritysetup_accepts_our_tree() {
    if !can_run("veritysetup_accepts_our_tree", &["veritysetup"]) {
        return;
    }
    let place = Place::new();
    // dm-verity has whole blocks, and a tree even over one.
    for len in LENGTHS.map(|len| len.next_multiple_of(BLOCK_LEN)).into_iter().filter(|len| *len > BLOCK_LEN) {
        let mut data = bytes(len);
        for salt in [&b""[..], &[7; 64]] {
            let tree = Tree::build(&data, salt).unwrap();
            let path = PathBuf::from(place.file("data", &data));
            place.file("tree", &[&[0xee; BLOCK_LEN][..], &tree.levels].concat());
            let accepted = || veritysetup(&place, &path, len / BLOCK_LEN, &tree, salt);
            assert!(accepted(), "{len} bytes, salt of {}", salt.len());
            data[len - 1] ^= 1;
            place.file("data", &data);
            assert!(!accepted(), "{len} bytes, salt of {}, damaged", salt.len());
            data[len - 1] ^= 1;
        }
    }
}

/// Whether veritysetup verifies `data` by the tree behind the first block of the file `tree`.
fn veritysetup(place: &Place, data: &Path, blocks: usize, tree: &Tree, salt: &[u8]) -> bool {
    let blocks = format!("--data-blocks={blocks}");
    let salt = format!("--salt={}", if salt.is_empty() { "-".into() } else { hex(salt) });
    let form = ["--no-superblock", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"];
    let place = [blocks.as_str(), &salt, "--hash-offset=4096", data.to_str().unwrap(), &place.path("tree")]
        .map(str::to_owned);
    let place: Vec<&str> = place.iter().map(String::as_str).collect();
    run("veritysetup", &[&["verify"], &form[..], &place, &[&hex(&tree.root)]].concat()).status.success()
}

/// An archive that apksigner signed, and an idsig of another one.
#[test]
fn an_idsig_of_another_archive_is_refused() {
    if !can_run("an_idsig_of_another_archive_is_refused", &["apksigner", "openssl"]) {
        return;
    }
    let place = Place::new();
    place.key(P256);
    let first = place.signed_by_apksigner(100_000, &[]);
    let theirs = place.read("theirs.apk.idsig");
    let other = place.signed_by_apksigner(100_001, &[]);
    assert_eq!(first, other);
    let found = Idsig::read_file(&theirs).unwrap().verify_signature(&File::open(&other).unwrap());
    // Another archive of the same length, or the length itself is another one.
    assert!(matches!(found, Err(IdsigError::OtherApk { .. } | IdsigError::Signature(_))), "{found:?}");
}
