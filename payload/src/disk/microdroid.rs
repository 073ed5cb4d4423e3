//! The payload disk of one application, in any of the [`Layout`]s.

use super::{Filler, Layout, Part, PartitionSpec};
use crate::labels;
use crate::metadata::{self, ApexPayload, ApkPayload, Metadata, Payload};

/// What goes on a payload disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PayloadDisk {
    /// Labels and fillers.
    pub layout: Layout,
    /// Shared components, in the order of their partitions.
    pub apexes: Vec<Apex>,
    /// The application; nothing for a disk of components alone.
    pub apk: Option<Application>,
    /// Further archives, in the order of the application's list.
    pub extra_apks: Vec<ExtraApk>,
    /// What to run; see [`metadata::config_path`].
    pub payload: Option<Payload>,
}

/// A shared component.
#[derive(Clone, Debug, PartialEq)]
pub struct Apex {
    /// What the metadata says of it. The partition's name is filled in, as the layout has it.
    pub about: ApexPayload,
    /// The component.
    pub image: Part,
}

/// The application's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its name in the metadata, `apk` by convention.
    pub name: String,
    /// The archive.
    pub apk: Part,
    /// Its hash tree.
    pub idsig: Part,
}

/// A further archive that the guest mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraApk {
    /// The archive.
    pub apk: Part,
    /// Its hash tree.
    pub idsig: Part,
}

impl PayloadDisk {
    /// The disk of an application without components, in the default layout.
    pub fn new(apk: Part, idsig: Part, payload: Payload) -> Self {
        let name = metadata::APK_NAME.to_string();
        Self { apk: Some(Application { name, apk, idsig }), payload: Some(payload), ..Self::default() }
    }

    /// What the metadata partition says of the others.
    pub fn metadata(&self) -> Metadata {
        let about = |(index, apex): (usize, &Apex)| ApexPayload {
            partition_name: if self.layout.names_apex_partitions() {
                labels::apex(index)
            } else {
                String::new()
            },
            ..apex.about.clone()
        };
        Metadata {
            version: metadata::VERSION,
            apexes: self.apexes.iter().enumerate().map(about).collect(),
            apk: self.apk.as_ref().map(|it| ApkPayload {
                name: it.name.clone(),
                payload_partition_name: labels::APK.into(),
                idsig_partition_name: labels::APK_IDSIG.into(),
            }),
            payload: self.payload.clone(),
        }
    }

    /// The partitions in their order: metadata, components, archive and idsig, then each extra archive and its idsig.
    pub fn partitions(self) -> Vec<PartitionSpec> {
        let layout = self.layout;
        let table = |label: String, part| PartitionSpec::read_only(label, layout.table_filler(), part);
        let archive = |label: String, part| PartitionSpec::read_only(label, layout.apk_filler(), part);
        // Its length prefix tells its end whatever follows.
        let metadata = Part::Bytes(metadata::encode(&self.metadata()).into());
        let mut specs = vec![PartitionSpec::read_only(layout.metadata_label(), Filler::None, metadata)];
        for (index, apex) in self.apexes.into_iter().enumerate() {
            specs.push(PartitionSpec::read_only(labels::apex(index), layout.apex_filler(), apex.image));
        }
        if let Some(app) = self.apk {
            specs.extend([archive(labels::APK.into(), app.apk), table(labels::APK_IDSIG.into(), app.idsig)]);
        }
        for (index, extra) in self.extra_apks.into_iter().enumerate() {
            specs.push(archive(labels::extra_apk(index), extra.apk));
            specs.push(table(labels::extra_idsig(index), extra.idsig));
        }
        specs
    }
}
