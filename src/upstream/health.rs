//! Whether a server is up, as checks tell: rules with time as an argument.

use std::time::{Duration, Instant};

use http::StatusCode;
use http::uri::PathAndQuery;

use crate::service::{Failure, FailureKind};

/// Failed checks in a row after which a server counts as down.
const DOWN_AFTER: u32 = 3;

/// How long a check may take to connect, and then to be answered.
pub(super) const CHECK_TIME: Duration = Duration::from_secs(3);

/// Health checks: a `GET` at intervals. After three failures in a row the server is down, until one succeeds. A check
/// has 3 s to connect and 3 s to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthChecks {
    /// The path and query of the check; any status below 500 is success.
    pub path: PathAndQuery,
    /// The interval between two checks; the program's default is 10 s. Requests with a good answer take the place of
    /// checks.
    pub interval: Duration,
}

/// Whether a server that answers with this status is well.
pub(super) fn is_good(status: StatusCode) -> bool {
    status.as_u16() < 500
}

/// Whether requests are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    Idle,
    Busy,
}

/// The verdict of a check: none where a busy server did not answer in time. Some servers answer one request at a time,
/// and busy is not down.
pub(super) fn verdict(result: Result<StatusCode, Failure>, load: Load) -> Option<Result<(), Failure>> {
    match result {
        Err(failure) if failure.kind() == FailureKind::Timeout && load == Load::Busy => None,
        result => Some(result.map(drop)),
    }
}

/// The health of one server.
#[derive(Debug)]
pub(super) struct Health {
    /// Failed checks in a row, and when the first of them failed.
    failures: u32,
    failing_since: Option<Instant>,
    is_down: bool,
    /// The last check found nothing that takes connections.
    is_unreachable: bool,
}

/// A change that a check brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthChange {
    /// It is down, after so many failed checks.
    Down(u32),
    /// It is up again, so long after the first check that failed.
    Up(Duration),
}

impl Health {
    /// It is up until a check says something else.
    pub(super) fn new() -> Self {
        Health { failures: 0, failing_since: None, is_down: false, is_unreachable: false }
    }

    pub(super) fn is_up(&self) -> bool {
        !self.is_down
    }

    /// Whether it is down because nothing takes connections there, which costs nothing to find out.
    pub(super) fn is_out_of_reach(&self) -> bool {
        self.is_down && self.is_unreachable
    }

    /// A check, or a request in its place, was answered.
    pub(super) fn passed(&mut self, now: Instant) -> Option<HealthChange> {
        self.failures = 0;
        let since = self.failing_since.take()?;
        std::mem::take(&mut self.is_down).then(|| HealthChange::Up(now - since))
    }

    /// A check was not answered, or badly.
    pub(super) fn failed(&mut self, kind: FailureKind, now: Instant) -> Option<HealthChange> {
        self.is_unreachable = kind == FailureKind::Unreachable;
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        if self.failures < DOWN_AFTER || !self.is_up() {
            return None;
        }
        self.is_down = true;
        Some(HealthChange::Down(self.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_not_down() {
        let failed = |kind| Err(Failure::new(kind, "why"));
        for (result, load, expected) in [
            (Ok(StatusCode::OK), Load::Busy, Some(true)),
            (Ok(StatusCode::OK), Load::Idle, Some(true)),
            (failed(FailureKind::Timeout), Load::Busy, None),
            (failed(FailureKind::Timeout), Load::Idle, Some(false)),
            (failed(FailureKind::Unreachable), Load::Busy, Some(false)),
            (failed(FailureKind::Protocol), Load::Busy, Some(false)),
        ] {
            assert_eq!(verdict(result.clone(), load).map(|v| v.is_ok()), expected, "{result:?} {load:?}");
        }
    }

    #[test]
    fn down_after_three_failures_in_a_row_and_up_after_one_success() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new();
        assert_eq!(health.failed(FailureKind::Timeout, at(0)), None);
        assert_eq!(health.failed(FailureKind::Timeout, at(10)), None);
        assert_eq!(health.passed(at(20)), None);
        assert_eq!(health.failed(FailureKind::Timeout, at(30)), None);
        assert_eq!(health.failed(FailureKind::Timeout, at(40)), None);
        assert!(health.is_up());
        assert_eq!(health.failed(FailureKind::Timeout, at(50)), Some(HealthChange::Down(3)));
        assert_eq!(health.failed(FailureKind::Timeout, at(60)), None);
        assert!(!health.is_up());
        assert_eq!(health.passed(at(70)), Some(HealthChange::Up(Duration::from_secs(40))));
        assert!(health.is_up());
    }
}
