//! When to connect, to reconnect, to give up and to stop.

pub(crate) mod addresses;
mod builder;
mod builder_gateway;
mod builder_local;
mod check;
mod config;
mod control;
mod core;
mod error;
mod explain;
#[cfg(feature = "cli")]
mod health;
#[cfg(feature = "inspect")]
mod inspection;
mod keeper;
#[cfg(all(feature = "cli", feature = "inspect"))]
mod operate;
pub(crate) mod options;
mod parts;
mod slot;
mod threads;
mod tunnel;
mod valid;
pub(crate) mod values;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use http::StatusCode;
use log::info;

pub use self::builder::Builder;
pub use self::check::{CheckResult, CheckStep};
use self::core::AgentCore;
pub use self::error::{ConfigError, ConfigProblem};
pub use self::explain::{ExplainedOutcome, Explanation};
use self::parts::ProcessOptions;
use self::tunnel::{Tunnel, TunnelSettings};
use crate::admin::{Admin, Report, TunnelReport};
use crate::advice::Advice;
use crate::clock::after;
use crate::inspect::Inspector;
use crate::metrics::Status;
use crate::pool::PoolLimits;
use crate::session::{Workers, start_workers};
use crate::tunnel_id::TunnelId;
use crate::upstream::detect::{LocalServer, local_servers};

/// A configured agent that does nothing yet.
pub struct Agent {
    core: Arc<AgentCore>,
    pool: PoolLimits,
}

/// Why an agent ended without having been asked to.
#[derive(Debug)]
pub enum RunError {
    /// The gateway refused the agent's credentials: 401 or 403 on the upgrade. One of several gateways or tunnels ends
    /// nothing: it is not dialled again before a reload.
    Refused(StatusCode),
    /// The admin server cannot listen at this address.
    Admin(SocketAddr, io::Error),
    /// The retries are used up, of the last gateway of the last tunnel. The text says what went wrong last.
    GaveUp(String),
    /// The system gives no more threads.
    Threads(io::Error),
    /// The agent's own thread panicked: a bug of this library.
    Panicked,
}

impl RunError {
    /// A remedy that an operator might try.
    pub(crate) fn advice(&self) -> Option<Advice> {
        match self {
            RunError::Refused(_) => Some(Advice::AgentToken),
            RunError::GaveUp(_) => Some(Advice::MaxRetries),
            RunError::Admin(..) => Some(Advice::AdminAddress),
            RunError::Threads(_) | RunError::Panicked => None,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Refused(status) => write!(f, "the gateway refused this agent with {status}"),
            RunError::GaveUp(last) => write!(f, "gave up on the gateway: {last}"),
            RunError::Admin(address, error) => write!(f, "cannot listen at {address}: {error}"),
            RunError::Threads(error) => write!(f, "cannot start a thread: {error}"),
            RunError::Panicked => f.write_str("the agent's thread panicked"),
        }
    }
}

impl std::error::Error for RunError {}

impl Agent {
    /// Starts the configuration of an agent that serves this tunnel.
    pub fn builder(tunnel_id: TunnelId) -> Builder {
        Builder::new(tunnel_id)
    }

    fn new(
        tunnels: Vec<TunnelSettings>,
        pool: PoolLimits,
        process: ProcessOptions,
        inspector: Option<Inspector>,
    ) -> Self {
        Agent { core: Arc::new(AgentCore::new(tunnels, process, inspector)), pool }
    }

    /// The HTTP servers that listen on this machine, the likeliest first, without the tunnels' own.
    pub fn discover(&self) -> Vec<LocalServer> {
        let tunnels = self.core.tunnels();
        let own: Vec<u16> = tunnels.iter().flat_map(|tunnel| tunnel.settings().own_ports.clone()).collect();
        local_servers(&own)
    }

