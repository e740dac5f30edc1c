//! A reverse-tunnel agent. It runs next to a web application behind NAT, dials out to a gateway over one
//! WebSocket, receives HTTP requests as messages, has them answered, and sends the answers back.
//! Synchronous: threads and blocking sockets, no async runtime.
//!
//! A program that answers requests itself, without a local web server:
//!
//! ```
//! use std::time::Duration;
//! use tunnel_agent::{Agent, Body, Failure, Request, Response};
//!
//! fn hello(request: Request) -> Result<Response, Failure> {
//!     Ok(Response::new(Body::from(format!("Hello from {}\n", request.uri().path()))))
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let agent = Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_prod".parse()?)
//!         .gateway("ws://127.0.0.1:3000".parse()?)
//!         .service(hello)
//!         .build()?;
//!     let agent = agent.spawn()?; // `agent.run()` would block instead
//!
//!     println!("{:?}", agent.handle().status().connection); // do something else …
//!
//!     agent.handle().shutdown(Duration::from_secs(10)); // … and stop: requests under way have 10 s
//!     agent.join()?;
//!     Ok(())
//! }
//! ```
//!
//! With `.local("http://127.0.0.1:8000".parse()?)` in place of `.service(…)`, requests go to a local HTTP
//! server: that is what the program `agent` does. A program with options of its own sets them as text
//! ([`Builder::set`]); [`Builder::tunnel`] adds a second tunnel, and [`Handle::reload`] changes a running agent's
//! configuration.
//!
//! The library installs no logger, no signal handler and no panic hook. Only [`Agent::spawn`], [`Agent::run`],
//! [`Agent::check`] and [`Agent::discover`] start threads; none is left behind after [`RunningAgent::join`], but for
//! a name look-up that the system does not finish. Several agents can live in one process. It logs through the `log`
//! facade: one line per request (`info`; a failure `warn`, a disconnected visitor `debug`), never with a query, header,
//! body, token or whole tunnel ID. The libraries below it say more: cap the targets `ureq`, `ureq_proto`, `tungstenite`
//! and `rustls` at `warn`, as the programs do.
//!
//! # Features
//!
//! | feature | what it brings |
//! | --- | --- |
//! | `tls` | `wss://` and `https://`; without it such URLs are an error of [`Builder::build`] |
//! | `inspect` | the page of the [`Inspector`] at the admin server |
//! | `gateway` | the reference gateway, as the module `gateway` |
//! | `cli` | what the two programs need: command lines, signals, log |
//!
//! All are on by default; a program that embeds the agent takes `default-features = false, features = ["tls"]`.
//!
//! # Layers
//!
//! Imports point down this list, and a test holds it.
//!
//! | module | the question it answers |
//! | --- | --- |
//! | `cli` | what was typed: options, help, signals, log; feature `cli` |
//! | `gateway` | the reference gateway; feature `gateway` |
//! | `agent` | when to connect, to reconnect, to give up, to stop |
//! | `admin` | how the agent reports what it is doing |
//! | `session` | what happens on one WebSocket, and when |
//! | `inspect` | what came through: records of exchanges |
//! | `guard` | which requests pass |
//! | `upstream` | which local server answers, whether it may be asked, and how it answers |
//! | `pool` | which thread runs blocking work, and how much there may be |
//! | `mux` | streams: frames, states, windows |
//! | `protocol` | envelopes: which messages exist, and what bytes they are |
//! | `link` | how messages get on and off a WebSocket |
//! | `http1` | heads and bodies of HTTP/1.1 |
//! | `net` | sockets, with TLS or without, and names |
//! | `service` | what answers requests: requests, responses, bodies, failures |
//! | `metrics`, `tunnel_id`, `backoff`, `clock`, `sync`, `vitals`, `advice` | what every layer may use |
//!
//! [`manual::architecture`] shows the threads, and a request's way through the layers.

mod admin;
mod advice;
mod agent;
mod backoff;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod clock;
#[cfg(feature = "gateway")]
pub mod gateway;
mod guard;
mod http1;
mod inspect;
mod link;
pub mod manual;
mod metrics;
mod mux;
mod net;
mod pool;
mod protocol;
mod service;
mod session;
mod sync;
mod tunnel_id;
pub mod unversioned;
mod upstream;
mod vitals;

pub use agent::{
    Agent, Builder, CheckResult, CheckStep, ConfigError, ConfigProblem, ExplainedOutcome, Explanation,
    Handle, RunError, RunningAgent, TunnelStatus,
};
pub use backoff::BackoffConfig;
pub use guard::{
    Action, AllowedOrigin, CorsCredentials, InvalidOrigin, InvalidPasswords, InvalidPattern, InvalidRate,
    Passwords, Pattern, Rate, Rule, Rules, Verdict,
};
pub use http;
pub use http1::{InvalidHeader, SetHeader};
pub use inspect::{
    ExchangeTimings, InspectedBody, InspectedExchange, InspectedHeaders, InspectedMessage, InspectedOutcome,
    Inspector, InspectorConfig, MessageDirection, MessageKind,
};
pub use link::{
    GatewayUrl, InvalidGatewayUrl, InvalidProxy, InvalidUpgradeHeaders, InvalidVariable, Proxies, Proxy,
    Token, UpgradeHeaders,
};
pub use metrics::{ConnectionState, Status};
pub use net::network::{InvalidNetwork, Network};
pub use net::tls::{TlsError, Trust};
pub use protocol::{InvalidTunnelName, TunnelName};
pub use service::{Body, Cancellation, Failure, FailureKind, Request, Response, Service};
pub use session::{ACCESS_LOG, Correlation, FailureReply, Heartbeat, ServerTiming};
pub use tunnel_id::{InvalidTunnelId, TunnelId};
pub use upstream::detect::LocalServer;
pub use upstream::origin::{InvalidLocalUrl, LocalUrl, Origin, Timeouts};
pub use upstream::{BreakerConfig, HealthChecks};
