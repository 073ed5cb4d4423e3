//! Other programs: started in process groups of their own, logged, and ended with this one.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How much of a failed program's output is shown.
const SHOWN_LINES: usize = 30;
/// How much of one line is kept; build tools write long ones.
const LONGEST_LINE: usize = 4096;

static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CANCELLED: AtomicBool = AtomicBool::new(false);
static AT_PROMPT: AtomicBool = AtomicBool::new(false);

/// This program was told to end, by a signal.
#[derive(Debug, thiserror::Error)]
#[error("Interrupted by signal {0}")]
pub struct Interrupted(pub i32);

/// Something that was done at the same time has failed.
#[derive(Debug, thiserror::Error)]
#[error("Given up, since another step failed")]
pub struct Cancelled;

/// Takes SIGINT, SIGTERM and SIGHUP from now on: the children end, and with them what waits for them. To be called before any
/// thread is started, since threads inherit which signals are blocked.
pub fn watch_signals() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given; the others only read it and change this thread's mask.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    std::thread::spawn(move || {
        loop {
            let mut signal = 0;
            // SAFETY: both pointers are to live values of the right types.
            if unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0 {
                on_signal(signal);
            }
        }
    });
}

fn on_signal(signal: i32) {
    let again = SIGNAL.swap(signal, Ordering::SeqCst) != 0;
    if AT_PROMPT.load(Ordering::SeqCst) {
        std::process::exit(128 + signal);
    }
    end_children(if again { libc::SIGKILL } else { libc::SIGTERM });
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(10));
        end_children(libc::SIGKILL);
        std::thread::sleep(Duration::from_secs(5));
        std::process::exit(128 + signal);
    });
}

/// Sends a signal to every program that was started here and still runs.
pub fn end_children(signal: i32) {
    for group in GROUPS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // SAFETY: no memory is involved; the group is that of a child which has not been waited for, so the number is still its.
        unsafe { libc::killpg(*group, signal) };
    }
}

/// Ends what runs and lets nothing more start: something else has failed, and that is what the user shall read.
pub fn cancel() {
    CANCELLED.store(true, Ordering::SeqCst);
    end_children(libc::SIGTERM);
}

/// Fails once a signal or a failure elsewhere has asked for the end.
///
/// # Errors
/// [`Interrupted`] or [`Cancelled`].
pub fn check_interrupted() -> Result<()> {
    match (SIGNAL.load(Ordering::SeqCst), CANCELLED.load(Ordering::SeqCst)) {
        (0, false) => Ok(()),
        (0, true) => Err(Cancelled.into()),
        (signal, _) => Err(Interrupted(signal).into()),
    }
}

/// Reads one line from the user; Ctrl-C ends the program at once meanwhile.
///
/// # Errors
/// When standard input fails.
pub fn prompt(question: &str) -> Result<String> {
    eprint!("{question}");
    AT_PROMPT.store(true, Ordering::SeqCst);
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    AT_PROMPT.store(false, Ordering::SeqCst);
    read.context("Read the answer")?;
    Ok(line)
}

/// Lets a program start with no signal blocked, which it would inherit from this one.
pub fn unblock_signals(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only sigemptyset and pthread_sigmask are called, which are async-signal-safe and touch no
    // memory but the set on the stack.
    unsafe {
        command.pre_exec(|| {
            let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
            Ok(())
        })
    }
}

/// Has the kernel end a program with the thread that starts it, should that not come to do it.
fn end_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
}

/// A program that runs. When this is dropped, it and what it started are ended.
pub struct Running {
    child: Child,
    group: i32,
    waited: bool,
}

