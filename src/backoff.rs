//! How long to wait before the next try, and when to give up.

use std::time::Duration;

/// The lifetime of a session from which on its loss counts as a first failure. A gateway that accepts and closes at
/// once meets the growing delay like one that does not accept at all.
pub(crate) const LIVED: Duration = Duration::from_secs(10);

/// The jitter: how much longer than the shortest a delay may be, as a factor. Agents that lost the same gateway come
/// back spread out, from the first try on.
const SPREAD: f64 = 1.5;

/// The time for which a gateway that has announced its stop is expected back.
const RETURN_TIME: Duration = Duration::from_secs(30);

/// The longest delay between attempts within that time.
const RETURN_EVERY: Duration = Duration::from_millis(500);

/// The delays between attempts to connect, each from 1 ms to 24 h, and their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffConfig {
    /// The delay after a first failure, with up to half as much again at random; 1 s by default. While a gateway is
    /// expected back that has announced its stop, for 30 s, delays are shorter.
    pub min: Duration,
    /// The longest delay, up to which it doubles; 30 s by default.
    pub max: Duration,
    /// The attempts in a row that may fail after a first failure before the session is given up; a session that lasted 10 s
    /// resets the count. 0 means no limit; 10 by default, which takes about three minutes.
    pub max_retries: u32,
}

impl Default for BackoffConfig {
    /// 1 s doubling to 30 s, 10 retries.
    fn default() -> Self {
        BackoffConfig { min: Duration::from_secs(1), max: Duration::from_secs(30), max_retries: 10 }
    }
}

/// Exponential backoff with jitter. Pure: chance is an argument.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    config: BackoffConfig,
    failures: u32,
    /// For how much longer the gateway is expected back.
    returns_within: Duration,
}

impl Backoff {
    /// Starts with no failure behind it.
    pub(crate) fn new(config: BackoffConfig) -> Self {
        Backoff { config, failures: 0, returns_within: Duration::ZERO }
    }

    /// Goes on with another configuration.
    pub(crate) fn configure(&mut self, config: BackoffConfig) {
        self.config = config;
    }

    /// The remaining attempts before giving up; `None` where there is no limit.
    pub(crate) fn remaining(&self) -> Option<u32> {
        (self.config.max_retries != 0).then(|| self.config.max_retries.saturating_sub(self.failures))
    }

    /// Records a failed dial (`lived` is zero) or a lost session that lived that long. Returns the delay
    /// before the next try, or `None` when the tries are used up. `chance` lies in 0..1.
    pub(crate) fn failed(&mut self, lived: Duration, chance: f64) -> Option<Duration> {
        if lived >= LIVED {
            (self.failures, self.returns_within) = (0, Duration::ZERO);
        }
        if !self.returns_within.is_zero() {
            // A gateway that is restarted is looked for often, and not given up meanwhile.
            let delay = between(RETURN_EVERY.div_f64(SPREAD), RETURN_EVERY, chance);
            self.returns_within = self.returns_within.saturating_sub(delay);
            return Some(delay);
        }
        self.failures = self.failures.saturating_add(1);
        if self.config.max_retries != 0 && self.failures > self.config.max_retries {
            return None;
        }
        Some(self.delay(chance))
    }

    /// Records that a gateway goes away, from a session that lived that long. Returns the delay before another
    /// session is opened: none for one that lived, which is no failure.
    pub(crate) fn goes_away(&mut self, lived: Duration, chance: f64) -> Option<Duration> {
        if lived < LIVED {
            self.returns_within = Duration::ZERO;
            return self.failed(lived, chance);
        }
        self.failures = 0;
        self.returns_within = RETURN_TIME;
        Some(Duration::ZERO)
    }

    /// From the doubled delay to half as much again; where that would be above the limit, from two thirds of it up to it.
    fn delay(&self, chance: f64) -> Duration {
        let BackoffConfig { min, max, .. } = self.config;
        let doublings = (self.failures - 1).min(31);
        let longest = min.saturating_mul(1 << doublings).min(max).mul_f64(SPREAD).min(max);
        between(longest.div_f64(SPREAD).max(min), longest, chance)
    }
}

fn between(shortest: Duration, longest: Duration, chance: f64) -> Duration {
    shortest + longest.saturating_sub(shortest).mul_f64(chance)
}

