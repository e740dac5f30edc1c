//! When to connect, to reconnect, to give up and to stop.

mod builder;
mod check;
mod config;
mod control;
mod error;
mod explain;
mod slot;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use http::StatusCode;
use log::{info, warn};

pub use self::builder::Builder;
pub use self::check::{CheckResult, CheckStep};
use self::config::ConfigWarning;
use self::control::Control;
pub use self::error::{ConfigError, ConfigProblem};
pub use self::explain::{ExplainedOutcome, Explanation};
use self::slot::Slots;
use crate::admin::{Admin, Report};
use crate::advice::Advice;
use crate::backoff::BackoffConfig;
use crate::link::{Dialer, Token};
use crate::metrics::{Metrics, Status};
use crate::net::TrustStore;
use crate::pool::PoolLimits;
use crate::service::Service;
use crate::session::{SessionConfig, Workers, start_workers};
use crate::tunnel_id::TunnelId;
use crate::upstream::Upstreams;
use crate::upstream::detect::{LocalServer, local_servers};

/// A configured agent that does nothing yet.
pub struct Agent {
    tunnel_id: TunnelId,
    /// One for each gateway.
    dialers: Vec<Dialer>,
    sessions_per_gateway: usize,
    service: Arc<dyn Service>,
    /// The service, where it is local servers.
    upstreams: Option<Arc<Upstreams>>,
    /// What answers, for the log.
    served_by: String,
    /// Ports of this machine that are the tunnel's own.
    own_ports: Vec<u16>,
    session: SessionConfig,
    /// How long a session that has a successor may finish what runs.
    handover_drain: Duration,
    pool: PoolLimits,
    backoff: BackoffConfig,
    warnings: Vec<ConfigWarning>,
    metrics: Arc<Metrics>,
    control: Arc<Control>,
    /// The certificate authorities for local servers.
    local_tls: Option<TrustStore>,
    /// The address of the admin server, and its token.
    admin: Option<(SocketAddr, Option<Token>)>,
}

/// Why an agent ended without having been asked to.
#[derive(Debug)]
pub enum RunError {
    /// The gateway refused the agent's credentials: 401 or 403 on the upgrade.
    Refused(StatusCode),
    /// The admin server cannot listen at this address.
    Admin(SocketAddr, io::Error),
    /// The retries are used up. The text says what went wrong last.
    GaveUp(String),
    /// The system gives no more threads.
    Threads(io::Error),
    /// The agent's own thread panicked: a bug of this library.
    Panicked,
}

impl RunError {
    /// What an operator might do.
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

    /// The HTTP servers that listen on this machine, the likeliest first, without the tunnel's own.
    pub fn discover(&self) -> Vec<LocalServer> {
        local_servers(&self.own_ports)
    }

    /// Serves the tunnel, on this thread and others, until the agent is stopped by its [`handle`](Self::handle), or gives
    /// up.
    ///
    /// # Errors
    ///
    /// [`RunError`] says why the agent ended without having been asked to.
    pub fn run(self) -> Result<(), RunError> {
        // However it ends: by an error, or a panic.
        let _ended = MarksEnd(self.metrics.clone());
        for warning in &self.warnings {
            warn!("{warning}");
        }
        let workers = start_workers(self.pool, self.service.clone(), self.session.clone());
        let workers = workers.map_err(RunError::Threads)?;
        let urls: Vec<String> = self.dialers.iter().map(|dialer| dialer.url().to_string()).collect();
        let urls = urls.join(", ");
        info!("tunnel {}: from {urls} to {}", self.tunnel_id, self.served_by);
        let admin = match self.start_admin(&workers) {
            Ok(admin) => admin,
            Err(error) => {
                workers.join();
                return Err(error);
            }
        };
        let look = self.look_for_servers();
        let monitors = self.upstreams.as_ref().map(|upstreams| upstreams.monitor()).transpose();
        let monitors = monitors.inspect_err(|error| warn!("no thread to monitor local servers: {error}"));
        let result = Slots::new(&self, workers.submitter()).run();
        // No other local server is selected from now on.
        drop(monitors);
        self.service.interrupt();
        workers.join();
        drop(admin);
        // It has ended long ago; one that panicked has said so on its own.
        let _ = look.map(JoinHandle::join);
        if result.is_ok() {
            info!("tunnel {}: stopped", self.tunnel_id);
        }
        result
    }

