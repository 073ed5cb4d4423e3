//! Requests from queue to answer: those that are done on the spot, those that an engine waits for, and flushes, which wait
//! for what came before them.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::GuestMemoryMmap;

use super::composite::CompositeDisk;
use super::disk::DiskError;
use super::engine::{Completion, Engine};
use super::request::{Limits, Operation, Request, Status};
use super::task::{Mode, Task};
use crate::virtio::queue::{Chain, QueueError};

/// Between two lines of the log about one disk's errors.
const QUIET: Duration = Duration::from_secs(10);

/// A request that has ended: its queue, the head of its chain, the used length.
pub struct Ended {
    pub(super) queue: usize,
    pub(super) head: u16,
    pub(super) used: u32,
}

/// A disk, and every request that is on its way.
pub struct Server {
    pub(super) disk: CompositeDisk,
    pub(super) name: String,
    pub(super) id: Vec<u8>,
    pub(super) read_only: bool,
    pub(super) engine: Engine,
    pub(super) mode: Mode,
    pub(super) limits: Limits,
    pub(super) errors: ErrorLog,
    /// The request at hand.
    task: Box<Task>,
    /// The engine has a task by its place here.
    waiting: Vec<Option<Box<Task>>>,
    /// Places in `waiting` without a task.
    free: Vec<u32>,
    /// Used tasks, to be used again; boxed, because they go back and forth.
    #[allow(clippy::vec_box, reason = "a task moves between here and its place as one pointer")]
    spare: Vec<Box<Task>>,
    /// Numbers of the waiting tasks that change the disk.
    changes: BTreeSet<u64>,
    /// Flushes that wait for smaller numbers in `changes`, in their order.
    flushes: VecDeque<Box<Task>>,
    numbers: u64,
    ended: Vec<Completion>,
}

impl Server {
    pub(super) fn new(
        disk: CompositeDisk,
        id: &str,
        read_only: bool,
        engine: Engine,
        limits: Limits,
    ) -> Self {
        let mode = if engine.waits() { Mode::Try } else { Mode::Wait };
        Self {
            disk,
            name: id.to_owned(),
            id: id.as_bytes().to_vec(),
            read_only,
            engine,
            mode,
            limits,
            errors: ErrorLog::default(),
            task: Box::default(),
            waiting: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            changes: BTreeSet::new(),
            flushes: VecDeque::new(),
            numbers: 0,
            ended: Vec::new(),
        }
    }

    /// How many requests the engine has.
    pub(super) fn under_way(&self) -> usize {
        self.waiting.len() - self.free.len()
    }

    /// Serves a request as far as it goes: gives the used length if that was to its end.
    pub(super) fn serve(
        &mut self,
        queue: usize,
        memory: &Arc<GuestMemoryMmap>,
        chain: &Chain,
        write_through: bool,
    ) -> Result<Option<u32>, QueueError> {
        let request = Request::parse(chain, memory, &self.limits)?;
        let answer = |status, filled| request.answer.give(memory, status, filled).map(Some);
        match request.operation {
            Operation::GetId => {
                let filled = request.fill(memory, &self.id)?;
                return answer(Status::Ok, filled);
            }
            Operation::Write(_) | Operation::Discard(_) | Operation::WriteZeroes(_) if self.read_only => {
                return answer(Status::IoError, 0);
            }
            Operation::OutOfRange => return answer(Status::IoError, 0),
            Operation::Unsupported(_) => return answer(Status::Unsupported, 0),
            _ => {}
        }
        self.task.begin(&request, memory, write_through)?;
        self.task.queue = queue;
        self.task.number = self.numbers;
        self.numbers += 1;
        if self.task.is_flush() && !self.changes.is_empty() {
            let flush = self.take_task();
            self.flushes.push_back(flush);
            return Ok(None);
        }
        let task = self.take_task();
        self.advance(task, memory).map(|ended| ended.map(|ended| ended.used))
    }

    /// The task at hand, with another in its place.
    fn take_task(&mut self) -> Box<Task> {
        let next = self.spare.pop().unwrap_or_default();
        std::mem::replace(&mut self.task, next)
    }

