//! One piece of work at a time for each processor, over items that come from an iterator.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Processors to use, at most one for each of `items`.
pub(crate) fn threads(items: u64) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    processors.min(usize::try_from(items).unwrap_or(usize::MAX)).max(1)
}

/// Calls `work` for each item, on `threads` threads, each with a buffer of its own that keeps its memory.
///
/// # Errors
/// The first error of any; items that were not begun by then are dropped.
pub(crate) fn try_for_each<I, E>(
    items: I,
    threads: usize,
    work: impl Fn(I::Item, &mut Vec<u8>) -> Result<(), E> + Sync,
) -> Result<(), E>
where
    I: Iterator + Send,
    I::Item: Send,
    E: Send,
{
    if threads <= 1 {
        let mut buffer = Vec::new();
        return items.into_iter().try_for_each(|item| work(item, &mut buffer));
    }
    let items = Mutex::new(Some(items));
    let failure = Mutex::new(None);
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(Iterator::next);
    let run = || {
        let mut buffer = Vec::new();
        while let Some(item) = next() {
            if let Err(error) = work(item, &mut buffer) {
                *items.lock().unwrap_or_else(PoisonError::into_inner) = None;
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn every_item_is_done_once() {
        for threads in [1, 2, 7] {
            let mut done = vec![0u8; 1000];
            try_for_each(done.iter_mut(), threads, |item, _| {
                *item += 1;
                Ok::<(), ()>(())
            })
            .unwrap();
            assert!(done.iter().all(|count| *count == 1));
        }
    }

    #[test]
    fn an_error_ends_it() {
        for threads in [1, 3] {
            let done = AtomicU64::new(0);
            let result = try_for_each(0..u64::MAX, threads, |item, _| {
                done.fetch_add(1, Ordering::Relaxed);
                if item == 5 { Err("five") } else { Ok(()) }
            });
            assert_eq!(result, Err("five"));
            assert!(done.load(Ordering::Relaxed) >= 6);
        }
    }
}
