//! One upstream: a local server that is named or searched for, and whether it may be asked.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::UpstreamConfig;
use super::breaker::{Breaker, BreakerPermit, Circuit, Fault};
use super::health::{self, Health};
use super::origin::{AttemptError, ErrorSource, LocalUrl};
use super::server::{ServerSearch, ServerSource, UpstreamServer};
use super::wake::WakeSignal;
use crate::service::{Failure, FailureKind, Request, Response};
use crate::sync::lock;

/// The text of a failure where a search has found no server.
pub(super) const NONE_FOUND: &str = "no HTTP server found on this machine";

/// How long the result of a connection attempt is believed.
const REACHABLE_FOR: Duration = Duration::from_secs(1);

/// Whether an upstream may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Its requests pass.
    Up,
    /// Its circuit is half-open: the next request probes it.
    Probing,
    /// Its circuit is open: requests fail at once.
    Open,
    /// Its health checks fail.
    Down,
    /// No server is found.
    NotFound,
}

impl Availability {
    /// Whether the upstream is asked before those configured behind it. One for which no server is found keeps its place: to
    /// ask it makes the search go on.
    pub(super) fn keeps_place(self) -> bool {
        match self {
            Availability::Up | Availability::Probing | Availability::NotFound => true,
            Availability::Open | Availability::Down => false,
        }
    }
}

/// A local server as it is configured: by its URL, or to be searched for.
pub(super) struct Upstream {
    pub(super) config: Arc<UpstreamConfig>,
    pub(super) source: ServerSource,
    state: Mutex<State>,
    /// Nothing is known against the server: the state need not be looked at.
    untroubled: AtomicBool,
    started: Instant,
    /// When a response last passed for a health check, in milliseconds since the start; 0 for never.
    proven: AtomicU64,
    reachable: Mutex<Option<Reachability>>,
    /// Requests that wait for the head of their response.
    asking: AtomicUsize,
    /// Wakes the thread that monitors the upstream.
    pub(super) wake: WakeSignal,
}

/// The result of a connection attempt.
#[derive(Debug, Clone, Copy)]
struct Reachability {
    at: Instant,
    is_reachable: bool,
}

pub(super) struct State {
    pub(super) breaker: Breaker,
    pub(super) health: Health,
}

impl Upstream {
    /// The upstream at this URL.
    pub(super) fn named(url: LocalUrl, config: Arc<UpstreamConfig>) -> Self {
        let server = UpstreamServer::new(url, &config);
        Upstream::new(ServerSource::Named(Arc::new(server)), config)
    }

    /// The upstream that is searched for on this machine.
    pub(super) fn searched(config: Arc<UpstreamConfig>) -> Self {
        let search = ServerSearch::new(config.except.clone());
        Upstream::new(ServerSource::Searched(Box::new(search)), config)
    }

    fn new(source: ServerSource, config: Arc<UpstreamConfig>) -> Self {
        let state = State { breaker: Breaker::new(config.breaker), health: Health::new() };
        Upstream {
            source,
            state: Mutex::new(state),
            config,
            untroubled: AtomicBool::new(true),
            started: Instant::now(),
            proven: AtomicU64::new(0),
            reachable: Mutex::new(None),
            asking: AtomicUsize::new(0),
            wake: WakeSignal::default(),
        }
    }

    /// The current server, unless none is found yet.
    pub(super) fn server(&self) -> Option<Arc<UpstreamServer>> {
        self.source.current()
    }

    /// The server's URL, for people.
    pub(super) fn name(&self) -> String {
        self.server().map_or_else(|| "auto".to_owned(), |server| server.url.to_string())
    }

    pub(super) fn interrupt(&self) {
        self.source.each(UpstreamServer::interrupt);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Reads or changes the state.
    pub(super) fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = change(&mut state);
        let untroubled = state.breaker.is_untroubled() && state.health.is_up();
        self.untroubled.store(untroubled, Ordering::Relaxed);
        result
    }

    pub(super) fn is_untroubled(&self) -> bool {
        self.untroubled.load(Ordering::Relaxed)
    }

    /// Whether the upstream may be asked. Its circuit may be open while its health checks fail: then it is down.
    pub(super) fn availability(&self) -> Availability {
        if self.server().is_none() {
            return Availability::NotFound;
        }
        if self.is_untroubled() {
            return Availability::Up;
        }
        let state = self.state();
        match state.breaker.circuit(Instant::now()) {
            _ if !state.health.is_up() => Availability::Down,
            Circuit::Closed => Availability::Up,
            Circuit::HalfOpen => Availability::Probing,
            Circuit::Open => Availability::Open,
        }
    }

    /// The state of its circuit.
    pub(super) fn circuit(&self) -> Circuit {
        self.state().breaker.circuit(Instant::now())
    }

    /// Whether a visitor may be answered now. May open a connection, to find out.
    pub(super) fn is_ready(&self) -> bool {
        match self.availability() {
            Availability::Up => true,
            Availability::Probing => self.try_to_reach(),
            Availability::Open | Availability::Down | Availability::NotFound => false,
        }
    }

