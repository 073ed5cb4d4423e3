use ciborium::Value;
use proptest::prelude::*;

use super::*;
use crate::instance::tests::golden_record;

fn bytes(value: &[u8]) -> Value {
    Value::Array(value.iter().map(|byte| Value::from(*byte)).collect())
}

fn map(pairs: Vec<(&str, Value)>) -> Value {
    Value::Map(pairs.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
}

fn apk_value(apk: &ApkData) -> Value {
    map(vec![
        ("package_name", apk.package_name.as_str().into()),
        ("root_hash", bytes(&apk.root_hash)),
        ("version_code", apk.version_code.into()),
        ("cert_hash", bytes(&apk.cert_hash)),
    ])
}

fn value(record: &ManagerRecord) -> Value {
    let apex = |apex: &ApexData| {
        map(vec![
            ("name", apex.name.as_str().into()),
            ("manifest_name", apex.manifest_name.as_deref().map_or(Value::Null, Value::from)),
            ("manifest_version", apex.manifest_version.map_or(Value::Null, Value::from)),
            ("public_key", bytes(&apex.public_key)),
            ("root_digest", bytes(&apex.root_digest)),
            ("last_update_seconds", apex.last_update_seconds.into()),
            ("is_factory", apex.is_factory.into()),
        ])
    };
    map(vec![
        ("apex_data", Value::Array(record.apex_data.iter().map(apex).collect())),
        ("apk_data", apk_value(&record.apk_data)),
        ("salt", bytes(&record.salt)),
        ("extra_apks_data", Value::Array(record.extra_apks_data.iter().map(apk_value).collect())),
    ])
}

fn cbor(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    ciborium::into_writer(value, &mut out).unwrap();
    out
}

/// The same with the pairs of every map sorted by key, so that order does not matter.
fn sorted(value: Value) -> Value {
    match value {
        Value::Map(pairs) => {
            let mut pairs: Vec<_> = pairs.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            pairs.sort_by(|(a, _), (b, _)| a.as_text().cmp(&b.as_text()));
            Value::Map(pairs)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// RFC 8949, 4.2.1: the keys of every map stand in the order of their encodings.
fn assert_deterministic(value: &Value) {
    match value {
        Value::Map(pairs) => {
            let keys: Vec<_> = pairs.iter().map(|(key, _)| cbor(key)).collect();
            assert!(keys.is_sorted(), "{value:?}");
            pairs.iter().for_each(|(_, value)| assert_deterministic(value));
        }
        Value::Array(items) => items.iter().for_each(assert_deterministic),
        _ => {}
    }
}

#[test]
fn malformed_content_is_named() {
    let good = value(&golden_record());
    assert_eq!(ManagerRecord::decode(&cbor(&good)).unwrap(), golden_record());
    type Pairs = Vec<(Value, Value)>;
    let with = |change: &dyn Fn(&mut Pairs)| {
        let mut pairs = good.as_map().unwrap().clone();
        change(&mut pairs);
        match ManagerRecord::decode(&cbor(&Value::Map(pairs))) {
            Err(InstanceError::Content(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(with(&|pairs| pairs.truncate(3)), "extra_apks_data, which is missing");
    assert_eq!(with(&|pairs| pairs.push(("mode".into(), 1.into()))), "a key that is unknown here");
    assert_eq!(with(&|pairs| pairs.push(pairs[2].clone())), "salt");
    assert_eq!(with(&|pairs| pairs[2].1 = Value::Bytes(vec![1])), "salt");
    assert_eq!(with(&|pairs| pairs[2].1 = Value::Array(vec![256.into()])), "salt");
    assert_eq!(with(&|pairs| pairs[1].1 = map(vec![("root_hash", bytes(b""))])), "apk_data");
    assert_eq!(with(&|pairs| pairs[0].1 = Value::Array(vec![Value::Null])), "apex_data");
    let bytes = cbor(&good);
    for len in 0..bytes.len() {
        assert!(ManagerRecord::decode(&bytes[..len]).is_err(), "{len} bytes");
    }
    let behind = ManagerRecord::decode(&[&bytes[..], &[0]].concat());
    assert!(matches!(behind, Err(InstanceError::Content("bytes behind its map"))));
    // Lengths of 2^32 - 1 and 2^64 - 1 items; an indefinite length; a number that is longer than it must be.
    let hostile: [&[u8]; 6] = [
        &[0xba, 0xff, 0xff, 0xff, 0xff],
        &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        b"\xa1\x64salt\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xa1\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xbf\x64salt\x80\xff",
        b"\xb8\x04",
    ];
    for bytes in hostile {
        assert!(ManagerRecord::decode(bytes).is_err(), "{bytes:x?}");
    }
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..70)
}

fn some_apk() -> impl Strategy<Value = ApkData> {
    (some_bytes(), some_bytes(), ".{0,40}", any::<u64>()).prop_map(
        |(root_hash, cert_hash, package_name, version_code)| ApkData {
            root_hash,
            cert_hash,
            package_name,
            version_code,
        },
    )
}

fn some_apex() -> impl Strategy<Value = ApexData> {
    let texts = (".{0,30}", prop::option::of(".{0,30}"), prop::option::of(any::<i64>()));
    (texts, some_bytes(), some_bytes(), any::<u64>(), any::<bool>()).prop_map(
        |(
            (name, manifest_name, manifest_version),
            public_key,
            root_digest,
            last_update_seconds,
            is_factory,
        )| ApexData {
            name,
            manifest_name,
            manifest_version,
            public_key,
            root_digest,
            last_update_seconds,
            is_factory,
        },
    )
}

fn some_record() -> impl Strategy<Value = ManagerRecord> {
    let apks = prop::collection::vec(some_apk(), 0..3);
    (some_bytes(), some_apk(), apks, prop::collection::vec(some_apex(), 0..3)).prop_map(
        |(salt, apk_data, extra_apks_data, apex_data)| ManagerRecord {
            salt,
            apk_data,
            extra_apks_data,
            apex_data,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Section 6, the plaintext: another implementation reads what is written and writes what is read.
    #[test]
    fn cbor_agrees_with_another_implementation(record in some_record()) {
        let written = record.encode();
        let read: Value = ciborium::from_reader(&written[..]).unwrap();
        assert_deterministic(&read);
        prop_assert_eq!(cbor(&read), written.to_vec(), "shortest forms");
        let expected = value(&record);
        prop_assert_eq!(ManagerRecord::decode(&cbor(&expected)).unwrap(), record);
        prop_assert_eq!(sorted(read), sorted(expected));
    }
}
