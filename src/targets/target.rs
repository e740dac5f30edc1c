//! One local server: named, or searched for; asked only while that makes sense.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use http::header::{HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};
use log::{info, warn};

use super::Config;
use super::breaker::Breaker;
use super::choice::{Choice, Look, Machine};
use super::health::{self, CHECK_TIME, Health};
use crate::discover::{self, Found};
use crate::origin::{Blame, LocalUrl, Origin, Timeouts, Unanswered};
use crate::service::{Body, Failure, FailureKind, Request, Response, Service};

const USER_AGENT_OF_CHECKS: HeaderValue =
    HeaderValue::from_static(concat!("tunnel-agent/", env!("CARGO_PKG_VERSION"), " (health check)"));

const NONE_FOUND: &str = "no HTTP server found on this machine";

/// Between two looks for connections that nobody needs any more.
const TIDY_EVERY: Duration = Duration::from_secs(30);

/// Least time between two looks at what there is.
const QUIET: Duration = Duration::from_secs(1);

/// One place where requests are sent to, and how the server there is doing.
pub(super) struct Target {
    config: Arc<Config>,
    place: Place,
    state: Mutex<State>,
    /// Nothing is known against it; the state need not be looked at.
    is_calm: AtomicBool,
    started: Instant,
    /// When a request was answered last, in milliseconds since the start.
    proven: AtomicU64,
    /// Wakes the thread that looks after it.
    bell: Bell,
}

/// Where the server is.
enum Place {
    Named(Arc<Server>),
    Searched(Search),
}

/// A server that is looked for on this machine.
struct Search {
    machine: discover::Search,
    /// Ports at which there is nothing to look for.
    except: Vec<u16>,
    choice: Mutex<Choice>,
    /// The last is the one that is taken. Those before it still have answers to give.
    servers: RwLock<Vec<Arc<Server>>>,
}

/// How requests reach one server.
pub(crate) struct Server {
    pub(crate) url: LocalUrl,
    pub(crate) origin: Origin,
    /// Another one for checks, with connections and time limits of their own, and what is asked for.
    checks: Option<(Origin, PathAndQuery)>,
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

impl Server {
    fn new(url: LocalUrl, config: &Config) -> Self {
        let tls = config.tls.clone().filter(|_| url.is_secure());
        let origin = |timeouts| Origin::new(url.clone(), config.host.clone(), tls.clone(), timeouts);
        let time = Timeouts { connect: CHECK_TIME, response: CHECK_TIME, idle: CHECK_TIME };
        let checks = config.checks.as_ref().map(|checks| (origin(time), checks.path.clone()));
        Server { origin: origin(config.timeouts), checks, url }
    }

    fn interrupt(&self) {
        self.origin.interrupt();
        self.interrupt_check();
    }

    fn interrupt_check(&self) {
        if let Some((origin, _)) = &self.checks {
            origin.interrupt();
        }
    }

    /// Asks for the path of the health checks, if there are any. Any status below 500 is a good answer.
    pub(crate) fn check(&self) -> Option<Result<StatusCode, String>> {
        let (origin, path) = self.checks.as_ref()?;
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from(path.clone());
        request.headers_mut().insert(USER_AGENT, USER_AGENT_OF_CHECKS);
        Some(match origin.call(request).map(|response| response.status()) {
            Ok(status) if status.is_server_error() => Err(format!("it answered {status}")),
            Ok(status) => Ok(status),
            Err(failure) => Err(failure.to_string()),
        })
    }
}

impl Search {
    fn servers(&self) -> RwLockReadGuard<'_, Vec<Arc<Server>>> {
        // Nothing panics while the lock is held.
        self.servers.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Requests go to this server from now on.
    fn take(&self, server: Server) {
        let mut servers = self.servers.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_busy = |server: &Arc<Server>| Arc::strong_count(server) > 1 || !server.origin.is_idle();
        let (busy, idle): (Vec<_>, Vec<_>) = std::mem::take(&mut *servers).into_iter().partition(is_busy);
        *servers = busy;
        servers.push(Arc::new(server));
        drop(servers);
        // Their connections are closed without the lock.
        drop(idle);
    }
}

impl Machine for Search {
    fn servers(&self) -> Vec<Found> {
        self.machine.servers(&self.except)
    }

    fn ask(&self, address: SocketAddr) -> Option<Found> {
        self.machine.server_at(address)
    }

