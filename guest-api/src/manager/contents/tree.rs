//! The directory tree of an archive's entries, as inodes.
//!
//! An archive is a flat list of paths; a file system answers "what is `name` in directory 17". Inode 1 is the root, as FUSE
//! wants it; directories that no entry names exist because files lie in them. Built once, never changed.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

#[cfg(test)]
mod tests;

/// Most inodes of one tree: as many files as an archive without ZIP64 holds, and as many directories.
pub const MAX_NODES: usize = 2 * 65536;

/// Longest name of one file or directory in bytes, as everywhere in Linux.
pub const MAX_NAME: usize = 255;

/// The root directory.
pub const ROOT: u64 = 1;

/// Why entries are no directory tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A component is empty, `.`, `..`, holds a zero byte or is longer than [`MAX_NAME`].
    #[error("entry {0:?} is not a path of names that a file system can have")]
    Name(String),
    /// Two entries of one path, or a file in whose place a directory must be.
    #[error("entry {0:?} is there twice, or as a file and a directory")]
    Conflict(String),
    /// More than [`MAX_NODES`].
    #[error("the entries make more than {MAX_NODES} files and directories")]
    TooMany,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file: the index of its entry, in the order given to [`Tree::new`].
    File(usize),
}

/// One line of a directory listing.
#[derive(Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The inode.
    pub ino: u64,
    /// Where to go on after this line.
    pub next: u64,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: &'a str,
}

#[derive(Debug)]
struct Node {
    name: Box<str>,
    parent: u32,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// Children by name, so that a lookup is a binary search and a listing has one order.
    Directory(Vec<u32>),
    File(usize),
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// Builds the tree of `(path, is a directory)` pairs; a path has no slash at its ends.
    ///
    /// # Errors
    /// [`TreeError`] when the paths cannot all be there at once.
    pub fn new<'a>(entries: impl IntoIterator<Item = (&'a str, bool)>) -> Result<Self, TreeError> {
        let root = Node { name: "".into(), parent: 0, body: Body::Directory(Vec::new()) };
        let mut tree = Self { nodes: vec![root] };
        let mut known: HashMap<(u32, &'a str), u32> = HashMap::new();
        for (index, (path, directory)) in entries.into_iter().enumerate() {
            let mut parent = 0;
            let mut names = path.split('/').peekable();
            while let Some(name) = names.next() {
                if !is_name(name) {
                    return Err(TreeError::Name(path.to_owned()));
                }
                let wants_directory = directory || names.peek().is_some();
                parent = match known.entry((parent, name)) {
                    Slot::Occupied(slot) if wants_directory && tree.is_directory(*slot.get()) => *slot.get(),
                    Slot::Occupied(_) => return Err(TreeError::Conflict(path.to_owned())),
                    Slot::Vacant(slot) => {
                        let body =
                            if wants_directory { Body::Directory(Vec::new()) } else { Body::File(index) };
                        *slot.insert(tree.push(parent, name, body)?)
                    }
                };
            }
        }
        tree.sort();
        Ok(tree)
    }

    /// What `ino` is; none when there is no such inode.
    #[must_use]
    pub fn kind(&self, ino: u64) -> Option<Kind> {
        self.node(ino).map(Node::kind)
    }

    /// The inode of `name` in directory `parent`.
    #[must_use]
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Option<u64> {
        let Body::Directory(children) = &self.node(parent)?.body else { return None };
        let place =
            children.binary_search_by(|&child| self.nodes[index(child)].name.as_bytes().cmp(name)).ok()?;
        Some(inode(children[place]))
    }

    /// The lines of directory `ino` from place `from` on, `.` and `..` first; none when it is no directory.
    pub fn list(&self, ino: u64, from: u64) -> Option<impl Iterator<Item = Item<'_>>> {
        let node = self.node(ino)?;
        let Body::Directory(children) = &node.body else { return None };
        let parent = inode(node.parent);
        let dots = [(ino, "."), (parent, "..")].into_iter().map(|(ino, name)| (ino, Kind::Directory, name));
        let rest = children.iter().map(|&child| {
            let node = &self.nodes[index(child)];
            (inode(child), node.kind(), &*node.name)
        });
        // A place past the end of any listing skips all of it.
        let skipped = usize::try_from(from).unwrap_or(usize::MAX);
        let lines = dots.chain(rest).zip(1..).skip(skipped);
        Some(lines.map(|((ino, kind, name), next)| Item { ino, next, kind, name }))
    }

    /// How many directories lie directly in directory `ino`: its link count is two more.
    #[must_use]
    pub fn subdirectories(&self, ino: u64) -> usize {
        match self.node(ino).map(|node| &node.body) {
            Some(Body::Directory(children)) => {
                children.iter().filter(|&&child| self.is_directory(child)).count()
            }
            _ => 0,
        }
    }

    /// How many inodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: there always is a root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    fn node(&self, ino: u64) -> Option<&Node> {
        self.nodes.get(usize::try_from(ino.checked_sub(1)?).ok()?)
    }

    fn is_directory(&self, node: u32) -> bool {
        matches!(self.nodes[index(node)].body, Body::Directory(_))
    }

    fn push(&mut self, parent: u32, name: &str, body: Body) -> Result<u32, TreeError> {
        let id = u32::try_from(self.nodes.len()).ok().filter(|_| self.nodes.len() < MAX_NODES);
        let id = id.ok_or(TreeError::TooMany)?;
        self.nodes.push(Node { name: name.into(), parent, body });
        if let Body::Directory(children) = &mut self.nodes[index(parent)].body {
            children.push(id);
        }
        Ok(id)
    }

    fn sort(&mut self) {
        for id in 0..self.nodes.len() {
            let Body::Directory(children) = &mut self.nodes[id].body else { continue };
            let mut children = std::mem::take(children);
            children.sort_unstable_by(|&a, &b| self.nodes[index(a)].name.cmp(&self.nodes[index(b)].name));
            self.nodes[id].body = Body::Directory(children);
        }
    }
}

impl Node {
    fn kind(&self) -> Kind {
        match self.body {
            Body::Directory(_) => Kind::Directory,
            Body::File(entry) => Kind::File(entry),
        }
    }
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME && !name.contains('\0')
}

fn inode(node: u32) -> u64 {
    u64::from(node) + 1
}

fn index(node: u32) -> usize {
    usize::try_from(node).expect("made from an index")
}
