//! From a disk's plan to a disk that a device can serve: each file opened once, and checked to be what was
//! planned.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::virtio::blk::{
    CompositeDisk, CompositeError, Content as Source, EngineChoice, Extent as Segment,
};
use payload::disk::composite::{CompositeError as SpecError, CompositeSpec, is_composite};
use payload::disk::{Content, DiskError, Extent, Filler, GuidSource, Part, PartitionSpec};

use crate::config::raw::{DiskConfig, FillerConfig, PartitionConfig};
use crate::lock;

/// A disk whose files are open.
pub struct OpenDisk {
    /// What its bytes are.
    pub disk: CompositeDisk,
    /// What the guest reads as its serial number, at most 20 bytes.
    pub id: String,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Who waits for its files.
    pub engine: EngineChoice,
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
    /// The specification of a composite disk, or one of the files it names.
    #[error("composite disk \"{}\"", path.display())]
    Spec {
        /// The specification file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: SpecError,
    },
    /// The extents make no disk.
    #[error("compose the disk")]
    Compose(#[source] CompositeError),
}

/// Why a composite disk's specification has no extents here.
#[derive(Debug, thiserror::Error)]
enum ExtentsError {
    #[error(transparent)]
    Open(#[from] OpenDiskError),
    #[error(transparent)]
    Spec(#[from] SpecError),
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
            reader => {
                let file = Arc::new(payload::disk::open_file(path, writable).map_err(error)?);
                if let Some((reader, _)) = reader {
                    lock::unlock(reader);
                }
                lock::allow_waiting(&file).and_then(|()| lock::lock(&file, writable)).map_err(error)?;
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
        self.open_disk(plan.extents, id, read_only)
    }

    fn open_disk(
        &mut self,
        extents: Vec<Extent>,
        id: &str,
        read_only: bool,
    ) -> Result<OpenDisk, OpenDiskError> {
        let disk = CompositeDisk::new(self.segments(extents)?).map_err(OpenDiskError::Compose)?;
        Ok(OpenDisk { disk, id: id.to_string(), read_only, engine: EngineChoice::Auto })
    }

    fn segments(&mut self, extents: Vec<Extent>) -> Result<Vec<Segment>, OpenDiskError> {
        extents
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
        let disk = match &config.image {
            Some(image) => self.image(image, config.writable, id)?,
            None => self.partitioned(config, id)?,
        };
        Ok(OpenDisk { engine: config.engine, ..disk })
    }

    fn partitioned(&mut self, config: &DiskConfig, id: &str) -> Result<OpenDisk, OpenDiskError> {
        let partitions = config
            .partitions
            .iter()
            .map(|partition| self.partition(partition))
            .collect::<Result<Vec<_>, _>>()?;
        self.compose(&partitions, id, !config.writable)
    }

    /// A disk image: by its content a composite disk's specification, or the disk itself.
    fn image(&mut self, path: &Path, writable: bool, id: &str) -> Result<OpenDisk, OpenDiskError> {
        const WHAT: &str = "disk image";
        // A specification is only read, and may be in a file that nobody may write.
        let mut len = self.open(WHAT, path, false)?;
        let (file, _) = &self.open[path];
        let read_error =
            |source| OpenDiskError::Open { what: WHAT.to_string(), path: path.to_path_buf(), source };
        if is_composite(file).map_err(read_error)? {
            let spec = CompositeSpec::read(file)
                .map_err(|source| OpenDiskError::Spec { path: path.to_path_buf(), source })?;
            return self.composite(path, &spec, writable, id);
        }
        if writable {
            len = self.open(WHAT, path, true)?;
        }
        let (file, _) = &self.open[path];
        let disk = CompositeDisk::from_file(file.clone(), len, writable).map_err(OpenDiskError::Compose)?;
        Ok(OpenDisk { disk, id: id.to_string(), read_only: !writable, engine: EngineChoice::Auto })
    }

    /// A composite disk; what it lets the guest write, the guest may write if it may write the disk.
    fn composite(
        &mut self,
        path: &Path,
        spec: &CompositeSpec,
        writable: bool,
        id: &str,
    ) -> Result<OpenDisk, OpenDiskError> {
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut extents = spec
            .extents(directory, |file, component_writable| {
                Ok(self.open("component of the composite disk", file, writable && component_writable)?)
            })
            .map_err(|error: ExtentsError| match error {
                ExtentsError::Open(error) => error,
                ExtentsError::Spec(source) => OpenDiskError::Spec { path: path.to_path_buf(), source },
            })?;
        for extent in &mut extents {
            if let Content::File { writable: component_writable, .. } = &mut extent.content {
                *component_writable &= writable;
            }
        }
        self.open_disk(extents, id, !writable)
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

fn size_of_file(file: &File) -> io::Result<u64> {
    use std::io::Seek;
    // The end tells the size of block devices too; nobody uses the file's position.
    let mut file = file;
    file.seek(io::SeekFrom::End(0))
}

#[cfg(test)]
mod tests;
