//! One local server: named, or searched for; asked only while that makes sense.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::Config;
use super::breaker::{Breaker, Pass, Trouble};
use super::choice::Look;
use super::health::{self, Health};
use super::server::{Search, Server, Servers};
use crate::discover::Found;
use crate::origin::{Blame, LocalUrl, Unanswered};
use crate::service::{Failure, FailureKind, Request, Response};

/// Why nothing is asked, where no server was named.
pub(super) const NONE_FOUND: &str = "no HTTP server found on this machine";

/// Between two looks for connections that nobody needs any more.
const TIDY_EVERY: Duration = Duration::from_secs(30);

/// How long it is believed that a server can be connected to, or cannot.
const REACHABLE_FOR: Duration = Duration::from_secs(1);

/// Between two looks whether a server takes connections again, while requests are not sent to it since it takes none.
const KNOCK_EVERY: Duration = Duration::from_millis(500);

/// Least time between two looks at what there is.
const QUIET: Duration = Duration::from_secs(1);

/// One place where requests are sent to, and how the server there is doing.
pub(super) struct Target {
    config: Arc<Config>,
    servers: Servers,
    state: Mutex<State>,
    /// Nothing is known against it; the state need not be looked at.
    is_calm: AtomicBool,
    started: Instant,
    /// When a request was answered well last, in milliseconds since the start; 0 for never.
    proven: AtomicU64,
    /// Whether the server could be connected to, and when that was found.
    reachable: Mutex<Option<(Instant, bool)>>,
    /// Requests that wait for the head of their answer.
    asking: AtomicUsize,
    /// A server was found where none was named.
    is_found: AtomicBool,
    /// Wakes the thread that looks after it.
    bell: Bell,
}

struct State {
    breaker: Breaker,
    health: Health,
}

impl State {
    fn new(config: &Config) -> Self {
        State { breaker: Breaker::new(config.breaker), health: Health::new() }
    }
}

impl Target {
    /// At this URL.
    pub(super) fn named(url: LocalUrl, config: Arc<Config>) -> Self {
        Target::at(Servers::Named(Arc::new(Server::new(url, &config))), config)
    }

    /// Wherever on this machine there is one, but for these ports.
    pub(super) fn searched(except: Vec<u16>, config: Arc<Config>) -> Self {
        Target::at(Servers::Searched(Box::new(Search::new(except))), config)
    }

    fn at(servers: Servers, config: Arc<Config>) -> Self {
        Target {
            servers,
            state: Mutex::new(State::new(&config)),
            config,
            is_calm: AtomicBool::new(true),
            started: Instant::now(),
            proven: AtomicU64::new(0),
            reachable: Mutex::new(None),
            asking: AtomicUsize::new(0),
            is_found: AtomicBool::new(false),
            bell: Bell::default(),
        }
    }

    /// The server that is asked, unless none is found yet.
    pub(super) fn server(&self) -> Option<Arc<Server>> {
        self.servers.server()
    }

    /// Where it is, for people.
    pub(super) fn name(&self) -> String {
        self.server().map_or_else(|| "auto".to_owned(), |server| server.url.to_string())
    }

    pub(super) fn interrupt(&self) {
        self.servers.each(Server::interrupt);
    }

    /// Whether its health is good, and whether its circuit is open; and if so, whether it is time for a try.
    pub(super) fn condition(&self) -> (bool, bool, bool) {
        let is_there = self.server().is_some();
        let state = self.state();
        let breaker = &state.breaker;
        (state.health.is_up() && is_there, breaker.is_open(), breaker.is_ready(Instant::now()))
    }

    /// Whether nothing is known that speaks against asking it. May connect to the server, to know.
    pub(super) fn may_answer(&self) -> bool {
        let (is_healthy, is_circuit_open, is_ready) = self.condition();
        is_healthy && (!is_circuit_open || (is_ready && self.is_reachable()))
    }

