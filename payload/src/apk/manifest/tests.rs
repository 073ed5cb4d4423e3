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

/// The manifest with its strings in UTF-8, as current tools write them.
fn in_utf8(manifest: &[u8]) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(manifest[at..at + 4].try_into().unwrap());
    let at = |word: u32| usize::try_from(word).unwrap();
    // The file's header, then the pool: type and header length, length, count, styles, flags, start of the strings.
    let (pool_len, count, strings) = (at(word(12)), at(word(16)), 8 + at(word(28)));
    let mut offsets = Vec::new();
    let mut data: Vec<u8> = Vec::new();
    for index in 0..count {
        let start = strings + at(word(36 + 4 * index));
        let len = usize::from(u16::from_le_bytes([manifest[start], manifest[start + 1]]));
        let units: Vec<u16> = manifest[start + 2..start + 2 + 2 * len]
            .chunks(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .collect();
        let text = String::from_utf16(&units).unwrap();
        offsets.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        for len in [len, text.len()] {
            if len > 0x7f {
                data.push(0x80 | u8::try_from(len >> 8).unwrap());
            }
            data.push(len.to_le_bytes()[0]);
        }
        data.extend(text.as_bytes());
        data.push(0);
    }
    data.resize(data.len().next_multiple_of(4), 0);
    let len = u32::try_from(28 + offsets.len() + data.len()).unwrap();
    let start = u32::try_from(28 + offsets.len()).unwrap();
    let words = [word(8), len, word(16), 0, UTF8, start, 0];
    let pool: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let rest = &manifest[8 + pool_len..];
    let total = u32::try_from(8 + pool.len() + offsets.len() + data.len() + rest.len()).unwrap();
    [&manifest[..4], &total.to_le_bytes(), &pool, &offsets, &data, rest].concat()
}

#[test]
fn both_encodings_of_strings_are_read() {
    let name = "Größe 3 ".repeat(40);
    for version_name in ["", "1.0", name.as_str()] {
        let wide = sample().encode_for(version_name, V2_SDK).unwrap();
        for bytes in [wide.clone(), in_utf8(&wide)] {
            let expected = Details {
                manifest: sample(),
                version_name: Some(version_name.into()),
                min_sdk: Some(24),
                target_sdk: Some(35),
            };
            assert_eq!(Details::parse(&bytes), Ok(expected));
            assert_eq!(Manifest::parse(&bytes), Ok(sample()));
        }
    }
    let narrow = in_utf8(&sample().encode("1.0").unwrap());
    for len in 0..narrow.len() {
        assert!(Details::parse(&narrow[..len]).is_err(), "{len} bytes");
    }
}

/// Tools that shrink manifests keep a string's type and drop the text.
#[test]
fn a_typed_package_is_read() {
    let bytes = sample().encode("1.0").unwrap();
    let typed = bytes.windows(4).rposition(|w| w == [8, 0, 0, value::STRING]).unwrap();
    let mut shrunk = bytes.clone();
    shrunk[typed - 4..typed].copy_from_slice(&NONE.to_le_bytes());
    assert_ne!(shrunk, bytes);
    assert_eq!(Manifest::parse(&shrunk), Ok(sample()));
    shrunk[typed + 3] = value::DECIMAL;
    assert_eq!(Manifest::parse(&shrunk), Err(ManifestError::Malformed("package")));
}

/// Many attributes with one very long name are compared without a copy of it each.
#[test]
fn long_names_named_often_cost_little() {
    let text: Vec<u8> = vec![b'x'; 0x7fff];
    let mut strings = vec![0x80 | 0x7f, 0xff, 0x80 | 0x7f, 0xff];
    strings.extend(&text);
    strings.push(0);
    strings.extend([8, 8]);
    strings.extend(b"manifest\0");
    let words = |list: &[u32]| list.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let pool_len = u32::try_from(28 + 8 + strings.len()).unwrap();
    let second = u32::try_from(4 + text.len() + 1).unwrap();
    let mut body = words(&[0x001c_0001, pool_len, 2, 0, UTF8, 36, 0, 0, second]);
    body.extend(&strings);
    let attributes = words(&[NONE, 0, NONE, 0x0300_0008, 0]).repeat(65_535);
    let element = u32::try_from(36 + attributes.len()).unwrap();
    body.extend(words(&[0x0010_0102, element, 1, NONE, NONE, 1, 0x0014_0014, 0x0000_ffff, 0]));
    body.extend(attributes);
    let file = [words(&[0x0008_0003, u32::try_from(8 + body.len()).unwrap()]), body].concat();
    assert_eq!(Manifest::parse(&file), Err(ManifestError::NoPackage));
}