impl Running {
    /// Starts it, in a process group of its own, to end when this process does.
    ///
    /// # Errors
    /// When it cannot be started, or this program is about to end.
    pub fn start(command: &mut Command) -> Result<Self> {
        check_interrupted()?;
        command.process_group(0);
        end_with_parent(unblock_signals(command));
        let child = command.spawn().with_context(|| format!("Start {}", shown(command)))?;
        let group = i32::try_from(child.id()).context("A process id")?;
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).insert(group);
        let running = Self { child, group, waited: false };
        // A signal between the check above and the entry into the list has missed this child.
        check_interrupted()?;
        Ok(running)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().context("Wait for a program")?;
        self.forget();
        Ok(status)
    }

    /// Ends it at once, with everything in its group.
    pub fn kill(&self) {
        if !self.waited {
            // SAFETY: no memory is involved; the child has not been waited for, so the number is still its group.
            unsafe { libc::killpg(self.group, libc::SIGKILL) };
        }
    }

    /// Does `work`, which is to last as long as the program; asks once a second whether to end it early, and says if it did. When
    /// `work` fails the program is ended too.
    ///
    /// # Errors
    /// What `work` fails with.
    pub fn watched(
        &self,
        mut give_up: impl FnMut() -> bool + Send,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let (done, waiting) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let watch = scope.spawn(move || {
                while waiting.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                    if give_up() {
                        self.kill();
                        return true;
                    }
                }
                false
            });
            let result = work();
            drop(done);
            if result.is_err() {
                self.kill();
            }
            let gave_up = watch.join().unwrap_or(false);
            result.map(|()| gave_up)
        })
    }

    fn forget(&mut self) {
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.group);
        self.waited = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.waited {
            self.kill();
            let _ = self.child.wait();
            self.forget();
        }
    }
}

/// Runs a program, both its outputs going to `output` as they come, for `limit` at most.
///
/// # Errors
/// When it cannot be started, `output` fails or this program is to end. A program that ran for too long was ended by SIGKILL.
pub fn stream(mut command: Command, limit: Duration, output: &mut dyn Write) -> Result<ExitStatus> {
    let (reader, writer) = io::pipe().context("Make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("Make a pipe")?).stderr(writer);
    let mut running = Running::start(&mut command)?;
    drop(command);
    let since = Instant::now();
    running.watched(|| since.elapsed() > limit, || copy(reader, output))?;
    let status = running.wait()?;
    check_interrupted()?;
    Ok(status)
}

/// Copies as it comes, without waiting for a buffer to fill.
///
/// # Errors
/// When either side fails.
pub fn copy(mut from: impl Read, to: &mut dyn Write) -> Result<()> {
    let mut buffer = [0; 1 << 16];
    loop {
        let count = from.read(&mut buffer).context("Read a program's output")?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).and_then(|()| to.flush()).context("Pass on a program's output")?;
    }
}

/// A command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What became of a program, in words.
pub fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// A build program failed; the end of its output is part of the message.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` {ended}; all of its output is in {}, this is the end:\n{tail}", log.display())]
pub struct ProgramFailed {
    command: String,
    ended: String,
    log: PathBuf,
    tail: String,
}

/// Runs programs one after another with their output in one log file.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Starts the log anew.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("Create {}", dir.display()))?;
        }
        let file = File::create(path).with_context(|| format!("Create {}", path.display()))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Runs a program to its end and hands each line it writes to `on_line`.
    ///
    /// # Errors
    /// [`ProgramFailed`] unless it exits with 0, [`Interrupted`], or when it cannot be started.
    pub fn run(&mut self, mut command: Command, on_line: &dyn Fn(&str)) -> Result<()> {
        let (output, writer) = io::pipe().context("Make a pipe")?;
        command.stdout(writer.try_clone().context("Make a pipe")?).stderr(writer);
        self.follow(command, output, on_line)
    }

    /// As [`Self::run`], but standard output is returned instead of logged.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn capture(&mut self, mut command: Command, on_line: &dyn Fn(&str)) -> Result<Vec<u8>> {
        let (mut stdout, stdout_writer) = io::pipe().context("Make a pipe")?;
        let (output, writer) = io::pipe().context("Make a pipe")?;
        command.stdout(stdout_writer).stderr(writer);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).map(|_| all)
        });
        self.follow(command, output, on_line)?;
        reader.join().ok().context("Read a program's output")?.context("Read a program's output")
    }

    fn follow(&mut self, mut command: Command, output: impl Read, on_line: &dyn Fn(&str)) -> Result<()> {
        let name = shown(&command);
        writeln!(self.file, "$ {name}").context("Write a log")?;
        let mut running = Running::start(command.stdin(Stdio::null()))?;
        // Its copies of the pipes' ends would keep the output open for ever.
        drop(command);
        let mut tail = VecDeque::new();
        read_lines(output, |line| {
            writeln!(self.file, "{line}")?;
            if tail.len() == SHOWN_LINES {
                tail.pop_front();
            }
            tail.push_back(line.to_owned());
            on_line(line);
            Ok(())
        })
        .context("Log a program's output")?;
        let status = running.wait()?;
        check_interrupted()?;
        if status.success() {
            return Ok(());
        }
        let tail: String = tail.iter().map(|line| format!("    {line}\n")).collect();
        let tail = tail.trim_end().to_owned();
        Err(ProgramFailed { command: name, ended: ended(status), log: self.path.clone(), tail }.into())
    }
}

