//! When to connect, to reconnect, to give up and to stop.

mod builder;
mod control;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use http::StatusCode;
use log::{info, warn};

pub use self::builder::{Builder, ConfigError};
use self::control::Control;
use crate::TunnelId;
use crate::backoff::{self, Backoff};
use crate::link::{DialError, Dialer};
use crate::pool::{self, Intake, Pool};
use crate::service::Service;
use crate::session::job::Job;
use crate::session::{self, End};
use crate::status::{Connection, Counters, Status};

/// Waiting requests may weigh this many times the largest message, in bytes of their bodies.
const QUEUED_MESSAGES: usize = 4;

/// A session that ends sooner than this, before it served anything, was probably refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// A configured agent that does nothing yet.
pub struct Agent {
    tunnel_id: TunnelId,
    dialer: Dialer,
    service: Arc<dyn Service>,
    /// What answers, for the log.
    served_by: String,
    session: session::Config,
    workers: usize,
    max_streams: usize,
    queue: usize,
    backoff: backoff::Limits,
    /// What the log warns of at every start.
    warnings: Vec<&'static str>,
    counters: Arc<Counters>,
    control: Arc<Control>,
}

/// Why an agent ended without having been asked to.
#[derive(Debug)]
pub enum RunError {
    /// The gateway knows who asks and says no: 401 or 403 on the upgrade.
    Refused(StatusCode),
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
            RunError::GaveUp(last) => write!(f, "gave up on the gateway (see --max-retries): {last}"),
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

    /// Serves the tunnel on this thread, until the agent gives up. To be able to stop it, use
    /// [`spawn`](Self::spawn).
    pub fn run(self) -> Result<(), RunError> {
        for warning in &self.warnings {
            warn!("{warning}");
        }
        let limits = pool::Limits {
            workers: self.workers,
            workers_max: self.workers.max(self.max_streams),
            jobs: self.queue,
            weight: self.session.max_message.saturating_mul(QUEUED_MESSAGES),
        };
        let (service, config) = (self.service.clone(), self.session.clone());
        let pool = Pool::start(limits, Job::is_stale, move |job: Job| job.run(&*service, &config))
            .map_err(RunError::Threads)?;
        let result = self.supervise(&pool.intake());
        self.service.interrupt();
        pool.join();
        self.counters.set_connection(Connection::Stopped);
        result
    }

    /// Serves the tunnel on threads of its own. Fails when the system gives no thread.
    pub fn spawn(self) -> io::Result<Handle> {
        let stopper = Stopper(self.control.clone());
        let counters = self.counters.clone();
        let thread = thread::Builder::new().name("tunnel".to_owned()).spawn(move || self.run())?;
        Ok(Handle { stopper, counters, thread })
    }

    fn supervise(&self, intake: &Intake<Job>) -> Result<(), RunError> {
        info!("tunnel {}: from {} to {}", self.tunnel_id, self.dialer.url(), self.served_by);
        let mut backoff = Backoff::new(self.backoff);
        while !self.control.is_stopping() {
            let (lived, what) = match self.dialer.dial() {
                Ok(link) => self.serve(link, intake),
                Err(DialError::Status(status)) if DialError::Status(status).is_final() => {
                    return Err(RunError::Refused(status));
                }
                Err(error) => {
                    let what = format!("cannot reach gateway {}: {error}", self.dialer.url());
                    (Duration::ZERO, format!("{what}; {}", error.hint()))
                }
            };
            if self.control.is_stopping() {
                break;
            }
            self.counters.retried();
            let Some(delay) = backoff.failed(lived, backoff::chance()) else {
                return Err(RunError::GaveUp(what));
            };
            warn!("{what}; trying again in {:.1} s", delay.as_secs_f64());
            self.control.wait(delay);
        }
        info!("tunnel {}: stopped", self.tunnel_id);
        Ok(())
    }

    /// Serves one session. Returns how long it lived, and why it ended.
    fn serve(&self, link: crate::link::Link, intake: &Intake<Job>) -> (Duration, String) {
        let start = Instant::now();
        info!("connected to {}", self.dialer.url());
        self.counters.set_connection(Connection::Connected(start));
        let answered = self.counters.status().served;
        let attach = |outbox| self.control.attach(outbox);
        let end = session::run(link, &self.tunnel_id, &self.session, intake.clone(), &self.counters, attach);
        self.control.detach();
        self.counters.set_connection(Connection::Connecting);
        let lived = start.elapsed();
        let mut what =
            format!("session with {} ended after {:.1} s: {end}", self.dialer.url(), lived.as_secs_f64());
        // Not when it said why: that it goes away, say.
        let closed = match &end {
            End::Eof | End::Lost(_) | End::ClosedByGateway(None) => true,
            End::ClosedByGateway(Some((_, reason))) => reason.is_empty(),
            _ => false,
        };
        if closed && lived < REFUSED_WITHIN && answered == self.counters.status().served {
            what.push_str(
                "; a gateway that does this at once does not know this tunnel ID: check --tunnel-id",
            );
        }
        (lived, what)
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agent({}, {})", self.tunnel_id, self.dialer.url())
    }
}

/// A running agent. Dropping it lets the agent run on.
#[derive(Debug)]
pub struct Handle {
    stopper: Stopper,
    counters: Arc<Counters>,
    thread: JoinHandle<Result<(), RunError>>,
}

impl Handle {
    /// Stops the agent: new requests are answered 503, those that run may finish for `drain`, then the
    /// session is closed. Returns at once. A second call can only shorten the drain.
    pub fn shutdown(&self, drain: Duration) {
        self.stopper.shutdown(drain);
    }

    /// A handle for [`shutdown`](Self::shutdown) that can be cloned, for a signal handler's thread, say.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
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

/// Stops an agent from anywhere; see [`Handle::stopper`].
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Control>);

impl Stopper {
    /// See [`Handle::shutdown`].
    pub fn shutdown(&self, drain: Duration) {
        self.0.shutdown(drain);
    }
}
