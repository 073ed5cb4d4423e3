//! The payload disk of one application, in the default layout.

use super::{Filler, Part, PartitionSpec};
use crate::labels;
use crate::metadata::{self, Metadata, Payload};

/// What goes on a payload disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadDisk {
    /// The application's archive.
    pub apk: Part,
    /// Its hash tree.
    pub idsig: Part,
    /// Further archives, in the order of the application's list.
    pub extra_apks: Vec<ExtraApk>,
    /// What to run; see [`metadata::config_path`].
    pub payload: Payload,
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
    /// The partitions in their order: metadata, archive and idsig, then each extra archive and its idsig.
    pub fn partitions(self) -> Vec<PartitionSpec> {
        let metadata = metadata::encode(&Metadata::for_apk(Vec::new(), self.payload));
        let mut specs = vec![
            PartitionSpec::read_only(labels::METADATA, Filler::None, Part::Bytes(metadata.into())),
            PartitionSpec::read_only(labels::APK, Filler::Zero, self.apk),
            PartitionSpec::read_only(labels::APK_IDSIG, Filler::None, self.idsig),
        ];
        for (index, extra) in self.extra_apks.into_iter().enumerate() {
            specs.push(PartitionSpec::read_only(labels::extra_apk(index), Filler::Zero, extra.apk));
            specs.push(PartitionSpec::read_only(labels::extra_idsig(index), Filler::None, extra.idsig));
        }
        specs
    }
}
