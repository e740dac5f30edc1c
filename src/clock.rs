//! Clocks: how a program notices that its machine slept, and how it tells times to people.

use std::time::{Duration, Instant, SystemTime};

/// Longest wait between two looks at the clocks. What is waited for while the machine sleeps takes its full
/// time afterwards.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How much further than the monotonic clock the wall clock must have moved. Setting it right moves it less.
const SLEPT: Duration = Duration::from_secs(5);

/// A time as seconds, of which the last may not be over: who comes back after them does not come too soon.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// The wall clock, which goes on while the machine sleeps, and the monotonic one, which (on Linux and macOS)
/// does not. Pure: both times are arguments.
#[derive(Debug)]
pub struct Clocks {
    wall: SystemTime,
    monotonic: Instant,
}

impl Clocks {
    /// Both clocks as they are now.
    pub fn new(wall: SystemTime, monotonic: Instant) -> Self {
        Clocks { wall, monotonic }
    }

    /// Whether the machine slept since the last look.
    pub fn slept(&mut self, wall: SystemTime, monotonic: Instant) -> bool {
        let passed = monotonic.saturating_duration_since(self.monotonic);
        // A wall clock that was set back tells nothing.
        let slept = wall.duration_since(self.wall).is_ok_and(|moved| moved > passed + SLEPT);
        *self = Clocks { wall, monotonic };
        slept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_runs_ahead_means_sleep() {
        let (wall, monotonic) = (SystemTime::now(), Instant::now());
        let second = |seconds| Duration::from_secs(seconds);
        let mut clocks = Clocks::new(wall, monotonic);
        assert!(!clocks.slept(wall + second(2), monotonic + second(2)));
        // Set right by a little.
        assert!(!clocks.slept(wall + second(8), monotonic + second(4)));
        assert!(clocks.slept(wall + second(3608), monotonic + second(5)));
        assert!(!clocks.slept(wall + second(3610), monotonic + second(7)));
        // Set back, and forward from there.
        assert!(!clocks.slept(wall, monotonic + second(9)));
        assert!(!clocks.slept(wall + second(2), monotonic + second(11)));
    }
}
