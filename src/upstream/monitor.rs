//! The thread of each upstream: searches for its server, checks its health, and closes connections that are not needed.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::availability::Upstream;
use super::detect::LocalServer;
use super::health::{self, HealthChange};
use super::selector::{Decision, Wellness};
use super::server::{ServerSearch, ServerSource, UpstreamServer};
use super::wake::Woken;
use crate::advice::Advice;
use crate::service::Failure;

/// Between two rounds in which idle connections are closed.
const TIDY_EVERY: Duration = Duration::from_secs(30);

/// Between two attempts to connect to a server that is not asked since it could not be reached.
const KNOCK_EVERY: Duration = Duration::from_millis(500);

/// The threads that monitor the upstreams; dropping it ends them.
pub(crate) struct Monitors {
    upstreams: Vec<Arc<Upstream>>,
    threads: Vec<JoinHandle<()>>,
}

impl Monitors {
    /// Starts a thread for each upstream.
    pub(super) fn start<'a>(upstreams: impl Iterator<Item = &'a Arc<Upstream>>) -> io::Result<Self> {
        let mut monitors = Monitors { upstreams: Vec::new(), threads: Vec::new() };
        for upstream in upstreams {
            let monitored = upstream.clone();
            monitors.upstreams.push(upstream.clone());
            let thread = thread::Builder::new().name("local".to_owned());
            monitors.threads.push(thread.spawn(move || monitored.monitor())?);
        }
        Ok(monitors)
    }
}

impl Drop for Monitors {
    fn drop(&mut self) {
        self.upstreams.iter().for_each(|upstream| upstream.stop_monitoring());
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on its own.
            let _ = thread.join();
        }
    }
}

/// When the next round of each kind is due, counted from the last one.
struct Rounds {
    search: Option<Duration>,
    check: Option<Duration>,
    knock: Option<Duration>,
}

impl Rounds {
    fn soonest(&self) -> Duration {
        [self.search, self.check, self.knock].into_iter().flatten().fold(TIDY_EVERY, Duration::min)
    }
}

impl Upstream {
    /// Searches where no server was named, checks where there are checks, knocks where the server could not be reached,
    /// and closes idle connections, until [`stop_monitoring`](Self::stop_monitoring).
    fn monitor(&self) {
        let first_check = self.config.checks.as_ref().map(|_| Duration::ZERO);
        let mut next = Rounds { search: Some(Duration::ZERO), check: first_check, knock: None };
        let mut now = Instant::now();
        while self.wake.wait(next.soonest()) == Woken::Continue {
            let passed = now.elapsed();
            now += passed;
            next.search = self.search();
            self.source.each(|server| server.origin.close_idle(now));
            let is_back = self.is_out_of_reach() && self.knock();
            next.check = match next.check.map(|remaining| remaining.saturating_sub(passed)) {
                Some(remaining) if remaining.is_zero() || is_back => Some(self.check()),
                remaining => remaining,
            };
            next.knock = self.is_out_of_reach().then_some(KNOCK_EVERY);
        }
    }

    /// Ends the thread, and a search or a check that is under way.
    fn stop_monitoring(&self) {
        self.wake.stop();
        if let ServerSource::Searched(search) = &self.source {
            search.stop();
        }
        self.server().inspect(|server| server.interrupt_check());
    }

    /// Whether requests are not sent since the server could not be reached.
    fn is_out_of_reach(&self) -> bool {
        !self.is_untroubled()
            && self.update(|state| state.breaker.is_out_of_reach() || state.health.is_out_of_reach())
    }

    /// Opens a connection, so that no visitor has to wait until a request may probe the circuit. Returns whether that
    /// succeeded.
    fn knock(&self) -> bool {
        let Some(server) = self.server() else { return false };
        let is_back = server.reach().is_ok();
        if is_back {
            self.reached(&server);
        }
        is_back
    }

    /// Searches for a server where none was named. Returns when to search again, unless a request fails before.
    pub(super) fn search(&self) -> Option<Duration> {
        let ServerSource::Searched(search) = &self.source else { return None };
        let wellness = if self.is_untroubled() { Wellness::Well } else { Wellness::InDoubt };
        let (decision, next) = search.decide(wellness);
        match decision {
            Decision::Keep => {}
            Decision::NoneFound => warn!(advice = Advice::NoLocalServer.name();
                "no HTTP server found on this machine; looking again now and then"),
            Decision::Switch(found, others) => self.switch(search, &found, &others),
        }
        search.finish_first();
        next
    }

    fn switch(&self, search: &ServerSearch, found: &LocalServer, others: &[LocalServer]) {
        // An address and a port are a URL.
        let Ok(url) = found.url().parse() else { return };
        let is_first = self.server().is_none();
        search.switch_to(UpstreamServer::new(url, &self.config));
        self.reset();
        let others: Vec<_> = others.iter().map(LocalServer::to_string).collect();
        match others.as_slice() {
            _ if !is_first => warn!("requests go to another local server from now on: {found}"),
            [] => info!("found the local server: {found}"),
            _ => info!("chose the local server: {found}; there are also {}", others.join(", ")),
        }
    }

    /// Checks the server's health, unless a response has shown it meanwhile. Returns when to check again.
    fn check(&self) -> Duration {
        let Some(checks) = &self.config.checks else { return Duration::MAX };
        // A response before the last failure shows nothing.
        let proven = self.since_proven().filter(|since| *since < checks.interval);
        if let Some(since) = proven.filter(|_| self.is_untroubled()) {
            self.checked(Ok(()));
            return checks.interval - since;
        }
        let load = if self.is_busy() { health::Load::Busy } else { health::Load::Idle };
        let verdict = self.server().and_then(|server| health::verdict(server.check()?, load));
        if let Some(verdict) = verdict {
            self.checked(verdict);
        }
        checks.interval
    }

    fn checked(&self, result: Result<(), Failure>) {
        let now = Instant::now();
        let change = self.update(|state| match &result {
            Ok(()) => {
                let closed = state.breaker.reached(now).map(HealthChange::Up);
                state.health.passed(now).or(closed)
            }
            Err(failure) => state.health.failed(failure.kind(), now),
        });
        match (change, result) {
            (Some(HealthChange::Down(failures)), Err(why)) => {
                warn!(
                    "local server {} is down: {failures} checks in a row failed, the last: {why}",
                    self.name()
                );
            }
            (Some(HealthChange::Up(time)), _) => {
                info!("local server {} is up again, after {:.1} s", self.name(), time.as_secs_f64());
            }
            _ => {}
        }
    }
}
