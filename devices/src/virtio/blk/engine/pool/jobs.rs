//! What passes between whoever submits and the threads that work: jobs one way, what became of them the other.
//!
//! `model.rs` compiles this file a second time, with loom's locks in `sync`, and goes through every order of events.

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::collections::VecDeque;

/// Jobs `J` that wait, and ends `E` that nobody has looked at.
pub struct Jobs<J, E> {
    state: Mutex<State<J, E>>,
    /// There is a job, or no more will come.
    due: Condvar,
    /// A job has ended.
    ended: Condvar,
}

struct State<J, E> {
    waiting: VecDeque<J>,
    ended: Vec<E>,
    closing: bool,
    held: bool,
}

impl<J, E> Jobs<J, E> {
    /// None of either.
    pub fn new() -> Self {
        let state = State { waiting: VecDeque::new(), ended: Vec::new(), closing: false, held: false };
        Self { state: Mutex::new(state), due: Condvar::new(), ended: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<J, E>> {
        // Nothing that holds the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job.
    pub fn submit(&self, job: J) {
        self.lock().waiting.push_back(job);
        self.due.notify_one();
    }

    /// Waits for a job; none when all are taken and no more will come.
    pub fn next(&self) -> Option<J> {
        let mut state = self.lock();
        loop {
            if !state.held
                && let Some(job) = state.waiting.pop_front()
            {
                return Some(job);
            }
            if state.closing && state.waiting.is_empty() {
                return None;
            }
            state = self.due.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells what became of a job.
    pub fn end(&self, end: E) {
        self.lock().ended.push(end);
        self.ended.notify_one();
    }

    /// Moves what has ended to `ended`.
    pub fn reap(&self, ended: &mut Vec<E>) {
        ended.append(&mut self.lock().ended);
    }

    /// Waits until something has ended that was not reaped. One thread at a time.
    pub fn wait(&self) {
        let mut state = self.lock();
        while state.ended.is_empty() {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No more jobs will come: whoever asks for one gets those that wait, then none.
    pub fn close(&self) {
        self.lock().closing = true;
        self.due.notify_all();
    }

    /// Whether jobs are kept from being taken.
    #[cfg(test)]
    pub fn hold(&self, held: bool) {
        self.lock().held = held;
        self.due.notify_all();
    }
}
