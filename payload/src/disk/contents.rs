//! What the partitions of a payload disk hold, and where that ends.

use std::io;

use super::{Filler, padded_len};
use crate::ReadAt;
use crate::apk::zip::{ZipError, archive_len};
use crate::idsig::{Idsig, IdsigError};
use crate::labels::Role;
use crate::metadata::{self, Metadata, MetadataError};

/// What a partition holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// Bytes of it, from the partition's first on; what follows is filler.
    pub len: u64,
    /// How its end is told.
    pub filler: Filler,
    /// What it is.
    pub kind: Kind,
}

/// What there can be in a partition.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// What the disk says of itself.
    Metadata(Metadata),
    /// An APK or an APEX.
    Archive,
    /// An archive's hash tree.
    Idsig(Idsig),
    /// Something of which the label says nothing: all bytes count.
    Other,
}

/// Why a partition does not hold what its label says.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// The partition cannot be read.
    #[error("read the partition")]
    Read(#[source] io::Error),
    /// No metadata.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// No archive, or something other than filler behind it.
    #[error(transparent)]
    Archive(#[from] ZipError),
    /// No hash tree.
    #[error(transparent)]
    Idsig(#[from] IdsigError),
}

impl Contents {
    /// Finds out what fills `partition`, whose name is `label`, in any of the three layouts.
    ///
    /// # Errors
    /// [`ContentsError`] when it is not what the label says.
    pub fn read(label: &str, partition: &dyn ReadAt) -> Result<Self, ContentsError> {
        let partition_len = partition.len().map_err(ContentsError::Read)?;
        match Role::of(label) {
            Some(Role::Metadata) => read_metadata(partition, partition_len),
            Some(Role::Apex(_) | Role::Apk | Role::ExtraApk(_)) => {
                let len = archive_len(partition, partition_len)?;
                let filler = if tells_size(partition, len, partition_len).map_err(ContentsError::Read)? {
                    Filler::Size
                } else {
                    Filler::Zero
                };
                Ok(Self { len, filler, kind: Kind::Archive })
            }
            Some(Role::ApkIdsig | Role::ExtraIdsig(_)) => {
                let idsig = Idsig::read(partition)?;
                let len = idsig.tree_offset + idsig.tree_len;
                Ok(Self { len, filler: Filler::None, kind: Kind::Idsig(idsig) })
            }
            None => Ok(Self { len: partition_len, filler: Filler::None, kind: Kind::Other }),
        }
    }
}

fn read_metadata(partition: &dyn ReadAt, partition_len: u64) -> Result<Contents, ContentsError> {
    let mut prefix = [0; 4];
    partition.read_exact_at(&mut prefix, 0).map_err(ContentsError::Read)?;
    let len = metadata::encoded_len(prefix)?;
    if len as u64 > partition_len {
        let there = usize::try_from(partition_len).unwrap_or(usize::MAX);
        return Err(MetadataError::Truncated { len: there, wanted: len }.into());
    }
    let mut bytes = vec![0; len];
    partition.read_exact_at(&mut bytes, 0).map_err(ContentsError::Read)?;
    let kind = Kind::Metadata(metadata::decode(&bytes)?);
    Ok(Contents { len: len as u64, filler: Filler::None, kind })
}

/// Whether the partition of an archive of `len` bytes ends with a size filler, which the archive's reader saw first.
fn tells_size(partition: &dyn ReadAt, len: u64, partition_len: u64) -> io::Result<bool> {
    if padded_len(len, Filler::Size) != Some(partition_len) {
        return Ok(false);
    }
    let mut told = [0; 4];
    partition.read_exact_at(&mut told, partition_len - 4)?;
    Ok(u64::try_from(i32::from_be_bytes(told)) == Ok(len))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Section;
    use crate::disk::{Apex, DiskReader, GuidSource, Layout, Part, PartitionTable, PayloadDisk, plan};
    use crate::metadata::ApexPayload;

    /// An archive of no entries, with a comment that makes it this long.
    fn archive(len: u16) -> Part {
        let mut bytes = b"PK\x05\x06".to_vec();
        bytes.resize(20, 0);
        bytes.extend((len - 22).to_le_bytes());
        bytes.resize(len.into(), b'c');
        Part::Bytes(Arc::from(bytes))
    }

    /// Section 1, "Reading a padded partition": every layout, at lengths around the block's end.
    #[test]
    fn every_layout_is_read_back() {
        for (layout, len) in Layout::ALL
            .into_iter()
            .flat_map(|it| [22, 4091, 4092, 4093, 4095, 4096, 4097].map(|len| (it, len)))
        {
            let disk = PayloadDisk {
                layout,
                apexes: vec![Apex { about: ApexPayload::default(), image: archive(len) }],
                ..PayloadDisk::new(archive(len), archive(22), metadata::config_path("c"))
            };
            let metadata = disk.metadata();
            let plan = plan(&disk.partitions(), GuidSource::Random).unwrap();
            let disk = DiskReader::of_plan(&plan).unwrap();
            let contents = |index: usize| {
                let partition = &PartitionTable::read(&disk).unwrap().partitions[index];
                let section =
                    Section::new(&disk, partition.start().unwrap(), partition.len().unwrap()).unwrap();
                Contents::read(&partition.label, &section)
            };
            let found = contents(0).unwrap();
            assert_eq!((found.len, found.kind), (plan.partitions[0].content_len, Kind::Metadata(metadata)));
            for (index, filler) in [(1, layout.apex_filler()), (2, layout.apk_filler())] {
                let expected = Contents { len: len.into(), filler, kind: Kind::Archive };
                assert_eq!(contents(index).unwrap(), expected, "{layout}, {len} bytes");
            }
            assert!(matches!(contents(3), Err(ContentsError::Idsig(_))));
        }
    }

    #[test]
    fn lengths_past_the_partition_are_refused() {
        let long = [0, 0, 16, 0].to_vec();
        let error = Contents::read("metadata", &long).unwrap_err();
        assert!(matches!(error, ContentsError::Metadata(MetadataError::Truncated { len: 4, wanted: 4100 })));
        assert!(matches!(Contents::read("payload-metadata", &vec![]), Err(ContentsError::Read(_))));
        assert!(matches!(Contents::read("microdroid-apk", &vec![0; 4096]), Err(ContentsError::Archive(_))));
        assert_eq!(Contents::read("home", &vec![0; 4096]).unwrap().kind, Kind::Other);
    }
}