    /// Whether the server can be connected to, as was found within the last second. Not while somebody else finds out:
    /// however many ask, one at a time connects.
    fn is_reachable(&self) -> bool {
        let Ok(mut last) = self.reachable.try_lock() else { return false };
        match *last {
            Some((at, is_reachable)) if at.elapsed() < REACHABLE_FOR => is_reachable,
            _ => {
                let is_reachable = self.server().is_some_and(|server| server.is_reachable());
                *last = Some((Instant::now(), is_reachable));
                is_reachable
            }
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

    pub(super) fn is_up(&self) -> bool {
        self.is_calm() || self.update(|state| state.health.is_up() && state.breaker.is_ready(Instant::now()))
    }

    /// Has a request answered, if the breaker lets it pass.
    pub(super) fn call(&self, request: Request) -> Result<Response, Unanswered> {
        if let Servers::Searched(search) = &self.servers {
            search.wait_for_first_look();
        }
        let Some(server) = self.server() else {
            self.bell.ring();
            let failure = Failure::new(FailureKind::Unreachable, NONE_FOUND);
            return Err(Unanswered { failure, request: Some(Box::new(request)), blame: Blame::Nobody });
        };
        let asked = match self.admit() {
            Ok(pass) => Asked::new(self, pass),
            Err(failure) => {
                return Err(Unanswered { failure, request: Some(Box::new(request)), blame: Blame::Nobody });
            }
        };
        let result = server.origin.attempt(request, || self.reached(&server));
        // What became of one that was asked before says nothing of the one that is asked now.
        if self.servers.is_at(&server) {
            asked.tell(&result);
        }
        result
    }

    /// Whether the breaker lets a request pass.
    fn admit(&self) -> Result<Pass, Failure> {
        if self.is_calm() {
            return Ok(Pass::Closed);
        }
        self.update(|state| state.breaker.admit(Instant::now())).map_err(|open| {
            Failure::new(FailureKind::Unavailable, open.to_string()).with_retry_after(open.retry_after())
        })
    }

    /// There was an answer, whatever it was; it passes for a check if it is as good as one.
    fn answered(&self, is_good: bool) {
        if is_good && self.config.checks.is_some() {
            let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.proven.store(now.max(1), Ordering::Relaxed);
        }
        if !self.is_calm() {
            self.tell_closed(self.update(|state| state.breaker.succeeded(Instant::now())));
        }
    }

    /// There is a connection to this server, if it is still the one that is asked.
    fn reached(&self, server: &Arc<Server>) {
        if !self.is_calm() && self.servers.is_at(server) {
            self.tell_closed(self.update(|state| state.breaker.reached(Instant::now())));
        }
    }

    fn tell_closed(&self, closed: Option<Duration>) {
        if let Some(time) = closed {
            info!("local server {} is up again, after {:.1} s", self.name(), time.as_secs_f64());
        }
    }

    fn failed(&self, failure: &Failure, pass: Pass) {
        let is_there = failure.kind() != FailureKind::Unreachable;
        let trouble = if is_there { Trouble::Unanswered } else { Trouble::Unreachable };
        let opened = self.update(|state| state.breaker.failed(trouble, pass, Instant::now()));
        if let Some(failures) = opened {
            warn!(
                "local server {} failed {failures} times in a row, the last time: {failure}; not asked again \
                 but for a try now and then",
                self.name()
            );
        }
        if opened.is_some() || matches!(self.servers, Servers::Searched(_)) {
            self.bell.ring();
        }
    }

    /// Searches, where it is to be searched for, checks, where it is to be checked, knocks where nobody takes connections,
    /// and closes connections that are not needed any more, until it is [released](Self::release).
    pub(super) fn look_after(&self) {
        let mut next_look = Some(Duration::ZERO);
        let mut next_check = self.config.checks.as_ref().map(|_| Duration::ZERO);
        let mut now = Instant::now();
        let mut next_knock = None;
        let soonest =
            |times: [Option<Duration>; 3]| times.into_iter().flatten().fold(TIDY_EVERY, Duration::min);
        while self.bell.wait(soonest([next_look, next_check, next_knock])) {
            let passed = now.elapsed();
            now += passed;
            next_look = self.search();
            self.servers.each(|server| server.origin.close_idle(now));
            let is_back = self.is_out_of_reach() && self.knock();
            next_check = match next_check.map(|left| left.saturating_sub(passed)) {
                Some(left) if left.is_zero() || is_back => Some(self.check()),
                left => left,
            };
            next_knock = self.is_out_of_reach().then_some(KNOCK_EVERY);
        }
    }

    /// Whether requests are not sent to it since it takes no connections.
    fn is_out_of_reach(&self) -> bool {
        !self.is_calm()
            && self.update(|state| state.breaker.is_out_of_reach() || state.health.is_out_of_reach())
    }

    /// Finds out whether it takes connections again; visitors need not wait until one of them is the next to try.
    fn knock(&self) -> bool {
        let Some(server) = self.server() else { return false };
        let is_back = server.is_reachable();
        if is_back {
            self.reached(&server);
        }
        is_back
    }

    /// Ends the looking after, and a search or a check that is under way.
    pub(super) fn release(&self) {
        self.bell.stop();
        if let Servers::Searched(search) = &self.servers {
            search.stop();
        }
        self.server().inspect(|server| server.interrupt_check());
    }

    /// Looks for a server where none was named. Returns when to look again, unless the bell rings before.
    pub(super) fn search(&self) -> Option<Duration> {
        let Servers::Searched(search) = &self.servers else { return None };
        let (look, next) = search.look(self.is_calm());
        match look {
            Look::Stay => {}
            Look::Nothing => warn!(
                "no HTTP server found on this machine; start yours, or name it with --local; looking again now and then"
            ),
            Look::Take(found, others) => self.take(search, &found, &others),
        }
        search.has_looked();
        next
    }

    fn take(&self, search: &Search, found: &Found, others: &[Found]) {
        // It is an address and a port.
        let Ok(url) = found.url().parse() else { return };
        search.take(Server::new(url, &self.config));
        // Nothing is known of this one yet.
        self.proven.store(0, Ordering::Relaxed);
        self.update(|state| {
            state.breaker.succeeded(Instant::now());
            state.health = Health::new();
        });
        let others: Vec<_> = others.iter().map(Found::to_string).collect();
        if self.is_found.swap(true, Ordering::Relaxed) {
            return warn!("requests go to another local server from now on: {found}");
        }
        match others.as_slice() {
            [] => info!("found the local server: {found}"),
            _ => info!("chose the local server: {found}; there are also {}", others.join(", ")),
        }
    }

    /// Asks the server how it is, unless a request has told meanwhile. Returns when to ask again.
    fn check(&self) -> Duration {
        let Some(checks) = &self.config.checks else { return Duration::MAX };
        let proven = Duration::from_millis(self.proven.load(Ordering::Relaxed));
        let since = self.started.elapsed().saturating_sub(proven);
        // What was answered before something failed proves nothing.
        if self.is_calm() && !proven.is_zero() && since < checks.interval {
            self.checked(Ok(()));
            return checks.interval - since;
        }
        let verdict = self.server().and_then(|server| {
            let result = server.check()?;
            health::verdict(result, self.asking.load(Ordering::Relaxed) > 0)
        });
        if let Some(verdict) = verdict {
            self.checked(verdict);
        }
        checks.interval
    }

    fn checked(&self, result: Result<(), Failure>) {
        let now = Instant::now();
        let change = self.update(|state| match &result {
            Ok(()) => {
                let closed = state.breaker.reached(now).map(health::Change::Up);
                state.health.passed(now).or(closed)
            }
            Err(failure) => state.health.failed(failure.kind(), now),
        });
        match (change, result) {
            (Some(health::Change::Down(failures)), Err(why)) => {
                warn!(
                    "local server {} is down: {failures} checks in a row failed, the last: {why}",
                    self.name()
                );
            }
            (Some(health::Change::Up(time)), _) => {
                info!("local server {} is up again, after {:.1} s", self.name(), time.as_secs_f64());
            }
            _ => {}
        }
    }
}

/// A request that a target was asked to answer. When it is done with, another one may try an open circuit.
struct Asked<'a> {
    target: &'a Target,
    pass: Pass,
}

impl<'a> Asked<'a> {
    fn new(target: &'a Target, pass: Pass) -> Self {
        target.asking.fetch_add(1, Ordering::Relaxed);
        Asked { target, pass }
    }

