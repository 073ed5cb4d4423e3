//! The FUSE server over [`Tree`] and [`Files`].

use std::ffi::{CStr, CString, OsStr};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyOpen,
    ReplyStatfs, Request, Session, SessionACL,
};
use payload::ReadAt;
use payload::apk::Apk;

use super::files::Files;
use super::tree::{Kind, ROOT, Tree};
use crate::manager::mount::mount_at;

/// Nothing here ever changes, so the kernel may remember it for as long as it likes.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

const BLOCK: u32 = 4096;

/// Mounts a FUSE file system at `target` and gives the descriptor over which [`serve`] answers for it.
///
/// # Errors
/// Those of opening `/dev/fuse` and of mount(2).
pub fn mount(target: &CStr) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40555,user_id=0,group_id=0,allow_other,default_permissions,max_read=1048576",
        device.as_raw_fd()
    );
    let options = CString::new(options).expect("made of digits and names");
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_RDONLY;
    mount_at(c"apk", target, c"fuse", flags, &options)?;
    Ok(device.into())
}

/// Answers for the mount until it is gone. `program` is the path of the one file besides libraries that may be executed.
///
/// # Errors
/// Those of the FUSE session.
pub fn serve<R: ReadAt + Clone + 'static>(
    device: OwnedFd,
    tree: Tree,
    apk: Apk<R>,
    source: R,
    program: Option<String>,
) -> io::Result<()> {
    let files = Files::new(apk, source, unpacked_budget());
    let contents = Contents { tree, program, state: Mutex::new(State { files, buffer: Vec::new() }) };
    Session::from_fd(contents, device, SessionACL::All, fuser::Config::default())?.run()
}

/// A quarter of the memory there is.
fn unpacked_budget() -> u64 {
    // SAFETY: sysinfo is plain old data, for which zeros are valid, and the call fills it.
    let memory = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        libc::sysinfo(&raw mut info);
        info.totalram.saturating_mul(u64::from(info.mem_unit))
    };
    memory / 4
}

struct State<R> {
    files: Files<R>,
    buffer: Vec<u8>,
}

struct Contents<R> {
    tree: Tree,
    program: Option<String>,
    state: Mutex<State<R>>,
}

impl<R: ReadAt + Clone> Contents<R> {
    fn attributes(&self, ino: u64) -> Option<FileAttr> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, perm, size, nlink) = match self.tree.kind(ino)? {
            Kind::Directory => {
                let links = self.tree.subdirectories(ino).saturating_add(2);
                (FileType::Directory, 0o555, 0, u32::try_from(links).unwrap_or(u32::MAX))
            }
            Kind::File(index) => {
                let entry = state.files.entry(index)?;
                let runs = is_library(&entry.name) || self.program.as_deref() == Some(&entry.name);
                (FileType::RegularFile, if runs { 0o555 } else { 0o444 }, entry.size, 1)
            }
        };
        let epoch = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }
}

/// `libx.so`, and `libx.so.1` as well.
fn is_library(path: &str) -> bool {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    name.ends_with(".so") || name.contains(".so.")
}

impl<R: ReadAt + Clone + 'static> Filesystem for Contents<R> {
    fn init(&mut self, _: &Request, kernel: &mut KernelConfig) -> io::Result<()> {
        // A kernel without one of these asks more often, and that is all.
        for wish in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ] {
            _ = kernel.add_capabilities(wish);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.tree.lookup(parent.0, name.as_bytes()).and_then(|ino| self.attributes(ino));
        match found {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino.0) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// "Not implemented" is what tells the kernel that files need no opening here: it then opens them by itself for ever,
    /// keeps what it has cached, and never asks again.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(Kind::File(index)) = self.tree.kind(ino.0) else {
            return reply.error(Errno::EISDIR);
        };
        let Ok(size) = usize::try_from(size) else {
            return reply.error(Errno::EINVAL);
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { files, buffer } = &mut *state;
        match files.read(index, offset, size, buffer) {
            Ok(()) => reply.data(buffer),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => reply.error(Errno::EFBIG),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(lines) = self.tree.list(ino.0, offset) else {
            return reply.error(Errno::ENOTDIR);
        };
        for line in lines {
            let kind = match line.kind {
                Kind::Directory => FileType::Directory,
                Kind::File(_) => FileType::RegularFile,
            };
            if reply.add(INodeNo(line.ino), line.next, kind, line.name) {
                break;
            }
        }
        reply.ok();
    }

    /// Names with attributes: a walk through the tree takes one request for each directory instead of one for each file.
    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(lines) = self.tree.list(ino.0, offset) else {
            return reply.error(Errno::ENOTDIR);
        };
        for line in lines {
            let Some(attributes) = self.attributes(line.ino) else { continue };
            let (ino, next) = (INodeNo(line.ino), line.next);
            if reply.add(ino, next, line.name, &FOREVER, &attributes, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let files = self.tree.len() as u64;
        reply.statfs(0, 0, 0, files, 0, BLOCK, 255, BLOCK);
    }
}

const _: () = assert!(ROOT == INodeNo::ROOT.0);
