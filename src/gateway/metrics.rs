//! The metrics of a gateway.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

use super::door::Door;
use super::record::RequestEnd;
use crate::metrics::{CLASSES, Histogram, LabeledCounters, class};
use crate::sync::lock;

/// Counters since the gateway's start. They cost a request a few atomics.
pub(super) struct GatewayMetrics {
    /// Responses by the class of their status.
    pub(super) responses: LabeledCounters,
    /// From a request's head to the end of its response, but for those that last.
    pub(super) durations: Histogram,
    /// Requests whose visitor disconnected before there was a response.
    cancelled: AtomicU64,
    /// Responses that broke off.
    cut: AtomicU64,
    /// TLS handshakes that failed, by the door.
    pub(super) failed_handshakes: LabeledCounters,
    /// Responses of the gateway's own, by their code.
    problems: Mutex<BTreeMap<&'static str, u64>>,
    sessions: AtomicU64,
    lost_sessions: AtomicU64,
    /// Connections for which there was no place.
    turned_away: AtomicU64,
}

/// How an agent's session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionOutcome {
    /// The agent or the gateway said goodbye.
    Closed,
    /// The connection broke off, or broke the protocol.
    Lost,
}

// Numbers, and nothing else depends on them: relaxed everywhere.
impl GatewayMetrics {
    pub(super) fn new() -> Self {
        GatewayMetrics {
            responses: LabeledCounters::new(&CLASSES),
            durations: Histogram::new(),
            cancelled: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            failed_handshakes: LabeledCounters::new(&Door::NAMES),
            problems: Mutex::default(),
            sessions: AtomicU64::new(0),
            lost_sessions: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        }
    }

    /// A request has ended.
    pub(super) fn request_ended(&self, end: RequestEnd) {
        match end {
            RequestEnd::Answered(status, took) => {
                self.responses.count(class(status));
                took.inspect(|took| self.durations.observe(*took));
            }
            RequestEnd::Cut(status) => {
                self.responses.count(class(status));
                self.cut.fetch_add(1, Ordering::Relaxed);
            }
            RequestEnd::Cancelled => drop(self.cancelled.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A connection's TLS handshake has failed.
    pub(super) fn handshake_failed(&self, door: Door) {
        self.failed_handshakes.count(door.name());
    }

    /// A request that cannot be read was answered.
    pub(super) fn unreadable_answered(&self, status: StatusCode) {
        self.responses.count(class(status));
    }

    /// The gateway answered a request itself, with a problem of this code.
    pub(super) fn problem(&self, code: &'static str) {
        *lock(&self.problems).entry(code).or_default() += 1;
    }

    pub(super) fn session_began(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn session_ended(&self, outcome: SessionOutcome) {
        if outcome == SessionOutcome::Lost {
            self.lost_sessions.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// Sessions so far, and how many of them were lost.
    pub(super) fn sessions(&self) -> (u64, u64) {
        (self.sessions.load(Ordering::Relaxed), self.lost_sessions.load(Ordering::Relaxed))
    }

    /// Problems so far, by their code.
    pub(super) fn problems(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.problems).clone()
    }

    pub(super) fn cancelled_count(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn cut_count(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    pub(super) fn turned_away_count(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }
}
