//! A planned disk as a specification file, and the files that it needs beside those that are there already.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Component, CompositeError, CompositeSpec, CompositeVersion};
use crate::disk::{Content, DiskPlan, Extent, Filler, Partition};

/// A file of the disk that is yet to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Its path: beside the specification file, and named after it.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// What is in it, by place; the rest is zeros.
    pub pieces: Vec<(u64, Arc<[u8]>)>,
}

impl NewFile {
    /// Writes it into `out`, whose former contents are lost; zeros are holes.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write(&self, out: &File) -> io::Result<()> {
        out.set_len(0)?;
        out.set_len(self.len)?;
        self.pieces.iter().try_for_each(|(at, bytes)| out.write_all_at(bytes, *at))
    }
}

/// A planned disk in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompositeFiles {
    /// What the specification file says.
    pub spec: CompositeSpec,
    /// The files that it names and that are yet to be written.
    pub files: Vec<NewFile>,
}

impl CompositeFiles {
    /// The files of `plan` for a specification file at `path`. With `path` = `disk.img` they are
    ///
    /// ```text
    ///   disk-header.img     everything before the first partition
    ///   disk-metadata.img   the first partition, when it is no file already
    ///   disk-content-N.img  the same of partition N + 1
    ///   disk-filler-N.img   the filler of partition N + 1; none where there is none
    ///   disk-footer.img     everything behind the last partition
    /// ```
    ///
    /// Paths of the plan, and `path`, are absolute; in [`CompositeVersion::Relative`] those below the specification's
    /// directory become relative, so that the directory can be moved as a whole.
    ///
    /// # Errors
    /// [`CompositeError`] when the plan has no composite disk.
    pub fn of_plan(plan: &DiskPlan, path: &Path, version: CompositeVersion) -> Result<Self, CompositeError> {
        let first = plan.partitions.first().map_or(0, |partition| partition.start);
        let end = plan.partitions.last().map_or(0, |partition| partition.start + partition.len);
        let mut made = Made { version, path, components: Vec::new(), files: Vec::new() };
        made.add("header", &plan.extents, 0, first);
        for (index, partition) in plan.partitions.iter().enumerate() {
            made.add_partition(index, partition, &plan.extents);
        }
        made.add("footer", &plan.extents, end, plan.len);
        let spec = CompositeSpec::new(version, made.components, plan.len)?;
        Ok(Self { spec, files: made.files })
    }
}

/// The path beside `path` whose name has `suffix` before its extension: `disk.img` becomes `disk-suffix.img`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push("-");
    name.push(suffix);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// A disk in files, in the making.
struct Made<'a> {
    version: CompositeVersion,
    path: &'a Path,
    components: Vec<Component>,
    files: Vec<NewFile>,
}

impl Made<'_> {
    fn add_partition(&mut self, index: usize, partition: &Partition, extents: &[Extent]) {
        let content_end = partition.start + partition.content_len;
        let end = partition.start + partition.len;
        let number = index.checked_sub(1);
        let first = within(extents, partition.start, content_end);
        if first.iter().any(|extent| matches!(extent.content, Content::Bytes(_))) {
            // Its tail is in the same file.
            let suffix = number.map_or("metadata".to_string(), |n| format!("content-{n}"));
            return self.add_mixed(&suffix, extents, partition, end);
        }
        self.add_files(first);
        // Without a filler the tail is whatever is there: zeros, to readers of the specification.
        if content_end < end && partition.filler != Filler::None {
            let suffix = number.map_or("filler".to_string(), |n| format!("filler-{n}"));
            self.add(&suffix, extents, content_end, end);
        }
    }

    /// A partition of bytes of the plan, perhaps with files between them.
    fn add_mixed(&mut self, suffix: &str, extents: &[Extent], partition: &Partition, end: u64) {
        let all = within(extents, partition.start, end);
        let runs: Vec<&[Extent]> = all.chunk_by(|a, b| is_file(&a.content) == is_file(&b.content)).collect();
        for (index, run) in runs.iter().enumerate() {
            let (start, last) = (run[0].start, &run[run.len() - 1]);
            if is_file(&run[0].content) {
                self.add_files(run);
            } else {
                let suffix = if index == 0 { suffix.to_string() } else { format!("{suffix}-{index}") };
                self.add(&suffix, run, start, last.start + last.len);
            }
        }
    }

    /// A new file of the bytes from `start` to `end`, of which none are in files already.
    fn add(&mut self, suffix: &str, extents: &[Extent], start: u64, end: u64) {
        if start == end {
            return;
        }
        let pieces = within(extents, start, end)
            .iter()
            .filter_map(|extent| match &extent.content {
                Content::Bytes(bytes) => Some((extent.start - start, Arc::clone(bytes))),
                Content::File { .. } | Content::Zeros => None,
            })
            .collect();
        let path = beside(self.path, suffix);
        self.components.push(Component {
            path: self.named(&path),
            offset: start,
            file_offset: 0,
            writable: false,
        });
        self.files.push(NewFile { path, len: end - start, pieces });
    }

    fn add_files(&mut self, extents: &[Extent]) {
        for extent in extents {
            let Content::File { path, offset, writable } = &extent.content else { continue };
            self.components.push(Component {
                path: self.named(path),
                offset: extent.start,
                file_offset: *offset,
                writable: *writable,
            });
        }
    }

    /// How the specification names the file at `path`.
    fn named(&self, path: &Path) -> PathBuf {
        let directory = self.path.parent().filter(|_| self.version == CompositeVersion::Relative);
        directory.and_then(|directory| path.strip_prefix(directory).ok()).unwrap_or(path).to_path_buf()
    }
}

fn is_file(content: &Content) -> bool {
    matches!(content, Content::File { .. })
}

/// The extents from byte `start` to `end`, which are ends of extents themselves.
fn within(extents: &[Extent], start: u64, end: u64) -> &[Extent] {
    let from = extents.partition_point(|extent| extent.start < start);
    let to = extents.partition_point(|extent| extent.start < end);
    &extents[from..to]
}

#[cfg(test)]
mod tests;
