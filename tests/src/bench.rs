//! What benchmarks have in common: the same program again inside the software host.
//!
//! ```text
//!   cargo bench ──> outside: builds, collects files ──> images host ──> the same program, --inside WORDS ──> figures on stdout
//! ```

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio;
use crate::peers::{Alioth, Qemu};
use crate::process::{Place, use_shipped_vmm};

/// The repository's root.
///
/// # Panics
/// Never: this member lies in it.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a member")
}

/// What the command line asks for.
#[derive(Clone, Debug, Default)]
pub struct BenchArgs {
    /// One line of JSON in the place of text.
    pub json: bool,
    /// A number, of what the benchmark counts.
    pub count: Option<usize>,
    /// What the outer run tells the inner one, when this is the inner one.
    pub inside: Option<Vec<String>>,
}

impl BenchArgs {
    /// Reads it. `cargo bench` and `cargo test --benches` add words of their own, which are passed over.
    pub fn parse() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let inside = args.iter().position(|arg| arg == "--inside");
        let own = &args[..inside.unwrap_or(args.len())];
        Self {
            json: own.iter().any(|arg| arg == "--json"),
            count: own.iter().find_map(|arg| arg.parse().ok()),
            inside: inside.map(|at| args[at + 1..].to_vec()),
        }
    }

    /// Says what is being done, where nobody parses the output.
    pub fn progress(&self, what: &str) {
        if !self.json {
            println!("  .. {what}");
        }
    }
}

/// A file that `cargo demo` builds below `target/images`.
///
/// # Panics
/// When it is not there.
pub fn image(name: &str) -> PathBuf {
    let path = root().join("target/images").join(name);
    assert!(
        path.exists(),
        "{} is not there: run `cargo demo` first, it builds what this measures",
        path.display()
    );
    path
}

/// A distribution's kernel, for peers that have devices over PCI only, which the guest's own kernel does not know.
#[derive(Clone, Debug)]
pub struct StockKernel {
    /// A bzImage.
    pub kernel: PathBuf,
    modules: Vec<u8>,
}

impl StockKernel {
    /// It, where it was downloaded. Else says how to get it.
    pub fn find() -> Option<Self> {
        let directory = root().join("target/images/stock");
        let modules = std::fs::read(directory.join("modules.cpio")).unwrap_or_default();
        if modules.windows(10).any(|name| name == b"virtio_pci") {
            return Some(Self { kernel: directory.join("vmlinuz"), modules });
        }
        eprintln!(
            "peers over PCI skipped: no modules for it in target/images/stock: run target/images/images build tests"
        );
        None
    }

    /// Its initial ramdisk: `program` as PID 1, and its modules.
    pub fn initrd(&self, place: &Place, program: &[u8]) -> PathBuf {
        place.file("stock.cpio", &[cpio::initramfs(program), self.modules.clone()].concat())
    }
}

/// A run of this program inside the software host.
pub struct InnerRun {
    images: Command,
}

impl InnerRun {
    /// One on a host with so much memory, all of whose files lie in it.
    pub fn new(memory_mib: u64) -> Self {
        let mut images = Command::new(image("images"));
        images.args(["host", "--quiet", "--no-build", "--memory", &memory_mib.to_string()]);
        Self { images }
    }

    /// Takes a file or directory along, at its own path.
    #[must_use]
    pub fn file(mut self, path: &Path) -> Self {
        self.images.arg("--file").arg(path);
        self
    }

    /// Takes it along to another path.
    #[must_use]
    pub fn file_to(mut self, path: &Path, to: &Path) -> Self {
        self.images.arg("--file").arg(format!("{}={}", path.display(), to.display()));
        self
    }

    /// Runs this program on a host with so much memory beside `vmm`, the peers that are there, and all that guests need whose
    /// PID 1 is `guest`. The inner run is told where these are: vmm, kernel, ramdisk, and where alioth was installed Debian's
    /// kernel, the ramdisk for it, alioth.
    ///
    /// # Panics
    /// When something is not there that has to be, or the run fails.
    pub fn beside_peers(args: &BenchArgs, memory_mib: u64, guest: &[u8]) {
        let (vmm, place, kernel) = (use_shipped_vmm(), Place::new(), image("os/vmlinux"));
        let initrd = place.file("guest.cpio", &cpio::initramfs(guest));
        let mut run = Self::new(memory_mib).file(&kernel).file(&initrd).file(&vmm).qemu();
        let mut words = vec![vmm, kernel, initrd];
        if let Some((alioth, stock)) = Alioth::find().and_then(|alioth| Some((alioth, StockKernel::find()?)))
        {
            let initrd = stock.initrd(&place, guest);
            run = run.file(&stock.kernel).file(&initrd).alioth(&alioth);
            words.extend([stock.kernel, initrd, alioth.program().to_owned()]);
        }
        run.run(args, &words);
    }

    /// Takes QEMU along, where there is one.
    #[must_use]
    pub fn qemu(self) -> Self {
        let files = Qemu::find().map(Qemu::files).unwrap_or_default();
        files.iter().fold(self, |run, (path, to)| run.file_to(path, to))
    }

    /// Takes alioth along.
    #[must_use]
    pub fn alioth(self, alioth: &Alioth) -> Self {
        self.file(alioth.program())
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(mut self, args: &BenchArgs, words: &[PathBuf]) {
        self.images.arg("--").arg(std::env::current_exe().expect("an executable knows its path"));
        if args.json {
            self.images.arg("--json");
        }
        self.images.arg("--inside").args(words);
        let status = self.images.status().expect("the images program runs");
        assert!(status.success(), "the software host failed");
    }
}

/// The host's end of a stream, as the guest's first byte asks for it, which is sent back: `o` takes `count` times `chunk` bytes and
/// answers with one, `i` sends as many, anything else sends back each byte.
///
/// # Errors
/// When the guest's end is gone.
pub fn serve_stream(stream: &mut UnixStream, chunk: usize, count: usize) -> std::io::Result<()> {
    let mut buffer = vec![0; chunk];
    stream.read_exact(&mut buffer[..1])?;
    stream.write_all(&buffer[..1])?;
    match buffer[0] {
        b'o' => {
            let mut left = count * chunk;
            while left > 0 {
                left -= match stream.read(&mut buffer)? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    n => n,
                };
            }
            stream.write_all(b"x")
        }
        b'i' => (0..count).try_for_each(|_| stream.write_all(&buffer)),
        _ => loop {
            stream.read_exact(&mut buffer[..1])?;
            stream.write_all(&buffer[..1])?;
        },
    }
}
