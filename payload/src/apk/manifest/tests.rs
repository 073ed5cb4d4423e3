use super::*;

fn sample() -> Manifest {
    Manifest { package: "com.example.app_1".into(), version_code: 7 << 32 | 42 }
}

#[test]
fn what_is_written_is_read() {
    for version_code in [0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        let manifest = Manifest { version_code, ..sample() };
        assert_eq!(Manifest::parse(&manifest.encode("1.0").unwrap()), Ok(manifest));
    }
    // A text longer than the format's short lengths is cut, not miscounted.
    assert_eq!(Manifest::parse(&sample().encode(&"v".repeat(70_000)).unwrap()), Ok(sample()));
}

#[test]
fn package_names_are_checked_both_ways() {
    for bad in ["", "a/b", "../x", "a b", "ä", &"x".repeat(224)] {
        let manifest = Manifest { package: bad.into(), ..sample() };
        assert_eq!(manifest.encode(""), Err(ManifestError::Package(bad.into())));
    }
    let mut bytes = sample().encode("").unwrap();
    let dot = bytes.windows(4).position(|w| w == b"m\0.\0").unwrap() + 2;
    bytes[dot] = b'/';
    assert!(
        matches!(Manifest::parse(&bytes), Err(ManifestError::Package(name)) if name == "com/example.app_1")
    );
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = sample().encode("1.0").unwrap();
    for len in 0..bytes.len() {
        assert!(Manifest::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
}

/// Each aligned word, set to hostile values, is survived.
#[test]
fn hostile_words_are_survived() {
    let bytes = sample().encode("1.0").unwrap();
    for at in (0..bytes.len() - 3).step_by(2) {
        for word in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, u32::MAX] {
            let mut hostile = bytes.clone();
            hostile[at..at + 4].copy_from_slice(&word.to_le_bytes());
            if let Ok(manifest) = Manifest::parse(&hostile) {
                assert!(is_package(&manifest.package));
            }
        }
    }
}

#[test]
fn attributes_that_contradict_are_refused() {
    // The fourth attribute, package, made a second versionCode.
    let mut bytes = sample().encode("1.0").unwrap();
    let major = 7u32.to_le_bytes();
    let at = bytes.windows(12).position(|w| w[4..8] == [8, 0, 0, value::DECIMAL] && w[8..] == major).unwrap();
    bytes[at - 4..at].copy_from_slice(&0u32.to_le_bytes());
    assert_eq!(Manifest::parse(&bytes), Err(ManifestError::Number("versionCode")));
}
