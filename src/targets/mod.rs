//! Which local server answers a request, and whether it may be asked.
//!
//! The longest route that a path lies under says which servers there are for it. Of these the first that is up
//! answers; where it cannot be reached, the next one. Each has a [circuit breaker](breaker) and perhaps
//! [checks](health), whose thread runs while the agent does.

mod breaker;
mod edits;
mod health;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use http::header::{HeaderValue, USER_AGENT};
use http::{Uri, request};
use log::{debug, info, warn};

use self::breaker::Breaker;
pub use self::breaker::BreakerLimits;
pub(crate) use self::edits::{HeaderEdits, header_name};
pub use self::edits::{InvalidHeader, SetHeader};
pub use self::health::HealthChecks;
use self::health::{CHECK_TIME, Health};
use crate::link::tls::ClientTls;
use crate::origin::{Blame, LocalUrl, Origin, Timeouts, Unanswered};
use crate::rules::decode;
use crate::service::{Body, Failure, FailureKind, Request, Response, Service};

/// Most local servers of one agent.
pub(crate) const TARGETS_MAX: usize = 64;

const USER_AGENT_OF_CHECKS: HeaderValue =
    HeaderValue::from_static(concat!("tunnel-agent/", env!("CARGO_PKG_VERSION"), " (health check)"));

/// How all servers are treated.
pub(crate) struct Config {
    pub(crate) host: Option<HeaderValue>,
    pub(crate) tls: Option<ClientTls>,
    pub(crate) timeouts: Timeouts,
    pub(crate) edits: HeaderEdits,
    pub(crate) breaker: BreakerLimits,
    pub(crate) checks: Option<HealthChecks>,
}

/// The local servers.
pub(crate) struct Targets {
    /// Those with longer prefixes first; the last has none.
    routes: Vec<Route>,
    edits: HeaderEdits,
}

/// A part of the paths, and the servers for it.
struct Route {
    /// Without a slash at its end.
    prefix: String,
    targets: Vec<Arc<Target>>,
}

/// One server.
struct Target {
    url: LocalUrl,
    origin: Origin,
    /// Another one for checks, with connections and time limits of their own.
    checks: Option<(HealthChecks, Origin)>,
    state: Mutex<State>,
    /// Nothing is known against it; the state need not be looked at.
    is_calm: AtomicBool,
    started: Instant,
    /// When a request was answered last, in milliseconds since the start.
    proven: AtomicU64,
}

/// How a server is doing.
pub(crate) struct TargetStatus {
    pub(crate) route: String,
    pub(crate) url: String,
    pub(crate) is_healthy: bool,
    pub(crate) is_circuit_open: bool,
}

impl TargetStatus {
    /// Whether nothing speaks against asking it.
    pub(crate) fn is_up(&self) -> bool {
        self.is_healthy && !self.is_circuit_open
    }
}

struct State {
    breaker: Breaker,
    health: Health,
}

impl Targets {
    /// The servers of each prefix; the empty one takes what lies under no other.
    pub(crate) fn new(routes: Vec<(String, LocalUrl)>, config: Config) -> Self {
        let mut grouped: Vec<Route> = Vec::new();
        for (prefix, url) in routes {
            let target = Arc::new(Target::new(url, &config));
            match grouped.iter_mut().find(|route| route.prefix == prefix) {
                Some(route) => route.targets.push(target),
                None => grouped.push(Route { prefix, targets: vec![target] }),
            }
        }
        grouped.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        Targets { routes: grouped, edits: config.edits }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.routes.iter().flat_map(|route| &route.targets)
    }

    fn servers_for(&self, uri: &Uri) -> &[Arc<Target>] {
        let [only] = self.routes.as_slice() else {
            // What cannot be decoded lies where it says it does.
            let path = decode(uri.path()).unwrap_or_else(|_| uri.path().to_owned());
            let route = self.routes.iter().find(|route| lies_under(&path, &route.prefix));
            return route.map_or(&[], |route| &route.targets);
        };
        &only.targets
    }

    /// How each server is doing.
    pub(crate) fn status(&self) -> Vec<TargetStatus> {
        let of = |route: &Route, target: &Target| {
            let state = target.state();
            TargetStatus {
                route: format!("{}/", route.prefix),
                url: target.url.to_string(),
                is_healthy: state.health.is_up(),
                is_circuit_open: state.breaker.is_open(),
            }
        };
        self.routes
            .iter()
            .flat_map(|route| route.targets.iter().map(move |target| of(route, target)))
            .collect()
    }

    /// The URL to which a request without a body would be sent, and its head as it would be.
    pub(crate) fn explain(&self, mut head: request::Parts) -> Result<(String, request::Parts), Failure> {
        let target = self.servers_for(&head.uri).first();
        let target = target.ok_or_else(|| Failure::new(FailureKind::Unreachable, NO_SERVER))?;
        self.edits.apply(&mut head.headers);
        let url = target.origin.explain(&mut head)?;
        Ok((url, head))
    }

