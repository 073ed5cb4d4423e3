//! The metadata partition: what the guest is to mount and run.
//!
//! ```text
//!   0        4            4 + L
//!   | L, BE  | Metadata   | anything, ignored (zeros to the end of the partition)
//! ```
//!
//! The host writes it and the guest reads it, so [`decode`] takes nothing for granted.

use prost::Message;

use crate::labels;

mod wire {
    #![allow(missing_docs, reason = "generated from proto/metadata.proto, which documents every field")]
    include!(concat!(env!("OUT_DIR"), "/android.microdroid.rs"));
}
pub use wire::metadata::Payload;
pub use wire::{ApexPayload, ApkPayload, Metadata, PayloadConfig};

/// Version of the message written here.
pub const VERSION: u32 = 1;

/// Name of the application in the metadata.
pub const APK_NAME: &str = "apk";

/// Longest message accepted: 128 partitions with names, keys and digests need a fraction of it.
pub const MAX_LEN: usize = 1 << 20;

/// Why a metadata partition cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Fewer bytes than the length prefix, or than it announces.
    #[error("the metadata is cut short: {len} of {wanted} bytes")]
    Truncated {
        /// Bytes there are.
        len: usize,
        /// Bytes needed.
        wanted: usize,
    },
    /// The length prefix announces more than any disk needs.
    #[error("the metadata claims {len} bytes, more than {MAX_LEN}")]
    TooLong {
        /// Announced length.
        len: u64,
    },
    /// Not the protobuf message.
    #[error("decode the metadata")]
    Decode(#[source] prost::DecodeError),
    /// A version this reader does not know.
    #[error("the metadata has version {0}, not {VERSION}")]
    Version(u32),
}

impl Metadata {
    /// The metadata of a disk with one application and `apexes`.
    pub fn for_apk(apexes: Vec<ApexPayload>, payload: Payload) -> Self {
        Self {
            version: VERSION,
            apexes,
            apk: Some(ApkPayload {
                name: APK_NAME.into(),
                payload_partition_name: labels::APK.into(),
                idsig_partition_name: labels::APK_IDSIG.into(),
            }),
            payload: Some(payload),
        }
    }
}

/// The payload that a JSON file at `path` inside the archive describes.
pub fn config_path(path: &str) -> Payload {
    Payload::ConfigPath(format!("{}/{}", labels::APK_MOUNT, path.trim_start_matches('/')))
}

/// The bytes of the metadata partition, without padding.
pub fn encode(metadata: &Metadata) -> Vec<u8> {
    let body = metadata.encode_to_vec();
    let len = u32::try_from(body.len()).expect("metadata is made of a few short names");
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// How many bytes of the partition [`decode`] needs, from its first four.
///
/// # Errors
/// [`MetadataError::TooLong`] for more than 4 + [`MAX_LEN`].
pub fn encoded_len(prefix: [u8; 4]) -> Result<usize, MetadataError> {
    let len = u32::from_be_bytes(prefix);
    match usize::try_from(len) {
        Ok(len) if len <= MAX_LEN => Ok(4 + len),
        _ => Err(MetadataError::TooLong { len: u64::from(len) }),
    }
}

/// Reads what [`encode`] wrote, or a writer of either era; bytes after the message are ignored.
///
/// # Errors
/// [`MetadataError`] for anything that is not a whole message of version 1.
pub fn decode(partition: &[u8]) -> Result<Metadata, MetadataError> {
    let short = |wanted| MetadataError::Truncated { len: partition.len(), wanted };
    let prefix = partition.first_chunk::<4>().ok_or_else(|| short(4))?;
    let end = encoded_len(*prefix)?;
    let body = partition.get(4..end).ok_or_else(|| short(end))?;
    let metadata = Metadata::decode(body).map_err(MetadataError::Decode)?;
    if metadata.version != VERSION {
        return Err(MetadataError::Version(metadata.version));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let apex = ApexPayload {
            name: "com.android.art".into(),
            partition_name: labels::apex(0),
            public_key: vec![0xff, 0x00, 0x80],
            manifest_version: -1,
            ..ApexPayload::default()
        };
        Metadata::for_apk(vec![apex], config_path("assets/vm_config.json"))
    }

    #[test]
    fn encode_and_decode_agree() {
        let mut bytes = encode(&sample());
        assert_eq!(decode(&bytes).unwrap(), sample());
        bytes.extend_from_slice(&[0xff; 100]);
        assert_eq!(decode(&bytes).unwrap(), sample(), "bytes after the message are ignored");
        assert_eq!(sample().payload, Some(Payload::ConfigPath("/mnt/apk/assets/vm_config.json".into())));
    }

    /// Section 1: length prefix, field numbers and wire types, checked by hand against the table.
    #[test]
    fn bytes_are_the_published_ones() {
        let metadata = Metadata::for_apk(
            Vec::new(),
            Payload::Config(PayloadConfig { payload_binary_name: "a.so".into(), extra_apk_count: 2 }),
        );
        let mut body = vec![0x08, 1]; // version
        body.extend_from_slice(&[0x1a, 43, 0x0a, 3]); // apk { name
        body.extend_from_slice(b"apk");
        body.extend_from_slice(&[0x12, 14]);
        body.extend_from_slice(b"microdroid-apk");
        body.extend_from_slice(&[0x1a, 20]);
        body.extend_from_slice(b"microdroid-apk-idsig");
        body.extend_from_slice(&[0x2a, 8, 0x0a, 4]); // config { payload_binary_name
        body.extend_from_slice(b"a.so");
        body.extend_from_slice(&[0x10, 2]);
        let mut expected = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        expected.append(&mut body);
        assert_eq!(encode(&metadata), expected);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = encode(&sample());
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len} bytes were accepted");
        }
    }

    #[test]
    fn hostile_lengths_and_versions_are_refused() {
        assert!(matches!(decode(&[0xff; 64]), Err(MetadataError::TooLong { len: 0xffff_ffff })));
        let short = [0x00, 0x10, 0x00, 0x00];
        assert!(matches!(decode(&short), Err(MetadataError::Truncated { len: 4, wanted: 0x10_0004 })));
        assert!(matches!(decode(&[0, 0, 0, 0]), Err(MetadataError::Version(0))));
        let future = encode(&Metadata { version: 2, ..sample() });
        assert!(matches!(decode(&future), Err(MetadataError::Version(2))));
        // An inner length of 2^32 - 1.
        let inner = [0, 0, 0, 7, 0x1a, 0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert!(matches!(decode(&inner), Err(MetadataError::Decode(_))));
    }
}
