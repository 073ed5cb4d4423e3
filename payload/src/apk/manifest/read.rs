//! Reading: the first element's attributes, and where asked for those of the elements right below it.
//!
//! Strings are compared where they lie and copied only when they are wanted: a name may be as long as the file, and
//! named as often as there are attributes.

use super::{Details, Manifest, ManifestError, NONE, UTF8, attribute, chunk, value};
use crate::fields::Fields;

pub(super) fn manifest(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let mut elements = Elements::new(bytes)?;
    let first = elements.next_start()?.ok_or(ManifestError::Malformed("list of elements"))?;
    Ok(root(&first, &elements.names()?)?.manifest)
}

pub(super) fn details(bytes: &[u8]) -> Result<Details, ManifestError> {
    let mut elements = Elements::new(bytes)?;
    let first = elements.next_start()?.ok_or(ManifestError::Malformed("list of elements"))?;
    let mut details = root(&first, &elements.names()?)?;
    while let Some(element) = elements.next_start()? {
        let names = elements.names()?;
        if elements.depth != 2 || !names.pool.is(element.name, "uses-sdk") {
            continue;
        }
        for attribute in element.list {
            // A code name of a preview is text; it is no number, and no mistake.
            match names.number(attribute.name) {
                Some(attribute::MIN_SDK_VERSION) => details.min_sdk = attribute.number(),
                Some(attribute::TARGET_SDK_VERSION) => details.target_sdk = attribute.number(),
                _ => {}
            }
        }
    }
    Ok(details)
}

fn root(attributes: &Attributes, names: &Names<'_>) -> Result<Details, ManifestError> {
    if !names.pool.is(attributes.name, "manifest") {
        let name = names.pool.get(attributes.name).ok_or(ManifestError::Malformed("first element"))?;
        return Err(ManifestError::Element(name.chars().take(64).collect()));
    }
    let mut package = None;
    let mut version = [None; 2];
    let mut version_name = None;
    for attribute in &attributes.list {
        match names.number(attribute.name) {
            Some(attribute::VERSION_CODE) => attribute.set_number("versionCode", &mut version[0])?,
            Some(attribute::VERSION_CODE_MAJOR) => {
                attribute.set_number("versionCodeMajor", &mut version[1])?;
            }
            Some(attribute::VERSION_NAME) => {
                version_name = attribute.text().and_then(|index| names.pool.get(index));
            }
            _ if attribute.namespace == NONE && names.pool.is(attribute.name, "package") => {
                let name = attribute.text().and_then(|index| names.pool.get(index));
                if package.replace(name.ok_or(ManifestError::Malformed("package"))?).is_some() {
                    return Err(ManifestError::Malformed("package"));
                }
            }
            _ => {}
        }
    }
    let [code, major] = version.map(|half| u64::from(half.unwrap_or(0)));
    let package = package.ok_or(ManifestError::NoPackage)?;
    let manifest = Manifest { package, version_code: major << 32 | code };
    Ok(Details { manifest, version_name, min_sdk: None, target_sdk: None })
}

/// The chunks of a file, and what those read so far say of the others.
struct Elements<'a> {
    chunks: Fields<'a>,
    pool: Option<Pool<'a>>,
    map: &'a [u8],
    /// Elements that are open.
    depth: usize,
}

impl<'a> Elements<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, ManifestError> {
        let chunk = Chunk::next(&mut Fields::new(bytes));
        let xml = chunk.filter(|chunk| chunk.kind == chunk::XML);
        let xml = xml.ok_or(ManifestError::Malformed("outermost chunk"))?;
        Ok(Self { chunks: Fields::new(xml.body), pool: None, map: &[], depth: 0 })
    }

    /// The next element that begins; its depth is `self.depth` then, 1 for the first.
    fn next_start(&mut self) -> Result<Option<Attributes>, ManifestError> {
        while !self.chunks.is_empty() {
            let chunk = Chunk::next(&mut self.chunks).ok_or(ManifestError::Malformed("list of chunks"))?;
            match chunk.kind {
                chunk::STRING_POOL if self.pool.is_none() => {
                    self.pool = Some(Pool::parse(&chunk).ok_or(ManifestError::Malformed("string pool"))?);
                }
                chunk::RESOURCE_MAP => self.map = chunk.body,
                chunk::START_ELEMENT => {
                    self.depth += 1;
                    let element = Attributes::parse(chunk.body);
                    return element.map(Some).ok_or(ManifestError::Malformed("element"));
                }
                chunk::END_ELEMENT => {
                    self.depth = self.depth.checked_sub(1).ok_or(ManifestError::Malformed("nesting"))?;
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn names(&self) -> Result<Names<'a>, ManifestError> {
        let pool = self.pool.ok_or(ManifestError::Malformed("string pool"))?;
        Ok(Names { pool, map: self.map })
    }
}

/// A chunk: its header past the first 8 bytes, and what follows the header.
struct Chunk<'a> {
    kind: u16,
    header: &'a [u8],
    body: &'a [u8],
}

impl<'a> Chunk<'a> {
    fn next(fields: &mut Fields<'a>) -> Option<Self> {
        let kind = fields.u16()?;
        let header_len = usize::from(fields.u16()?).checked_sub(8)?;
        let len = usize::try_from(fields.u32()?).ok()?.checked_sub(8)?;
        let (header, body) = fields.bytes(len)?.split_at_checked(header_len)?;
        Some(Self { kind, header, body })
    }
}

/// Strings, and the numbers of those that name attributes.
struct Names<'a> {
    pool: Pool<'a>,
    map: &'a [u8],
}

