//! How an agent is doing, at the cost of a few atomics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::clock::SharedInstant;
use crate::sync::{lock, wait_timeout_while};

/// How an agent is doing at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Whether there is a session with a gateway.
    pub connection: ConnectionState,
    /// Where visitors reach the tunnel, as the gateway of an open session has said; of several, the one that was opened last.
    /// `None` where none has.
    pub url: Option<String>,
    /// The number of open WebSocket connections to gateways.
    pub sessions: u64,
    /// Requests that wait in the queue, or are being answered.
    pub in_flight: u64,
    /// Requests that were answered with a response, since the start.
    pub served: u64,
    /// Requests that ended in a [`Failure`](crate::Failure) other than `BadRequest`, since the start.
    pub failed: u64,
    /// Requests that the agent refused (400, 403, 413, 429, 503, …), among them those with a `BadRequest` of the
    /// service, since the start.
    pub refused: u64,
    /// Requests whose client disconnected before the answer was complete, or whose session was lost while they waited, since
    /// the start.
    pub cancelled: u64,
    /// Failed attempts to connect and lost sessions, since the start.
    pub retries: u64,
}

impl Status {
    /// The numbers of two tunnels together, with this one's connection and URL.
    pub(crate) fn and(self, other: &Status) -> Status {
        Status {
            sessions: self.sessions + other.sessions,
            in_flight: self.in_flight + other.in_flight,
            served: self.served + other.served,
            failed: self.failed + other.failed,
            refused: self.refused + other.refused,
            cancelled: self.cancelled + other.cancelled,
            retries: self.retries + other.retries,
            ..self
        }
    }
}

/// Whether there is a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Dialling, waiting to dial again, or given up while other tunnels of the agent go on.
    Connecting,
    /// At least one WebSocket is open; the oldest since this time. The gateway may not have accepted the tunnel ID
    /// yet.
    Connected(Instant),
    /// The agent has ended.
    Stopped,
}

#[derive(Debug, Default)]
struct OpenSessions {
    open: Vec<OpenSession>,
    /// The agent has ended.
    stopped: bool,
}

#[derive(Debug)]
struct OpenSession {
    began: Instant,
    heard: Arc<SharedInstant>,
    /// Its gateway sends it requests.
    is_taken: bool,
    /// Where visitors reach the tunnel there.
    url: Option<String>,
}

/// Metrics of one kind, each with a label out of a fixed list.
#[derive(Debug)]
pub(crate) struct LabeledCounters {
    labels: &'static [&'static str],
    counts: Box<[AtomicU64]>,
}

// Metrics count, and nothing else depends on them: relaxed everywhere.
impl LabeledCounters {
    pub(crate) fn new(labels: &'static [&'static str]) -> Self {
        LabeledCounters { labels, counts: labels.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn count(&self, label: &str) {
        let index = self.labels.iter().position(|other| *other == label);
        debug_assert!(index.is_some(), "{label} is in the list");
        index.map(|index| self.counts[index].fetch_add(1, Ordering::Relaxed));
    }

    /// All labels with their numbers.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        self.labels.iter().copied().zip(counts)
    }

    pub(crate) fn sum(&self) -> u64 {
        self.each().map(|(_, count)| count).sum()
    }
}

/// The labels of the counters whose owners are other modules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetricLabels {
    /// Kinds of failures to forward.
    pub(crate) failures: &'static [&'static str],
    /// Codes of refusals.
    pub(crate) refusals: &'static [&'static str],
    /// Kinds of failed dials.
    pub(crate) dials: &'static [&'static str],
}

/// The classes of a response's status.
pub(crate) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The class of a status.
pub(crate) fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