    /// Starts a thread for each server that is checked.
    pub(crate) fn start_checks(&self) -> io::Result<Checks> {
        let mut checks = Checks { stop: Arc::default(), threads: Vec::new() };
        for target in self.all().filter(|target| target.checks.is_some()) {
            let (target, stop) = (target.clone(), checks.stop.clone());
            let thread = thread::Builder::new().name("health".to_owned());
            checks.threads.push(thread.spawn(move || target.check_until(&stop))?);
        }
        Ok(checks)
    }
}

const NO_SERVER: &str = "no local server is responsible for this path";

/// Whether a path lies under a prefix, segment by segment.
fn lies_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Service for Targets {
    fn call(&self, mut request: Request) -> Result<Response, Failure> {
        self.edits.apply(request.headers_mut());
        let targets = self.servers_for(request.uri());
        let mut why = Failure::new(FailureKind::Unreachable, NO_SERVER);
        // Those that are down come last, in case that is wrong. What the calls change has no say in the order.
        let (up, down): (Vec<_>, Vec<_>) = targets.iter().partition(|target| target.is_up());
        for target in up.into_iter().chain(down) {
            match target.call(request) {
                Ok(response) => return Ok(response),
                Err(Unanswered { failure, request: Some(unsent), .. }) => (why, request) = (failure, *unsent),
                Err(unanswered) => return Err(unanswered.failure),
            }
        }
        Err(why)
    }

    fn interrupt(&self) {
        self.all().for_each(|target| target.origin.interrupt());
    }
}

impl Target {
    fn new(url: LocalUrl, config: &Config) -> Self {
        let tls = config.tls.clone().filter(|_| url.is_secure());
        let origin = |timeouts| Origin::new(url.clone(), config.host.clone(), tls.clone(), timeouts);
        let time = Timeouts { connect: CHECK_TIME, response: CHECK_TIME, idle: CHECK_TIME };
        Target {
            origin: origin(config.timeouts),
            checks: config.checks.clone().map(|checks| (checks, origin(time))),
            url,
            state: Mutex::new(State { breaker: Breaker::new(config.breaker), health: Health::new() }),
            is_calm: AtomicBool::new(true),
            started: Instant::now(),
            proven: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Looks at the state, or changes it.
    fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = change(&mut state);
        self.is_calm.store(state.breaker.is_calm() && state.health.is_up(), Ordering::Relaxed);
        result
    }

    fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    fn is_up(&self) -> bool {
        self.is_calm() || self.update(|state| state.health.is_up() && state.breaker.is_ready(Instant::now()))
    }

    /// Has a request answered, if the breaker lets it pass.
    fn call(&self, request: Request) -> Result<Response, Unanswered> {
        if !self.is_calm()
            && let Err(open) = self.update(|state| state.breaker.admit(Instant::now()))
        {
            let failure = Failure::new(FailureKind::Unavailable, open.to_string());
            return Err(Unanswered { failure, request: Some(Box::new(request)), blame: Blame::Nobody });
        }
        let outcome = Outcome(Some(self));
        let result = self.origin.attempt(request);
        outcome.tell(&result);
        result
    }

    fn answered(&self) {
        if self.checks.is_some() {
            let now = self.started.elapsed().as_millis();
            self.proven.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if !self.is_calm() {
            let closed = self.update(|state| state.breaker.succeeded(Instant::now()));
            if let Some(time) = closed {
                info!("local server {} answers again, after {:.1} s", self.url, time.as_secs_f64());
            }
        }
    }

    fn failed(&self, failure: &Failure) {
        let opened = self.update(|state| state.breaker.failed(Instant::now()));
        if let Some(failures) = opened {
            warn!(
                "local server {} failed {failures} times in a row, the last time: {failure}; not asked again \
                 but for a try now and then",
                self.url
            );
        }
    }

    /// Checks now and then, until the agent stops.
    fn check_until(&self, stop: &Stop) {
        let Some((checks, origin)) = &self.checks else { return };
        let mut next = Duration::ZERO;
        while stop.wait(next) {
            // A request that was answered meanwhile has said it all.
            let proven = Duration::from_millis(self.proven.load(Ordering::Relaxed));
            let since = self.started.elapsed().saturating_sub(proven);
            next = checks.interval;
            let result = if !proven.is_zero() && since < checks.interval {
                next = checks.interval - since;
                Ok(())
            } else {
                self.check(checks, origin)
            };
            self.checked(result);
        }
        origin.interrupt();
    }

    fn check(&self, checks: &HealthChecks, origin: &Origin) -> Result<(), String> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from(checks.path.clone());
        request.headers_mut().insert(USER_AGENT, USER_AGENT_OF_CHECKS);
        let status = origin.call(request).map_err(|failure| failure.to_string())?.status();
        debug!("local server {} answered its check with {status}", self.url);
        if status.is_server_error() { Err(format!("it answered {status}")) } else { Ok(()) }
    }

    fn checked(&self, result: Result<(), String>) {
        let now = Instant::now();
        let change = self.update(|state| match &result {
            Ok(()) => {
                // A circuit closes with whatever was answered.
                let closed = state.breaker.succeeded(now).map(health::Change::Up);
                state.health.passed(now).or(closed)
            }
            Err(_) => state.health.failed(now),
        });
        match (change, result) {
            (Some(health::Change::Down(failures)), Err(why)) => {
                warn!(
                    "local server {} is down: {failures} checks in a row failed, the last: {why}",
                    self.url
                );
            }
            (Some(health::Change::Up(time)), _) => {
                info!("local server {} is up again, after {:.1} s", self.url, time.as_secs_f64());
            }
            _ => {}
        }
    }
}

/// Tells a target how a request ended; that it told nothing, when nobody says more.
struct Outcome<'a>(Option<&'a Target>);