    /// Opens a connection, unless that was tried within the last second. Returns whether it can be opened; false while
    /// another thread tries: however many ask, one connection at a time is opened.
    fn try_to_reach(&self) -> bool {
        let Ok(mut last) = self.reachable.try_lock() else { return false };
        match *last {
            Some(Reachability { at, is_reachable }) if at.elapsed() < REACHABLE_FOR => is_reachable,
            _ => {
                let is_reachable = self.server().is_some_and(|server| server.reach().is_ok());
                *last = Some(Reachability { at: Instant::now(), is_reachable });
                is_reachable
            }
        }
    }

    /// Has the server answer a request, if the breaker permits it.
    pub(super) fn call(&self, request: Request) -> Result<Response, AttemptError> {
        if let ServerSource::Searched(search) = &self.source {
            search.wait_for_first();
        }
        let Some(server) = self.server() else {
            self.wake.ring();
            let failure = Failure::new(FailureKind::Unreachable, NONE_FOUND);
            return Err(AttemptError::NotSent { failure, request: Box::new(request) });
        };
        let permit = match self.permit() {
            Ok(permit) => permit,
            Err(failure) => return Err(AttemptError::NotSent { failure, request: Box::new(request) }),
        };
        let attempt = Attempt::new(self, permit);
        let result = server.origin.attempt(request, || self.reached(&server));
        // The outcome at a former server says nothing about the current one.
        if self.source.is_current(&server) {
            attempt.record(&result);
        }
        result
    }

    /// The breaker's permit for a request.
    fn permit(&self) -> Result<BreakerPermit, Failure> {
        if self.is_untroubled() {
            return Ok(BreakerPermit::Closed);
        }
        self.update(|state| state.breaker.admit(Instant::now())).map_err(|open| {
            Failure::new(FailureKind::Unavailable, open.to_string()).with_retry_after(open.retry_after())
        })
    }

    /// Records a response, whatever its status. A good one passes for a health check.
    fn answered(&self, response: &Response) {
        if self.config.checks.is_some() && health::is_good(response.status()) {
            let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.proven.store(now.max(1), Ordering::Relaxed);
        }
        if !self.is_untroubled() {
            self.log_closed(self.update(|state| state.breaker.succeeded(Instant::now())));
        }
    }

    /// The time since a response last passed for a health check.
    pub(super) fn since_proven(&self) -> Option<Duration> {
        let proven = Duration::from_millis(self.proven.load(Ordering::Relaxed));
        (!proven.is_zero()).then(|| self.started.elapsed().saturating_sub(proven))
    }

    /// Forgets what is known of the former server.
    pub(super) fn reset(&self) {
        self.proven.store(0, Ordering::Relaxed);
        self.update(|state| {
            state.breaker.succeeded(Instant::now());
            state.health = Health::new();
        });
    }

    /// Whether requests wait for the head of their response.
    pub(super) fn is_busy(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    /// Records a connection to this server, if it is the current one.
    pub(super) fn reached(&self, server: &Arc<UpstreamServer>) {
        if !self.is_untroubled() && self.source.is_current(server) {
            self.log_closed(self.update(|state| state.breaker.reached(Instant::now())));
        }
    }

    fn log_closed(&self, closed: Option<Duration>) {
        if let Some(time) = closed {
            info!("local server {} is up again, after {:.1} s", self.name(), time.as_secs_f64());
        }
    }

    /// Records that the server could not be reached, or did not answer in time.
    fn failed(&self, failure: &Failure, permit: BreakerPermit) {
        let is_reached = failure.kind() != FailureKind::Unreachable;
        let fault = if is_reached { Fault::Unanswered } else { Fault::Unreachable };
        let opened = self.update(|state| state.breaker.failed(fault, permit, Instant::now()));
        if let Some(failures) = opened {
            warn!(
                "local server {} failed {failures} times in a row, the last time: {failure}; not asked again \
                 but for a try now and then",
                self.name()
            );
        }
        if opened.is_some() || matches!(self.source, ServerSource::Searched(_)) {
            self.wake.ring();
        }
    }
}

/// A request that an upstream was asked to answer. When it is dropped, another request may probe a half-open circuit.
struct Attempt<'a> {
    upstream: &'a Upstream,
    permit: BreakerPermit,
}

impl<'a> Attempt<'a> {
    fn new(upstream: &'a Upstream, permit: BreakerPermit) -> Self {
        upstream.asking.fetch_add(1, Ordering::Relaxed);
        Attempt { upstream, permit }
    }

    /// Records the outcome. A server that breaks off, or answers what is no HTTP, may do better with the next request.
    fn record(&self, result: &Result<Response, AttemptError>) {
        match result {
            Ok(response) => self.upstream.answered(response),
            Err(
                AttemptError::NotSent { failure, .. }
                | AttemptError::Failed { failure, source: ErrorSource::Upstream },
            ) => self.upstream.failed(failure, self.permit),
            Err(AttemptError::Failed { source: ErrorSource::Other, .. }) => {}
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.upstream.asking.fetch_sub(1, Ordering::Relaxed);
        if self.permit != BreakerPermit::Closed {
            self.upstream.update(|state| state.breaker.record_inconclusive(self.permit, Instant::now()));
        }
    }
}
