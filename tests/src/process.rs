//! Runs the `vmm` executable in a directory of its own, and looks at everything it does.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A hung process is ended after this time, so that the test run ends too. No test's result depends on it otherwise.
const HANG: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(5);

/// The `vmm` executable: `$KAPSEL_VMM`, else the one of this build, brought up to date by cargo.
///
/// # Panics
/// When it cannot be built.
pub fn vmm_executable() -> PathBuf {
    VMM.get_or_init(|| std::env::var_os("KAPSEL_VMM").map_or_else(build_vmm, PathBuf::from)).clone()
}

static VMM: OnceLock<PathBuf> = OnceLock::new();

/// Runs the `vmm` executable as it is shipped from here on, for what measures it: `$KAPSEL_VMM`, else built by the `images`
/// command. Gives its path.
///
/// # Panics
/// When it cannot be built.
pub fn use_shipped_vmm() -> PathBuf {
    VMM.get_or_init(|| std::env::var_os("KAPSEL_VMM").map_or_else(ship_vmm, PathBuf::from)).clone()
}

fn ship_vmm() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a member");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--package", "resources", "--bin", "images", "--", "build", "vmm"]);
    let status = cargo.current_dir(root).status();
    assert!(status.is_ok_and(|s| s.success()), "vmm does not build; or set KAPSEL_VMM to an executable");
    root.join("target/images/vmm")
}

fn build_vmm() -> PathBuf {
    // This executable is <target>/<profile>/deps/<test>-<hash> or <target>/<profile>/<program>.
    let this = std::env::current_exe().expect("an executable knows its path");
    let mut profile = this.parent().expect("an executable lies in a directory");
    if profile.ends_with("deps") {
        profile = profile.parent().expect("deps lies in the profile's directory");
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "vmm", "--bin", "vmm"]);
    cargo.arg("--target-dir").arg(profile.parent().expect("a profile lies in the target directory"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let status = cargo.arg("--manifest-path").arg(manifest).status();
    assert!(status.is_ok_and(|s| s.success()), "vmm does not build; or set KAPSEL_VMM to an executable");
    profile.join("vmm")
}

/// A directory with a test's files, and the private directories that a program might leave something in.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A new one.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("kapsel-test-").expect("a temporary directory");
        for name in ["tmp", "run", "home"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory in it");
        }
        Self { dir }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file and gives its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).expect("write a test's file");
        path
    }

    /// Everything below it, as paths.
    pub fn listing(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut dirs = vec![self.path().to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    dirs.push(entry.path());
                }
                found.insert(entry.path());
            }
        }
        found
    }

    /// Starts `vmm` in it: nothing on stdin, output collected, no environment but what it needs.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn vmm<A: AsRef<OsStr>>(&self, args: &[A]) -> Running {
        self.command(Command::new(vmm_executable()).args(args))
    }

    /// Starts any program in the same way.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn command(&self, command: &mut Command) -> Running {
        self.command_reading(command, Stdio::null())
    }

    /// Starts any program in the same way, but with `stdin`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn command_reading(&self, command: &mut Command, stdin: Stdio) -> Running {
        let keep = ["PATH", "KAPSEL_OS_DIR", "LD_LIBRARY_PATH"];
        let kept: Vec<_> = keep.iter().filter_map(|k| std::env::var_os(k).map(|v| (*k, v))).collect();
        command
            .current_dir(self.path())
            .env_clear()
            .envs(kept)
            .env("TMPDIR", self.path().join("tmp"))
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            .env("HOME", self.path().join("home"))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        let stdout = Collector::start(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Collector::start(child.stderr.take().expect("stderr is a pipe"));
        Running { child, stdout, stderr }
    }
}

/// Reads a pipe to its end on a thread of its own, so that the writer never waits.
struct Collector {
    seen: Arc<(Mutex<Seen>, Condvar)>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: bool,
}

impl Collector {
    fn start(mut pipe: impl Read + Send + 'static) -> Self {
        let seen = Arc::new((Mutex::new(Seen::default()), Condvar::new()));
        let shared = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            loop {
                let got = pipe.read(&mut buffer).unwrap_or(0);
                let mut seen = shared.0.lock().expect("no collector panics");
                seen.bytes.extend_from_slice(&buffer[..got]);
                seen.ended = got == 0;
                shared.1.notify_all();
                if got == 0 {
                    return;
                }
            }
        });
        Self { seen, thread }
    }

    fn wait_for(&self, text: &[u8], until: Instant) -> bool {
        let (lock, changed) = &*self.seen;
        let mut seen = lock.lock().expect("no collector panics");
        loop {
            if seen.bytes.windows(text.len()).any(|w| w == text) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if seen.ended || left.is_zero() {
                return false;
            }
            seen = changed.wait_timeout(seen, left).expect("no collector panics").0;
        }
    }

    fn finish(self) -> Vec<u8> {
        self.thread.join().expect("no collector panics");
        std::mem::take(&mut self.seen.0.lock().expect("no collector panics").bytes)
    }
}

/// A running program. Ended when dropped.
pub struct Running {
    child: Child,
    stdout: Collector,
    stderr: Collector,
}

/// How a program ended, and all that it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Exit status, or 128 + signal.
    pub status: i32,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Ended {
    /// Standard output as text, other bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `text` stood on its stdout.
    ///
    /// # Panics
    /// When it ends, or hangs, without.
    pub fn wait_for(self, text: &str) -> Self {
        self.try_wait_for(text).unwrap_or_else(|ended| panic!("{text:?} never came: {ended:?}"))
    }

    /// The same, or how it ended without the text.
    ///
    /// # Errors
    /// How it ended.
    pub fn try_wait_for(mut self, text: &str) -> Result<Self, Ended> {
        if self.writes_within(text, HANG) {
            return Ok(self);
        }
        let _ = self.child.kill();
        Err(self.wait())
    }

    /// Waits until `text` stands on its stdout, it ends, or `limit` is over; whether the text is there.
    pub fn writes_within(&self, text: &str, limit: Duration) -> bool {
        self.stdout.wait_for(text.as_bytes(), Instant::now() + limit)
    }

    /// What it has written to its stdout until now.
    ///
    /// # Panics
    /// When its reader panicked.
    pub fn written(&self) -> String {
        let seen = self.stdout.seen.0.lock().expect("no collector panics");
        String::from_utf8_lossy(&seen.bytes).into_owned()
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("wait for a child").is_some()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.id()).expect("process ids are small");
        // SAFETY: kill takes plain numbers; the child is not waited for yet, so the id is still its own.
        let result = unsafe { libc::kill(id, signal) };
        assert_eq!(result, 0, "signal {signal}: {}", std::io::Error::last_os_error());
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it hangs: then it is killed, and its output is in the message.
    pub fn wait(mut self) -> Ended {
        let until = Instant::now() + HANG;
        let hung = loop {
            match self.child.try_wait().expect("wait for a child") {
                Some(_) => break false,
                None if Instant::now() > until => break true,
                None => std::thread::sleep(POLL),
            }
        };
        if hung {
            let _ = self.child.kill();
        }
        let status = self.child.wait().expect("wait for a child");
        let ended = Ended {
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: self.stdout.finish(),
            stderr: String::from_utf8_lossy(&self.stderr.finish()).into_owned(),
        };
        assert!(!hung, "the program hung and was killed: {ended:?}");
        ended
    }
}
