//! A disk's bytes, wherever they are: raw images, composite disks and plans, read as one.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::composite::{CompositeError, CompositeSpec, is_composite};
use super::{Content, DiskPlan, Extent};
use crate::ReadAt;

/// Why a disk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be opened.
    #[error("open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It begins as the specification of a composite disk, and is none.
    #[error("read the composite disk {}", path.display())]
    Composite {
        /// The specification file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: CompositeError,
    },
    /// A component is not as the specification wants it.
    #[error(transparent)]
    Component(#[from] CompositeError),
    /// A file ends before the disk needs it to.
    #[error("{} has {len} bytes, and the disk needs {needed}", path.display())]
    ShortFile {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// Bytes of it that the disk needs.
        needed: u64,
    },
}

/// Opens a regular file or a block device; anything else is refused, and nothing is waited for.
///
/// # Errors
/// What the operating system says, or `InvalidInput` for directories, pipes, sockets and terminals.
pub fn open_file(path: &Path, writable: bool) -> io::Result<File> {
    // Non-blocking, or opening a pipe would wait for its other end; files and block devices do not care.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a flag of open(2) is an int");
    let file = File::options().read(true).write(writable).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device"))
}

/// Opens the disk at `path`: what begins with [`super::COMPOSITE_MAGIC`] is a composite disk, anything else a raw image.
///
/// # Errors
/// [`OpenError`], naming the file that is wrong.
pub fn open(path: &Path) -> Result<DiskReader, OpenError> {
    let open_error = |source| OpenError::Open { path: path.to_path_buf(), source };
    let file = open_file(path, false).map_err(open_error)?;
    if !is_composite(&file).map_err(open_error)? {
        return DiskReader::raw(path.to_path_buf(), file).map_err(open_error);
    }
    let composite_error = |source| OpenError::Composite { path: path.to_path_buf(), source };
    let spec = CompositeSpec::read(&file).map_err(composite_error)?;
    let mut files = Files::default();
    let directory = path.parent().unwrap_or(Path::new(""));
    let extents = spec.extents(directory, |path, _| files.open(path))?;
    Ok(DiskReader::new(extents, spec.len(), files, Some(spec)))
}

/// Open files by path, each once.
#[derive(Debug, Default)]
struct Files {
    files: Vec<File>,
    by_path: HashMap<PathBuf, usize>,
}

impl Files {
    fn open(&mut self, path: &Path) -> Result<u64, OpenError> {
        let error = |source| OpenError::Open { path: path.to_path_buf(), source };
        let index = match self.by_path.get(path) {
            Some(index) => *index,
            None => {
                self.files.push(open_file(path, false).map_err(error)?);
                self.by_path.insert(path.to_path_buf(), self.files.len() - 1);
                self.files.len() - 1
            }
        };
        ReadAt::len(&self.files[index]).map_err(error)
    }
}

/// A disk whose files are open, to be read like one flat image.
#[derive(Debug)]
pub struct DiskReader {
    len: u64,
    extents: Vec<Extent>,
    /// For each extent, which of the files it is a range of.
    sources: Vec<Option<usize>>,
    files: Vec<File>,
    spec: Option<CompositeSpec>,
}

impl DiskReader {
    /// The disk of a plan.
    ///
    /// # Errors
    /// [`OpenError`] when a file cannot be opened or is shorter than planned.
    pub fn of_plan(plan: &DiskPlan) -> Result<Self, OpenError> {
        let mut files = Files::default();
        for extent in &plan.extents {
            let Content::File { path, offset, .. } = &extent.content else { continue };
            let len = files.open(path)?;
            let needed = offset.saturating_add(extent.len);
            if len < needed {
                return Err(OpenError::ShortFile { path: path.clone(), len, needed });
            }
        }
        Ok(Self::new(plan.extents.clone(), plan.len, files, None))
    }

    fn raw(path: PathBuf, file: File) -> io::Result<Self> {
        let len = ReadAt::len(&file)?;
        let mut extents = Vec::new();
        let mut files = Files::default();
        if len > 0 {
            let content = Content::File { path: path.clone(), offset: 0, writable: false };
            extents.push(Extent { start: 0, len, content });
            files.files.push(file);
            files.by_path.insert(path, 0);
        }
        Ok(Self::new(extents, len, files, None))
    }

    fn new(extents: Vec<Extent>, len: u64, files: Files, spec: Option<CompositeSpec>) -> Self {
        let sources = extents
            .iter()
            .map(|extent| match &extent.content {
                Content::File { path, .. } => Some(files.by_path[path]),
                Content::Bytes(_) | Content::Zeros => None,
            })
            .collect();
        Self { len, extents, sources, files: files.files, spec }
    }

    /// What each byte of the disk is: sorted, without gaps.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The specification, when it is a composite disk.
    pub fn composite(&self) -> Option<&CompositeSpec> {
        self.spec.as_ref()
    }

    fn read_extent(&self, index: usize, buffer: &mut [u8], within: u64) -> io::Result<()> {
        let extent = &self.extents[index];
        match (&extent.content, self.sources[index]) {
            (Content::Bytes(bytes), _) => bytes.read_exact_at(buffer, within),
            (Content::File { path, offset, .. }, Some(source)) => {
                self.files[source].read_exact_at(buffer, offset + within).map_err(|error| {
                    let what = match error.kind() {
                        io::ErrorKind::UnexpectedEof => "it has become shorter".to_string(),
                        _ => error.to_string(),
                    };
                    io::Error::new(error.kind(), format!("read {}: {what}", path.display()))
                })
            }
            (Content::File { .. } | Content::Zeros, _) => {
                buffer.fill(0);
                Ok(())
            }
        }
    }
}

impl ReadAt for DiskReader {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end of the disk"));
        }
        let mut index = self.extents.partition_point(|extent| extent.start + extent.len <= offset);
        while !buffer.is_empty() {
            let extent = &self.extents[index];
            let within = offset - extent.start;
            let here = usize::try_from(extent.len - within).unwrap_or(usize::MAX).min(buffer.len());
            let (head, tail) = buffer.split_at_mut(here);
            self.read_extent(index, head, within)?;
            buffer = tail;
            offset += here as u64;
            index += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
