//! One session: a WebSocket to a gateway, from the open connection to its end.
//!
//! | thread | owns | waits for |
//! | --- | --- | --- |
//! | `reader`, one per session | the reading half | the next message |
//! | timer and writer, the caller of [`Session::run`] | the writing half, the [`state`], the [order] of answers | the next event or deadline |
//! | `worker`, shared by all sessions | one [`exchange`] each | the local server; room in the [`credit`] |
//!
//! ```text
//! message ──▶ reader ── Exchange ──▶ worker ── service ──▶ Reply ──▶ wire ──▶ writer ──▶ message
//!               └──────── refusals, pongs, why it ended ─────────────▲
//! ```
//!
//! When the gateway has switched mux/2 on, a request is a [stream](crate::mux): the reader submits its exchange in the
//! same way, and the worker reads and writes the stream as it goes. The writer takes what is queued there behind the
//! events.
//!
//! The reader never writes, and never waits for the writer: two peers whose readers do so wait for each other for ever once
//! both directions are full.

mod credit;
mod end;
mod exchange;
mod handle;
mod order;
mod pace;
mod ping;
mod reader;
mod state;
mod ticket;
mod writer;

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

pub(crate) use self::end::SessionEnd;
pub use self::exchange::ACCESS_LOG;
use self::exchange::Exchange;
#[cfg(feature = "inspect")]
pub(crate) use self::exchange::replay;
pub(crate) use self::handle::SessionHandle;
pub use self::order::Correlation;
pub use self::state::Heartbeat;
pub(crate) use self::writer::Session;
use crate::guard::{Gate, Refusal};
use crate::inspect::Inspector;
use crate::link::DialError;
use crate::metrics::{MetricLabels, Metrics};
use crate::pool::{Pool, PoolLimits, Submitter};
use crate::protocol::{TunnelName, TunnelUrl};
use crate::service::{FailureKind, Service};
use crate::tunnel_id::TunnelId;

/// The form of the answer to a request that could not be forwarded. A `BadRequest` is a response with status 400 in
/// either form, and a stream whose head has been sent is reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailureReply {
    /// An `error` envelope, or a RESET of the stream: the gateway chooses the status, usually 502 or 504.
    #[default]
    Error,
    /// A response with the status of the failure's [kind](crate::FailureKind), for gateways that let their visitors
    /// wait otherwise.
    Response,
}

/// Whether responses tell in `Server-Timing` how long they took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ServerTiming {
    /// They do not.
    #[default]
    Off,
    /// The field gets `tunnel`, the time from taking the request on to the head of its response, and `upstream`, the local
    /// server's part of it, in milliseconds.
    On,
}

/// How a session behaves, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionConfig {
    pub(crate) tunnel_id: TunnelId,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) correlation: Correlation,
    /// The largest envelope either way, in bytes.
    pub(crate) max_message: usize,
    /// Requests without an ID that are queued, running or held back for their turn, at most.
    pub(crate) max_without_id: u64,
    /// A random name that tells this process from another one of the same tunnel.
    pub(crate) instance: String,
    /// The name that the tunnel asks for.
    pub(crate) name: Option<TunnelName>,
}

/// Which requests pass, and how they are answered. It can be replaced while sessions run; a request keeps that of its
/// admission.
pub(crate) struct ExchangeConfig {
    pub(crate) tunnel_id: TunnelId,
    /// The tunnel's name in the log of an agent that serves several.
    pub(crate) label: Option<String>,
    /// Which requests pass.
    pub(crate) gate: Gate,
    /// The service that answers them.
    pub(crate) service: Arc<dyn Service>,
    pub(crate) failure_reply: FailureReply,
    pub(crate) server_timing: ServerTiming,
    /// The largest body in an envelope, in bytes.
    pub(crate) max_enveloped_body: usize,
    /// The largest body on a stream, in bytes.
    pub(crate) max_streamed_body: Option<u64>,
    /// How long the next bytes of a streaming request may take.
    pub(crate) idle_timeout: Duration,
    /// The inspector that records the exchanges.
    pub(crate) inspector: Option<Inspector>,
}

impl ExchangeConfig {
    /// The tunnel's name for a log record, and what its text begins with; both are empty where there is one tunnel alone.
    fn label(&self) -> (&str, impl fmt::Display) {
        let label = self.label.as_deref().unwrap_or_default();
        (label, if label.is_empty() { String::new() } else { format!("{label}: ") })
    }
}

impl fmt::Debug for ExchangeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExchangeConfig({})", self.tunnel_id)
    }
}

/// The worker threads that all sessions of an agent share.
pub(crate) type Workers = Pool<Exchange>;

/// Where sessions submit their requests.
pub(crate) type WorkQueue = Submitter<Exchange>;

/// Starts the workers, which have services answer requests.
pub(crate) fn start_workers(limits: PoolLimits) -> io::Result<Workers> {
    let refuse = |exchange: Exchange, reason| {
        // A gateway that has stopped reading is the reader's to notice.
        let _ = exchange.refuse(reason);
    };
    Pool::start(limits, Exchange::is_abandoned, refuse, Exchange::run)
}

/// Metrics with nothing counted.
pub(crate) fn new_metrics() -> Metrics {
    Metrics::new(MetricLabels {
        failures: &FailureKind::CODES,
        refusals: &Refusal::CODES,
        dials: &DialError::KINDS,
    })
}

/// The owner of a session, which decides what the session's own rules do not.
pub(crate) trait Supervisor {
    /// The session has begun.
    fn began(&mut self, session: SessionHandle);

    /// The gateway has told where visitors reach the tunnel.
    fn named(&mut self, told: &TunnelUrl);

    /// The gateway sends requests to the session from now on: a `welcome` has come, or none within a second.
    fn opened(&mut self);

    /// The gateway is about to stop, for this reason.
    fn goes_away(&mut self, reason: &str);

    /// The session is to have a successor, since its configuration has changed.
    fn renew(&mut self);
}

/// How long a close frame waits for its reply, and a violation for the other side's end.
pub(crate) const CLOSE_WAIT: Duration = Duration::from_secs(1);
