//! Writer of the archive that Linux unpacks into its first root: cpio, "newc" form.
//!
//! ```text
//! per entry: "070701" | 13 fields of 8 hex digits | name NUL | pad to 4 | content | pad to 4      (end: "TRAILER!!!")
//! fields: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
//! ```
//!
//! The same tree gives the same bytes: entries are sorted, and owner and times are zero.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// Where a file's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes made here.
    Bytes(Vec<u8>),
    /// A file of the machine, read when the archive is written.
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory { mode: u32 },
    Regular { mode: u32, content: Content },
}

/// A tree of files that becomes one archive.
#[derive(Clone, Debug)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

impl Default for Archive {
    fn default() -> Self {
        Self { nodes: BTreeMap::from([(".".to_owned(), Node::Directory { mode: 0o755 })]) }
    }
}

impl Archive {
    /// Adds a directory, and those above it that are not there yet.
    ///
    /// # Errors
    /// When the path is not a plain absolute one, or something else is there.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.insert(path, Node::Directory { mode })
    }

    /// Adds a file, and the directories above it.
    ///
    /// # Errors
    /// As for [`Self::directory`].
    pub fn file(&mut self, path: &str, mode: u32, content: Content) -> Result<()> {
        self.insert(path, Node::Regular { mode, content })
    }

    /// Whether something is at this path.
    pub fn contains(&self, path: &str) -> bool {
        path.strip_prefix('/').is_some_and(|name| self.nodes.contains_key(name))
    }

    fn insert(&mut self, path: &str, node: Node) -> Result<()> {
        let name = path.strip_prefix('/').with_context(|| format!("{path:?} is not an absolute path"))?;
        let plain = !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        ensure!(plain && !name.contains('\0') && name.len() < 4096, "{path:?} is not a plain path");
        for (end, _) in name.match_indices('/') {
            let above = &name[..end];
            match self.nodes.get(above) {
                None => {
                    self.nodes.insert(above.to_owned(), Node::Directory { mode: 0o755 });
                }
                Some(Node::Directory { .. }) => {}
                Some(_) => bail!("{path} lies below /{above}, which is not a directory"),
            }
        }
        match (self.nodes.get(name), &node) {
            // A directory that was only implied so far gets its own mode.
            (Some(Node::Directory { .. }), Node::Directory { .. }) | (None, _) => {}
            (Some(there), node) => ensure!(there == node, "{path} is there twice, with different contents"),
        }
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    /// Writes the archive and says how many bytes it has.
    ///
    /// # Errors
    /// When a file cannot be read, is too large for the format or changes meanwhile, or `out` fails.
    pub fn write(&self, out: impl Write) -> Result<u64> {
        let mut out = Counted { out, written: 0 };
        for (number, (name, node)) in (1_u32..).zip(&self.nodes) {
            write_node(&mut out, number, name, node)
                .with_context(|| format!("Put /{name} into the archive"))?;
        }
        let trailer = Header { ino: 0, mode: 0, nlink: 1, size: 0, name: "TRAILER!!!" };
        trailer.write(&mut out)?;
        out.out.flush()?;
        Ok(out.written)
    }
}

fn write_node(out: &mut Counted<impl Write>, ino: u32, name: &str, node: &Node) -> Result<()> {
    match node {
        Node::Directory { mode } => {
            Header { ino, mode: DIRECTORY | mode, nlink: 2, size: 0, name }.write(out)?;
        }
        Node::Regular { mode, content } => {
            let header = |len: u64| -> Result<Header<'_>> {
                let size =
                    u32::try_from(len).ok().context("It has 4 GiB or more, which the format cannot hold")?;
                Ok(Header { ino, mode: REGULAR | mode, nlink: 1, size, name })
            };
            match content {
                Content::Bytes(bytes) => {
                    header(u64::try_from(bytes.len())?)?.write(out)?;
                    out.write_all(bytes)?;
                }
                Content::File(path) => copy(out, path, header)?,
            }
        }
    }
    out.pad()?;
    Ok(())
}

fn copy<'a>(
    out: &mut Counted<impl Write>,
    path: &Path,
    header: impl Fn(u64) -> Result<Header<'a>>,
) -> Result<()> {
    let file = File::open(path).with_context(|| format!("Open {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("Ask for the size of {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is not a regular file", path.display());
    header(metadata.len())?.write(out)?;
    let copied = io::copy(&mut file.take(metadata.len()), out)?;
    ensure!(copied == metadata.len(), "{} became shorter while it was read", path.display());
    Ok(())
}

struct Header<'a> {
    ino: u32,
    mode: u32,
    nlink: u32,
    size: u32,
    name: &'a str,
}

impl Header<'_> {
    fn write(&self, out: &mut Counted<impl Write>) -> Result<()> {
        let name_size = u32::try_from(self.name.len() + 1)?;
        let fields = [self.ino, self.mode, 0, 0, self.nlink, 0, self.size, 0, 0, 0, 0, name_size, 0]
            .map(|n| format!("{n:08X}"));
        write!(out, "070701{}{}\0", fields.concat(), self.name)?;
        out.pad()?;
        Ok(())
    }
}

struct Counted<W> {
    out: W,
    written: u64,
}

impl<W: Write> Counted<W> {
    fn pad(&mut self) -> io::Result<()> {
        let zeros = usize::try_from(self.written.wrapping_neg() % 4).map_err(io::Error::other)?;
        self.write_all(&[0; 4][..zeros])
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.written += u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
