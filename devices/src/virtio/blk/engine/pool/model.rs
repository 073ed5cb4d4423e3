//! The jobs under loom: every order in which threads can come to their locks, up to two preemptions. What deadlocks, or
//! loses a wake-up, fails.

mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[path = "jobs.rs"]
#[allow(clippy::duplicate_mod, reason = "the same code with other locks is what is modelled")]
#[allow(dead_code, reason = "nothing is held here")]
mod jobs;

use jobs::Jobs;
use loom::sync::Arc;

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(check);
}

/// A thread that works until no more jobs come, and tells how many it had.
fn worker(jobs: &Arc<Jobs<u32, u32>>) -> loom::thread::JoinHandle<usize> {
    let jobs = Arc::clone(jobs);
    loom::thread::spawn(move || {
        let mut done = 0;
        while let Some(job) = jobs.next() {
            jobs.end(job + 10);
            done += 1;
        }
        done
    })
}

#[test]
fn every_job_ends_once_and_whoever_waits_hears_of_it() {
    model(|| {
        let jobs = Arc::new(Jobs::new());
        let workers = [worker(&jobs), worker(&jobs)];
        jobs.submit(1);
        jobs.submit(2);
        let mut ended = Vec::new();
        while ended.len() < 2 {
            jobs.wait();
            jobs.reap(&mut ended);
        }
        ended.sort_unstable();
        assert_eq!(ended, [11, 12]);
        jobs.close();
        let done: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert_eq!(done, 2);
    });
}

#[test]
fn a_job_that_waits_when_no_more_come_is_still_done() {
    model(|| {
        let jobs = Arc::new(Jobs::new());
        let workers = [worker(&jobs), worker(&jobs)];
        jobs.submit(1);
        jobs.close();
        let done: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert_eq!(done, 1);
        let mut ended = Vec::new();
        jobs.reap(&mut ended);
        assert_eq!(ended, [11]);
    });
}
