//! mux/2: many streams over one WebSocket. Frames, states and windows are without I/O and without a clock; `blocking` has
//! threads share them, and a socket.
//!
//! Each request is a stream of [frames](Frame): a HEAD, then DATA both ways, each direction within a window
//! that the other side extends as it consumes. [`Streams`] keeps the state of all of them for one side of a
//! connection: what was received goes in, what is to be sent next comes out.
//!
//! ```text
//! a stream:   HEAD ──▶ DATA … DATA+END      request
//!             ◀── HEAD, DATA … DATA+END     response; its END ends the stream, unless it is an upgrade
//!             RESET, by either side, ends it at once
//! ```

mod blocking;
mod connection;
mod flow;
mod frame;
mod head;
mod stream;
mod welcome;

pub use self::blocking::{Mux, Stream, StreamError};
pub use self::connection::{MuxEvent, OpenError, ReadOutcome, Streams};
pub use self::frame::{
    DataBuffer, Fin, Frame, HEADER, MESSAGE_MAX, ProtocolError, Reset, ResetCode, TEXT_MAX,
};
pub use self::head::{RequestHead, decode_response_head, encode_request_head, encode_response_head};
pub use self::stream::{Closing, Side, StreamEnd};
pub use self::welcome::{MuxLimits, WELCOME, WELCOME_MAX, Welcome, names_visitors};
