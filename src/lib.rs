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
//!     let handle = agent.spawn()?; // `agent.run()` would block instead
//!
//!     println!("{:?}", handle.status().connection); // do something else …
//!
//!     handle.shutdown(Duration::from_secs(10)); // … and stop: finish what runs, for 10 s at most
//!     handle.join()?;
//!     Ok(())
//! }
//! ```
//!
//! With `.local("http://127.0.0.1:8000".parse()?)` in place of `.service(…)`, requests go to a local HTTP
//! server: that is what the program `agent` does.
//!
//! The library installs no logger, no signal handler and no panic hook. It starts no thread before
//! [`Agent::spawn`] or [`Agent::run`], and leaves none behind after [`Handle::join`], but for a name look-up
//! that the system does not finish. Several agents can live in one process. It logs through the `log`
//! facade: one line per request at `info`, never with a query, header, body, token or whole tunnel ID.
//!
//! # How it is built
//!
//! | module | the question it answers |
//! | --- | --- |
//! | `agent` | when to connect, reconnect, give up, stop |
//! | `session` | what happens on one connection, and when |
//! | `pool` | who runs blocking work, and how much at most |
//! | [`discover`] | which local servers there are |
//! | `targets` | which local server answers, and whether it may be asked |
//! | `origin` | how that server answers one request |
//! | [`mux`] | how streams are read and written by blocking threads |
//! | `admin` | who may ask how the agent is doing |
//! | `admission`, `rules`, `rate` | which requests are taken on |
//! | [`link`] | how frames get on and off the wire |
//! | [`protocol`] | which messages exist and what bytes they are |
//!
//! [`link`], [`mux`], [`protocol`] and [`http1`] are public because the reference gateway is built from them too.
//! They may change with every release.

mod admin;
mod admission;
mod agent;
mod backoff;
#[doc(hidden)]
pub mod cli;
mod clock;
pub mod discover;
pub mod headers;
pub mod http1;
pub mod link;
#[doc(hidden)]
pub mod logging;
pub mod mux;
mod origin;
mod pool;
pub mod protocol;
mod rate;
mod rules;
mod service;
mod session;
mod status;
mod targets;
mod tunnel_id;

pub use agent::{Agent, Builder, ConfigError, Explanation, Handle, Outcome, Passed, Remote, RunError, Step};
pub use backoff::Limits as Backoff;
pub use link::GatewayUrl;
pub use link::Token;
pub use link::tls::Trust;
pub use origin::{InvalidLocalUrl, LocalUrl, Origin, Timeouts};
pub use rate::{InvalidRate, Rate};
pub use rules::{Action, InvalidPattern, Pattern, Rule, Rules, Verdict};
pub use service::{Body, Cancellation, Failure, FailureKind, Request, Response, Service};
pub use session::{Correlation, FailureAnswer, Heartbeat};
pub use status::{Connection, Status};
pub use targets::{BreakerLimits as Breaker, HealthChecks, InvalidHeader, SetHeader};
pub use tunnel_id::{InvalidTunnelId, TunnelId};