    fn listens(&self, address: SocketAddr) -> bool {
        let connected = TcpStream::connect_timeout(&address, CHECK_TIME);
        !connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

impl Target {
    /// At this URL.
    pub(super) fn named(url: LocalUrl, config: Arc<Config>) -> Self {
        Target::at(Place::Named(Arc::new(Server::new(url, &config))), config)
    }

    /// Wherever on this machine there is one, but for these ports.
    pub(super) fn searched(except: Vec<u16>, config: Arc<Config>) -> Self {
        let choice = Mutex::new(Choice::new());
        Target::at(
            Place::Searched(Search {
                machine: discover::Search::default(),
                except,
                choice,
                servers: RwLock::default(),
            }),
            config,
        )
    }

    fn at(place: Place, config: Arc<Config>) -> Self {
        Target {
            place,
            state: Mutex::new(State::new(&config)),
            config,
            is_calm: AtomicBool::new(true),
            started: Instant::now(),
            proven: AtomicU64::new(0),
            bell: Bell::default(),
        }
    }

    /// The server that is asked, unless none is found yet.
    pub(super) fn server(&self) -> Option<Arc<Server>> {
        match &self.place {
            Place::Named(server) => Some(server.clone()),
            Place::Searched(search) => search.servers().last().cloned(),
        }
    }

    /// Where it is, for people.
    pub(super) fn name(&self) -> String {
        self.server().map_or_else(|| "auto".to_owned(), |server| server.url.to_string())
    }

    /// The server that is asked, and those that still have answers to give.
    fn each_server(&self, act: impl Fn(&Server)) {
        match &self.place {
            Place::Named(server) => act(server),
            Place::Searched(search) => {
                let servers = search.servers().clone();
                servers.iter().for_each(|server| act(server));
            }
        }
    }

    pub(super) fn interrupt(&self) {
        self.each_server(Server::interrupt);
    }

    /// Whether its health is good, and whether its circuit is open.
    pub(super) fn condition(&self) -> (bool, bool) {
        let state = self.state();
        (state.health.is_up() && self.server().is_some(), state.breaker.is_open())
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
        let Some(server) = self.server() else {
            self.bell.ring();
            let failure = Failure::new(FailureKind::Unreachable, NONE_FOUND);
            return Err(Unanswered { failure, request: Some(Box::new(request)), blame: Blame::Nobody });
        };
        if !self.is_calm()
            && let Err(open) = self.update(|state| state.breaker.admit(Instant::now()))
        {
            let failure = Failure::new(FailureKind::Unavailable, open.to_string());
            return Err(Unanswered { failure, request: Some(Box::new(request)), blame: Blame::Nobody });
        }
        let outcome = Outcome(Some(self));
        let result = server.origin.attempt(request);
        outcome.tell(&result);
        result
    }

    fn answered(&self) {
        if self.config.checks.is_some() {
            let now = self.started.elapsed().as_millis();
            self.proven.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if !self.is_calm() {
            let closed = self.update(|state| state.breaker.succeeded(Instant::now()));
            if let Some(time) = closed {
                info!("local server {} answers again, after {:.1} s", self.name(), time.as_secs_f64());
            }
        }
    }

    fn failed(&self, failure: &Failure) {
        let opened = self.update(|state| state.breaker.failed(Instant::now()));
        if let Some(failures) = opened {
            warn!(
                "local server {} failed {failures} times in a row, the last time: {failure}; not asked again \
                 but for a try now and then",
                self.name()
            );
        }
        if let Place::Searched(_) = self.place {
            self.bell.ring();
        }
    }

    /// Searches, where it is to be searched for, checks, where it is to be checked, and closes connections that are
    /// not needed any more, until it is [released](Self::release).
    pub(super) fn look_after(&self, mut next_look: Option<Duration>) {
        let mut next_check = self.config.checks.as_ref().map(|_| Duration::ZERO);
        let mut now = Instant::now();
        let soonest =
            |times: [Option<Duration>; 2]| times.into_iter().flatten().fold(TIDY_EVERY, Duration::min);
        while self.bell.wait(soonest([next_look, next_check])) {
            let passed = now.elapsed();
            now += passed;
            next_look = self.search();
            self.each_server(|server| server.origin.close_idle(now));
            next_check = match next_check.map(|left| left.saturating_sub(passed)) {
                Some(Duration::ZERO) => Some(self.check()),
                left => left,
            };
        }
    }

    /// Ends the looking after, and a search or a check that is under way.
    pub(super) fn release(&self) {
        self.bell.stop();
        if let Place::Searched(search) = &self.place {
            search.machine.stop();
        }
        self.server().inspect(|server| server.interrupt_check());
    }

    /// Looks for a server where none was named. Returns when to look again, unless the bell rings before.
    pub(super) fn search(&self) -> Option<Duration> {
        let Place::Searched(search) = &self.place else { return None };
        // Nothing panics while the lock is held; and nobody else takes it but whoever looks after this.
        let mut choice = search.choice.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (look, next) = choice.look(self.is_calm(), Instant::now(), search);
        match look {
            Look::Stay => {}
            Look::Nothing => warn!(
                "no HTTP server found on this machine; start yours, or name it with --local; looking again now and then"
            ),
            Look::Take(found, others) => self.take(search, &found, &others),
        }
        next
    }

    fn take(&self, search: &Search, found: &Found, others: &[Found]) {
        // It is an address and a port.
        let Ok(url) = found.url().parse() else { return };
        search.take(Server::new(url, &self.config));
        self.update(|state| *state = State::new(&self.config));
        let others: Vec<_> = others.iter().map(Found::to_string).collect();
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
        if !proven.is_zero() && since < checks.interval {
            self.checked(Ok(()));
            return checks.interval - since;
        }
        if let Some(result) = self.server().and_then(|server| server.check()) {
            self.checked(result.map(drop));
        }
        checks.interval
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
