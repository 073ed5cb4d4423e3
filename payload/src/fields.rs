//! Little-endian fields read from hostile bytes, one after the other.

/// Records of one sequence that are taken apart: no list of signers, certificates or attributes has as many.
const MAX_RECORDS: usize = 1024;

/// What is left of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u16::from_le_bytes(*head))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u32::from_le_bytes(*head))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u64::from_le_bytes(*head))
    }

    /// The bytes behind a 32-bit length of them.
    pub(crate) fn prefixed(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.bytes(len)
    }

    /// The records of a length-prefixed sequence of length-prefixed records, of which there are 1024 at most.
    pub(crate) fn sequence(&mut self) -> Option<Vec<Fields<'a>>> {
        Fields::new(self.prefixed()?).records()
    }

    /// All that is left, as length-prefixed records, of which there are 1024 at most.
    pub(crate) fn records(mut self) -> Option<Vec<Fields<'a>>> {
        let mut records = Vec::new();
        while !self.is_empty() {
            (records.len() < MAX_RECORDS).then_some(())?;
            records.push(Fields::new(self.prefixed()?));
        }
        Some(records)
    }
}

/// `bytes` behind a 32-bit length of them.
pub(crate) fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).expect("records that are written are short");
    let mut record = len.to_le_bytes().to_vec();
    record.extend_from_slice(bytes);
    record
}

/// Length-prefixed records, and the length of them all before the first.
pub(crate) fn sequence<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    prefixed(&records.into_iter().flat_map(prefixed).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = [sequence([b"ab".as_slice(), b""]), prefixed(b"c"), vec![1, 2]].concat();
        let mut fields = Fields::new(&bytes);
        let records: Vec<&[u8]> = fields.sequence().unwrap().iter().map(|record| record.rest()).collect();
        assert_eq!(records, [b"ab".as_slice(), b""]);
        assert_eq!(fields.prefixed(), Some(b"c".as_slice()));
        assert_eq!(fields.u16(), Some(0x0201));
        assert!(fields.is_empty());
        assert_eq!((fields.u8(), fields.u32(), fields.u64()), (None, None, None));
    }

    #[test]
    fn records_are_counted() {
        for (count, fits) in [(0, true), (MAX_RECORDS, true), (MAX_RECORDS + 1, false)] {
            let bytes = prefixed(&vec![0; 4 * count]);
            assert_eq!(Fields::new(&bytes).sequence().map(|records| records.len()), fits.then_some(count));
        }
    }

    #[test]
    fn lengths_past_the_end_are_refused() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0];
        assert_eq!(Fields::new(&huge).prefixed(), None);
        assert!(Fields::new(&huge).records().is_none());
        assert!(Fields::new(&prefixed(&huge)).sequence().is_none());
    }
}
