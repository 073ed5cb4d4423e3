//! `AndroidManifest.xml` as it stands in archives: binary XML, written small and read from anybody.
//!
//! ```text
//!   XML 0x0003 { string pool 0x0001, resource map 0x0180, start namespace 0x0100,
//!                start element 0x0102 <manifest ..>, .., end element 0x0103, end namespace 0x0101 }
//!   chunk = type u16 | header length u16 | length u32 | rest of the header | body          little-endian
//! ```
//!
//! Attributes of the platform are known by their resource number: string i of the pool has entry i of the map.

mod read;
mod write;

/// Where the manifest is in an archive.
pub const PATH: &str = "AndroidManifest.xml";

/// Longest manifest read, in bytes.
pub const MAX_LEN: u64 = 4 << 20;

/// First SDK that reads v2 signatures: an archive without v1 signatures cannot be installed on any before it.
pub const V2_SDK: u32 = 24;

/// First SDK that reads v3 signatures.
pub const V3_SDK: u32 = 28;

/// Longest package name, in bytes (Android's limit for names that become file names).
const MAX_PACKAGE: usize = 223;

mod chunk {
    pub(super) const STRING_POOL: u16 = 0x0001;
    pub(super) const XML: u16 = 0x0003;
    pub(super) const RESOURCE_MAP: u16 = 0x0180;
    pub(super) const START_NAMESPACE: u16 = 0x0100;
    pub(super) const END_NAMESPACE: u16 = 0x0101;
    pub(super) const START_ELEMENT: u16 = 0x0102;
    pub(super) const END_ELEMENT: u16 = 0x0103;
}

/// Resource numbers of attributes.
mod attribute {
    pub(super) const HAS_CODE: u32 = 0x0101_000c;
    pub(super) const MIN_SDK_VERSION: u32 = 0x0101_020c;
    pub(super) const TARGET_SDK_VERSION: u32 = 0x0101_0270;
    pub(super) const VERSION_CODE: u32 = 0x0101_021b;
    pub(super) const VERSION_NAME: u32 = 0x0101_021c;
    pub(super) const EXTRACT_NATIVE_LIBS: u32 = 0x0101_04ea;
    pub(super) const VERSION_CODE_MAJOR: u32 = 0x0101_0576;
}

/// Types of values.
mod value {
    pub(super) const STRING: u8 = 0x03;
    pub(super) const DECIMAL: u8 = 0x10;
    pub(super) const HEXADECIMAL: u8 = 0x11;
    pub(super) const BOOLEAN: u8 = 0x12;
}

/// An absent string.
const NONE: u32 = u32::MAX;
/// Flag of a string pool whose strings are UTF-8 instead of UTF-16.
const UTF8: u32 = 1 << 8;

/// Why a manifest cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not binary XML, or cut short.
    #[error("the manifest's {0} is malformed")]
    Malformed(&'static str),
    /// The first element is another.
    #[error("the manifest's first element is <{0}>, not <manifest>")]
    Element(String),
    /// No package name.
    #[error("the manifest names no package")]
    NoPackage,
    /// A package name with characters that none has.
    #[error("{0:?} is not a package name")]
    Package(String),
    /// An attribute that stands twice, or has a value of the wrong type.
    #[error("the manifest's {0} is not one number")]
    Number(&'static str),
}

/// What identifies an application: read from a manifest, and written into one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The package's name.
    pub package: String,
    /// Its long version code: `versionCodeMajor` in the upper half, `versionCode` in the lower.
    pub version_code: u64,
}

impl Manifest {
    /// Reads package and version of a binary manifest.
    ///
    /// # Errors
    /// [`ManifestError`] when it has no package, or is not well-formed as far as it must be read.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest = read::manifest(bytes)?;
        if !is_package(&manifest.package) {
            return Err(ManifestError::Package(manifest.package));
        }
        Ok(manifest)
    }

    /// The binary manifest of an application without Java code, for SDK 28 and later: the first that reads v3
    /// signatures.
    ///
    /// # Errors
    /// [`ManifestError::Package`] when the name is none.
    pub fn encode(&self, version_name: &str) -> Result<Vec<u8>, ManifestError> {
        self.encode_for(version_name, V3_SDK)
    }

    /// The same for `min_sdk` and later.
    ///
    /// # Errors
    /// [`ManifestError::Package`] when the name is none.
    pub fn encode_for(&self, version_name: &str, min_sdk: u32) -> Result<Vec<u8>, ManifestError> {
        if !is_package(&self.package) {
            return Err(ManifestError::Package(self.package.clone()));
        }
        Ok(write::manifest(self, version_name, min_sdk))
    }
}

/// What else a manifest says of its application; every field is as told, and hostile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Package and version code.
    pub manifest: Manifest,
    /// The version for people, where it is text and not a reference to a resource.
    pub version_name: Option<String>,
    /// The first SDK it can be installed on.
    pub min_sdk: Option<u32>,
    /// The SDK it was made for.
    pub target_sdk: Option<u32>,
}

impl Details {
    /// Reads a binary manifest.
    ///
    /// # Errors
    /// As [`Manifest::parse`], and when an element after the first is not well-formed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let details = read::details(bytes)?;
        if !is_package(&details.manifest.package) {
            return Err(ManifestError::Package(details.manifest.package));
        }
        Ok(details)
    }
}

fn is_package(name: &str) -> bool {
    (1..=MAX_PACKAGE).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_'))
}

#[cfg(test)]
mod tests;