impl Outcome<'_> {
    fn tell(mut self, result: &Result<Response, Unanswered>) {
        match (result, self.0) {
            (Err(Unanswered { blame: Blame::Nobody, .. }), _) | (_, None) => return,
            (Err(Unanswered { blame: Blame::Server, failure, .. }), Some(target)) => target.failed(failure),
            (Ok(_) | Err(Unanswered { blame: Blame::Answer, .. }), Some(target)) => target.answered(),
        }
        self.0 = None;
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if let Some(target) = self.0.filter(|target| !target.is_calm()) {
            target.update(|state| state.breaker.told_nothing(Instant::now()));
        }
    }
}

/// Tells the checking threads to end.
#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Waits. False when it is time to end.
    fn wait(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let waited = self.changed.wait_timeout_while(stopped, time, |stopped| !*stopped);
        !*waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }
}

/// The threads that check; dropping it ends them.
pub(crate) struct Checks {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Checks {
    fn drop(&mut self) {
        *self.stop.stopped.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        self.stop.changed.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has said so on its own.
            let _ = thread.join();
        }
    }
}

/// A part of the paths that is another server's, without a slash at its end.
pub(crate) fn prefix(text: &str) -> Result<String, &'static str> {
    const WHAT: &str = "the prefix must be a path of whole, decoded segments, such as /api";
    let path = text.trim_end_matches('/');
    let is_one = path.starts_with('/') && !path.contains(['%', '?', '*']) && decode(path).is_ok();
    if is_one { Ok(path.to_owned()) } else { Err(WHAT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(routes: &[(&str, &str)]) -> Targets {
        let routes =
            routes.iter().map(|(prefix, url)| ((*prefix).to_owned(), url.parse().unwrap())).collect();
        let config = Config {
            host: None,
            tls: None,
            timeouts: Timeouts::default(),
            edits: HeaderEdits::default(),
            breaker: BreakerLimits::default(),
            checks: None,
        };
        Targets::new(routes, config)
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let targets = targets(&[
            ("", "http://127.0.0.1:1"),
            ("/api", "http://127.0.0.1:2"),
            ("/api/v2", "http://127.0.0.1:3/base"),
            ("", "http://127.0.0.1:9"),
        ]);
        for (path, url) in [
            ("/", "http://127.0.0.1:1/"),
            ("/apix?q=/api", "http://127.0.0.1:1/apix?q=/api"),
            ("/api", "http://127.0.0.1:2/api"),
            ("/api/", "http://127.0.0.1:2/api/"),
            ("/%61pi/x", "http://127.0.0.1:2/%61pi/x"),
            ("/api/v2/x?y", "http://127.0.0.1:3/base/api/v2/x?y"),
            ("/api/v20", "http://127.0.0.1:2/api/v20"),
            ("/x%2f..%2fapi", "http://127.0.0.1:1/x%2f..%2fapi"),
        ] {
            let mut request = http::Request::new(());
            *request.uri_mut() = path.parse().unwrap();
            let (got, _) = targets.explain(request.into_parts().0).unwrap();
            assert_eq!(got, url, "{path}");
        }
    }

    #[test]
    fn a_prefix_is_a_path_of_whole_segments() {
        assert_eq!(prefix("/api/"), Ok("/api".to_owned()));
        assert_eq!(prefix("/api/v2"), Ok("/api/v2".to_owned()));
        for bad in ["", "/", "api", "/a//b", "/a/../b", "/a?b", "/a%20b", "/a/*"] {
            assert!(prefix(bad).is_err(), "{bad:?}");
        }
    }
}
