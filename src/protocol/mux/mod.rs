//! mux/2: many streams over one WebSocket, without I/O and without a clock.
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

mod frame;
mod head;
mod streams;
mod welcome;

pub use frame::{DataBuffer, Frame, HEAD_MAX, HEADER, MESSAGE_MAX, Reset, ResetCode, TEXT_MAX, Violation};
pub use head::{RequestHead, decode_response_head, encode_request_head, encode_response_head};
pub use streams::{Event, OpenError, Over, Read, Side, Streams};
pub use welcome::{Limits, MAX as WELCOME_MAX, PROTOCOL, TYPE as WELCOME, Welcome};
