//! Whether a program's threads go on: each says by when it will have come round again, and somebody else looks.
//!
//! A process whose threads hang looks alive to the system. Here a thread that waits says for how long at most, and one
//! that has not come back by then, and not for a good while after, is stuck.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// How late a thread may be: on a busy machine all are.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// The threads that say when they come round.
#[derive(Debug, Default)]
pub(crate) struct Vitals(Mutex<Vec<Weak<Pulse>>>);

/// The sign of life of one thread. Dropping it means that the thread has ended in good order.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// The purpose of the thread.
    of: &'static str,
    epoch: Instant,
    /// When it comes round at the latest, in milliseconds after the epoch.
    due: AtomicU64,
}

impl Pulse {
    /// A thread that comes round at once.
    pub(crate) fn new(of: &'static str) -> Self {
        let pulse = Pulse { of, epoch: Instant::now(), due: AtomicU64::new(0) };
        pulse.expect_within(Duration::ZERO);
        pulse
    }

    /// Says that the thread comes round within this time.
    pub(crate) fn expect_within(&self, time: Duration) {
        let due = self.epoch.elapsed().saturating_add(time).as_millis();
        // Only a time is passed on, no other memory depends on it.
        self.due.store(u64::try_from(due).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the thread is later than it may be.
    fn is_overdue(&self, now: Instant) -> bool {
        let due = Duration::from_millis(self.due.load(Ordering::Relaxed)).saturating_add(GRACE);
        now.saturating_duration_since(self.epoch) > due
    }
}

impl Vitals {
    /// Looks at one more thread, for as long as what it says with lives.
    pub(crate) fn pulse(&self, of: &'static str) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse::new(of));
        let mut pulses = lock(&self.0);
        pulses.retain(|pulse| pulse.strong_count() > 0);
        pulses.push(Arc::downgrade(&pulse));
        pulse
    }

    /// A thread that is stuck, if there is one.
    pub(crate) fn overdue(&self, now: Instant) -> Option<&'static str> {
        let pulses = lock(&self.0);
        let late = pulses.iter().filter_map(Weak::upgrade).find(|pulse| pulse.is_overdue(now));
        late.map(|pulse| pulse.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_stuck_when_it_is_later_than_it_said_and_not_when_it_has_ended() {
        let vitals = Vitals::default();
        let (first, second) = (vitals.pulse("first"), vitals.pulse("second"));
        let (start, second_of) = (Instant::now(), Duration::from_secs);
        first.expect_within(second_of(60));
        second.expect_within(second_of(5));
        assert_eq!(vitals.overdue(start + second_of(5) + GRACE - second_of(1)), None);
        assert_eq!(vitals.overdue(start + second_of(6) + GRACE), Some("second"));
        // It has come round.
        second.expect_within(second_of(600));
        assert_eq!(vitals.overdue(start + second_of(6) + GRACE), None);
        assert_eq!(vitals.overdue(start + second_of(61) + GRACE), Some("first"));
        drop(first);
        assert_eq!(vitals.overdue(start + second_of(61) + GRACE), None);
        second.expect_within(Duration::MAX);
        assert_eq!(vitals.overdue(start + second_of(1 << 40)), None);
    }
}
