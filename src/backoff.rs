//! How long to wait before the next try, and when to give up.

use std::time::Duration;

/// How long a session must have lived for its loss to count as the first failure of a new row. A gateway
/// that accepts and closes at once meets the growing delay like one that does not accept at all.
pub const LIVED: Duration = Duration::from_secs(10);

/// Largest deviation of a delay from its nominal value, as a fraction of it. Agents that lost the same
/// gateway come back spread out.
const JITTER: f64 = 0.2;

/// How long an agent waits between tries, and how often it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// First and shortest delay.
    pub min: Duration,
    /// Longest delay.
    pub max: Duration,
    /// Tries after a first failure before giving up; 0 means never to give up.
    pub max_retries: u32,
}

impl Default for Limits {
    /// 1 s doubling to 30 s, 10 retries.
    fn default() -> Self {
        Limits { min: Duration::from_secs(1), max: Duration::from_secs(30), max_retries: 10 }
    }
}

/// Exponential backoff with jitter over failures in a row. Pure: chance is an argument.
#[derive(Debug, Clone)]
pub struct Backoff {
    limits: Limits,
    failures: u32,
}

impl Backoff {
    /// Starts with no failure behind it.
    pub fn new(limits: Limits) -> Self {
        Backoff { limits, failures: 0 }
    }

    /// Records a failed dial (`lived` is zero) or a lost session that lived that long. Returns the delay
    /// before the next try, or `None` when the tries are used up. `chance` lies in 0..1.
    pub fn failed(&mut self, lived: Duration, chance: f64) -> Option<Duration> {
        if lived >= LIVED {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        if self.limits.max_retries != 0 && self.failures > self.limits.max_retries {
            return None;
        }
        Some(self.delay(chance))
    }

    /// Records that a gateway takes its leave, from a session that lived that long. Returns the delay before another
    /// session is opened: none for one that lived, which is no failure.
    pub fn left(&mut self, lived: Duration, chance: f64) -> Option<Duration> {
        if lived < LIVED {
            return self.failed(lived, chance);
        }
        self.failures = 0;
        Some(Duration::ZERO)
    }

    fn delay(&self, chance: f64) -> Duration {
        let doublings = (self.failures - 1).min(31);
        let nominal = self.limits.min.saturating_mul(1 << doublings).min(self.limits.max);
        let factor = 1.0 + JITTER * (2.0 * chance - 1.0);
        nominal.mul_f64(factor).clamp(self.limits.min, self.limits.max)
    }
}

/// A number in 0..1 that differs from call to call and from process to process: good enough to spread
/// retries, and for nothing else.
pub fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let bits = RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_gateway_that_takes_its_leave_at_once_has_failed_and_one_that_stayed_has_not() {
        let mut backoff = Backoff::new(Limits { max_retries: 3, ..Limits::default() });
        let mut left =
            |lived: u64| backoff.left(Duration::from_secs(lived), 0.5).map(|delay| delay.as_secs_f64());
        assert_eq!([left(0), left(9), left(10)], [Some(1.0), Some(2.0), Some(0.0)]);
        assert_eq!([left(1), left(1), left(1), left(1)], [Some(1.0), Some(2.0), Some(4.0), None]);
    }

    fn delays(backoff: &mut Backoff, chance: f64, tries: usize) -> Vec<Option<f64>> {
        (0..tries).map(|_| backoff.failed(Duration::ZERO, chance).map(|d| d.as_secs_f64())).collect()
    }

    #[test]
    fn doubles_from_min_to_max_and_then_gives_up() {
        let mut backoff = Backoff::new(Limits { max_retries: 7, ..Limits::default() });
        let expected = [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0].map(Some);
        assert_eq!(delays(&mut backoff, 0.5, 7), expected);
        assert_eq!(backoff.failed(Duration::ZERO, 0.5), None);
    }

    #[test]
    fn jitter_stays_within_a_fifth_and_within_the_limits() {
        let limits = Limits { max_retries: 0, ..Limits::default() };
        assert_eq!(delays(&mut Backoff::new(limits), 0.0, 3), [Some(1.0), Some(1.6), Some(3.2)]);
        let high = delays(&mut Backoff::new(limits), 1.0, 6);
        assert_eq!(high, [Some(1.2), Some(2.4), Some(4.8), Some(9.6), Some(19.2), Some(30.0)]);
    }

    #[test]
    fn zero_retries_means_never_to_give_up() {
        let mut backoff = Backoff::new(Limits { max_retries: 0, ..Limits::default() });
        assert!(delays(&mut backoff, 0.5, 10_000).iter().all(Option::is_some));
    }

    #[test]
    fn only_a_session_that_lived_resets_the_row() {
        let mut backoff = Backoff::new(Limits::default());
        delays(&mut backoff, 0.5, 4);
        assert_eq!(backoff.failed(LIVED - SECOND, 0.5), Some(16 * SECOND));
        assert_eq!(backoff.failed(LIVED, 0.5), Some(SECOND));
    }

    #[test]
    fn chance_lies_between_zero_and_one() {
        assert!((0..1000).map(|_| chance()).all(|c| (0.0..1.0).contains(&c)));
    }
}
