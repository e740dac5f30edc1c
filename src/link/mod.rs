//! WebSocket messages: how a connection is dialled, and how messages get on and off it.
//!
//! ```text
//! dial ──▶ Socket ──▶ MessageReader   owned by the reading thread
//!            └──────▶ MessageSink     owned by the thread that writes just now
//! ```

pub mod close;
pub mod dial;
pub mod message;
mod proxy;
pub(crate) mod secret;
mod sink;
pub(crate) mod token;
mod upgrade_headers;
mod url;

pub use self::dial::{DialConfig, DialError, Dialer, Link};
pub use self::message::{MessageReader, MessageWriter, Outbound, ReadError, Received};
pub use self::proxy::{InvalidProxy, InvalidVariable, Proxies, Proxy, ProxyRefusal, SourcedProxy};
pub use self::secret::{SecretFile, SecretSource};
pub(crate) use self::sink::WRITE_BATCH;
pub use self::sink::{MessageSink, Written};
pub use self::token::Token;
pub use self::upgrade_headers::{InvalidUpgradeHeaders, UpgradeHeaders};
pub use self::url::{GatewayUrl, InvalidGatewayUrl};
