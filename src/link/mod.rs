//! How frames get on and off the wire: dialling, TLS, and a socket that two threads use at once.
//!
//! ```text
//! dial ──▶ Socket ──▶ FrameReader   owned by the reading thread
//!            └──────▶ WriteHalf     owned by the writing thread, fed by a FrameWriter
//! ```

#[cfg(feature = "tls")]
pub(crate) mod certificate;
pub(crate) mod credentials;
pub mod dial;
pub mod duplex;
pub mod frames;
pub mod resolve;
pub mod tls;

pub use credentials::{Token, TokenSource, TrustStore};
pub use dial::{DialError, Dialer, GatewayUrl, Link};
pub use duplex::{Closer, Heard, Socket, Traffic, WriteHalf};
pub use frames::{FrameReader, FrameWriter, Incoming, Outgoing, ReadError};
