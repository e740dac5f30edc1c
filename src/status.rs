//! How an agent is doing, at the cost of a few atomics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// How an agent is doing at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Whether there is a session.
    pub connection: Connection,
    /// Sessions that are open.
    pub sessions: u64,
    /// Requests that wait for a worker or an answer.
    pub in_flight: u64,
    /// Requests that were answered with a response, since the start.
    pub served: u64,
    /// Requests that could not be forwarded, since the start.
    pub failed: u64,
    /// Requests that the agent refused on its own (400, 413, 503, …), since the start.
    pub refused: u64,
    /// Requests whose client left before the answer was complete, since the start.
    pub cancelled: u64,
    /// Failed tries and lost sessions, since the start.
    pub retries: u64,
}

/// Whether there is a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Dialling, or waiting to dial again.
    Connecting,
    /// There is one at least; the oldest was opened at this time.
    Connected(Instant),
    /// The agent has ended.
    Stopped,
}

#[derive(Debug, Default)]
struct Sessions {
    /// When each of those that are open began.
    since: Vec<Instant>,
    /// The agent has ended.
    stopped: bool,
}

/// What [`Status`] is made of.
#[derive(Debug)]
pub(crate) struct Counters {
    sessions: Mutex<Sessions>,
    in_flight: AtomicU64,
    served: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    cancelled: AtomicU64,
    retries: AtomicU64,
}

// Counters count, and nothing else depends on them: relaxed everywhere.
impl Counters {
    pub(crate) fn new() -> Self {
        Counters {
            sessions: Mutex::default(),
            in_flight: AtomicU64::new(0),
            served: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            retries: AtomicU64::new(0),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // Nothing panics while the lock is held.
        self.sessions.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn session_began(&self, at: Instant) {
        self.sessions().since.push(at);
    }

    /// That which began at this time.
    pub(crate) fn session_ended(&self, at: Instant) {
        let since = &mut self.sessions().since;
        since.iter().position(|other| *other == at).map(|index| since.remove(index));
    }

    pub(crate) fn stopped(&self) {
        self.sessions().stopped = true;
    }

    pub(crate) fn request_started(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn request_answered(&self, with_response: bool) {
        let counter = if with_response { &self.served } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn status(&self) -> Status {
        let sessions = self.sessions();
        let connection = match sessions.since.iter().min() {
            _ if sessions.stopped => Connection::Stopped,
            Some(since) => Connection::Connected(*since),
            None => Connection::Connecting,
        };
        Status {
            connection,
            sessions: sessions.since.len() as u64,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            served: self.served.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }
}