/// How long things took.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: [AtomicU64; Histogram::BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// The buckets' upper bounds, in seconds; one more bucket takes the rest.
    pub(crate) const BOUNDS: [f64; 13] =
        [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

    pub(crate) fn new() -> Self {
        Histogram { counts: std::array::from_fn(|_| AtomicU64::new(0)), micros: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let index = Self::BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many took no longer than each bound, and than any.
    pub(crate) fn cumulative(&self) -> Vec<u64> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        counts.scan(0, |sum, count| (*sum += count, Some(*sum)).1).collect()
    }

    /// All times together, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

/// The counters behind [`Status`] and the metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: Instant,
    sessions: Mutex<OpenSessions>,
    changed: Condvar,
    in_flight: AtomicU64,
    cancelled: AtomicU64,
    retries: AtomicU64,
    sessions_total: AtomicU64,
    /// Responses by the class of their status.
    pub(crate) responses: LabeledCounters,
    /// Requests that could not be forwarded.
    pub(crate) failures: LabeledCounters,
    /// Requests that the agent refused.
    pub(crate) refusals: LabeledCounters,
    /// Tries to reach a gateway that failed.
    pub(crate) dials: LabeledCounters,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    dropped: AtomicU64,
    /// How long a gateway took for its last pong, in microseconds; 0 before there was one.
    round_trip: AtomicU64,
    /// From taking a request on to the end of its answer.
    pub(crate) whole: Histogram,
    /// From asking the local server to the head of its response.
    pub(crate) upstream: Histogram,
}

impl Metrics {
    pub(crate) fn new(labels: MetricLabels) -> Self {
        Metrics {
            started: Instant::now(),
            sessions: Mutex::default(),
            changed: Condvar::new(),
            in_flight: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            sessions_total: AtomicU64::new(0),
            responses: LabeledCounters::new(&CLASSES),
            failures: LabeledCounters::new(labels.failures),
            refusals: LabeledCounters::new(labels.refusals),
            dials: LabeledCounters::new(labels.dials),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            whole: Histogram::new(),
            upstream: Histogram::new(),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, OpenSessions> {
        lock(&self.sessions)
    }

    pub(crate) fn session_began(&self, began: Instant, heard: Arc<SharedInstant>) {
        self.sessions_total.fetch_add(1, Ordering::Relaxed);
        self.sessions().open.push(OpenSession { began, heard, is_taken: false, url: None });
    }

    /// The gateway takes the session that began at this time for one of those to which it sends requests.
    pub(crate) fn session_taken(&self, at: Instant) {
        let mut sessions = self.sessions();
        sessions.open.iter_mut().filter(|session| session.began == at).for_each(|s| s.is_taken = true);
        drop(sessions);
        self.changed.notify_all();
    }

    /// The gateway of the session that began at this time has said where visitors reach the tunnel.
    pub(crate) fn url_told(&self, at: Instant, url: &str) {
        let mut sessions = self.sessions();
        let told = sessions.open.iter_mut().filter(|session| session.began == at);
        told.for_each(|session| session.url = Some(url.to_owned()));
    }

    /// Waits until a gateway sends requests, or the agent has ended, at most `timeout`. Returns whether one does.
    pub(crate) fn wait_connected(&self, timeout: Duration) -> bool {
        let is_taken = |sessions: &OpenSessions| sessions.open.iter().any(|session| session.is_taken);
        let is_due = |sessions: &mut OpenSessions| !sessions.stopped && !is_taken(sessions);
        is_taken(&wait_timeout_while(&self.changed, self.sessions(), timeout, is_due))
    }

    /// Waits until a gateway sends requests, a try has failed, or the agent has ended, at most `timeout`. Returns whether one
    /// of it is so.
    #[cfg(feature = "cli")]
    pub(crate) fn wait_tried(&self, timeout: Duration) -> bool {
        let is_tried = |sessions: &OpenSessions| {
            sessions.stopped
                || self.retries.load(Ordering::Relaxed) > 0
                || sessions.open.iter().any(|session| session.is_taken)
        };
        let is_due = |sessions: &mut OpenSessions| !is_tried(sessions);
        is_tried(&wait_timeout_while(&self.changed, self.sessions(), timeout, is_due))
    }

    /// Waits until the agent has ended, at most `timeout`.
    #[cfg(feature = "cli")]
    pub(crate) fn wait_stopped(&self, timeout: Duration) {
        let is_due = |sessions: &mut OpenSessions| !sessions.stopped;
        drop(wait_timeout_while(&self.changed, self.sessions(), timeout, is_due));
    }

    /// That which began at this time.
    pub(crate) fn session_ended(&self, at: Instant) {
        let open = &mut self.sessions().open;
        open.iter().position(|session| session.began == at).map(|index| open.remove(index));
    }

    /// How long ago each session heard something.
    pub(crate) fn silences(&self) -> Vec<Duration> {
        let now = Instant::now();
        let sessions = self.sessions();
        sessions.open.iter().map(|session| now.saturating_duration_since(session.heard.get())).collect()
    }

    pub(crate) fn sessions_total(&self) -> u64 {
        self.sessions_total.load(Ordering::Relaxed)
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn stopped(&self) {
        self.sessions().stopped = true;
        self.changed.notify_all();
    }

    pub(crate) fn request_started(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request was answered after this time, or could not be.
    pub(crate) fn request_answered(&self, outcome: Result<StatusCode, &str>, time: Duration) {
        match outcome {
            Ok(status) => self.responses.count(class(status)),
            Err(code) => self.failures.count(code),
        }
        self.whole.observe(time);
    }

    pub(crate) fn request_refused(&self, code: &str) {
        self.refusals.count(code);
    }

    pub(crate) fn request_cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    /// The local server took so long.
    pub(crate) fn upstream_took(&self, time: Duration) {
        self.upstream.observe(time);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.request_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.response_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of bodies, of requests and of responses.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.request_bytes.load(Ordering::Relaxed), self.response_bytes.load(Ordering::Relaxed))
    }

    /// An answer's session was gone.
    pub(crate) fn answer_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// A gateway took so long for a pong.
    pub(crate) fn pong_took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.round_trip.store(micros.max(1), Ordering::Relaxed);
    }

    /// How long a gateway took for its last pong.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let micros = self.round_trip.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        // Under the lock: a thread that is just about to wait for it would miss it otherwise.
        drop(self.sessions());
        self.changed.notify_all();
    }

    pub(crate) fn dial_failed(&self, kind: &str) {
        self.dials.count(kind);
    }

    pub(crate) fn status(&self) -> Status {
        let sessions = self.sessions();
        let connection = match sessions.open.iter().map(|session| session.began).min() {
            _ if sessions.stopped => ConnectionState::Stopped,
            Some(since) => ConnectionState::Connected(since),
            None => ConnectionState::Connecting,
        };
        Status {
            connection,
            url: sessions.open.iter().rev().find_map(|session| session.url.clone()),
            sessions: sessions.open.len() as u64,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            served: self.responses.sum(),
            failed: self.failures.sum(),
            refused: self.refusals.sum(),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }
}
