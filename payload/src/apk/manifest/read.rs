//! Reading: as far as the first element's attributes.

use super::{Manifest, ManifestError, NONE, UTF8, attribute, chunk, value};
use crate::fields::Fields;

pub(super) fn manifest(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let mut file = Fields::new(bytes);
    let (kind, xml) = Chunk::next(&mut file)
        .map(|chunk| (chunk.kind, chunk.body))
        .ok_or(ManifestError::Malformed("outermost chunk"))?;
    if kind != chunk::XML {
        return Err(ManifestError::Malformed("outermost chunk"));
    }
    let mut chunks = Fields::new(xml);
    let mut pool = None;
    let mut map: &[u8] = &[];
    while !chunks.is_empty() {
        let chunk = Chunk::next(&mut chunks).ok_or(ManifestError::Malformed("list of chunks"))?;
        match chunk.kind {
            chunk::STRING_POOL if pool.is_none() => {
                pool = Some(Pool::parse(&chunk).ok_or(ManifestError::Malformed("string pool"))?);
            }
            chunk::RESOURCE_MAP => map = chunk.body,
            chunk::START_ELEMENT => {
                let pool = pool.ok_or(ManifestError::Malformed("string pool"))?;
                return element(&chunk, &Names { pool, map });
            }
            _ => {}
        }
    }
    Err(ManifestError::Malformed("list of elements"))
}

fn element(chunk: &Chunk<'_>, names: &Names<'_>) -> Result<Manifest, ManifestError> {
    let attributes = Attributes::parse(chunk.body).ok_or(ManifestError::Malformed("first element"))?;
    let name = names.pool.get(attributes.name).ok_or(ManifestError::Malformed("first element"))?;
    if name != "manifest" {
        return Err(ManifestError::Element(name));
    }
    let mut package = None;
    let mut version = [None; 2];
    for attribute in attributes.list {
        match names.number(attribute.name) {
            Some(attribute::VERSION_CODE) => attribute.set_number("versionCode", &mut version[0])?,
            Some(attribute::VERSION_CODE_MAJOR) => {
                attribute.set_number("versionCodeMajor", &mut version[1])?;
            }
            _ if attribute.namespace == NONE
                && names.pool.get(attribute.name).as_deref() == Some("package") =>
            {
                let name = names.pool.get(attribute.raw).ok_or(ManifestError::Malformed("package"))?;
                if package.replace(name).is_some() {
                    return Err(ManifestError::Malformed("package"));
                }
            }
            _ => {}
        }
    }
    let [code, major] = version.map(|half| u64::from(half.unwrap_or(0)));
    Ok(Manifest { package: package.ok_or(ManifestError::NoPackage)?, version_code: major << 32 | code })
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

struct Pool<'a> {
    count: u32,
    utf8: bool,
    offsets: &'a [u8],
    strings: &'a [u8],
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

    fn get(&self, index: u32) -> Option<String> {
        if index >= self.count {
            return None;
        }
        let place = self.offsets.get(usize::try_from(index).ok()?.checked_mul(4)?..)?;
        let start = usize::try_from(Fields::new(place).u32()?).ok()?;
        let mut fields = Fields::new(self.strings.get(start..)?);
        if self.utf8 {
            utf8_len(&mut fields)?; // the length in UTF-16
            let len = utf8_len(&mut fields)?;
            return String::from_utf8(fields.bytes(len)?.to_vec()).ok();
        }
        let first = fields.u16()?;
        let len = match first & 0x8000 {
            0 => usize::from(first),
            _ => usize::from(first & 0x7fff) << 16 | usize::from(fields.u16()?),
        };
        let units: Vec<u16> =
            fields.bytes(len * 2)?.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
        String::from_utf16(&units).ok()
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

    fn set_number(&self, name: &'static str, place: &mut Option<u32>) -> Result<(), ManifestError> {
        let is_number = matches!(self.kind, value::DECIMAL | value::HEXADECIMAL);
        match place.replace(self.data) {
            None if is_number => Ok(()),
            _ => Err(ManifestError::Number(name)),
        }
    }
}
