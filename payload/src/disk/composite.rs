//! The composite disk's specification file: one disk made of files, each at its place (formats: section 2).
//!
//! ```text
//!   0                      15
//!   | composite_disk\x1d   | CompositeDisk { version, component_disks[], length }
//! ```
//!
//! A component reaches to where the next begins, the last to the disk's end. Its file may be shorter by less than
//! [`ALIGNMENT`] bytes, which then are zeros: the 2021-06 layout keeps no filler behind its hash trees. A file that
//! the guest may write has to be there to the last byte.

use std::io;
use std::path::{Component as PathComponent, Path, PathBuf};

use prost::Message;

use super::{ALIGNMENT, Content, Extent};
use crate::ReadAt;

mod files;
pub use files::{CompositeFiles, NewFile, beside};

mod wire {
    #![allow(missing_docs, reason = "generated from proto/composite.proto, which documents every field")]
    include!(concat!(env!("OUT_DIR"), "/kapsel.composite.rs"));
}

/// What a specification file begins with.
pub const COMPOSITE_MAGIC: &[u8; 15] = b"composite_disk\x1d";

/// Longest specification file read: paths of a few hundred bytes for every component of a full table.
pub const MAX_COMPOSITE_LEN: u64 = 256 << 10;

/// Most components of one disk.
pub const MAX_COMPONENTS: usize = 1024;

/// Why there is no composite disk.
#[derive(Debug, thiserror::Error)]
pub enum CompositeError {
    /// The specification cannot be read.
    #[error("read the composite disk's specification")]
    Read(#[source] io::Error),
    /// It does not begin as one.
    #[error("no composite disk: it does not begin with \"composite_disk\\x1d\"")]
    Magic,
    /// Longer than any specification needs to be.
    #[error("the composite disk's specification has {0} bytes, more than {MAX_COMPOSITE_LEN}")]
    TooLong(u64),
    /// Not the protobuf message.
    #[error("decode the composite disk's specification")]
    Decode(#[source] prost::DecodeError),
    /// A version this reader does not know.
    #[error("the composite disk has version {0}, expected 1 or 2")]
    Version(u32),
    /// No components, or too many.
    #[error("the composite disk has {0} components, expected 1 to {MAX_COMPONENTS}")]
    Components(usize),
    /// A component that cannot be.
    #[error("component {index} ({path:?}) of the composite disk: {problem}")]
    Component {
        /// Its number in the file, from 0.
        index: usize,
        /// Its path as it stands there.
        path: String,
        /// What is wrong with it.
        problem: ComponentProblem,
    },
    /// Nothing is at the beginning of the disk.
    #[error("the composite disk's first component begins at {0}, not at 0")]
    Start(u64),
    /// The disk ends before its last component begins, or where no file offset reaches.
    #[error("the composite disk has {length} bytes, and its last component begins at {last}")]
    Length {
        /// Length of the disk, as told.
        length: u64,
        /// Where the last component begins.
        last: u64,
    },
    /// A path that is no text, which the message cannot hold.
    #[error("the path {0:?} is not UTF-8")]
    PathText(PathBuf),
}

/// What is wrong with one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComponentProblem {
    /// It names no file.
    #[error("the path is empty, or has a NUL in it")]
    Path,
    /// A relative path in a version that knows none.
    #[error("the path is relative, which needs version 2")]
    Relative,
    /// It may be neither read-only nor read-write.
    #[error("read_write_capability {0}, expected 0 or 1")]
    Capability(i32),
    /// Another component begins there.
    #[error("a second one at offset {0}")]
    SameOffset(u64),
    /// The range in the file passes the largest file offset.
    #[error("the file range from {0} on passes the largest file offset")]
    FileRange(u64),
    /// The file ends too early.
    #[error("needs the file's bytes up to {needed}, and it has {len}")]
    ShortFile {
        /// Where the component ends in the file.
        needed: u64,
        /// Length of the file.
        len: u64,
    },
}

/// Which paths a specification file may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CompositeVersion {
    /// Version 1: absolute ones.
    Absolute,
    /// Version 2: relative to the specification's directory, too.
    #[default]
    Relative,
}

