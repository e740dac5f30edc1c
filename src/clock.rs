//! Clocks: how a program notices that its machine slept, and how it tells times to people.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Longest wait between two looks at the clocks. What is waited for while the machine sleeps takes its full
/// time afterwards.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How much further than the monotonic clock the wall clock must have moved. Setting it right moves it less.
const SLEPT: Duration = Duration::from_secs(5);

/// Rounds up to whole seconds, so that a client that obeys `Retry-After` never retries early.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// The wall clock, which goes on while the machine sleeps, and the monotonic one, which (on Linux and macOS)
/// does not. Pure: both times are arguments.
#[derive(Debug)]
pub(crate) struct Clocks {
    wall: SystemTime,
    monotonic: Instant,
}

impl Clocks {
    /// Both clocks as they are now.
    pub(crate) fn new(wall: SystemTime, monotonic: Instant) -> Self {
        Clocks { wall, monotonic }
    }

    /// Looks at both clocks: true when the machine slept since the last look.
    pub(crate) fn take_sleep(&mut self, wall: SystemTime, monotonic: Instant) -> bool {
        let passed = monotonic.saturating_duration_since(self.monotonic);
        // A wall clock that was set back tells nothing.
        let slept = wall.duration_since(self.wall).is_ok_and(|moved| moved > passed + SLEPT);
        *self = Clocks { wall, monotonic };
        slept
    }
}

/// An instant that one thread sets and others read: when a byte was last received, say.
#[derive(Debug)]
pub struct SharedInstant {
    epoch: Instant,
    nanos: AtomicU64,
}

impl SharedInstant {
    /// The present instant.
    pub fn new() -> Self {
        SharedInstant { epoch: Instant::now(), nanos: AtomicU64::new(0) }
    }

    /// Sets the present instant.
    pub fn set_now(&self) {
        let nanos = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // Only a time is passed on, no other memory depends on it.
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    /// The instant that was set last.
    pub fn get(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

/// The instant that is `time` from now; about a year from now where the clock cannot represent that.
pub(crate) fn after(time: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(time).unwrap_or_else(|| now + FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_runs_ahead_means_sleep() {
        let (wall, monotonic) = (SystemTime::now(), Instant::now());
        let second = |seconds| Duration::from_secs(seconds);
        let mut clocks = Clocks::new(wall, monotonic);
        assert!(!clocks.take_sleep(wall + second(2), monotonic + second(2)));
        // Set right by a little.
        assert!(!clocks.take_sleep(wall + second(8), monotonic + second(4)));
        assert!(clocks.take_sleep(wall + second(3608), monotonic + second(5)));
        assert!(!clocks.take_sleep(wall + second(3610), monotonic + second(7)));
        // Set back, and forward from there.
        assert!(!clocks.take_sleep(wall, monotonic + second(9)));
        assert!(!clocks.take_sleep(wall + second(2), monotonic + second(11)));
    }
}
