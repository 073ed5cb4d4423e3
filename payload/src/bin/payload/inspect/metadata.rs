//! A metadata partition.

use payload::ReadAt;
use payload::metadata::{self, Metadata, MetadataError, Payload};
use serde::Serialize;

use crate::draw::Page;
use crate::text::hex;

/// What the disk says of itself.
#[derive(Debug, Serialize)]
pub struct MetadataFacts {
    version: u32,
    /// Path of the payload's configuration.
    pub config_path: Option<String>,
    /// Name of the library that is the payload.
    pub payload_binary_name: Option<String>,
    extra_apk_count: Option<u32>,
    apk: Option<ApkEntry>,
    /// The shared components.
    pub apexes: Vec<ApexEntry>,
}

/// The application.
#[derive(Debug, Serialize)]
struct ApkEntry {
    name: String,
    partition: String,
    idsig_partition: String,
}

/// A shared component.
#[derive(Debug, Serialize)]
pub struct ApexEntry {
    /// Its name.
    pub name: String,
    partition: String,
    public_key: String,
    root_digest: String,
    is_factory: bool,
    manifest_version: i64,
}

/// Reads what a partition or file begins with.
pub fn gather(source: &dyn ReadAt) -> Result<MetadataFacts, MetadataError> {
    let read = |len: u64| -> Vec<u8> {
        let len = usize::try_from(source.len().unwrap_or(0).min(len)).unwrap_or(0);
        let mut bytes = vec![0; len];
        match source.read_exact_at(&mut bytes, 0) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    };
    Ok(of(&metadata::decode(&read(4 + metadata::MAX_LEN as u64))?))
}

/// The facts in a message that was read.
pub fn of(metadata: &Metadata) -> MetadataFacts {
    let (config_path, config) = match &metadata.payload {
        Some(Payload::ConfigPath(path)) => (Some(path.clone()), None),
        Some(Payload::Config(config)) => (None, Some(config)),
        None => (None, None),
    };
    MetadataFacts {
        version: metadata.version,
        config_path,
        payload_binary_name: config.map(|config| config.payload_binary_name.clone()),
        extra_apk_count: config.map(|config| config.extra_apk_count),
        apk: metadata.apk.as_ref().map(|apk| ApkEntry {
            name: apk.name.clone(),
            partition: apk.payload_partition_name.clone(),
            idsig_partition: apk.idsig_partition_name.clone(),
        }),
        apexes: metadata
            .apexes
            .iter()
            .map(|apex| ApexEntry {
                name: apex.name.clone(),
                partition: apex.partition_name.clone(),
                public_key: hex(&apex.public_key),
                root_digest: hex(&apex.root_digest),
                is_factory: apex.is_factory,
                manifest_version: apex.manifest_version,
            })
            .collect(),
    }
}

impl MetadataFacts {
    /// What is run, in a few words.
    pub fn payload(&self) -> String {
        match (&self.config_path, &self.payload_binary_name) {
            (Some(path), _) => path.clone(),
            (_, Some(name)) => format!("library {name}"),
            _ => "no payload".into(),
        }
    }

    /// Draws them.
    pub fn draw(&self, page: &mut Page) {
        page.field("version", &self.version.to_string());
        page.field("payload", &self.payload());
        if let Some(apk) = &self.apk {
            page.field(
                "APK",
                &format!("{} in {}, hash tree in {}", apk.name, apk.partition, apk.idsig_partition),
            );
        }
        if let Some(extra) = self.extra_apk_count.filter(|extra| *extra > 0) {
            page.field("extra", &format!("{extra} more APKs"));
        }
        if !self.apexes.is_empty() {
            page.gap();
            let rows: Vec<Vec<String>> = self
                .apexes
                .iter()
                .map(|apex| {
                    let version = apex.manifest_version.to_string();
                    let mut row = vec![apex.name.clone(), version, apex.partition.clone()];
                    if !apex.root_digest.is_empty() {
                        row.push(format!("root {}", apex.root_digest));
                    }
                    row
                })
                .collect();
            page.table(&["APEX", ">version", "partition"], &rows);
        }
    }
}
