//! A rehearsal: each step towards a gateway and a local server by itself.

mod reach;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use self::reach::reach;
use super::Agent;
use super::tunnel::TunnelSettings;
use crate::advice::Advice;
use crate::clock::after;
use crate::link::{Dialer, Link};
use crate::metrics::Metrics;
use crate::protocol::TunnelUrl;
use crate::service::FailureKind;
use crate::session::{
    ExchangeConfig, Heartbeat, Session, SessionConfig, SessionEnd, SessionHandle, Supervisor, WorkQueue,
    new_metrics, start_workers,
};
use crate::sync::Replaceable;
use crate::upstream::UpstreamServer;
use crate::vitals::Pulse;

/// How long a session is kept open.
const KEPT: Duration = Duration::from_secs(1);

/// How soon it is pinged.
const PING_AFTER: Duration = Duration::from_millis(250);

/// Between two looks for the pong.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The reason with which the session is closed.
const DONE: &str = "the check is over";

/// One step of a [check](Agent::check), and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckStep {
    /// The target of the step: a gateway with its URL, say.
    pub towards: String,
    /// The step's name: `TCP`, say.
    pub name: &'static str,
    /// The result.
    pub result: CheckResult,
    /// The finding, or the reason why the step failed or was skipped.
    pub text: String,
    /// A hint for the operator.
    pub(crate) advice: Option<Advice>,
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// The step succeeded.
    Passed,
    /// The step failed.
    Failed,
    /// The step was skipped.
    Skipped,
}

impl fmt::Display for CheckStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match self.result {
            CheckResult::Passed => "PASS",
            CheckResult::Failed => "FAIL",
            CheckResult::Skipped => "SKIP",
        };
        write!(f, "{result}  {:<17}  {}", self.name, self.text)
    }
}

impl Agent {
    /// Tries each step of the connection to each gateway and each local server, and reports its result. Each gateway
    /// has a session with this agent for a second: live requests that come meanwhile are served. Returns whether no
    /// step failed.
    pub fn check(self, mut report: impl FnMut(&CheckStep)) -> bool {
        let mut log = CheckLog { report: &mut report, towards: String::new(), failures: 0 };
        let workers = match start_workers(self.pool) {
            Ok(workers) => workers,
            Err(error) => {
                log.fail("threads", format!("the system gives none: {error}"), None);
                return false;
            }
        };
        let tunnels = self.core.tunnels();
        for (index, tunnel) in tunnels.iter().enumerate() {
            let settings = tunnel.settings();
            log.towards = format!("tunnel {}", tunnel.title());
            let warnings = settings.warnings.iter().map(|warning| format!("; {warning}"));
            let text = format!("requests go to {}{}", settings.served_by, warnings.collect::<String>());
            log.pass("configuration", text);
            if index == 0 {
                self.check_admin(&mut log);
            }
            let upstreams = settings.upstreams.as_ref();
            let servers = upstreams.map_or_else(Vec::new, |upstreams| upstreams.servers());
            let check = TunnelCheck { settings: &settings, exchanges: &tunnel.exchanges };
            for dialer in &settings.dialers {
                check.check_gateway(dialer, workers.submitter(), &mut log);
            }
            servers.into_iter().for_each(|server| check_local(server, &mut log));
        }
        self.core.interrupt();
        workers.join();
        log.failures == 0
    }

    /// Checks whether the admin server could listen.
    fn check_admin(&self, log: &mut CheckLog<'_>) {
        let Some(address) = self.core.process.admin else { return };
        match TcpListener::bind(address) {
            Ok(_) => log.pass("admin", format!("{address} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                log.skip(&["admin"], &format!("{address} is in use, by an agent that runs, perhaps"), None);
            }
            Err(error) => {
                let text = format!("cannot listen at {address}: {error}");
                log.fail("admin", text, Some(Advice::AdminAddress));
            }
        }
    }
}

/// One tunnel that is checked.
struct TunnelCheck<'a> {
    settings: &'a TunnelSettings,
    exchanges: &'a Arc<Replaceable<ExchangeConfig>>,
}

