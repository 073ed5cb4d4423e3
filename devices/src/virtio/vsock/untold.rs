//! When the driver hears that its packets were taken.
//!
//! It waits for that only where its tx queue is full, yet asks for an interrupt each time, and an interrupt costs a guest
//! more than all the rest of a short message. So it hears of it with the next packet for it, which a message mostly brings
//! about; at once where much of its queue is at stake; and else when a timer says that it is time.

use std::io;
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

/// When the timer decides, the oldest of what the driver is told of is at least so old, and at most twice as old.
const PERIOD: Duration = Duration::from_millis(4);

/// What the driver was given back of its tx queue and not told of.
pub(super) struct Untold {
    timer: TimerFd,
    pub(super) period: Duration,
    /// The timer runs.
    armed: bool,
    /// All of it was given back while the timer ran, since the driver was told of what was there before.
    fresh: bool,
    descriptors: usize,
}

impl Untold {
    /// # Errors
    /// When the process has no descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let timer = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self { timer, period: PERIOD, armed: false, fresh: false, descriptors: 0 })
    }

    /// For the event loop: by edge, for it is never read.
    pub(super) fn timer(&self) -> &TimerFd {
        &self.timer
    }

    /// Counts a chain given back.
    pub(super) fn add(&mut self, descriptors: usize) {
        self.descriptors += descriptors;
    }

    /// Whether a driver with a queue of this size should be told now.
    pub(super) fn is_much(&self, queue_size: u16) -> bool {
        self.descriptors > 0 && self.descriptors >= usize::from(queue_size / 4)
    }

    /// The driver is told of everything.
    pub(super) fn clear(&mut self) {
        (self.descriptors, self.fresh) = (0, true);
    }

    /// Sees to it that the timer runs while there is something to tell; false when it does not.
    pub(super) fn wait(&mut self) -> bool {
        if self.descriptors > 0 && !self.armed {
            self.fresh = false;
            self.armed = self.timer.reset(self.period, None).is_ok();
        }
        self.descriptors == 0 || self.armed
    }

    /// The timer has run out: whether the driver is to be told now.
    pub(super) fn is_due(&mut self) -> bool {
        self.armed = false;
        self.descriptors > 0 && !self.fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_a_quarter_of_the_queue_and_never_nothing() {
        for (size, much) in [(256, 64), (8, 2), (4, 1), (2, 1), (1, 1)] {
            let mut untold = Untold::new().unwrap();
            for count in 0..much {
                assert!(!untold.is_much(size), "{count} of {size}");
                untold.add(1);
            }
            assert!(untold.is_much(size));
            untold.clear();
            assert!(!untold.is_much(size));
        }
    }

    #[test]
    fn what_is_young_waits_for_the_timer_once_more() {
        let mut untold = Untold::new().unwrap();
        assert!(untold.wait() && !untold.armed, "nothing to wait for");
        untold.add(1);
        assert!(untold.wait() && untold.armed);
        assert!(untold.is_due());
        untold.clear();
        untold.add(1);
        assert!(untold.wait());
        // Told with a packet, after which there is more.
        untold.clear();
        untold.add(1);
        assert!(!untold.is_due());
        assert!(untold.wait() && untold.armed);
        assert!(untold.is_due());
        untold.clear();
        assert!(untold.wait() && !untold.armed && !untold.is_due());
    }
}
