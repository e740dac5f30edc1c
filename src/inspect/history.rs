//! Requests, failures, bytes and latencies of the last 15 minutes, for graphs. Pure; time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time that one sample covers.
const STEP: Duration = Duration::from_secs(10);

/// The samples of 15 minutes.
const SAMPLES: u64 = 90;

/// Latencies are counted in classes, each of which ends at twice the time of the one before: the first at a quarter of a
/// millisecond, the last but one at 35 minutes.
const CLASSES: usize = 24;

/// The end of the first class.
const FIRST_CLASS: Duration = Duration::from_micros(250);

/// The figures of 10 seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct HistorySample {
    /// Seconds before now at which it begins.
    pub(crate) age: u64,
    /// Exchanges that have ended.
    pub(crate) requests: u64,
    /// Those among them that were refused or failed, or whose status is 500 or above.
    pub(crate) failures: u64,
    /// Bytes of bodies.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Times within which half of them had ended, and so on, in seconds; the end of the class that it lies in.
    pub(crate) p50: Option<f64>,
    pub(crate) p95: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// An exchange that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndedExchange {
    pub(super) has_failed: bool,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// How long it took; none for one that lasts by its nature.
    pub(super) took: Option<Duration>,
}

#[derive(Debug, Default)]
struct HistoryBucket {
    step: u64,
    requests: u64,
    failures: u64,
    received: u64,
    sent: u64,
    latencies: [u64; CLASSES],
}

/// The figures of the last 15 minutes.
#[derive(Debug)]
pub(super) struct History {
    began: Instant,
    /// By time; none for a step in which nothing ended.
    buckets: VecDeque<HistoryBucket>,
}

impl History {
    pub(super) fn new(began: Instant) -> Self {
        History { began, buckets: VecDeque::new() }
    }

    fn step(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / STEP.as_secs()
    }

    /// Counts an exchange.
    pub(super) fn add(&mut self, ended: EndedExchange, now: Instant) {
        let step = self.step(now);
        while self.buckets.front().is_some_and(|bucket| bucket.step + SAMPLES <= step) {
            self.buckets.pop_front();
        }
        if self.buckets.back().is_none_or(|bucket| bucket.step < step) {
            self.buckets.push_back(HistoryBucket { step, ..HistoryBucket::default() });
        }
        let Some(bucket) = self.buckets.back_mut() else { return };
        bucket.requests += 1;
        bucket.failures += u64::from(ended.has_failed);
        bucket.received += ended.received;
        bucket.sent += ended.sent;
        if let Some(took) = ended.took {
            bucket.latencies[class_of(took)] += 1;
        }
    }

    /// The samples in which anything ended, the oldest first.
    pub(super) fn samples(&self, now: Instant) -> Vec<HistorySample> {
        let current = self.step(now);
        let recent = self.buckets.iter().filter(|bucket| bucket.step + SAMPLES > current);
        let sample = |bucket: &HistoryBucket| HistorySample {
            age: (current - bucket.step) * STEP.as_secs(),
            requests: bucket.requests,
            failures: bucket.failures,
            received: bucket.received,
            sent: bucket.sent,
            p50: bucket.quantile(50),
            p95: bucket.quantile(95),
            p99: bucket.quantile(99),
        };
        recent.map(sample).collect()
    }
}

impl HistoryBucket {
    /// The time within which so many of a hundred had ended.
    fn quantile(&self, percent: u64) -> Option<f64> {
        let wanted = (self.latencies.iter().sum::<u64>() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let class = self.latencies.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(FIRST_CLASS.as_secs_f64() * (1_u64 << class) as f64)
    }
}

fn class_of(took: Duration) -> usize {
    (0..CLASSES - 1).find(|class| took <= FIRST_CLASS * (1 << class)).unwrap_or(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(milliseconds: u64) -> EndedExchange {
        let took = Duration::from_millis(milliseconds);
        EndedExchange { has_failed: milliseconds == 100, received: 1, sent: 10, took: Some(took) }
    }

    #[test]
    fn a_sample_covers_ten_seconds_and_is_forgotten_after_fifteen_minutes() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut history = History::new(began);
        (0..98).for_each(|_| history.add(ended(1), at(3)));
        (0..2).for_each(|_| history.add(ended(100), at(9)));
        history.add(ended(0), at(25));
        let samples = history.samples(at(29));
        let first = HistorySample {
            age: 20,
            requests: 100,
            failures: 2,
            received: 100,
            sent: 1000,
            p50: Some(0.001),
            p95: Some(0.001),
            p99: Some(0.128),
        };
        assert_eq!(samples[0], first);
        assert_eq!((samples.len(), samples[1].age, samples[1].p99), (2, 0, Some(0.000_25)));
        assert_eq!(history.samples(at(899)).len(), 2);
        assert_eq!(history.samples(at(900)).len(), 1);
        history.add(ended(1), at(10_000));
        assert_eq!((history.samples(at(10_000)).len(), history.buckets.len()), (1, 1));
    }

    #[test]
    fn the_last_class_has_no_end() {
        assert_eq!(class_of(Duration::ZERO), 0);
        assert_eq!(class_of(Duration::from_micros(251)), 1);
        assert_eq!(class_of(Duration::MAX), CLASSES - 1);
    }
}
