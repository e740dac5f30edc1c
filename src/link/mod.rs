//! How frames get on and off the wire: dialling, TLS, and a socket that two threads use at once.
//!
//! ```text
//! dial ──▶ Socket ──▶ MessageReader   owned by the reading thread
//!            └──────▶ WriteHalf     owned by the writing thread, fed by a MessageWriter
//! ```

pub mod close;
pub mod dial;
pub mod message;
pub(crate) mod token;
mod url;

pub use self::dial::{DialError, Dialer, Link};
pub use self::message::{MessageReader, MessageWriter, Outbound, ReadError, Received};
pub use self::token::{Token, TokenSource};
pub use self::url::{GatewayUrl, InvalidGatewayUrl};
