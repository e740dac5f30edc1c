//! Which messages exist, and what bytes they are: the wire protocol, without I/O.
//!
//! Every text message is an [envelope], a JSON object with a `message_type` and a `payload`. Two
//! messages are none: the connection ID that the gateway sends first (a bare UUID), and the agent's
//! [`Handshake`].
//!
//! ```text
//! gateway → agent   connection ID, then `request` and `error` envelopes
//! agent → gateway   handshake,     then `response` and `error` envelopes
//! ```
//!
//! Streams in binary messages, part 3 of the protocol, are in [`mux`](crate::mux).
//!
//! Both directions of both sides are here, since the reference gateway is built from them too. Decoding
//! borrows from the message where it can; nothing here panics, whatever the bytes.

pub mod answer;
mod charset;
pub mod envelope;
mod escape;
pub mod handshake;
pub mod id;
pub mod name;
pub(crate) mod problem_page;
pub mod request;
pub(crate) mod text;

use http::HeaderName;

pub use self::answer::{DecodedAnswer, ResponseMessage};
pub use self::charset::make_utf8;
pub use self::envelope::{Envelope, EnvelopeTooLarge};
pub use self::handshake::{Handshake, MUX_PROTOCOL};
pub use self::id::{RequestId, RequestName, connection_number, random_uuid};
pub use self::name::{InvalidTunnelName, TunnelName, TunnelUrl, Wanted};
pub use self::request::{BodyEncoding, MalformedRequest, RequestMessage};

/// The scheme that a visitor used, as gateways say it.
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The field that names the program that made a response by itself: `agent` or `gateway`.
pub const X_TUNNEL_SOURCE: HeaderName = HeaderName::from_static("x-tunnel-source");

/// The field that chooses the tunnel of a request. Its value is a credential.
pub const X_TUNNEL_ID: HeaderName = HeaderName::from_static("x-tunnel-id");

/// The field that marks the requests of a search for local servers. Every agent refuses them: a gateway with an agent
/// behind it would be found otherwise.
pub const X_TUNNEL_SEARCH: HeaderName = HeaderName::from_static("x-tunnel-search");
