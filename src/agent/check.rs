//! A rehearsal: each step towards a gateway and a local server by itself, and what to do where one fails.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "tls")]
use time::OffsetDateTime;

use super::Agent;
use super::control::after;
#[cfg(feature = "tls")]
use crate::link::certificate::Certificate;
use crate::link::dial::Endpoint;
use crate::link::tls::{self, Trust};
use crate::link::{DialError, Dialer, Link, Socket};
use crate::pool::{Intake, Pool};
use crate::service::FailureKind;
use crate::session::job::Job;
use crate::session::outbox::Outbox;
use crate::session::{self, End, Heartbeat, Supervisor};
use crate::status::Counters;
use crate::targets::Server;

/// How long a session is kept open.
const KEPT: Duration = Duration::from_secs(1);

/// When it is pinged.
const PING_AFTER: Duration = Duration::from_millis(250);

/// Between two looks for the pong.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A certificate that ends sooner is spoken of.
#[cfg(feature = "tls")]
const DAYS_LEFT_MIN: i64 = 14;

/// What a gateway is told in the end.
const OVER: &str = "the check is over";

/// One step of a [check](Agent::check), and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is a step towards: a gateway's URL, say.
    pub towards: String,
    /// Its name: `TCP`, say.
    pub name: &'static str,
    /// How it went.
    pub passed: Passed,
    /// What was found; where it failed, why, and what to try; where it was left out, why.
    pub text: String,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// As it should.
    Yes,
    /// Not as it should.
    No,
    /// It was left out.
    Skipped,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = match self.passed {
            Passed::Yes => "PASS",
            Passed::No => "FAIL",
            Passed::Skipped => "SKIP",
        };
        write!(f, "{passed}  {:<17}  {}", self.name, self.text)
    }
}

impl Agent {
    /// Goes through each step towards each gateway and each local server, and tells how it went. For a second each
    /// gateway has a session with this agent, and visitors who come then are served. Returns whether no step failed.
    pub fn check(self, mut tell: impl FnMut(&Step)) -> bool {
        let mut log =
            Log { tell: &mut tell, towards: format!("tunnel {}", self.tunnel_id), all_passed: true };
        let warnings = self.warnings.iter().map(|warning| format!("; {warning}"));
        log.pass(
            "configuration",
            format!("requests go to {}{}", self.served_by, warnings.collect::<String>()),
        );
        self.check_admin(&mut log);
        let servers = self.targets.as_ref().map_or_else(Vec::new, |targets| targets.servers());
        let (service, config) = (self.service.clone(), self.session.clone());
        let run = move |job: Job| job.run(&*service, &config);
        match Pool::start(self.pool, Job::is_stale, Job::refuse, run) {
            Ok(pool) => {
                self.dialers.iter().for_each(|dialer| self.check_gateway(dialer, pool.intake(), &mut log));
                servers.into_iter().for_each(|server| self.check_local(server, &mut log));
                self.service.interrupt();
                pool.join();
            }
            Err(error) => log.fail("threads", format!("the system gives none: {error}")),
        }
        log.all_passed
    }

