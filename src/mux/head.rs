//! The HTTP/1.1 head in a HEAD frame.

use tungstenite::Bytes;

use super::frame::Fin;
use super::stream::Closing;
use crate::http1::{
    MUX_HEAD_MAX, READ_HEADERS_MAX, parse_response, target, write_request_head, write_response_head,
};

/// A request's head, well-formed as HTTP, and nothing more is known of it yet.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a str,
    /// The request target: path and query.
    pub target: &'a str,
    /// Names and values, order and repeats kept. The values share the memory of the head.
    pub headers: Vec<(&'a str, Bytes)>,
}

impl<'a> RequestHead<'a> {
    /// Reads a head, which must be all of `bytes`, or says what is wrong with it.
    pub fn parse(bytes: &'a Bytes) -> Result<Self, &'static str> {
        if bytes.len() > MUX_HEAD_MAX {
            return Err("a head that is too large");
        }
        let mut headers = [httparse::EMPTY_HEADER; READ_HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            _ => return Err("a head that cannot be read"),
        }
        let headers =
            parsed.headers.iter().map(|header| (header.name, bytes.slice_ref(header.value))).collect();
        let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
        Ok(RequestHead { method, target, headers })
    }
}

/// Writes a request's head: its path in origin form, and its headers.
pub fn encode_request_head(parts: &http::request::Parts) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    write_request_head(&mut bytes, &parts.method, target(&parts.uri, &parts.extensions), &parts.headers);
    bytes
}

/// Reads a response's head, which must be all of `bytes`, or says what is wrong with it.
pub fn decode_response_head(bytes: &Bytes) -> Result<http::response::Parts, &'static str> {
    match parse_response(bytes, MUX_HEAD_MAX) {
        Ok(Some((length, response))) if length == bytes.len() => Ok(response.into_parts().0),
        _ => Err("a head that cannot be read"),
    }
}

/// Writes a response's head.
pub fn encode_response_head(parts: &http::response::Parts) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    write_response_head(&mut bytes, parts);
    bytes
}

/// When a stream closes behind this head of a response.
pub(super) fn closing_behind(head: &[u8], fin: Fin) -> Closing {
    let is_switch = head.get(8..12) == Some(b" 101");
    if is_switch && fin == Fin::More { Closing::WithBoth } else { Closing::WithResponse }
}
