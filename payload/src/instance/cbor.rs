//! The little of CBOR (RFC 8949) that records are made of, deterministically encoded: every number in its shortest
//! form, no indefinite lengths. Byte strings are written as arrays of integers, as the published format has them.
//!
//! The reader has no recursion, and what it allocates is bounded by the input: what may stand where is the caller's
//! code.

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

/// Writes items one behind the other.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn head(&mut self, major: u8, value: u64) {
        let major = major << 5;
        let bytes = value.to_be_bytes();
        match value {
            0..=23 => self.0.push(major | bytes[7]),
            24..=0xff => self.0.extend([major | 24, bytes[7]]),
            0x100..=0xffff => self.0.extend([&[major | 25], &bytes[6..]].concat()),
            0x1_0000..=0xffff_ffff => self.0.extend([&[major | 26], &bytes[4..]].concat()),
            _ => self.0.extend([&[major | 27], &bytes[..]].concat()),
        }
    }

    pub(super) fn unsigned(&mut self, value: u64) {
        self.head(UNSIGNED, value);
    }

    pub(super) fn signed(&mut self, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.head(UNSIGNED, value),
            // -1 - value, which is what the other bits of a negative number say.
            Err(_) => self.head(NEGATIVE, (!value).unsigned_abs()),
        }
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.0.push(if value { TRUE } else { FALSE });
    }

    pub(super) fn null(&mut self) {
        self.0.push(NULL);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.head(TEXT, text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    pub(super) fn byte_array(&mut self, bytes: &[u8]) {
        self.array(bytes.len());
        bytes.iter().for_each(|byte| self.head(UNSIGNED, u64::from(*byte)));
    }

    pub(super) fn array(&mut self, len: usize) {
        self.head(ARRAY, len as u64);
    }

    pub(super) fn map(&mut self, pairs: usize) {
        self.head(MAP, pairs as u64);
    }
}

/// Reads items one behind the other; `None` for whatever is not what was asked for.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    /// Major type and value of the next item.
    fn head(&mut self) -> Option<(u8, u64)> {
        let first = self.bytes(1)?[0];
        let (more, least) = match first & 0x1f {
            value @ 0..=23 => return Some((first >> 5, u64::from(value))),
            24 => (1, 24),
            25 => (2, 0x100),
            26 => (4, 0x1_0000),
            27 => (8, 0x1_0000_0000),
            _ => return None,
        };
        let value = self.bytes(more)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        (value >= least).then_some((first >> 5, value))
    }

    fn value(&mut self, major: u8) -> Option<u64> {
        self.head().filter(|(found, _)| *found == major).map(|(_, value)| value)
    }

    pub(super) fn unsigned(&mut self) -> Option<u64> {
        self.value(UNSIGNED)
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let (major, value) = self.head()?;
        let value = i64::try_from(value).ok()?;
        match major {
            UNSIGNED => Some(value),
            NEGATIVE => Some(!value),
            _ => None,
        }
    }

    pub(super) fn bool(&mut self) -> Option<bool> {
        match self.bytes(1)?[0] {
            FALSE => Some(false),
            TRUE => Some(true),
            _ => None,
        }
    }

    /// Nothing, or what `read` finds.
    pub(super) fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.0.first() == Some(&NULL) {
            self.0 = &self.0[1..];
            return Some(None);
        }
        read(self).map(Some)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.value(TEXT)?).ok()?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    pub(super) fn byte_array(&mut self) -> Option<Vec<u8>> {
        self.array(|reader| u8::try_from(reader.unsigned()?).ok())
    }

    /// The items of an array, each of which takes a byte at least.
    pub(super) fn array<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let len = usize::try_from(self.value(ARRAY)?).ok().filter(|len| *len <= self.0.len())?;
        (0..len).map(|_| read(self)).collect()
    }

    /// Calls `read` with each key of a map, in its order; it reads the value.
    pub(super) fn map(&mut self, mut read: impl FnMut(&str, &mut Self) -> Option<()>) -> Option<()> {
        let pairs = self.value(MAP)?;
        for _ in 0..pairs {
            let key = self.text()?;
            read(key, self)?;
        }
        Some(())
    }
}