/// A file's place on a composite disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Path of the file, as it stands in the specification.
    pub path: PathBuf,
    /// First byte on the disk.
    pub offset: u64,
    /// First byte in the file.
    pub file_offset: u64,
    /// Whether the guest may write it.
    pub writable: bool,
}

/// A composite disk as its specification file has it, and checked: offsets grow from 0, and the last is below the length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompositeSpec {
    version: CompositeVersion,
    components: Vec<Component>,
    len: u64,
}

/// Whether `source` begins as a specification file does.
///
/// # Errors
/// When it cannot be read.
pub fn is_composite(source: &dyn ReadAt) -> io::Result<bool> {
    let mut magic = [0; COMPOSITE_MAGIC.len()];
    if source.len()? < magic.len() as u64 {
        return Ok(false);
    }
    source.read_exact_at(&mut magic, 0)?;
    Ok(magic == *COMPOSITE_MAGIC)
}

impl CompositeSpec {
    /// A disk of `len` bytes, of `components` in any order.
    ///
    /// # Errors
    /// [`CompositeError`] unless they are a disk.
    pub fn new(
        version: CompositeVersion,
        components: Vec<Component>,
        len: u64,
    ) -> Result<Self, CompositeError> {
        if !(1..=MAX_COMPONENTS).contains(&components.len()) {
            return Err(CompositeError::Components(components.len()));
        }
        let mut numbered: Vec<(usize, Component)> = components.into_iter().enumerate().collect();
        for (index, component) in &numbered {
            check_path(version, &component.path).map_err(|problem| component.error(*index, problem))?;
        }
        numbered.sort_by_key(|(_, component)| component.offset);
        for pair in numbered.windows(2) {
            let [(_, before), (index, component)] = pair else { continue };
            if before.offset == component.offset {
                let problem = ComponentProblem::SameOffset(component.offset);
                return Err(component.error(*index, problem));
            }
        }
        let (first, last) = (numbered[0].1.offset, numbered[numbered.len() - 1].1.offset);
        if first != 0 {
            return Err(CompositeError::Start(first));
        }
        if len <= last || i64::try_from(len).is_err() {
            return Err(CompositeError::Length { length: len, last });
        }
        let ends: Vec<u64> = numbered.iter().skip(1).map(|(_, next)| next.offset).chain([len]).collect();
        for ((index, component), end) in numbered.iter().zip(ends) {
            let file_end = component.file_offset.checked_add(end - component.offset);
            if file_end.is_none_or(|end| i64::try_from(end).is_err()) {
                return Err(component.error(*index, ComponentProblem::FileRange(component.file_offset)));
            }
        }
        let components = numbered.into_iter().map(|(_, component)| component).collect();
        Ok(Self { version, components, len })
    }

    /// Reads a specification file.
    ///
    /// # Errors
    /// [`CompositeError`] unless it is one, and a disk.
    pub fn read(source: &dyn ReadAt) -> Result<Self, CompositeError> {
        if !is_composite(source).map_err(CompositeError::Read)? {
            return Err(CompositeError::Magic);
        }
        let len = source.len().map_err(CompositeError::Read)?;
        if len > MAX_COMPOSITE_LEN {
            return Err(CompositeError::TooLong(len));
        }
        let mut bytes = vec![0; usize::try_from(len).expect("at most 256 KiB")];
        source.read_exact_at(&mut bytes, 0).map_err(CompositeError::Read)?;
        let message =
            wire::CompositeDisk::decode(&bytes[COMPOSITE_MAGIC.len()..]).map_err(CompositeError::Decode)?;
        let version = match message.version {
            1 => CompositeVersion::Absolute,
            2 => CompositeVersion::Relative,
            other => return Err(CompositeError::Version(other)),
        };
        let components = message
            .component_disks
            .into_iter()
            .enumerate()
            .map(|(index, disk)| from_wire(index, disk))
            .collect::<Result<_, _>>()?;
        Self::new(version, components, message.length)
    }

