//! One connection to a gateway, from the open WebSocket to its end.
//!
//! | thread | owns | waits for |
//! | --- | --- | --- |
//! | reader, one per session | the reading half | the next frame |
//! | timer and writer, the caller of [`run`] | the writing half, the [`state`], the [order](order) of answers | the next event or deadline |
//! | workers, shared by all sessions | one [`job`] each | the local server; room in the [`outbox`] |
//!
//! ```text
//! frame ──▶ reader ── job with its ticket ──▶ worker ── service ──▶ ticket ──▶ outbox ──▶ writer ──▶ frame
//!             └────────── refusals, pongs, why it ended ──────────────────────────▲
//! ```
//!
//! When the gateway has switched mux/2 on, a request is a [stream](crate::mux): the reader hands its job out in
//! the same way, and the [worker](streamed) reads and writes the stream as it goes. The writer takes what waits
//! there after the events.
//!
//! Data goes round once, in one direction. The reader never writes and never waits for the writer: two ends
//! that do so, with both directions full, wait for each other for ever.

mod answer;
pub(crate) mod job;
mod order;
pub(crate) mod outbox;
mod pace;
mod ping;
mod reader;
mod state;
mod streamed;
mod whole;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use crate::TunnelId;
use crate::admission::Entrance;
pub use order::Correlation;
pub(crate) use state::End;
pub use state::Heartbeat;
pub(crate) use writer::{Supervisor, run};

/// How a failure to forward is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailureAnswer {
    /// As the failure that it is: an `error` envelope, or a RESET of the stream.
    #[default]
    Error,
    /// As a response with status 502, 503 or 504, for gateways that let their clients wait otherwise.
    Response,
}

/// How a session behaves.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) tunnel_id: TunnelId,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) correlation: Correlation,
    /// What is let through.
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) failure: FailureAnswer,
    /// Most bytes of an envelope, in both directions.
    pub(crate) max_message: usize,
    /// Most bytes of a body in an envelope.
    pub(crate) max_body: usize,
    /// Most requests without an ID that are queued, running or held back for their turn.
    pub(crate) unnumbered_max: u64,
    /// What tells this process from another one of the same tunnel.
    pub(crate) instance: String,
    /// Most bytes of a body that comes or goes as a stream.
    pub(crate) max_stream_body: Option<u64>,
    /// How long the next bytes of a streaming request may take.
    pub(crate) idle_timeout: Duration,
}

/// How long a close frame waits for its reply, and a violation for the other side's end.
pub(crate) const CLOSE_WAIT: Duration = Duration::from_secs(1);
