//! Textual encodings of keys and certificates (RFC 7468), read as generously as those who write them need it: text
//! around the blocks, lines of any length.

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
/// Header of an encrypted block of the old kind (RFC 1421, 4.6.1.1).
const PROC_TYPE: &str = "Proc-Type:";

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    pub(super) label: &'a str,
    /// What is between the lines, without base64; empty when it is encrypted.
    pub(super) content: Vec<u8>,
    /// Whether a header says that the content is encrypted.
    pub(super) encrypted: bool,
}

/// All blocks of a text, in their order; `None` when one has no end or is not base64.
pub(super) fn blocks(text: &str) -> Option<Vec<Block<'_>>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = label(line, BEGIN) else { continue };
        let (mut digits, mut encrypted) = (String::new(), false);
        loop {
            let line = lines.next()?;
            if line.starts_with(DASHES) {
                (self::label(line, END) == Some(label)).then_some(())?;
                break;
            }
            if line.contains(':') {
                encrypted |= line.starts_with(PROC_TYPE) && line.contains("ENCRYPTED");
            } else {
                digits.push_str(line);
            }
        }
        let content = if encrypted { Vec::new() } else { from_base64(&digits)? };
        blocks.push(Block { label, content, encrypted });
    }
    Some(blocks)
}

fn label<'a>(line: &'a str, before: &str) -> Option<&'a str> {
    line.strip_prefix(before)?.strip_suffix(DASHES)
}

/// Base64 with padding (RFC 4648, 4); white space counts for nothing.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padding) = (0u32, 0u32, 0u32);
    for digit in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match digit {
            b'=' => {
                padding += 1;
                continue;
            }
            _ if padding > 0 => return None,
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 1);
        if count == 4 {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    // What is left over of the last digit is zero, or two texts would be the same bytes.
    match (count, padding) {
        (0, 0) => {}
        (2, 2) if bits & 0xf == 0 => bytes.push((bits >> 4).to_be_bytes()[3]),
        (3, 1) if bits & 0x3 == 0 => bytes.extend_from_slice(&(bits >> 2).to_be_bytes()[2..]),
        _ => return None,
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648, 10.
    #[test]
    fn base64() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
        ] {
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(from_base64("+/ 9\tA").unwrap(), [0xfb, 0xff, 0x40]);
        for bad in
            ["Z", "Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Zg==Zg==", "====", "Zm9v=", "Z*==", "Zm9vYg==A"]
        {
            assert_eq!(from_base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn blocks_stand_between_other_text() {
        let text = "Bag Attributes\n  friendlyName: x\n-----BEGIN EC PARAMETERS-----\nZg==\n-----END EC PARAMETERS-----\r\n\
                    \n-----BEGIN X-----\r\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nnot base64!\n-----END X-----";
        let found = blocks(text).unwrap();
        assert_eq!(
            found,
            [
                Block { label: "EC PARAMETERS", content: b"f".to_vec(), encrypted: false },
                Block { label: "X", content: Vec::new(), encrypted: true },
            ]
        );
        assert_eq!(blocks("none").unwrap(), []);
        for bad in [
            "-----BEGIN X-----\nZg==",
            "-----BEGIN X-----\nZg==\n-----END Y-----",
            "-----BEGIN X-----\n!\n-----END X-----",
            "-----BEGIN X-----\n-----BEGIN X-----\n-----END X-----",
        ] {
            assert_eq!(blocks(bad), None, "{bad}");
        }
    }
}
