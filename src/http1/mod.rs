//! HTTP/1.1: the server side for visitors and operators, the client side for the local server.
//!
//! httparse reads heads and chunk sizes. What a head means for the framing of its body is decided here, by
//! RFC 9112 §6 and on the strict side: whatever two parties could read in two ways is refused, since an
//! intermediary that guesses lets one client's bytes be read as another's request.

pub(crate) mod cookies;
pub mod decode;
mod encode;
mod error;
pub mod fields;
mod head;
mod input;
mod limits;
mod output;
pub(crate) mod path;
mod response;
mod server;
mod server_timing;
mod set_header;
mod target;
mod trace;

pub use self::decode::{Decoder, Framing};
pub use self::encode::{
    LAST_CHUNK, end_head, write_chunk, write_header, write_request_head, write_request_line,
    write_response_head,
};
pub use self::error::RequestError;
pub use self::head::{Head, Persistence};
pub use self::input::{Input, or_end};
pub use self::limits::{
    FORWARDED_HEADER_BYTES_MAX, FORWARDED_HEADERS_MAX, FORWARDED_LINE_MAX, HEAD_MAX, HEADERS_MAX,
    MUX_HEAD_MAX, READ_HEADERS_MAX, UPGRADE_HEAD_MAX,
};
pub use self::output::{BodyWriter, Output};
pub use self::response::{
    BadResponse, ResponseHead, has_no_body, is_interim, keep_reason, mend_head, parse_response,
};
pub use self::server::{HEAD_TIME, KEEP_ALIVE, ServerConnection, json_response, response};
pub use self::server_timing::append_server_timing;
pub(crate) use self::set_header::header_name;
pub use self::set_header::{InvalidHeader, SetHeader};
pub use self::target::{
    RawTarget, has_host_and_port, is_host, names_loopback, parse_target, raw_target, shown_path, target,
};
pub(crate) use self::trace::InTrace;
pub use self::trace::TraceId;