    /// Lets a task go on, to its end or to the engine.
    fn advance(
        &mut self,
        mut task: Box<Task>,
        memory: &GuestMemoryMmap,
    ) -> Result<Option<Ended>, QueueError> {
        let result = match task.go_on(&self.disk, self.mode) {
            Ok(Some(operation)) => {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.waiting.push(None);
                    u32::try_from(self.waiting.len() - 1).expect("no more tasks than descriptors")
                });
                // SAFETY: the task, which has the buffers, stays in its place until the operation was reaped: `reap`
                // and `abandon`, which every reset and drop goes through, take it out only then.
                match unsafe { self.engine.submit(slot, operation) } {
                    Ok(()) => {
                        if task.changes_disk() {
                            self.changes.insert(task.number);
                        }
                        self.waiting[slot as usize] = Some(task);
                        return Ok(None);
                    }
                    Err(source) => {
                        self.free.push(slot);
                        let file = self.disk.files()[operation.file].fd();
                        Err(DiskError::Host { file, offset: operation.offset, source })
                    }
                }
            }
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        self.answer(task, &result, memory).map(Some)
    }

    fn answer(
        &mut self,
        task: Box<Task>,
        result: &Result<(), DiskError>,
        memory: &GuestMemoryMmap,
    ) -> Result<Ended, QueueError> {
        if let Err(e) = result {
            self.errors.tell(&self.name, e);
        }
        let (status, filled) = if result.is_ok() { (Status::Ok, task.filled) } else { (Status::IoError, 0) };
        let (queue, head) = (task.queue, task.answer.head());
        let used = task.answer.give(memory, status, filled);
        self.spare.push(task);
        Ok(Ended { queue, head, used: used? })
    }

    /// Begins what was handed to the engine.
    pub(super) fn start(&mut self) {
        if self.under_way() > 0
            && let Err(e) = self.engine.start()
        {
            self.errors.tell_text(&self.name, &format!("io_uring_enter: {e}"));
        }
    }

    /// Takes what the engine has ended, lets it go on, and gives each request that is done to `done`.
    pub(super) fn reap(
        &mut self,
        memory: &GuestMemoryMmap,
        mut done: impl FnMut(Ended) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        loop {
            let mut ended = std::mem::take(&mut self.ended);
            self.engine.reap(&mut ended);
            let any = !ended.is_empty();
            // Every completion is taken before an error is given, or a task would stay for ever.
            let mut result = Ok(());
            for (slot, outcome) in ended.drain(..) {
                let Some(mut task) = self.take_waiting(slot) else { continue };
                let answered = match task.end_wait(&self.disk, outcome) {
                    Ok(()) => self.advance(task, memory),
                    Err(e) => self.answer(task, &Err(e), memory).map(Some),
                };
                result = result.and(answered.and_then(|ended| ended.map_or(Ok(()), &mut done)));
            }
            self.ended = ended;
            result?;
            self.start_flushes(memory, &mut done)?;
            self.start();
            if !any {
                return Ok(());
            }
        }
    }

    fn take_waiting(&mut self, slot: u32) -> Option<Box<Task>> {
        let task = self.waiting.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        self.changes.remove(&task.number);
        Some(task)
    }

    /// A flush begins when every change that came before it has ended.
    fn start_flushes(
        &mut self,
        memory: &GuestMemoryMmap,
        done: &mut impl FnMut(Ended) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        while let Some(flush) = self.flushes.front()
            && self.changes.first().is_none_or(|&change| change > flush.number)
            && let Some(flush) = self.flushes.pop_front()
        {
            if let Some(ended) = self.advance(flush, memory)? {
                done(ended)?;
            }
        }
        Ok(())
    }

    /// Waits until the engine has nothing more, and forgets every request: guest memory is let go of.
    pub(super) fn abandon(&mut self) {
        self.flushes.clear();
        while self.under_way() > 0 {
            self.start();
            let mut ended = std::mem::take(&mut self.ended);
            self.engine.reap(&mut ended);
            if ended.is_empty() {
                self.engine.wait();
            }
            for (slot, _) in ended.drain(..) {
                if let Some(task) = self.take_waiting(slot) {
                    self.spare.push(task);
                }
            }
            self.ended = ended;
        }
        self.spare.clear();
        self.task.release();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Tells of the host's errors, but not of each. What the guest brought about itself is not for the log.
#[derive(Debug, Default)]
pub struct ErrorLog {
    last: Option<Instant>,
    untold: u64,
}

impl ErrorLog {
    fn tell(&mut self, name: &str, error: &DiskError) {
        if let DiskError::Host { source, .. } = error {
            self.tell_text(name, &format!("{error}: {source}"));
        }
    }

    fn tell_text(&mut self, name: &str, text: &str) {
        if let Some(untold) = self.admit(Instant::now()) {
            let more = if untold > 0 {
                format!(" ({untold} more errors since the last line)")
            } else {
                String::new()
            };
            log::warn!("disk {name}: {text}{more}");
        }
    }

    /// Whether a line is due at `now`, and how many errors had none before it.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < QUIET) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// The engine for a disk of `queues` queues.
pub(super) fn engine(
    choice: super::EngineChoice,
    disk: &CompositeDisk,
    queues: u16,
    queue_size: u16,
) -> io::Result<Engine> {
    Engine::new(choice, disk.files(), u32::from(queues) * u32::from(queue_size))
}
