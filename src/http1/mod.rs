//! HTTP/1.1 on a socket: the server side for the gateway's clients, the client side for the local server.
//!
//! httparse reads heads and chunk sizes. What a head means for the framing of its body is decided here, by
//! RFC 9112 §6 and on the strict side: whatever two parties could read in two ways is refused, since an
//! intermediary that guesses lets one client's bytes be read as another's request.

pub mod body;
mod head;
mod input;
mod output;
mod response;
mod server;
mod target;

use http::{HeaderMap, Method};

pub use self::body::{Decoder, Framing};
pub use self::head::Head;
pub use self::input::Input;
pub use self::output::{BodyWriter, Output};
pub use self::response::{BadResponse, ResponseHead, has_no_body, parse_response};
pub use self::server::{Connection, Error, HEAD_TIME, KEEP_ALIVE, json_response, response};
pub use self::target::{RawTarget, is_host, names_loopback, parse_target, shown_path, target};

/// Most bytes of a head.
pub const HEAD_MAX: usize = 64 << 10;

/// Most headers in a head.
pub const HEADERS_MAX: usize = 128;

/// Writes header lines, and the empty line behind them.
fn write_headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a request's head.
pub fn write_request_head(out: &mut Vec<u8>, method: &Method, path: &str, headers: &HeaderMap) {
    for part in [method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    write_headers(out, headers);
}

/// Writes a response's head.
pub fn write_response_head(out: &mut Vec<u8>, parts: &http::response::Parts) {
    let usual = parts.status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = parts.extensions.get::<response::Reason>().map_or(usual, |reason| &reason.0);
    for part in [b"HTTP/1.1 ", parts.status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
    write_headers(out, &parts.headers);
}
