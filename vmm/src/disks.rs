//! From a disk's plan to a disk that a device can serve: each file opened once, and checked to be what was
//! planned.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::blk::{CompositeDisk, CompositeError, Content as Source, Extent as Segment};
use payload::disk::{Content, DiskError, DiskPlan, Filler, GuidSource, Part, PartitionSpec};

use crate::config::raw::{DiskConfig, FillerConfig, PartitionConfig};

/// A disk whose files are open.
pub struct OpenDisk {
    /// What its bytes are.
    pub disk: CompositeDisk,
    /// What the guest reads as its serial number, at most 20 bytes.
    pub id: String,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// Why a disk cannot be given to a VM.
#[derive(Debug, thiserror::Error)]
pub enum OpenDiskError {
    /// A file cannot be opened.
    #[error("{what} \"{}\"", path.display())]
    Open {
        /// What the file is for.
        what: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The partitions make no disk.
    #[error("plan the disk")]
    Plan(#[source] DiskError),
    /// The extents make no disk.
    #[error("compose the disk")]
    Compose(#[source] CompositeError),
}

/// The files of a VM's disks, open: asked for by path once, used by descriptor from then on.
#[derive(Default)]
pub struct FileSet {
    open: HashMap<PathBuf, (Arc<File>, bool)>,
}

impl FileSet {
    /// Opens a regular file or block device, and gives its size in bytes.
    ///
    /// # Errors
    /// Naming `what` the file is for and the path.
    pub fn open(&mut self, what: &str, path: &Path, writable: bool) -> Result<u64, OpenDiskError> {
        let error = |source| OpenDiskError::Open { what: what.to_string(), path: path.to_path_buf(), source };
        let file = match self.open.get(path) {
            Some((file, was_writable)) if *was_writable || !writable => file.clone(),
            _ => {
                let file = Arc::new(open_disk_file(path, writable).map_err(error)?);
                self.open.insert(path.to_path_buf(), (file.clone(), writable));
                file
            }
        };
        size_of_file(&file).map_err(error)
    }

    /// Every path that was opened.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.open.keys()
    }

    /// An open file, to read it.
    pub fn get(&self, path: &Path) -> Option<&Arc<File>> {
        self.open.get(path).map(|(file, _)| file)
    }

    /// The composite disk of `partitions`, whose files were all opened here.
    ///
    /// # Errors
    /// When they make no disk.
    pub fn compose(
        &mut self,
        partitions: &[PartitionSpec],
        id: &str,
        read_only: bool,
    ) -> Result<OpenDisk, OpenDiskError> {
        let plan = payload::disk::plan(partitions, GuidSource::Random).map_err(OpenDiskError::Plan)?;
        let disk = CompositeDisk::new(self.segments(plan)?).map_err(OpenDiskError::Compose)?;
        Ok(OpenDisk { disk, id: id.to_string(), read_only })
    }

    fn segments(&mut self, plan: DiskPlan) -> Result<Vec<Segment>, OpenDiskError> {
        plan.extents
            .into_iter()
            .map(|extent| {
                let content = match extent.content {
                    Content::Bytes(bytes) => Source::Bytes(bytes),
                    Content::Zeros => Source::Zeros,
                    Content::File { path, offset, writable } => {
                        self.open("partition", &path, writable)?;
                        let (file, _) = &self.open[&path];
                        Source::File { file: file.clone(), offset, writable }
                    }
                };
                Ok(Segment { start: extent.start, len: extent.len, content })
            })
            .collect()
    }

    /// The disk of a raw configuration.
    ///
    /// # Errors
    /// Naming the file or partition.
    pub fn from_config(&mut self, config: &DiskConfig, id: &str) -> Result<OpenDisk, OpenDiskError> {
        if let Some(image) = &config.image {
            let len = self.open("disk image", image, config.writable)?;
            let (file, _) = &self.open[image];
            let disk = CompositeDisk::from_file(file.clone(), len, config.writable)
                .map_err(OpenDiskError::Compose)?;
            return Ok(OpenDisk { disk, id: id.to_string(), read_only: !config.writable });
        }
        let partitions = config
            .partitions
            .iter()
            .map(|partition| self.partition(partition))
            .collect::<Result<Vec<_>, _>>()?;
        self.compose(&partitions, id, !config.writable)
    }

    fn partition(&mut self, config: &PartitionConfig) -> Result<PartitionSpec, OpenDiskError> {
        let what = format!("partition \"{}\":", config.label);
        let parts = config
            .path
            .iter()
            .chain(&config.paths)
            .map(|path| {
                let len = self.open(&what, path, config.writable)?;
                Ok(Part::File { path: path.clone(), len })
            })
            .collect::<Result<Vec<_>, OpenDiskError>>()?;
        let filler = match config.filler {
            FillerConfig::None => Filler::None,
            FillerConfig::Zero => Filler::Zero,
            FillerConfig::Size => Filler::Size,
        };
        Ok(PartitionSpec { label: config.label.clone(), writable: config.writable, filler, parts })
    }
}

/// Non-blocking, or opening a FIFO would wait for its other end; files and block devices do not care.
fn open_disk_file(path: &Path, writable: bool) -> io::Result<File> {
    use std::os::unix::fs::FileTypeExt;
    let file = File::options().read(true).write(writable).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device"))
}

fn size_of_file(file: &File) -> io::Result<u64> {
    use std::io::Seek;
    // The end tells the size of block devices too; nobody uses the file's position.
    let mut file = file;
    file.seek(io::SeekFrom::End(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = FileSet::default();
        for path in [dir.path().to_path_buf(), dir.path().join("absent"), "/dev/null".into()] {
            let error = files.open("disk image", &path, false).unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn a_file_is_opened_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [1; 8192]).unwrap();
        let mut files = FileSet::default();
        assert_eq!(files.open("a", &path, false).unwrap(), 8192);
        let first = files.get(&path).unwrap().clone();
        files.open("b", &path, false).unwrap();
        assert!(Arc::ptr_eq(&first, files.get(&path).unwrap()));
    }

    #[test]
    fn a_composite_disk_is_planned_from_the_open_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [7; 5000]).unwrap();
        let config = DiskConfig {
            partitions: vec![PartitionConfig {
                label: "a".into(),
                path: Some(path),
                filler: FillerConfig::Zero,
                ..Default::default()
            }],
            ..Default::default()
        };
        let disk = FileSet::default().from_config(&config, "vda").unwrap();
        assert!(disk.read_only);
        assert_eq!(devices::virtio::blk::Disk::len(&disk.disk) % 65536, 0);
    }
}
