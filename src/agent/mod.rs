//! When to connect, to reconnect, to give up and to stop.

mod builder;
mod check;
mod control;
mod explain;
mod report;
mod slot;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::StatusCode;
use log::{info, warn};

pub use self::builder::{Builder, ConfigError};
pub use self::check::{Passed, Step};
use self::control::Control;
pub use self::explain::{Explanation, Outcome};
use self::report::Report;
use self::slot::Slots;
use crate::TunnelId;
use crate::admin::Admin;
use crate::backoff;
use crate::discover::{self, Found};
use crate::link::credentials::Token;
use crate::link::{Dialer, TrustStore};
use crate::pool::{self, Pool};
use crate::service::Service;
use crate::session;
use crate::session::job::Job;
use crate::status::{Counters, Status};
use crate::targets::Targets;

/// A configured agent that does nothing yet.
pub struct Agent {
    tunnel_id: TunnelId,
    /// One for each gateway.
    dialers: Vec<Dialer>,
    /// Sessions with each.
    connections: usize,
    service: Arc<dyn Service>,
    /// The same, where it is local servers.
    targets: Option<Arc<Targets>>,
    /// What answers, for the log.
    served_by: String,
    /// Ports of this machine that are the tunnel's own.
    own_ports: Vec<u16>,
    session: session::Config,
    /// How long a session that has a successor may finish what runs.
    drain: Duration,
    pool: pool::Limits,
    backoff: backoff::Limits,
    /// What the log warns of at every start.
    warnings: Vec<&'static str>,
    counters: Arc<Counters>,
    control: Arc<Control>,
    /// Whom it believes to be a local server.
    local_tls: Option<TrustStore>,
    /// Where it tells how it is doing, and who may ask.
    admin: Option<(SocketAddr, Option<Token>)>,
}

/// Why an agent ended without having been asked to.
#[derive(Debug)]
pub enum RunError {
    /// The gateway knows who asks and says no: 401 or 403 on the upgrade.
    Refused(StatusCode),
    /// The admin server cannot listen at this address.
    Admin(SocketAddr, io::Error),
    /// The tries are used up; what went wrong last.
    GaveUp(String),
    /// The system gives no more threads.
    Threads(io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Refused(status) => {
                write!(
                    f,
                    "the gateway refused this agent with {status}; check the token (--token-file or TOKEN)"
                )
            }
            RunError::GaveUp(last) => {
                write!(f, "gave up on the gateway; with --max-retries 0 an agent tries for ever: {last}")
            }
            RunError::Admin(address, error) => {
                write!(f, "cannot listen at {address} (--admin): {error}; choose another address")
            }
            RunError::Threads(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for RunError {}

impl Agent {
    /// Starts the configuration of an agent that serves this tunnel.
    pub fn builder(tunnel_id: TunnelId) -> Builder {
        Builder::new(tunnel_id)
    }

    /// The HTTP servers that listen on this machine, the likeliest first, without the tunnel's own.
    pub fn discover(&self) -> Vec<Found> {
        discover::servers(&self.own_ports)
    }

    /// Serves the tunnel, on this thread and others, until the agent gives up. To be able to stop it, use
    /// [`spawn`](Self::spawn).
    pub fn run(self) -> Result<(), RunError> {
        for warning in &self.warnings {
            warn!("{warning}");
        }
        let (service, config) = (self.service.clone(), self.session.clone());
        let pool =
            Pool::start(self.pool, Job::is_stale, Job::refuse, move |job: Job| job.run(&*service, &config))
                .map_err(RunError::Threads)?;
        let urls: Vec<String> = self.dialers.iter().map(|dialer| dialer.url().to_string()).collect();
        let urls = urls.join(", ");
        info!("tunnel {}: from {urls} to {}", self.tunnel_id, self.served_by);
        let admin = match self.start_admin(&pool) {
            Ok(admin) => admin,
            Err(error) => {
                pool.join();
                return Err(error);
            }
        };
        let care = self.targets.as_ref().map(|targets| targets.look_after()).transpose();
        let care = care.inspect_err(|error| warn!("no thread to look after local servers: {error}"));
        let result = Slots::new(&self, pool.intake()).run();
        // No other local server is taken from now on.
        drop(care);
        self.service.interrupt();
        pool.join();
        drop(admin);
        self.counters.stopped();
        if result.is_ok() {
            info!("tunnel {}: stopped", self.tunnel_id);
        }
        result
    }

    fn start_admin(&self, pool: &Pool<Job>) -> Result<Option<Admin>, RunError> {
        let Some((address, token)) = self.admin.clone() else { return Ok(None) };
        let report = Report {
            counters: self.counters.clone(),
            control: self.control.clone(),
            intake: pool.intake(),
            targets: self.targets.clone(),
        };
        let admin = Admin::start(address, token, move |path| report.answer(path));
        admin.map(Some).map_err(|error| RunError::Admin(address, error))
    }

    /// Serves the tunnel on threads of its own. Fails when the system gives no thread.
    pub fn spawn(self) -> io::Result<Handle> {
        let remote = Remote { control: self.control.clone(), local_tls: self.local_tls.clone() };
        let counters = self.counters.clone();
        let thread = thread::Builder::new().name("tunnel".to_owned()).spawn(move || self.run())?;
        Ok(Handle { remote, counters, thread })
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gateways = self.dialers.iter().map(Dialer::url);
        write!(f, "Agent({}, ", self.tunnel_id)?;
        f.debug_list().entries(gateways).finish()?;
        f.write_str(")")
    }
}

/// A running agent. Dropping it lets the agent run on.
#[derive(Debug)]
pub struct Handle {
    remote: Remote,
    counters: Arc<Counters>,
    thread: JoinHandle<Result<(), RunError>>,
}

impl Handle {
    /// Stops the agent: new requests are answered 503, those that run may finish for `drain`, then the
    /// sessions are closed. Returns at once. A second call can only shorten the drain.
    pub fn shutdown(&self, drain: Duration) {
        self.remote.shutdown(drain);
    }

    /// Tries again at once where the agent waits before its next try.
    pub fn retry_now(&self) {
        self.remote.retry_now();
    }

    /// Reads the file of authorities for local servers again; the token and the authorities for the gateway are read
    /// before each dial in any case.
    pub fn reload(&self) {
        self.remote.reload();
    }

    /// What can be done with the agent from anywhere; for a signal handler's thread, say.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// How the agent is doing.
    pub fn status(&self) -> Status {
        self.counters.status()
    }

    /// Waits until the agent has ended and all its threads with it. After a shutdown that takes the drain
    /// at most, a second for the gateway's reply, and what is left of a connect time-out.
    pub fn join(self) -> Result<(), RunError> {
        self.thread
            .join()
            .unwrap_or_else(|_| Err(RunError::Threads(io::Error::other("the agent's thread panicked"))))
    }
}

/// Stops or hurries an agent from anywhere; see [`Handle::remote`].
#[derive(Debug, Clone)]
pub struct Remote {
    control: Arc<Control>,
    local_tls: Option<TrustStore>,
}

impl Remote {
    /// See [`Handle::shutdown`].
    pub fn shutdown(&self, drain: Duration) {
        self.control.shutdown(drain);
    }

    /// See [`Handle::retry_now`].
    pub fn retry_now(&self) {
        self.control.hurry();
    }

    /// See [`Handle::reload`].
    pub fn reload(&self) {
        self.local_tls.as_ref().inspect(|tls| tls.reload());
    }
}
