//! Writing: one pool of UTF-16 strings, attributes of the platform first, so that the map can number them.

use super::{Manifest, NONE, attribute, chunk, value};
use crate::apk::SDK;

const NAMESPACE: &str = "http://schemas.android.com/apk/res/android";
/// Attributes of the platform, whose names begin the pool in this order.
const NUMBERED: [(&str, u32); 7] = [
    ("versionCode", attribute::VERSION_CODE),
    ("versionName", attribute::VERSION_NAME),
    ("versionCodeMajor", attribute::VERSION_CODE_MAJOR),
    ("minSdkVersion", attribute::MIN_SDK_VERSION),
    ("targetSdkVersion", attribute::TARGET_SDK_VERSION),
    ("hasCode", attribute::HAS_CODE),
    ("extractNativeLibs", attribute::EXTRACT_NATIVE_LIBS),
];

enum Value<'a> {
    String(&'a str),
    Decimal(u32),
    Boolean(bool),
}

pub(super) fn manifest(manifest: &Manifest, version_name: &str, min_sdk: u32) -> Vec<u8> {
    let mut strings = Strings::default();
    for (name, _) in NUMBERED {
        strings.index(name);
    }
    // Both halves of a 64-bit number are exactly what is wanted.
    let [low, high] = [manifest.version_code & u64::from(u32::MAX), manifest.version_code >> 32]
        .map(|half| u32::try_from(half).expect("half of 64 bits"));
    let mut attributes = vec![
        ("versionCode", Value::Decimal(low)),
        ("versionName", Value::String(version_name)),
        ("package", Value::String(&manifest.package)),
    ];
    if high != 0 {
        attributes.insert(2, ("versionCodeMajor", Value::Decimal(high)));
    }
    // Attributes stand in the order of their numbers, which readers on Android count on.
    let sdk =
        [("minSdkVersion", Value::Decimal(min_sdk)), ("targetSdkVersion", Value::Decimal(SDK.max(min_sdk)))];
    // Libraries are stored at page boundaries, to be mapped from where they are.
    let application = [("hasCode", Value::Boolean(false)), ("extractNativeLibs", Value::Boolean(false))];
    let body = [
        namespace(&mut strings, chunk::START_NAMESPACE),
        start(&mut strings, "manifest", &attributes),
        start(&mut strings, "uses-sdk", &sdk),
        end(&mut strings, "uses-sdk"),
        start(&mut strings, "application", &application),
        end(&mut strings, "application"),
        end(&mut strings, "manifest"),
        namespace(&mut strings, chunk::END_NAMESPACE),
    ]
    .concat();
    let map: Vec<u8> = NUMBERED.iter().flat_map(|(_, number)| number.to_le_bytes()).collect();
    let map = chunk_of(chunk::RESOURCE_MAP, &[], &map);
    chunk_of(chunk::XML, &[], &[strings.chunk(), map, body].concat())
}

fn chunk_of(kind: u16, header: &[u8], body: &[u8]) -> Vec<u8> {
    let header_len = u16::try_from(8 + header.len()).expect("headers are short");
    let len = u32::try_from(8 + header.len() + body.len()).expect("manifests are short");
    [&kind.to_le_bytes()[..], &header_len.to_le_bytes(), &len.to_le_bytes(), header, body].concat()
}

/// A node of the tree: line 1, no comment.
fn node(kind: u16, words: &[u32], rest: &[u8]) -> Vec<u8> {
    let header = [1u32.to_le_bytes(), NONE.to_le_bytes()].concat();
    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    body.extend_from_slice(rest);
    chunk_of(kind, &header, &body)
}

fn namespace(strings: &mut Strings, kind: u16) -> Vec<u8> {
    node(kind, &[strings.index("android"), strings.index(NAMESPACE)], &[])
}

fn end(strings: &mut Strings, name: &str) -> Vec<u8> {
    node(chunk::END_ELEMENT, &[NONE, strings.index(name)], &[])
}

fn start(strings: &mut Strings, name: &str, attributes: &[(&str, Value<'_>)]) -> Vec<u8> {
    let count = u16::try_from(attributes.len()).expect("a handful");
    // Attributes begin 20 bytes on and have 20 bytes each; none of them is an id, a class or a style.
    let mut rest: Vec<u8> =
        [20, 20, count, 0, 0, 0].iter().flat_map(|half: &u16| half.to_le_bytes()).collect();
    for (name, value) in attributes {
        let numbered = NUMBERED.iter().any(|(known, _)| known == name);
        let namespace = if numbered { strings.index(NAMESPACE) } else { NONE };
        let (raw, kind, data) = match *value {
            Value::String(text) => {
                let index = strings.index(text);
                (index, value::STRING, index)
            }
            Value::Decimal(number) => (NONE, value::DECIMAL, number),
            Value::Boolean(flag) => (NONE, value::BOOLEAN, if flag { u32::MAX } else { 0 }),
        };
        for word in [namespace, strings.index(name), raw] {
            rest.extend_from_slice(&word.to_le_bytes());
        }
        rest.extend_from_slice(&[8, 0, 0, kind]);
        rest.extend_from_slice(&data.to_le_bytes());
    }
    node(chunk::START_ELEMENT, &[NONE, strings.index(name)], &rest)
}

/// The pool in the making.
#[derive(Default)]
struct Strings(Vec<String>);

impl Strings {
    /// The number of `text` in the pool.
    fn index(&mut self, text: &str) -> u32 {
        let index = self.0.iter().position(|known| known == text).unwrap_or_else(|| {
            self.0.push(text.into());
            self.0.len() - 1
        });
        u32::try_from(index).expect("a dozen strings")
    }

    fn chunk(&self) -> Vec<u8> {
        let mut offsets = Vec::new();
        let mut data = Vec::new();
        for text in &self.0 {
            offsets.extend_from_slice(&u32::try_from(data.len()).expect("a dozen strings").to_le_bytes());
            // The length has 15 bits here; longer ones would take a second half, which names never do.
            let units: Vec<u16> = text.encode_utf16().take(0x7fff).collect();
            data.extend_from_slice(&u16::try_from(units.len()).expect("fifteen bits").to_le_bytes());
            data.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
            data.extend_from_slice(&[0, 0]);
        }
        data.resize(data.len().next_multiple_of(4), 0);
        let count = u32::try_from(self.0.len()).expect("a dozen strings");
        let start = u32::try_from(28 + offsets.len()).expect("a dozen strings");
        let header: Vec<u8> =
            [count, 0, 0, start, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        chunk_of(chunk::STRING_POOL, &header, &[offsets, data].concat())
    }
}