    /// Whether there is room to tell how the agent is doing.
    fn check_admin(&self, log: &mut Log<'_>) {
        let Some((address, _)) = &self.admin else { return };
        match TcpListener::bind(address) {
            Ok(_) => log.pass("admin", format!("{address} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                log.skip(&["admin"], &format!("{address} is in use, by an agent that runs, perhaps"));
            }
            Err(error) => log.fail("admin", format!("cannot listen at {address}: {error}; choose another")),
        }
    }

    fn check_gateway(&self, dialer: &Dialer, intake: Intake<Job>, log: &mut Log<'_>) {
        log.towards = format!("gateway {}", dialer.url());
        let steps = ["WebSocket upgrade", "handshake", "ping"];
        let Some(socket) = reach(dialer.endpoint(), DialError::hint, log) else {
            return log.skip(&steps, "there is no connection");
        };
        match dialer.upgrade(socket, Instant::now() + dialer.endpoint().timeout) {
            Ok(link) => {
                log.pass(steps[0], "101 Switching Protocols".to_owned());
                self.check_session(link, intake, log);
            }
            Err(error) => {
                log.fail(steps[0], format!("{error}; {}", error.hint()));
                log.skip(&steps[1..], "there is no WebSocket");
            }
        }
    }

    fn check_session(&self, link: Link, intake: Intake<Job>, log: &mut Log<'_>) {
        let counters = Arc::new(Counters::new());
        // A session that hears no pong ends; not before it was kept for as long as it should be.
        let pong_timeout = self.session.heartbeat.pong_timeout.max(KEPT);
        let heartbeat = Heartbeat { ping_interval: PING_AFTER, pong_timeout };
        let config = session::Config { heartbeat, ..self.session.clone() };
        let (visit, outbox) = mpsc::channel();
        let (ended, end) = mpsc::channel();
        thread::scope(|scope| {
            let counters = &counters;
            let run = move || {
                let visit = Visit(visit);
                // Who listens has gone only with the check.
                let _ = ended.send(session::run(link, 0, &config, intake, counters, &visit));
            };
            if let Err(error) = thread::Builder::new().name("session".to_owned()).spawn_scoped(scope, run) {
                log.fail("handshake", format!("the system gives no thread for it: {error}"));
                return log.skip(&["ping"], "there is no session");
            }
            let outbox = outbox.recv();
            if let Err(why) = wait_for_end(&end) {
                log.fail("handshake", why);
                return log.skip(&["ping"], "there is no session");
            }
            let streaming = outbox.as_ref().is_ok_and(Outbox::is_streaming);
            let how =
                if streaming { "mux/2: bodies pass as streams" } else { "envelopes: bodies pass whole" };
            log.pass("handshake", format!("the session was kept for {} s; {how}", KEPT.as_secs()));
            match self.wait_for_pong(counters, &end) {
                Ok(time) => log.pass("ping", format!("answered within {:.1} ms", time.as_secs_f64() * 1e3)),
                Err(why) => log.fail("ping", format!("{why}; something on the way may drop WebSocket pings")),
            }
            if let Ok(outbox) = outbox {
                outbox.drain(after(self.drain), OVER);
            }
        });
    }

    fn wait_for_pong(&self, counters: &Counters, end: &mpsc::Receiver<End>) -> Result<Duration, String> {
        let limit = self.session.heartbeat.pong_timeout;
        let start = Instant::now();
        loop {
            if let Some(time) = counters.round_trip() {
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

    fn check_local(&self, server: Option<Arc<Server>>, log: &mut Log<'_>) {
        let Some(server) = server else {
            let what = "no HTTP server found on this machine; start yours, or name it with --local";
            log.towards = "local server".to_owned();
            return log.fail("search", what.to_owned());
        };
        log.towards = format!("local server {}", server.url);
        // The connection is closed again: some servers take one at a time.
        let is_reached = reach(server.origin.endpoint(), DialError::local_hint, log).is_some();
        if !is_reached {
            return log.skip(&["HTTP", "health path"], "there is no connection");
        }
        match server.answer() {
            Ok(status) => log.pass("HTTP", format!("HEAD / is answered with {status}")),
            Err(failure) if failure.kind() == FailureKind::Protocol => {
                log.fail(
                    "HTTP",
                    format!("{failure}; perhaps another program listens there, or one for https://"),
                );
            }
            Err(failure) => log.fail("HTTP", format!("{failure}; look into the log of the local server")),
        }
        match server.check() {
            None => log.skip(&["health path"], "no --health-path is given"),
            Some(Ok(status)) if status.is_success() => {
                log.pass("health path", format!("answered with {status}"));
            }
            Some(Ok(status)) => {
                log.pass("health path", format!("answered with {status}; any status below 500 passes"));
            }
            Some(Err(why)) => {
                log.fail("health path", format!("{why}; look into the log of the local server"));
            }
        }
    }
}

/// Lets a session live for a while. An error says why it ended before.
fn wait_for_end(end: &mpsc::Receiver<End>) -> Result<(), String> {
    match end.recv_timeout(KEPT) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Err(RecvTimeoutError::Disconnected) => Err("the session broke down".to_owned()),
        Ok(end) => {
            let hint = if end.is_unexplained() { "; check --tunnel-id" } else { "" };
            Err(format!("the session ended at once: {end}{hint}"))
        }
    }
}

/// From a name to an open connection, with TLS where that is wanted.
fn reach(endpoint: Endpoint<'_>, hint: fn(&DialError) -> &'static str, log: &mut Log<'_>) -> Option<Socket> {
    let steps = ["name resolution", "TCP", "TLS"];
    let addresses = match endpoint.resolve() {
        Ok(addresses) => addresses,
        Err(error) => {
            log.fail(steps[0], format!("{error}; {}", hint(&error)));
            log.skip(&steps[1..], "there is no address");
            return None;
        }
    };
    let list: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    log.pass(steps[0], format!("{} is {}", endpoint.resolver.host(), list.join(", ")));
    let start = Instant::now();
    let socket = match endpoint.connect(&addresses) {
        Ok(socket) => socket,
        Err(error) => {
            log.fail(steps[1], format!("{error}; {}", hint(&error)));
            log.skip(&steps[2..], "there is no connection");
            return None;
        }
    };
    let time = start.elapsed().as_secs_f64() * 1e3;
    let peer = socket.peer().map_or_else(|_| String::new(), |peer| format!("{peer} "));
    log.pass(steps[1], format!("{peer}answers within {time:.1} ms"));
    let Some(tls) = &endpoint.tls else {
        log.skip(&steps[2..], "the URL asks for none");
        return Some(socket);
    };
    match endpoint.start_tls(socket, tls) {
        Ok(socket) => {
            log.pass(steps[2], certificate_of(&socket).unwrap_or_else(|| "established".to_owned()));
            Some(socket)
        }
        Err(error) => {
            let certificate = unverified(&endpoint, &addresses).map(|text| format!("; {text}"));
            log.fail(steps[2], format!("{error}{}; {}", certificate.unwrap_or_default(), hint(&error)));
            None
        }
    }
}

#[cfg(feature = "tls")]
fn certificate_of(socket: &Socket) -> Option<String> {
    let certificate = Certificate::parse(&socket.certificate()?)?;
    let now = OffsetDateTime::now_utc();
    let left = certificate.days_left(now);
    let soon = if certificate.is_over(now) {
        " (over)".to_owned()
    } else if left < DAYS_LEFT_MIN {
        format!(" (days left: {left})")
    } else {
        String::new()
    };
    Some(format!("certificate of {certificate}{soon}"))
}

#[cfg(not(feature = "tls"))]
fn certificate_of(_: &Socket) -> Option<String> {
    None
}

/// The certificate of a server that is not trusted, which is told nothing.
fn unverified(endpoint: &Endpoint<'_>, addresses: &[SocketAddr]) -> Option<String> {
    let anybody = tls::client(&Trust::Insecure).ok()?;
    let socket = endpoint.connect(addresses).ok()?;
    certificate_of(&endpoint.start_tls(socket, &anybody).ok()?)
}

/// Where steps are told.
struct Log<'a> {
    tell: &'a mut dyn FnMut(&Step),
    towards: String,
    all_passed: bool,
}

impl Log<'_> {
    fn pass(&mut self, name: &'static str, text: String) {
        self.step(name, Passed::Yes, text);
    }

    fn fail(&mut self, name: &'static str, text: String) {
        self.all_passed = false;
        self.step(name, Passed::No, text);
    }

    fn skip(&mut self, names: &[&'static str], why: &str) {
        for &name in names {
            self.step(name, Passed::Skipped, why.to_owned());
        }
    }

    fn step(&mut self, name: &'static str, passed: Passed, text: String) {
        (self.tell)(&Step { towards: self.towards.clone(), name, passed, text });
    }
}

/// A session for a second; what it is drained by is passed on.
struct Visit(mpsc::Sender<Outbox>);

impl Supervisor for Visit {
    fn began(&self, outbox: &Outbox) {
        // Who listens has gone only with the check.
        let _ = self.0.send(outbox.clone());
    }

    fn opened(&self) {}

    fn goes_away(&self, _: &Outbox, _: &str) {}
}