    /// Serves the tunnels, on this thread and others, until the agent is stopped by its [`handle`](Self::handle), or gives
    /// up.
    ///
    /// # Errors
    ///
    /// [`RunError`] says why the agent ended without having been asked to.
    pub fn run(self) -> Result<(), RunError> {
        // However it ends: by an error, or a panic.
        let _ended = MarksEnd(self.core.clone());
        let workers = start_workers(self.pool).map_err(RunError::Threads)?;
        let admin = match self.start_admin(&workers) {
            Ok(admin) => admin,
            Err(error) => {
                workers.join();
                return Err(error);
            }
        };
        let result = self.core.serve(workers.submitter());
        let tunnels = self.core.tunnels();
        tunnels.iter().for_each(|tunnel| tunnel.stop_monitoring());
        self.core.interrupt();
        workers.join();
        drop(admin);
        if result.is_ok() {
            tunnels.iter().for_each(|tunnel| info!("tunnel {}: stopped", tunnel.title()));
        }
        result
    }

    fn start_admin(&self, workers: &Workers) -> Result<Option<Admin>, RunError> {
        let Some(address) = self.core.process.admin else { return Ok(None) };
        let (control, tunnels, vitals) = (self.core.clone(), self.core.clone(), self.core.clone());
        let report = Report {
            is_stopping: Box::new(move || control.control.is_stopping()),
            stuck: Box::new(move || vitals.stuck()),
            queue: workers.submitter(),
            tunnels: Box::new(move || tunnels.tunnels().iter().map(|tunnel| report_of(tunnel)).collect()),
            #[cfg(feature = "inspect")]
            inspector: inspection::pages(&self.core, workers.submitter()),
        };
        let token = self.core.admin_token.clone();
        let admin = Admin::start(address, token, report);
        let admin = admin.map_err(|error| RunError::Admin(address, error))?;
        self.core.set_admin_address(admin.address());
        Ok(Some(admin))
    }

    /// A handle that stops the agent from anywhere, has it dial at once, changes its configuration, and tells its status.
    pub fn handle(&self) -> Handle {
        Handle(self.core.clone())
    }

    /// Serves the tunnels on threads of its own.
    ///
    /// # Errors
    ///
    /// The system's error, when it gives no thread.
    pub fn spawn(self) -> io::Result<RunningAgent> {
        let handle = self.handle();
        let thread = thread::Builder::new().name("tunnel".to_owned()).spawn(move || self.run())?;
        Ok(RunningAgent { handle, thread })
    }
}

/// The admin server's report of a tunnel.
fn report_of(tunnel: &Tunnel) -> TunnelReport {
    let settings = tunnel.settings();
    TunnelReport {
        label: settings.source.label.clone(),
        metrics: tunnel.metrics.clone(),
        upstreams: settings.upstreams.clone(),
    }
}

/// Records the end of an agent when it is dropped.
struct MarksEnd(Arc<AgentCore>);

impl Drop for MarksEnd {
    fn drop(&mut self) {
        self.0.tunnels().iter().for_each(|tunnel| tunnel.metrics.stopped());
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Agent")?;
        let tunnels = self.core.tunnels();
        let settings: Vec<_> = tunnels.iter().map(|tunnel| tunnel.settings()).collect();
        let of = |settings: &Arc<TunnelSettings>| {
            let gateways: Vec<_> = settings.dialers.iter().map(|dialer| dialer.url().to_string()).collect();
            format!("{} from {}", settings.session.tunnel_id, gateways.join(", "))
        };
        f.debug_list().entries(settings.iter().map(of)).finish()
    }
}

/// An agent on threads of its own. Dropping it lets the agent run on.
#[derive(Debug)]
pub struct RunningAgent {
    handle: Handle,
    thread: JoinHandle<Result<(), RunError>>,
}

impl RunningAgent {
    /// A handle that stops the agent, has it dial at once, changes its configuration, and tells its status.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the agent has ended, and all its threads with it. After a shutdown that takes the drain at most, a
    /// second for the gateway's reply, what remains of a connect timeout, and however long calls of a
    /// [`Service`](crate::Service) that does not heed [`interrupt`](crate::Service::interrupt) last.
    ///
    /// # Errors
    ///
    /// [`RunError`] says why the agent ended without having been asked to.
    pub fn join(self) -> Result<(), RunError> {
        self.thread.join().unwrap_or(Err(RunError::Panicked))
    }
}

/// A handle that stops an agent from anywhere, has it dial at once, changes its configuration, and tells its status. All
/// clones control the same agent.
#[derive(Clone)]
pub struct Handle(Arc<AgentCore>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.status()).finish()
    }
}

