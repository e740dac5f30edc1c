//! The wire to the byte, for fuzzing, for tests of its bytes and for tools of this repository.
//!
//! **Nothing here follows semantic versioning**: each release may change or remove any of it. A program that embeds the
//! agent or the gateway needs none of it.

/// HTTP/1.1: heads and bodies.
pub mod http1 {
    pub use crate::http1::fields::has_token;
    pub use crate::http1::*;
}

/// Messages on a WebSocket.
pub mod link {
    pub use crate::link::*;
}

/// Streams over one WebSocket: mux/2.
pub mod mux {
    pub use crate::mux::*;
}

/// Sockets.
pub mod net {
    pub use crate::net::*;
}

/// Envelopes.
pub mod protocol {
    pub use crate::protocol::*;
}
