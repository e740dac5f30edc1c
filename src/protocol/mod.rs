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
mod charset;
pub mod envelope;
mod escape;
pub mod handshake;
pub mod mux;
mod name;
pub mod request;
mod text;

pub use answer::{Answer, TooLarge};
pub use charset::make_utf8;
pub use envelope::Envelope;
pub use handshake::Handshake;
pub use name::{RequestName, connection_number};
pub use request::{Malformed, RequestId, RequestMessage};

use std::hash::{BuildHasher, RandomState};

/// A random UUID (RFC 9562 §5.4). It tells connections and processes apart, and is no secret.
pub fn random_uuid() -> String {
    let random = || RandomState::new().hash_one(0u8);
    let bits = u128::from(random()) << 64 | u128::from(random());
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