/// A number in 0..1 that differs from call to call and from process to process: good enough to spread
/// retries, and for nothing else.
pub(crate) fn chance() -> f64 {
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
        let mut backoff = Backoff::new(BackoffConfig { max_retries: 3, ..BackoffConfig::default() });
        let mut leaves =
            |lived: u64| backoff.goes_away(Duration::from_secs(lived), 0.0).map(|delay| delay.as_secs_f64());
        assert_eq!([leaves(0), leaves(9), leaves(10)], [Some(1.0), Some(2.0), Some(0.0)]);
        assert_eq!([leaves(1), leaves(1), leaves(1), leaves(1)], [Some(1.0), Some(2.0), Some(4.0), None]);
    }

    #[test]
    fn a_gateway_that_is_restarted_is_looked_for_twice_a_second_and_half_a_minute_long() {
        let mut backoff = Backoff::new(BackoffConfig { max_retries: 1, ..BackoffConfig::default() });
        assert_eq!(backoff.goes_away(LIVED, 0.0), Some(Duration::ZERO));
        let mut tries = 0;
        let mut passed = Duration::ZERO;
        while passed < Duration::from_secs(30) {
            let delay = backoff.failed(Duration::ZERO, f64::from(tries % 10) / 10.0).unwrap();
            assert!((Duration::from_millis(333)..=Duration::from_millis(500)).contains(&delay), "{delay:?}");
            (tries, passed) = (tries + 1, passed + delay);
        }
        // Then it is one that has failed, for the first time.
        assert_eq!(backoff.failed(Duration::ZERO, 0.0), Some(SECOND));
        assert_eq!(backoff.failed(Duration::ZERO, 0.0), None);
    }

    fn delays(backoff: &mut Backoff, chance: f64, tries: usize) -> Vec<Option<f64>> {
        (0..tries).map(|_| backoff.failed(Duration::ZERO, chance).map(|d| d.as_secs_f64())).collect()
    }

    #[test]
    fn doubles_from_min_to_max_and_then_gives_up() {
        let mut backoff = Backoff::new(BackoffConfig { max_retries: 7, ..BackoffConfig::default() });
        let expected = [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0].map(Some);
        assert_eq!(backoff.remaining(), Some(7));
        assert_eq!(delays(&mut backoff, 0.0, 7), expected);
        assert_eq!(backoff.remaining(), Some(0));
        assert_eq!(backoff.failed(Duration::ZERO, 0.0), None);
    }

    #[test]
    fn delays_are_spread_upwards_and_stay_within_the_limits() {
        let config = BackoffConfig { max_retries: 0, ..BackoffConfig::default() };
        let all = |config, chance| delays(&mut Backoff::new(config), chance, 7);
        let high = [1.5, 3.0, 6.0, 12.0, 24.0, 30.0, 30.0].map(Some);
        assert_eq!(all(config, 1.0), high);
        assert_eq!(all(config, 0.5)[..3], [1.25, 2.5, 5.0].map(Some));
        // Where the doubled delay is just under the limit, and where there is but one.
        let narrow = BackoffConfig { min: Duration::from_secs(25), ..config };
        assert_eq!([all(narrow, 0.0)[0], all(narrow, 1.0)[0]], [Some(25.0), Some(30.0)]);
        let fixed = BackoffConfig { min: SECOND, max: SECOND, ..config };
        assert_eq!([all(fixed, 0.0)[3], all(fixed, 1.0)[3]], [Some(1.0), Some(1.0)]);
    }

    #[test]
    fn a_fleet_that_lost_its_gateway_does_not_come_back_at_one_instant() {
        let mut first: Vec<_> = (0..1000)
            .map(|agent| {
                Backoff::new(BackoffConfig::default())
                    .failed(Duration::ZERO, f64::from(agent) / 1000.0)
                    .unwrap()
            })
            .collect();
        first.dedup();
        assert!(first.len() > 990, "{}", first.len());
    }

    #[test]
    fn zero_retries_means_never_to_give_up() {
        let mut backoff = Backoff::new(BackoffConfig { max_retries: 0, ..BackoffConfig::default() });
        assert!(delays(&mut backoff, 0.5, 10_000).iter().all(Option::is_some));
    }

    #[test]
    fn only_a_session_that_lived_resets_the_row() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        delays(&mut backoff, 0.0, 4);
        assert_eq!(backoff.failed(LIVED - SECOND, 0.0), Some(16 * SECOND));
        assert_eq!(backoff.failed(LIVED, 0.0), Some(SECOND));
    }

    #[test]
    fn chance_lies_between_zero_and_one() {
        assert!((0..1000).map(|_| chance()).all(|c| (0.0..1.0).contains(&c)));
    }
}
