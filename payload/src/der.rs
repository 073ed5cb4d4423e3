//! The little of DER (X.690) that keys and certificates need: elements of definite length, read and written.

/// Universal and context tags.
pub(crate) mod tag {
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
    /// `[0] EXPLICIT`.
    pub(crate) const CONTEXT_0: u8 = 0xa0;
}

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    /// What it holds.
    pub(crate) content: &'a [u8],
    /// All of it: tag, length and content.
    pub(crate) whole: &'a [u8],
}

/// Elements one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next element, of any tag.
    pub(crate) fn any(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        if tag & 0x1f == 0x1f {
            return None; // a tag of several bytes: none that is used here
        }
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // 0x80 would be an indefinite length, which DER does not have.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let len = bytes.iter().fold(0u64, |len, byte| len << 8 | u64::from(*byte));
                (usize::try_from(len).ok()?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        let (whole, _) = self.0.split_at(self.0.len() - rest.len());
        self.0 = rest;
        Some(Element { tag, content, whole })
    }

    /// The next element, which must have `tag`.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.any().filter(|element| element.tag == tag)
    }

    /// The elements of the next one, which must be a sequence.
    pub(crate) fn sequence(&mut self) -> Option<Reader<'a>> {
        self.expect(tag::SEQUENCE).map(|element| Reader(element.content))
    }

    /// The bytes of the next element, which must be a bit string of whole bytes.
    pub(crate) fn bit_string(&mut self) -> Option<&'a [u8]> {
        self.expect(tag::BIT_STRING)?.content.strip_prefix(&[0])
    }
}

/// Whether `bytes` are one element and nothing else.
pub(crate) fn is_one(bytes: &[u8]) -> bool {
    let mut reader = Reader(bytes);
    reader.any().is_some() && reader.0.is_empty()
}

/// An element of `tag` that holds `parts`, one after the other.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut bytes = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let len = u32::try_from(content.len()).expect("what is written is short").to_be_bytes();
            let digits = &len[len.iter().take_while(|byte| **byte == 0).count()..];
            bytes.push(0x80 | u8::try_from(digits.len()).expect("at most four"));
            bytes.extend_from_slice(digits);
        }
    }
    bytes.extend_from_slice(&content);
    bytes
}

/// The subject public key info of an X.509 certificate, as it stands there (RFC 5280, 4.1).
pub(crate) fn certificate_public_key(certificate: &[u8]) -> Option<&[u8]> {
    if !is_one(certificate) {
        return None;
    }
    let mut tbs = Reader(certificate).sequence()?.sequence()?;
    let mut serial = tbs.any()?;
    if serial.tag == tag::CONTEXT_0 {
        serial = tbs.any()?; // that was the version
    }
    (serial.tag == tag::INTEGER).then_some(())?;
    for _ in ["signature", "issuer", "validity", "subject"] {
        tbs.expect(tag::SEQUENCE)?;
    }
    Some(tbs.expect(tag::SEQUENCE)?.whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_every_form() {
        for len in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; len];
            let bytes = element(tag::SEQUENCE, &[&content[..len / 2], &content[len / 2..]]);
            let read = Reader::new(&bytes).expect(tag::SEQUENCE).unwrap();
            assert_eq!((read.content, read.whole), (&content[..], &bytes[..]));
            assert!(is_one(&bytes));
            for cut in 0..bytes.len().min(300) {
                assert_eq!(Reader::new(&bytes[..cut]).any(), None);
            }
        }
    }

    #[test]
    fn hostile_lengths_are_refused() {
        for bytes in [
            &[0x30, 0x80, 0, 0][..],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 0],
            &[0x1f, 1, 0],
            &[0x30],
            &[],
        ] {
            assert_eq!(Reader::new(bytes).any(), None, "{bytes:x?}");
        }
    }
}
