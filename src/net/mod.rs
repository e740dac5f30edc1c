//! Sockets: how a connection is opened, with TLS or without, and used by two threads at once.

mod address;
#[cfg(feature = "tls")]
pub(crate) mod certificate;
pub(crate) mod connect;
pub(crate) mod local;
pub(crate) mod network;
pub mod resolve;
pub mod socket;
pub mod tls;
mod trust;

pub use self::address::Address;
pub use self::connect::ConnectError;
pub use self::socket::{Closer, Socket, Traffic, WriteHalf};
pub use self::trust::TrustStore;