    /// Warns of local servers that do not listen yet. On a busy machine the look takes milliseconds, for which no visitor
    /// waits: it has a thread of its own.
    fn look_for_servers(&self) -> Option<JoinHandle<()>> {
        let upstreams = self.upstreams.clone()?;
        let look = move || {
            for url in upstreams.missing() {
                warn!(advice = Advice::LocalAddress.name(); "nothing listens at {url} yet");
            }
        };
        thread::Builder::new().name("look".to_owned()).spawn(look).ok()
    }

    fn start_admin(&self, workers: &Workers) -> Result<Option<Admin>, RunError> {
        let Some((address, token)) = self.admin.clone() else { return Ok(None) };
        let control = self.control.clone();
        let report = Report {
            metrics: self.metrics.clone(),
            is_stopping: Box::new(move || control.is_stopping()),
            queue: workers.submitter(),
            upstreams: self.upstreams.clone(),
        };
        let admin = Admin::start(address, token, move |path| report.answer(path));
        admin.map(Some).map_err(|error| RunError::Admin(address, error))
    }

    /// A handle that stops the agent from anywhere, has it dial at once, and tells its status.
    pub fn handle(&self) -> Handle {
        Handle {
            control: self.control.clone(),
            local_tls: self.local_tls.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Serves the tunnel on threads of its own.
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

/// Records the end of an agent when it is dropped.
struct MarksEnd(Arc<Metrics>);

impl Drop for MarksEnd {
    fn drop(&mut self) {
        self.0.stopped();
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

/// An agent on threads of its own. Dropping it lets the agent run on.
#[derive(Debug)]
pub struct RunningAgent {
    handle: Handle,
    thread: JoinHandle<Result<(), RunError>>,
}

impl RunningAgent {
    /// A handle that stops the agent, has it dial at once, and tells its status.
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

/// A handle that stops an agent from anywhere, has it dial at once, and tells its status. All clones control the same
/// agent.
#[derive(Debug, Clone)]
pub struct Handle {
    control: Arc<Control>,
    local_tls: Option<TrustStore>,
    metrics: Arc<Metrics>,
}

impl Handle {
    /// Stops the agent: new requests are answered 503, those under way may finish for `drain`, then the sessions are
    /// closed. Returns at once. A second call can only shorten the drain.
    pub fn shutdown(&self, drain: Duration) {
        self.control.shutdown(drain);
    }

    /// Ends the delay before the next attempt to connect, if there is one.
    pub fn retry_now(&self) {
        self.control.hurry();
    }

    /// Reads the file of certificate authorities for local servers again, where one is in use; a file that cannot be
    /// used is logged and changes nothing. The token and the authorities for the gateway are read before each dial in
    /// any case.
    pub fn reload(&self) {
        self.local_tls.as_ref().inspect(|tls| tls.reload());
    }

    /// Waits until a gateway sends requests to the agent, at most `timeout`. Returns the status then, which tells where
    /// visitors reach the tunnel if the gateway says so; `None` when the time has elapsed, or the agent has ended.
    ///
    /// Gateways of the first generation do not say that they send requests: a second after the handshake they count as
    /// doing so.
    pub fn wait_connected(&self, timeout: Duration) -> Option<Status> {
        self.metrics.wait_connected(timeout).then(|| self.status())
    }

    /// How the agent is doing.
    pub fn status(&self) -> Status {
        self.metrics.status()
    }
}