    /// The whole specification file.
    ///
    /// # Errors
    /// [`CompositeError::PathText`] for a path that is not UTF-8, [`CompositeError::TooLong`] for what no reader would read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CompositeError> {
        let disk = |component: &Component| {
            let path = component.path.to_str();
            Ok(wire::ComponentDisk {
                file_path: path.ok_or_else(|| CompositeError::PathText(component.path.clone()))?.to_string(),
                offset: component.offset,
                read_write_capability: i32::from(component.writable),
                file_offset: component.file_offset,
            })
        };
        let message = wire::CompositeDisk {
            version: match self.version {
                CompositeVersion::Absolute => 1,
                CompositeVersion::Relative => 2,
            },
            component_disks: self.components.iter().map(disk).collect::<Result<_, CompositeError>>()?,
            length: self.len,
        };
        let bytes = [COMPOSITE_MAGIC.as_slice(), &message.encode_to_vec()].concat();
        if bytes.len() as u64 > MAX_COMPOSITE_LEN {
            return Err(CompositeError::TooLong(bytes.len() as u64));
        }
        Ok(bytes)
    }

    /// Which paths it may have.
    pub fn version(&self) -> CompositeVersion {
        self.version
    }

    /// The components by their place; the first is at 0.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// Length of the disk in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a disk has a component of a byte at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What each byte of the disk is: sorted, without gaps, from 0 to its length. Paths are resolved against
    /// `directory`, where the specification file is; `file_len(path, writable)` tells each file's length.
    ///
    /// # Errors
    /// What `file_len` says, and [`ComponentProblem::ShortFile`] for files that end before their components.
    pub fn extents<E: From<CompositeError>>(
        &self,
        directory: &Path,
        mut file_len: impl FnMut(&Path, bool) -> Result<u64, E>,
    ) -> Result<Vec<Extent>, E> {
        let mut extents = Vec::with_capacity(self.components.len() + 1);
        let ends = self.components.iter().skip(1).map(|next| next.offset).chain([self.len]);
        for (index, (component, end)) in self.components.iter().zip(ends).enumerate() {
            let path = directory.join(&component.path);
            let (start, offset, writable) = (component.offset, component.file_offset, component.writable);
            let wanted = end - start;
            let file_len = file_len(&path, writable)?;
            let there = file_len.saturating_sub(offset).min(wanted);
            let missing = wanted - there;
            if missing >= ALIGNMENT || (writable && missing > 0) {
                let problem = ComponentProblem::ShortFile { needed: offset + wanted, len: file_len };
                return Err(component.error(index, problem).into());
            }
            if there > 0 {
                extents.push(Extent { start, len: there, content: Content::File { path, offset, writable } });
            }
            if missing > 0 {
                extents.push(Extent { start: start + there, len: missing, content: Content::Zeros });
            }
        }
        Ok(extents)
    }
}

impl Component {
    fn error(&self, index: usize, problem: ComponentProblem) -> CompositeError {
        CompositeError::Component { index, path: self.path.display().to_string(), problem }
    }
}

fn check_path(version: CompositeVersion, path: &Path) -> Result<(), ComponentProblem> {
    let named = path.components().any(|part| matches!(part, PathComponent::Normal(_)));
    if !named || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(ComponentProblem::Path);
    }
    if version == CompositeVersion::Absolute && path.is_relative() {
        return Err(ComponentProblem::Relative);
    }
    Ok(())
}

fn from_wire(index: usize, disk: wire::ComponentDisk) -> Result<Component, CompositeError> {
    let writable = match disk.read_write_capability {
        0 => false,
        1 => true,
        other => {
            let problem = ComponentProblem::Capability(other);
            return Err(CompositeError::Component { index, path: disk.file_path, problem });
        }
    };
    let path = PathBuf::from(disk.file_path);
    Ok(Component { path, offset: disk.offset, file_offset: disk.file_offset, writable })
}

#[cfg(test)]
mod tests;