impl TunnelCheck<'_> {
    fn check_gateway(&self, dialer: &Dialer, queue: WorkQueue, log: &mut CheckLog<'_>) {
        log.towards = format!("gateway {}", dialer.url());
        let steps = ["WebSocket upgrade", "handshake", "ping"];
        let Some(socket) = reach(&dialer.endpoint(), Some(dialer), log) else {
            return log.skip(&steps, "there is no connection", None);
        };
        match dialer.upgrade(socket, Instant::now() + dialer.endpoint().timeout) {
            Ok(link) => {
                log.pass(steps[0], "101 Switching Protocols".to_owned());
                self.check_session(link, queue, log);
            }
            Err(error) => {
                log.fail(steps[0], error.to_string(), Some(error.advice()));
                log.skip(&steps[1..], "there is no WebSocket", None);
            }
        }
    }

    fn check_session(&self, link: Link, queue: WorkQueue, log: &mut CheckLog<'_>) {
        let metrics = Arc::new(new_metrics());
        // A session that hears no pong ends; not before it was kept for as long as it should be.
        let pong_timeout = self.settings.session.heartbeat.pong_timeout.max(KEPT);
        let heartbeat = Heartbeat { ping_interval: PING_AFTER, pong_timeout };
        let config = SessionConfig { heartbeat, ..self.settings.session.clone() };
        let (visit, session) = mpsc::channel();
        let (ended, end) = mpsc::channel();
        thread::scope(|scope| {
            let metrics = &metrics;
            let (session_config, exchanges) = (&config, self.exchanges);
            let run = move || {
                let session = Session {
                    slot: 0,
                    config: session_config,
                    exchanges,
                    submitter: queue,
                    metrics,
                    pulse: &Pulse::new("check"),
                };
                let mut visit = Visit(visit);
                // The receiver outlives this thread, unless the check panicked.
                let _ = ended.send(session.run(link, &mut visit));
            };
            if let Err(error) = thread::Builder::new().name("session".to_owned()).spawn_scoped(scope, run) {
                log.fail("handshake", format!("the system gives no thread for it: {error}"), None);
                return log.skip(&["ping"], "there is no session", None);
            }
            let session = session.recv();
            if let Err((why, advice)) = wait_for_end(&end) {
                log.fail("handshake", why, advice);
                return log.skip(&["ping"], "there is no session", None);
            }
            let is_streaming = session.as_ref().is_ok_and(SessionHandle::is_streaming);
            let how =
                if is_streaming { "mux/2: bodies pass as streams" } else { "envelopes: bodies pass whole" };
            match &session {
                // An echo of what is sent, say, keeps a WebSocket open, too.
                Ok(session) if !session.is_identified() => {
                    let text =
                        format!("nothing has identified itself as a gateway within {} s", KEPT.as_secs());
                    log.fail("handshake", text, Some(Advice::GatewayPath));
                }
                Ok(session) if self.exchanges.get().gate.needs_addresses() && !session.names_visitors() => {
                    let text =
                        "the gateway does not vouch for its visitors' addresses: every request is refused";
                    log.fail("handshake", text.to_owned(), None);
                }
                _ => log.pass("handshake", format!("the session was kept for {} s; {how}", KEPT.as_secs())),
            }
            match self.wait_for_pong(metrics, &end) {
                Ok(time) => log.pass("ping", format!("answered within {:.1} ms", time.as_secs_f64() * 1e3)),
                Err(why) => log.fail("ping", why, Some(Advice::Pings)),
            }
            if let Ok(session) = session {
                session.drain(after(self.settings.source.handover_drain), DONE);
            }
        });
    }

    fn wait_for_pong(&self, metrics: &Metrics, end: &mpsc::Receiver<SessionEnd>) -> Result<Duration, String> {
        let limit = self.settings.session.heartbeat.pong_timeout;
        let start = Instant::now();
        loop {
            if let Some(time) = metrics.round_trip() {
                return Ok(time);
            }
            match end.recv_timeout(LOOK_EVERY) {
                Ok(end) => return Err(format!("the session ended: {end}")),
                Err(RecvTimeoutError::Disconnected) => return Err("the session broke down".to_owned()),
                Err(RecvTimeoutError::Timeout) if start.elapsed() > limit => {
                    return Err(format!("no pong within {limit:?}"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn check_local(server: Option<Arc<UpstreamServer>>, log: &mut CheckLog<'_>) {
    let Some(server) = server else {
        log.towards = "local server".to_owned();
        let text = "no HTTP server found on this machine".to_owned();
        return log.fail("search", text, Some(Advice::NoLocalServer));
    };
    log.towards = format!("local server {}", server.url);
    // The connection is closed again: some servers take one at a time.
    if reach(&server.origin.endpoint(), None, log).is_none() {
        log.skip(&["HTTP"], "there is no connection", None);
        return match server.checks {
            Some(_) => log.skip(&["health path"], "there is no connection", None),
            None => log.skip_health_path(),
        };
    }
    match server.probe() {
        Ok(status) => log.pass("HTTP", format!("HEAD / is answered with {status}")),
        Err(failure) if failure.kind() == FailureKind::Protocol => {
            log.fail("HTTP", failure.to_string(), Some(Advice::NotHttp));
        }
        Err(failure) => log.fail("HTTP", failure.to_string(), Some(Advice::LocalServerLog)),
    }
    match server.check() {
        None => log.skip_health_path(),
        Some(Ok(status)) if status.is_success() => log.pass("health path", format!("answered with {status}")),
        Some(Ok(status)) => {
            log.pass("health path", format!("answered with {status}; any status below 500 passes"));
        }
        Some(Err(why)) => log.fail("health path", why.to_string(), Some(Advice::LocalServerLog)),
    }
}

/// Lets a session live for a while, or says why it ended before.
fn wait_for_end(end: &mpsc::Receiver<SessionEnd>) -> Result<(), (String, Option<Advice>)> {
    match end.recv_timeout(KEPT) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Err(RecvTimeoutError::Disconnected) => Err(("the session broke down".to_owned(), None)),
        Ok(end) => {
            let advice = end.is_unexplained().then_some(Advice::TunnelId);
            Err((format!("the session ended at once: {end}"), advice))
        }
    }
}

/// Reports steps.
struct CheckLog<'a> {
    report: &'a mut dyn FnMut(&CheckStep),
    towards: String,
    failures: usize,
}

impl CheckLog<'_> {
    fn pass(&mut self, name: &'static str, text: String) {
        self.step(name, CheckResult::Passed, text, None);
    }

    fn fail(&mut self, name: &'static str, text: String, advice: Option<Advice>) {
        self.failures += 1;
        self.step(name, CheckResult::Failed, text, advice);
    }

    fn skip_health_path(&mut self) {
        self.skip(&["health path"], "there are no health checks", Some(Advice::HealthPath));
    }

    fn skip(&mut self, names: &[&'static str], why: &str, advice: Option<Advice>) {
        for &name in names {
            self.step(name, CheckResult::Skipped, why.to_owned(), advice);
        }
    }

    fn step(&mut self, name: &'static str, result: CheckResult, text: String, advice: Option<Advice>) {
        (self.report)(&CheckStep { towards: self.towards.clone(), name, result, text, advice });
    }
}

/// The supervisor of a session for a second: hands its handle on.
struct Visit(mpsc::Sender<SessionHandle>);

impl Supervisor for Visit {
    fn began(&mut self, session: SessionHandle) {
        // The receiver outlives the session, unless the check panicked.
        let _ = self.0.send(session);
    }

    fn opened(&mut self) {}

    fn named(&mut self, _: &TunnelUrl) {}

    fn goes_away(&mut self, _: &str) {}

    fn renew(&mut self) {}
}
