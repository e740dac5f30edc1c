//! Which messages exist, and what bytes they are: the wire protocol, without I/O.
//!
//! Every text frame is an [envelope], a JSON object with a `message_type` and a `payload`. Two
//! frames are none: the connection ID that the gateway sends first (a bare UUID), and the agent's
//! [`Handshake`].
//!
//! ```text
//! gateway → agent   connection ID, then `request` and `error` envelopes
//! agent → gateway   handshake,     then `response` and `error` envelopes
//! ```
//!
//! [`mux`] is part 3, streams in binary frames.
//!
//! Both directions of both sides are here, since the reference gateway is built from them too. Decoding
//! borrows from the frame where it can; nothing here panics, whatever the bytes.

pub mod answer;
pub mod envelope;
mod escape;
pub mod handshake;
pub mod mux;
pub mod request;
mod text;

pub use answer::{Answer, TooLarge};
pub use envelope::Envelope;
pub use handshake::Handshake;
pub use request::{Malformed, RequestId, RequestMessage};
