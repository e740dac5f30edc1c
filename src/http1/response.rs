//! A response's head, as a client reads it, and what it means for the framing of its body.

use std::fmt;

use http::header::{self, HeaderMap};
use http::{Method, Response, StatusCode, Version};
use httparse::Status;

use super::body::Framing;
use super::head::{has_token, header_map, number};
use super::{HEAD_MAX, HEADERS_MAX};

/// A response's head, and how its body is framed.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status, version and headers, as the server sent them.
    pub response: Response<()>,
    /// The framing of the body.
    pub framing: Framing,
    /// Whether the connection can carry another request.
    pub keep_alive: bool,
}

/// Why bytes are no response's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadResponse {
    /// It is longer than [`HEAD_MAX`], or has more headers than [`HEADERS_MAX`].
    TooLarge,
    /// It is no HTTP/1.1; the text says what is wrong.
    Invalid(&'static str),
}

impl fmt::Display for BadResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadResponse::TooLarge => {
                write!(f, "the head has more than {HEADERS_MAX} headers or {} KiB", HEAD_MAX >> 10)
            }
            BadResponse::Invalid(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for BadResponse {}

impl ResponseHead {
    /// Reads the head of a response to a request with this method, and its length. `None` when it is not
    /// complete yet.
    pub fn parse(bytes: &[u8], method: &Method) -> Result<Option<(usize, Self)>, BadResponse> {
        let Some((length, response)) = parse_response(bytes, HEAD_MAX)? else { return Ok(None) };
        let framing = framing(response.status(), response.headers(), method)?;
        let says = |token| has_token(response.headers(), &header::CONNECTION, token);
        let asked = if response.version() == Version::HTTP_10 { says("keep-alive") } else { true };
        let keep_alive = asked && !says("close") && framing != Framing::UntilEnd && is_unambiguous(&response);
        Ok(Some((length, ResponseHead { response, framing, keep_alive })))
    }
}

/// Reads the head of a response of at most `max` bytes, and its length. `None` when it is not complete yet.
pub fn parse_response(bytes: &[u8], max: usize) -> Result<Option<(usize, Response<()>)>, BadResponse> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(Status::Complete(length)) if length <= max => length,
        Ok(Status::Partial) if bytes.len() <= max => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(BadResponse::TooLarge),
        Err(httparse::Error::Version) => {
            return Err(BadResponse::Invalid("its version is not 1.0 or 1.1"));
        }
        Err(_) => return Err(BadResponse::Invalid("its head cannot be read")),
    };
    let mut response = Response::new(());
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *response.version_mut() = version;
    *response.status_mut() = StatusCode::from_u16(parsed.code.unwrap_or_default())
        .map_err(|_| BadResponse::Invalid("no such status"))?;
    *response.headers_mut() = header_map(parsed.headers).map_err(BadResponse::Invalid)?;
    Ok(Some((length, response)))
}

/// RFC 9112 §6.3.
fn framing(status: StatusCode, headers: &HeaderMap, method: &Method) -> Result<Framing, BadResponse> {
    if *method == Method::HEAD || has_no_body(status) {
        return Ok(Framing::Length(0));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        let other = BadResponse::Invalid("a transfer coding other than chunked, which nobody asked for");
        return if chunked { Ok(Framing::Chunked) } else { Err(other) };
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(Framing::UntilEnd) };
    if lengths.any(|other| other != length) {
        return Err(BadResponse::Invalid("more than one Content-Length"));
    }
    number(length).map(Framing::Length).ok_or(BadResponse::Invalid("Content-Length is not a number"))
}

/// Whether nobody could find another end of the response than [`framing`] does. Else what follows may be the
/// rest of it (RFC 9112 §6.1, §6.3).
fn is_unambiguous(response: &Response<()>) -> bool {
    let length = response.headers().get(header::CONTENT_LENGTH);
    let coded = response.headers().contains_key(header::TRANSFER_ENCODING);
    if response.status() == StatusCode::NO_CONTENT {
        return !coded && length.is_none_or(|length| number(length) == Some(0));
    }
    !coded || (length.is_none() && response.version() == Version::HTTP_11)
}

/// Statuses whose responses never have a body (RFC 9112 §6.3).
pub fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, method: Method) -> Result<ResponseHead, BadResponse> {
        ResponseHead::parse(text.as_bytes(), &method).map(|head| head.expect("it is complete").1)
    }

    #[test]
    fn the_body_ends_as_the_head_says() {
        for (status, headers, method, framing, keep_alive) in [
            ("HTTP/1.1 200 OK", "Content-Length: 5\r\n", Method::GET, Framing::Length(5), true),
            ("HTTP/1.1 200", "Content-Length: 5\r\n", Method::HEAD, Framing::Length(0), true),
            ("HTTP/1.1 304 ", "Content-Length: 5\r\n", Method::GET, Framing::Length(0), true),
            (
                "HTTP/1.1 200 OK",
                "Transfer-Encoding: Chunked\r\nContent-Length: 5\r\n",
                Method::GET,
                Framing::Chunked,
                false,
            ),
            ("HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\n", Method::GET, Framing::Chunked, true),
            ("HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\n", Method::HEAD, Framing::Length(0), true),
            (
                "HTTP/1.0 200 OK",
                "Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n",
                Method::GET,
                Framing::Chunked,
                false,
            ),
            ("HTTP/1.1 204 ", "", Method::GET, Framing::Length(0), true),
            ("HTTP/1.1 204 ", "Content-Length: 0\r\n", Method::GET, Framing::Length(0), true),
            ("HTTP/1.1 204 ", "Content-Length: 5\r\n", Method::GET, Framing::Length(0), false),
            ("HTTP/1.1 204 ", "Transfer-Encoding: chunked\r\n", Method::GET, Framing::Length(0), false),
            ("HTTP/1.1 200 OK", "", Method::GET, Framing::UntilEnd, false),
            (
                "HTTP/1.1 200 OK",
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                Method::GET,
                Framing::Length(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK",
                "Content-Length: 5\r\nConnection: x, Close\r\n",
                Method::GET,
                Framing::Length(5),
                false,
            ),
            ("HTTP/1.0 200 OK", "Content-Length: 5\r\n", Method::GET, Framing::Length(5), false),
            (
                "HTTP/1.0 200 OK",
                "Content-Length: 5\r\nConnection: keep-alive\r\n",
                Method::GET,
                Framing::Length(5),
                true,
            ),
        ] {
            let head = parse(&format!("{status}\r\n{headers}\r\n"), method).unwrap();
            assert_eq!((head.framing, head.keep_alive), (framing, keep_alive), "{status} {headers}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_too_long_is_refused() {
        for headers in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "X: \0\r\n",
        ] {
            let error = parse(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"), Method::GET).unwrap_err();
            assert!(matches!(error, BadResponse::Invalid(_)), "{headers}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(parse(&many, Method::GET).unwrap_err(), BadResponse::TooLarge);
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_MAX));
        assert_eq!(ResponseHead::parse(long.as_bytes(), &Method::GET).unwrap_err(), BadResponse::TooLarge);
    }
}
