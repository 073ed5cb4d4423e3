//! Requests from queue to answer: those that are done on the spot, those that an engine waits for, and flushes, which wait
//! for what came before them.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use super::composite::CompositeDisk;
use super::disk::DiskError;
use super::engine::{Completion, Engine};
use super::request::{Guest, Limits, Operation, Request, Status};
use super::task::{Mode, Task};
use super::transfer::Transfer;
use crate::virtio::queue::{Chain, QueueError, Served};

/// Between two lines of the log about one disk's errors.
const QUIET: Duration = Duration::from_secs(10);

/// A request that has ended: its queue, the head of its chain, the used length.
pub struct Ended {
    pub(super) queue: usize,
    pub(super) head: u16,
    pub(super) used: u32,
}

/// How much a thread does for a queue before it turns to something else.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Bytes that may still be moved.
    bytes: u64,
    /// Whether it may take what the host does in no bounded time: flushes, and ranges to discard or to zero.
    unbounded: bool,
}

impl Share {
    /// All that there is.
    pub(super) const ALL: Self = Self { bytes: u64::MAX, unbounded: true };
    /// Some tens of microseconds' worth: what a guest can be kept from running for.
    pub(super) const MOMENT: Self = Self { bytes: 256 << 10, unbounded: false };

    fn take(&mut self, bytes: u64, lasts: bool) -> bool {
        let left = self.bytes.checked_sub(bytes).filter(|_| self.unbounded || !lasts);
        self.bytes = left.unwrap_or(self.bytes);
        left.is_some()
    }
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

    /// Serves a request as far as it goes, if the share allows for it.
    pub(super) fn serve(
        &mut self,
        queue: usize,
        guest: &mut Guest,
        chain: &Chain,
        write_through: bool,
        share: &mut Share,
    ) -> Result<Served, QueueError> {
        let header = guest.header(chain)?;
        let transfer = Transfer::of(header, chain, &self.limits)
            .filter(|transfer| !(transfer.write && (self.read_only || write_through)));
        if let Some(transfer) = &transfer {
            if !share.take(transfer.data.len.into(), false) {
                return Ok(Served::Left);
            }
            if transfer.is_moved(&self.disk, self.mode, guest) {
                return transfer.answer(guest).map(Served::Answered);
            }
        }
        let request = Request::parse(header, chain, guest, &self.limits)?;
        let lasts =
            matches!(request.operation, Operation::Flush | Operation::Discard(_) | Operation::WriteZeroes(_));
        // A transfer that was not moved has had its share.
        if transfer.is_none() && !share.take(request.data_len, lasts) {
            return Ok(Served::Left);
        }
        let answer = request.answer;
        let ended = match request.operation {
            Operation::GetId => Some((Status::Ok, request.fill(guest, &self.id)?)),
            Operation::Write(_) | Operation::Discard(_) | Operation::WriteZeroes(_) if self.read_only => {
                Some((Status::IoError, 0))
            }
            Operation::OutOfRange => Some((Status::IoError, 0)),
            Operation::Unsupported(_) => Some((Status::Unsupported, 0)),
            _ => None,
        };
        if let Some((status, filled)) = ended {
            return answer.give(guest, status, filled).map(Served::Answered);
        }
        self.task.begin(&request, &guest.memory, write_through)?;
        self.task.queue = queue;
        self.task.number = self.numbers;
        self.numbers += 1;
        if self.task.is_flush() && !self.changes.is_empty() {
            let flush = self.take_task();
            self.flushes.push_back(flush);
            return Ok(Served::Kept);
        }
        let task = self.take_task();
        let ended = self.advance(task, guest)?;
        Ok(ended.map_or(Served::Kept, |ended| Served::Answered(ended.used)))
    }

    /// The task at hand, with another in its place.
    fn take_task(&mut self) -> Box<Task> {
        let next = self.spare.pop().unwrap_or_default();
        std::mem::replace(&mut self.task, next)
    }

    /// Lets a task go on, to its end or to the engine.
    fn advance(&mut self, mut task: Box<Task>, guest: &mut Guest) -> Result<Option<Ended>, QueueError> {
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
        self.answer(task, &result, guest).map(Some)
    }

    fn answer(
        &mut self,
        task: Box<Task>,
        result: &Result<(), DiskError>,
        guest: &mut Guest,
    ) -> Result<Ended, QueueError> {
        if let Err(e) = result {
            self.errors.tell(&self.name, e);
        }
        let (status, filled) = if result.is_ok() { (Status::Ok, task.filled) } else { (Status::IoError, 0) };
        let (queue, head) = (task.queue, task.answer.head());
        let used = task.answer.give(guest, status, filled);
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
        guest: &mut Guest,
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
                    Ok(()) => self.advance(task, guest),
                    Err(e) => self.answer(task, &Err(e), guest).map(Some),
                };
                result = result.and(answered.and_then(|ended| ended.map_or(Ok(()), &mut done)));
            }
            self.ended = ended;
            result?;
            self.start_flushes(guest, &mut done)?;
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
        guest: &mut Guest,
        done: &mut impl FnMut(Ended) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        while let Some(flush) = self.flushes.front()
            && self.changes.first().is_none_or(|&change| change > flush.number)
            && let Some(flush) = self.flushes.pop_front()
        {
            if let Some(ended) = self.advance(flush, guest)? {
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