/// How one tunnel of an agent is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunnelStatus {
    /// Which tunnel it is.
    pub tunnel_id: TunnelId,
    /// The source of its responses: the URLs of local servers, separated by commas, say.
    pub served_by: String,
    /// How it is doing.
    pub status: Status,
}

impl Handle {
    /// Stops the agent: new requests are answered 503, those under way may finish for `drain`, then the sessions are
    /// closed. Returns at once. A second call can only shorten the drain.
    pub fn shutdown(&self, drain: Duration) {
        self.0.control.shutdown(drain);
    }

    /// Ends the delay before the next attempt to connect, if there is one.
    pub fn retry_now(&self) {
        self.0.control.hurry();
    }

    /// Has the agent go on with another configuration, the whole of it, without losing a request or a session. Requests under
    /// way end as they began. Local servers, routes, header fields, rules, guards, rate and tokens count for the next request or dial; where
    /// a session has to begin anew (another name, gateway, heartbeat or message size), another one is open before it ends.
    /// Tunnels are known by their tunnel IDs: one that is new is opened, one that is missing ends. The files that the
    /// configuration names are read again.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the option that cannot be used; then nothing has changed. Workers, streams, queue and admin
    /// server cannot change while the agent runs ([`ConfigProblem::NeedsRestart`]).
    pub fn reload(&self, builder: &Builder) -> Result<(), ConfigError> {
        self.0.reload(builder.clone())
    }

    /// The part of the agent that is stuck, if one is: a thread that keeps up a session and has not come round
    /// for 10 s longer than its wait, dial or backoff may take, or a request that has waited for a worker so much longer
    /// than it may. A program that is asked whether it lives, by a supervisor's watchdog, say, does better to say no then.
    pub fn stuck(&self) -> Option<&'static str> {
        self.0.stuck()
    }

    /// Waits until a gateway is ready to send requests to each tunnel of the agent, at most `timeout`; it does not start the
    /// agent. Returns the status then, which
    /// tells where visitors reach the tunnel if the gateway says so; `None` when the time has elapsed, or the agent has
    /// ended.
    ///
    /// Gateways of the first generation do not say that they send requests: a second after the handshake they count as
    /// doing so.
    pub fn wait_connected(&self, timeout: Duration) -> Option<Status> {
        let until = after(timeout);
        let is_connected = |tunnel: &Arc<Tunnel>| {
            tunnel.metrics.wait_connected(until.saturating_duration_since(Instant::now()))
        };
        self.0.tunnels().iter().all(is_connected).then(|| self.status())
    }

    /// Waits until a first try to reach a gateway has succeeded or failed, at most `timeout`. Returns whether one has.
    #[cfg(feature = "cli")]
    pub(crate) fn wait_tried(&self, timeout: Duration) -> bool {
        self.0.tunnels().first().is_none_or(|tunnel| tunnel.metrics.wait_tried(timeout))
    }

    /// Waits until the agent has ended, at most `timeout`.
    #[cfg(feature = "cli")]
    pub(crate) fn wait_stopped(&self, timeout: Duration) {
        if let Some(tunnel) = self.0.tunnels().first() {
            tunnel.metrics.wait_stopped(timeout);
        }
    }

    /// How the agent is doing: of several tunnels the sums, and the connection and URL of the first.
    pub fn status(&self) -> Status {
        let tunnels = self.0.tunnels();
        let statuses = tunnels.iter().map(|tunnel| tunnel.metrics.status());
        statuses.reduce(|sum, status| sum.and(&status)).expect("an agent has a tunnel")
    }

    /// How each tunnel is doing, in the order of the configuration.
    pub fn tunnels(&self) -> Vec<TunnelStatus> {
        let status = |tunnel: &Arc<Tunnel>| TunnelStatus {
            tunnel_id: tunnel.tunnel_id.clone(),
            served_by: tunnel.settings().served_by.clone(),
            status: tunnel.metrics.status(),
        };
        self.0.tunnels().iter().map(status).collect()
    }

    /// Whether the admin server shows the exchanges that pass.
    #[cfg(feature = "cli")]
    pub(crate) fn is_inspected(&self) -> bool {
        cfg!(feature = "inspect") && self.0.inspector.is_some()
    }

    /// The address of the admin server, while it listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.0.admin_address()
    }
}
