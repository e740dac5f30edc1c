//! Whether a server is up, as checks tell: rules with time as an argument.

use std::time::{Duration, Instant};

use http::uri::PathAndQuery;

/// Failed checks in a row after which a server counts as down.
const DOWN_AFTER: u32 = 3;

/// How long a check may take to connect, and then to be answered.
pub(super) const CHECK_TIME: Duration = Duration::from_secs(3);

/// How a server is asked whether it is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthChecks {
    /// What is asked for; anything below status 500 is a good answer.
    pub path: PathAndQuery,
    /// Between two checks; 10 s by default. Requests that are answered take the place of checks.
    pub interval: Duration,
}

/// What is known of one server.
#[derive(Debug)]
pub(super) struct Health {
    /// Since when it is down.
    down_since: Option<Instant>,
    failures: u32,
}

/// What changed with a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is down, after so many failed checks.
    Down(u32),
    /// It is up again, after so long a time.
    Up(Duration),
}

impl Health {
    /// It is up until a check says something else.
    pub(super) fn new() -> Self {
        Health { down_since: None, failures: 0 }
    }

    pub(super) fn is_up(&self) -> bool {
        self.down_since.is_none()
    }

    /// A check, or a request in its place, was answered.
    pub(super) fn passed(&mut self, now: Instant) -> Option<Change> {
        self.failures = 0;
        self.down_since.take().map(|since| Change::Up(now - since))
    }

    /// A check was not answered, or badly.
    pub(super) fn failed(&mut self, now: Instant) -> Option<Change> {
        self.failures = self.failures.saturating_add(1);
        if self.failures < DOWN_AFTER || !self.is_up() {
            return None;
        }
        self.down_since = Some(now);
        Some(Change::Down(self.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_after_three_failures_in_a_row_and_up_after_one_success() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new();
        assert_eq!(health.failed(at(0)), None);
        assert_eq!(health.failed(at(10)), None);
        assert_eq!(health.passed(at(20)), None);
        assert_eq!(health.failed(at(30)), None);
        assert_eq!(health.failed(at(40)), None);
        assert!(health.is_up());
        assert_eq!(health.failed(at(50)), Some(Change::Down(3)));
        assert_eq!(health.failed(at(60)), None);
        assert!(!health.is_up());
        assert_eq!(health.passed(at(70)), Some(Change::Up(Duration::from_secs(20))));
        assert!(health.is_up());
    }
}