impl Names<'_> {
    fn number(&self, index: u32) -> Option<u32> {
        let start = usize::try_from(index).ok()?.checked_mul(4)?;
        Fields::new(self.map.get(start..)?).u32()
    }
}

#[derive(Clone, Copy)]
struct Pool<'a> {
    count: u32,
    utf8: bool,
    offsets: &'a [u8],
    strings: &'a [u8],
}

/// A string as the pool has it.
enum Text<'a> {
    Utf8(&'a [u8]),
    /// Little-endian.
    Utf16(&'a [u8]),
}

impl<'a> Pool<'a> {
    fn parse(chunk: &Chunk<'a>) -> Option<Self> {
        let mut header = Fields::new(chunk.header);
        let count = header.u32()?;
        let _styles = header.u32()?;
        let utf8 = header.u32()? & UTF8 != 0;
        // Counted from the chunk's start.
        let start = usize::try_from(header.u32()?).ok()?.checked_sub(8 + chunk.header.len())?;
        let offsets_len = usize::try_from(count).ok()?.checked_mul(4)?;
        let offsets = chunk.body.get(..offsets_len)?;
        Some(Self { count, utf8, offsets, strings: chunk.body.get(start..)? })
    }

    fn text(&self, index: u32) -> Option<Text<'a>> {
        if index >= self.count {
            return None;
        }
        let place = self.offsets.get(usize::try_from(index).ok()?.checked_mul(4)?..)?;
        let start = usize::try_from(Fields::new(place).u32()?).ok()?;
        let mut fields = Fields::new(self.strings.get(start..)?);
        if self.utf8 {
            utf8_len(&mut fields)?; // the length in UTF-16
            let len = utf8_len(&mut fields)?;
            return fields.bytes(len).map(Text::Utf8);
        }
        let first = fields.u16()?;
        let len = match first & 0x8000 {
            0 => usize::from(first),
            _ => usize::from(first & 0x7fff) << 16 | usize::from(fields.u16()?),
        };
        fields.bytes(len.checked_mul(2)?).map(Text::Utf16)
    }

    /// Whether string `index` is `name`, which is ASCII.
    fn is(&self, index: u32, name: &str) -> bool {
        match self.text(index) {
            Some(Text::Utf8(bytes)) => bytes == name.as_bytes(),
            Some(Text::Utf16(bytes)) => {
                bytes.len() == name.len() * 2
                    && bytes.chunks_exact(2).zip(name.bytes()).all(|(unit, byte)| unit == [byte, 0])
            }
            None => false,
        }
    }

    fn get(&self, index: u32) -> Option<String> {
        match self.text(index)? {
            Text::Utf8(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
            Text::Utf16(bytes) => {
                let units = bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
                char::decode_utf16(units).collect::<Result<String, _>>().ok()
            }
        }
    }
}

fn utf8_len(fields: &mut Fields<'_>) -> Option<usize> {
    let first = fields.u8()?;
    match first & 0x80 {
        0 => Some(usize::from(first)),
        _ => Some(usize::from(first & 0x7f) << 8 | usize::from(fields.u8()?)),
    }
}

struct Attributes {
    name: u32,
    list: Vec<Attribute>,
}

struct Attribute {
    namespace: u32,
    name: u32,
    /// The value as text.
    raw: u32,
    kind: u8,
    data: u32,
}

impl Attributes {
    fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(body);
        let _namespace = fields.u32()?;
        let name = fields.u32()?;
        let start = usize::from(fields.u16()?);
        let size = usize::from(fields.u16()?);
        let count = usize::from(fields.u16()?);
        let mut fields = Fields::new(body.get(start..)?);
        let list = (0..count)
            .map(|_| Attribute::parse(Fields::new(fields.bytes(size)?)))
            .collect::<Option<Vec<_>>>()?;
        Some(Self { name, list })
    }
}

impl Attribute {
    fn parse(mut fields: Fields<'_>) -> Option<Self> {
        let (namespace, name, raw) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let _size = fields.u16()?;
        let _reserved = fields.u8()?;
        Some(Self { namespace, name, raw, kind: fields.u8()?, data: fields.u32()? })
    }

    /// The string that the value is: as written, or as typed by tools that keep no more.
    fn text(&self) -> Option<u32> {
        match self.raw {
            NONE => (self.kind == value::STRING).then_some(self.data),
            raw => Some(raw),
        }
    }

    fn number(&self) -> Option<u32> {
        matches!(self.kind, value::DECIMAL | value::HEXADECIMAL).then_some(self.data)
    }

    fn set_number(&self, name: &'static str, place: &mut Option<u32>) -> Result<(), ManifestError> {
        let number = self.number().ok_or(ManifestError::Number(name))?;
        place.replace(number).map_or(Ok(()), |_| Err(ManifestError::Number(name)))
    }
}