/// Cuts what is read into lines, at `\n` and `\r`; no line is longer than [`LONGEST_LINE`] bytes.
fn read_lines(mut from: impl Read, mut on_line: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    let (mut buffer, mut line) = ([0; 4096], Vec::new());
    loop {
        let count = match from.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for byte in &buffer[..count] {
            let end = matches!(byte, b'\n' | b'\r');
            if !end {
                line.push(*byte);
            }
            if line.len() == LONGEST_LINE || (end && !line.is_empty()) {
                on_line(&String::from_utf8_lossy(&line))?;
                line.clear();
            }
        }
        if count == 0 {
            return if line.is_empty() { Ok(()) } else { on_line(&String::from_utf8_lossy(&line)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_cut_into_lines() {
        let mut lines = Vec::new();
        let long = "x".repeat(LONGEST_LINE + 1);
        let text = format!("a\r\nb\n\n{long}\nlast");
        read_lines(text.as_bytes(), |line| {
            lines.push(line.to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(lines, ["a", "b", &long[..LONGEST_LINE], "x", "last"]);
    }

    #[test]
    fn a_programs_lines_are_logged_and_handed_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/x.log");
        let lines = RefCell::new(Vec::new());
        let on_line = |line: &str| lines.borrow_mut().push(line.to_owned());
        let mut log = Log::create(&path).unwrap();
        log.run(shell("echo one; echo two >&2"), &on_line).unwrap();
        let captured = log.capture(shell("echo three; echo four >&2"), &on_line).unwrap();
        assert_eq!(*lines.borrow(), ["one", "two", "four"]);
        assert_eq!(captured, b"three\n");
        let text = fs::read_to_string(path).unwrap();
        for expected in ["$ sh -c echo one; echo two >&2", "one", "two", "four"] {
            assert!(text.lines().any(|line| line == expected), "{text}");
        }
    }

    #[test]
    fn a_failure_shows_the_end_of_the_output_and_names_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = Log::create(&path).unwrap();
        let error = log.run(shell("seq 100; exit 3"), &|_| ()).unwrap_err();
        let failed = error.downcast_ref::<ProgramFailed>().unwrap();
        assert_eq!(failed.tail.lines().count(), SHOWN_LINES);
        assert!(failed.tail.starts_with("    71\n") && failed.tail.ends_with("    100"), "{}", failed.tail);
        let text = error.to_string();
        assert!(text.contains("exit status 3") && text.contains(&path.display().to_string()), "{text}");
        let error = log.run(shell("kill -9 $$"), &|_| ()).unwrap_err();
        assert!(error.to_string().contains("signal 9"), "{error}");
        let error = log.run(Command::new("/absent/program"), &|_| ()).unwrap_err();
        assert!(error.to_string().contains("/absent/program"), "{error}");
    }

    #[test]
    fn programs_start_with_no_signal_blocked() {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset initialises the set; only the mask of this test's thread changes.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        }
        let mut output = Vec::new();
        stream(shell("grep SigBlk /proc/self/status"), Duration::from_secs(600), &mut output).unwrap();
        assert_eq!(output, b"SigBlk:\t0000000000000000\n");
    }

    #[test]
    fn output_is_streamed_and_a_program_that_takes_too_long_is_ended() {
        let mut output = Vec::new();
        let status =
            stream(shell("echo a; echo b >&2; exit 4"), Duration::from_secs(600), &mut output).unwrap();
        assert_eq!((status.code(), output.as_slice()), (Some(4), &b"a\nb\n"[..]));
        let status = stream(shell("sleep 1000 & sleep 1000"), Duration::ZERO, &mut output).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_dropped_program_is_ended_with_its_children() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut command = shell("sleep 1000 & wait");
        command.stdout(writer);
        let running = Running::start(&mut command).unwrap();
        drop(command);
        drop(running);
        // Ends only when every holder of the other end is gone.
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
}