    /// Tells what came of it.
    fn tell(&self, result: &Result<Response, Unanswered>) {
        match result {
            Ok(response) => self.target.answered(health::is_good(response.status())),
            Err(Unanswered { blame: Blame::Server, failure, .. }) => self.target.failed(failure, self.pass),
            Err(Unanswered { blame: Blame::Nobody, .. }) => {}
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.target.asking.fetch_sub(1, Ordering::Relaxed);
        if self.pass != Pass::Closed {
            self.target.update(|state| state.breaker.told_nothing(self.pass, Instant::now()));
        }
    }
}

/// What wakes a thread that waits.
#[derive(Default)]
struct Bell {
    state: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    rung: bool,
    stopped: bool,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, Rung> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn ring(&self) {
        self.state().rung = true;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Waits this long; a ring is heard after [`QUIET`] at the soonest. False when it is time to end.
    fn wait(&self, time: Duration) -> bool {
        let quiet = time.min(QUIET);
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, quiet, |state| !state.stopped);
        let (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        let waited =
            self.changed.wait_timeout_while(state, time - quiet, |state| !state.stopped && !state.rung);
        let (mut state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        state.rung = false;
        !state.stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    use crate::origin::Timeouts;
    use crate::service::Body;
    use crate::targets::{BreakerLimits, HeaderEdits, HealthChecks};

    const INTERVAL: Duration = Duration::from_secs(3600);

    /// A server that is not there, and whose circuit opens after two failures.
    fn target() -> Target {
        // Nobody listens at the port of a listener that is gone.
        target_at(std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
    }

    fn target_at(address: std::net::SocketAddr) -> Target {
        let config = Config {
            host: None,
            tls: None,
            timeouts: Timeouts::default(),
            edits: HeaderEdits::default(),
            breaker: BreakerLimits { failures: 2, open: INTERVAL },
            checks: Some(HealthChecks { path: "/up".parse().unwrap(), interval: INTERVAL }),
            except: Vec::new(),
        };
        Target::named(format!("http://{address}").parse().unwrap(), Arc::new(config))
    }

    #[test]
    fn only_a_good_answer_passes_for_a_check() {
        for (status, is_passed) in [(200, true), (404, true), (500, false), (503, false)] {
            let target = target();
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Asked::new(&target, Pass::Closed).tell(&Ok(response));
            for _ in 0..3 {
                target.check();
            }
            assert_eq!(target.condition().0, is_passed, "{status}");
        }
    }

    #[test]
    fn a_bad_answer_closes_a_circuit_all_the_same() {
        let target = target();
        let failure = Failure::new(FailureKind::Unreachable, "gone");
        target.failed(&failure, Pass::Closed);
        target.failed(&failure, Pass::Closed);
        assert!(target.condition().1);
        target.answered(false);
        assert!(!target.condition().1);
    }

    #[test]
    fn a_passed_check_closes_the_circuit_of_a_server_that_could_not_be_reached() {
        let site = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = target_at(site.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut socket in site.incoming().flatten() {
                let _ = std::io::Read::read(&mut socket, &mut [0; 1000]);
                let _ = std::io::Write::write_all(&mut socket, b"HTTP/1.0 204 Fine\r\n\r\n");
            }
        });
        for (kind, is_closed) in [(FailureKind::Unreachable, true), (FailureKind::Timeout, false)] {
            let failure = Failure::new(kind, "it failed");
            target.failed(&failure, Pass::Closed);
            target.failed(&failure, Pass::Closed);
            assert!(target.condition().1);
            target.check();
            assert_eq!(target.condition().1, !is_closed, "{failure:?}");
        }
    }

    #[test]
    fn visitors_who_leave_while_they_try_it_make_room_for_another_try() {
        let target = target();
        let failure = Failure::new(FailureKind::Unreachable, "gone");
        target.failed(&failure, Pass::Closed);
        target.failed(&failure, Pass::Closed);
        let later = Instant::now() + INTERVAL;
        let pass = target.update(|state| state.breaker.admit(later)).unwrap();
        assert!(target.update(|state| state.breaker.admit(later)).is_err());
        drop(Asked::new(&target, pass));
        assert!(target.update(|state| state.breaker.admit(later)).is_ok());
    }

    #[test]
    fn what_says_nothing_of_the_server_neither_closes_a_circuit_nor_counts() {
        let target = target();
        let failure = Failure::new(FailureKind::Unreachable, "gone");
        let says_nothing = || {
            let failure = Failure::new(FailureKind::Truncated, "it closed the connection");
            Asked::new(&target, Pass::Closed).tell(&Err(Unanswered {
                failure,
                request: None,
                blame: Blame::Nobody,
            }));
        };
        target.failed(&failure, Pass::Closed);
        says_nothing();
        assert!(!target.condition().1);
        target.failed(&failure, Pass::Closed);
        assert!(target.condition().1, "the second failure in a row");
        says_nothing();
        assert!(target.condition().1);
    }

    #[test]
    fn an_answer_from_before_it_failed_is_no_passed_check() {
        let target = target();
        target.answered(true);
        let failure = Failure::new(FailureKind::Unreachable, "gone");
        target.failed(&failure, Pass::Closed);
        target.failed(&failure, Pass::Closed);
        target.check();
        assert!(target.condition().1, "the circuit is open as before");
    }
}
