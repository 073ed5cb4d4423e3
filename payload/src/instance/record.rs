//! What the guest's payload-manager remembers: which payload this instance runs.

use zeroize::Zeroizing;

use super::InstanceError;
use super::cbor::{Reader, Writer};

/// The payload of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagerRecord {
    /// Random bytes of the first boot.
    pub salt: Vec<u8>,
    /// The application.
    pub apk_data: ApkData,
    /// The archives beside it, in their order.
    pub extra_apks_data: Vec<ApkData>,
    /// The shared components, in their order.
    pub apex_data: Vec<ApexData>,
}

/// An archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApkData {
    /// Root of its hash tree: what dm-verity is told.
    pub root_hash: Vec<u8>,
    /// SHA-512 of the first certificate's DER: who signed it.
    pub cert_hash: Vec<u8>,
    /// Its package name.
    pub package_name: String,
    /// Its long version code.
    pub version_code: u64,
}

/// A shared component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApexData {
    /// Its name in the metadata.
    pub name: String,
    /// The name in its manifest, when that was known.
    pub manifest_name: Option<String>,
    /// The version in its manifest, when that was known.
    pub manifest_version: Option<i64>,
    /// The key that signed it, in AVB's encoding.
    pub public_key: Vec<u8>,
    /// Root digest of its hash tree.
    pub root_digest: Vec<u8>,
    /// When it was last updated, as the metadata said; nobody vouches for it.
    pub last_update_seconds: u64,
    /// Whether it came with the system, as the metadata said; nobody vouches for it.
    pub is_factory: bool,
}

impl ManagerRecord {
    /// Its CBOR: maps with their keys in the order of RFC 8949, 4.2.1.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Writer::default();
        out.map(4);
        out.text("salt");
        out.byte_array(&self.salt);
        out.text("apk_data");
        self.apk_data.encode(&mut out);
        out.text("apex_data");
        out.array(self.apex_data.len());
        self.apex_data.iter().for_each(|apex| apex.encode(&mut out));
        out.text("extra_apks_data");
        out.array(self.extra_apks_data.len());
        self.extra_apks_data.iter().for_each(|apk| apk.encode(&mut out));
        Zeroizing::new(out.finish())
    }

    /// Reads what [`ManagerRecord::encode`] wrote, or another writer of the published format: keys in any order. A key
    /// that is not known is refused, because a later version would have compared what it stands for.
    ///
    /// # Errors
    /// [`InstanceError::Content`].
    pub fn decode(bytes: &[u8]) -> Result<Self, InstanceError> {
        let (mut salt, mut apk, mut extra, mut apexes) = (None, None, None, None);
        let mut wrong = "its map";
        let mut reader = Reader::new(bytes);
        let read = reader.map(|key, value| match key {
            "salt" => {
                wrong = "salt";
                once(&mut salt, value.byte_array())
            }
            "apk_data" => {
                wrong = "apk_data";
                once(&mut apk, ApkData::decode(value))
            }
            "extra_apks_data" => {
                wrong = "extra_apks_data";
                once(&mut extra, value.array(ApkData::decode))
            }
            "apex_data" => {
                wrong = "apex_data";
                once(&mut apexes, value.array(ApexData::decode))
            }
            _ => {
                wrong = "a key that is unknown here";
                None
            }
        });
        read.ok_or(InstanceError::Content(wrong))?;
        let missing = |key| InstanceError::Content(key);
        if !reader.is_empty() {
            return Err(missing("bytes behind its map"));
        }
        Ok(Self {
            salt: salt.ok_or(missing("salt, which is missing"))?,
            apk_data: apk.ok_or(missing("apk_data, which is missing"))?,
            extra_apks_data: extra.ok_or(missing("extra_apks_data, which is missing"))?,
            apex_data: apexes.ok_or(missing("apex_data, which is missing"))?,
        })
    }
}

impl ApkData {
    fn encode(&self, out: &mut Writer) {
        out.map(4);
        out.text("cert_hash");
        out.byte_array(&self.cert_hash);
        out.text("root_hash");
        out.byte_array(&self.root_hash);
        out.text("package_name");
        out.text(&self.package_name);
        out.text("version_code");
        out.unsigned(self.version_code);
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let (mut root, mut cert, mut package, mut version) = (None, None, None, None);
        reader.map(|key, value| match key {
            "root_hash" => once(&mut root, value.byte_array()),
            "cert_hash" => once(&mut cert, value.byte_array()),
            "package_name" => once(&mut package, value.text()),
            "version_code" => once(&mut version, value.unsigned()),
            _ => None,
        })?;
        Some(Self {
            root_hash: root?,
            cert_hash: cert?,
            package_name: package?.to_owned(),
            version_code: version?,
        })
    }
}

impl ApexData {
    fn encode(&self, out: &mut Writer) {
        out.map(7);
        out.text("name");
        out.text(&self.name);
        out.text("is_factory");
        out.bool(self.is_factory);
        out.text("public_key");
        out.byte_array(&self.public_key);
        out.text("root_digest");
        out.byte_array(&self.root_digest);
        out.text("manifest_name");
        match &self.manifest_name {
            Some(name) => out.text(name),
            None => out.null(),
        }
        out.text("manifest_version");
        match self.manifest_version {
            Some(version) => out.signed(version),
            None => out.null(),
        }
        out.text("last_update_seconds");
        out.unsigned(self.last_update_seconds);
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let (mut name, mut manifest_name, mut version) = (None, None, None);
        let (mut key, mut root, mut updated, mut factory) = (None, None, None, None);
        reader.map(|field, value| match field {
            "name" => once(&mut name, value.text()),
            "manifest_name" => once(&mut manifest_name, value.optional(Reader::text)),
            "manifest_version" => once(&mut version, value.optional(Reader::signed)),
            "public_key" => once(&mut key, value.byte_array()),
            "root_digest" => once(&mut root, value.byte_array()),
            "last_update_seconds" => once(&mut updated, value.unsigned()),
            "is_factory" => once(&mut factory, value.bool()),
            _ => None,
        })?;
        Some(Self {
            name: name?.to_owned(),
            manifest_name: manifest_name?.map(str::to_owned),
            manifest_version: version?,
            public_key: key?,
            root_digest: root?,
            last_update_seconds: updated?,
            is_factory: factory?,
        })
    }
}

/// Puts `value` where no value is yet.
fn once<T>(field: &mut Option<T>, value: Option<T>) -> Option<()> {
    match field.replace(value?) {
        None => Some(()),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests;
