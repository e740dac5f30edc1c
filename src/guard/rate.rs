//! How many requests may pass in a time: a token bucket, with time as an argument.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A rate limit in requests per second or minute, 1 to 1,000,000: `100/s`, `30/m`.
///
/// ```
/// let rate: tunnel_agent::Rate = "100/s".parse()?;
/// assert_eq!(rate.to_string(), "100/s");
/// # Ok::<(), tunnel_agent::InvalidRate>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    per: Per,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
}

/// The error of a text that is not a [`Rate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRate;

impl fmt::Display for InvalidRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a rate such as 100/s or 30/m, of 1 to 1000000")
    }
}

impl std::error::Error for InvalidRate {}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let (requests, per) = text.split_once('/').ok_or(InvalidRate)?;
        let per = match per {
            "s" => Per::Second,
            "m" => Per::Minute,
            _ => return Err(InvalidRate),
        };
        match requests.parse() {
            Ok(requests @ 1..=Rate::MAX) => Ok(Rate { requests, per }),
            _ => Err(InvalidRate),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, if self.per == Per::Second { "s" } else { "m" })
    }
}

impl Rate {
    /// More requests than anything here answers; a token then still takes a measurable time.
    const MAX: u32 = 1_000_000;

    /// How many pass in a second, and one at least.
    pub(crate) fn in_a_second(self) -> u32 {
        if self.per == Per::Second { self.requests } else { self.requests.div_ceil(60) }
    }

    /// The time in which one token comes.
    fn interval(self) -> Duration {
        let per = if self.per == Per::Second { Duration::from_secs(1) } else { Duration::from_secs(60) };
        per / self.requests
    }
}

/// A bucket of tokens, one a request. A request may wait for its token, in order.
///
/// All it keeps is when it will be full again: the tokens that are missing are the time until then.
#[derive(Debug)]
pub(crate) struct Bucket {
    interval: Duration,
    /// From full to empty.
    depth: Duration,
    /// How long a request may wait for its token.
    patience: Duration,
    full_at: Instant,
}

impl Bucket {
    /// A full bucket of `burst` tokens.
    pub(crate) fn new(rate: Rate, burst: u32, patience: Duration, now: Instant) -> Self {
        let interval = rate.interval();
        Bucket { interval, depth: interval * burst.max(1), patience, full_at: now }
    }

    /// Whether the other one has the same limit.
    pub(super) fn has_limit_of(&self, other: &Bucket) -> bool {
        let limit = |bucket: &Bucket| (bucket.interval, bucket.depth, bucket.patience);
        limit(self) == limit(other)
    }

    /// Takes a token. Returns when the request may pass; or, when that is too far away, how long it takes until
    /// another one might.
    pub(crate) fn take(&mut self, now: Instant) -> Result<Instant, Duration> {
        let full_at = self.full_at.max(now) + self.interval;
        let missing = full_at - now;
        let wait = missing.saturating_sub(self.depth);
        if wait > self.patience {
            return Err(wait);
        }
        self.full_at = full_at;
        Ok(now + wait)
    }

    /// Puts the token back that was taken last: the request did not pass after all.
    pub(crate) fn refund(&mut self) {
        self.full_at = self.full_at.checked_sub(self.interval).unwrap_or(self.full_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes tokens at these milliseconds: `Ok` with the wait of each, or `Err` with the time to come back
    /// after.
    #[track_caller]
    fn check(rate: &str, burst: u32, patience: u64, takes: &[(u64, Result<u64, u64>)]) {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut bucket = Bucket::new(rate.parse().unwrap(), burst, Duration::from_millis(patience), start);
        for (number, (ms, expected)) in takes.iter().enumerate() {
            let got = bucket.take(at(*ms));
            let got = got.map(|time| (time - at(*ms)).as_millis() as u64);
            assert_eq!(got.map_err(|wait| wait.as_millis() as u64), *expected, "take {number} at {ms} ms");
        }
    }

    #[test]
    fn a_burst_passes_and_then_one_request_an_interval() {
        check(
            "10/s",
            3,
            0,
            &[(0, Ok(0)), (0, Ok(0)), (0, Ok(0)), (0, Err(100)), (99, Err(1)), (100, Ok(0)), (150, Err(50))],
        );
    }

    #[test]
    fn unused_tokens_do_not_add_up_beyond_the_burst() {
        check("10/s", 2, 0, &[(60_000, Ok(0)), (60_000, Ok(0)), (60_000, Err(100))]);
    }

    #[test]
    fn who_may_wait_waits_in_order_and_who_would_wait_longer_is_refused_at_once() {
        check(
            "10/s",
            1,
            200,
            &[(0, Ok(0)), (0, Ok(100)), (0, Ok(200)), (0, Err(300)), (100, Ok(200)), (100, Err(300))],
        );
    }

    #[test]
    fn a_refused_request_takes_no_token() {
        check("1/m", 1, 0, &[(0, Ok(0)), (0, Err(60_000)), (30_000, Err(30_000)), (60_000, Ok(0))]);
    }

    #[test]
    fn a_token_that_is_refund_is_there_for_the_next_request() {
        let start = Instant::now();
        let mut bucket = Bucket::new("1/m".parse().unwrap(), 2, Duration::ZERO, start);
        let mut takes = || bucket.take(start).map(|_| ());
        assert_eq!((takes(), takes(), takes().is_err()), (Ok(()), Ok(()), true));
        bucket.refund();
        assert!(bucket.take(start).is_ok() && bucket.take(start).is_err());
    }

    #[test]
    fn the_burst_is_what_comes_in_a_second_and_one_at_least() {
        for (rate, burst) in [("100/s", 100), ("1/s", 1), ("1/m", 1), ("60/m", 1), ("100/m", 2)] {
            assert_eq!(rate.parse::<Rate>().unwrap().in_a_second(), burst, "{rate}");
        }
    }

    #[test]
    fn rates_carry_their_unit() {
        for text in ["1/s", "100/s", "30/m", "1000000/s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["", "1", "1/h", "0/s", "-1/s", "1.5/s", "/s", "1000001/s", "1/s ", "99999999999/s"] {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate), "{text:?}");
        }
    }
}
