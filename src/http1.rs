//! The server side of HTTP/1.1, for one public connection of the gateway: requests in, responses out.
//!
//! httparse reads heads and chunk sizes. What a head means for the framing of its body is decided here, by
//! RFC 9112 §6 and on the strict side: whatever two parties could read in two ways is refused, since a
//! gateway that guesses lets one client's bytes be read as another's request.

use std::fmt;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Uri;
use http::{Method, Request, Response, StatusCode, Version};
use httparse::Status;

use crate::headers::remove_hop_by_hop;
use crate::link::Socket;

/// Most bytes of a request's head.
pub const HEAD_MAX: usize = 64 << 10;

/// Most headers of a request.
pub const HEADERS_MAX: usize = 128;

/// Most bytes of a chunk's size line with its extensions, and of all trailers together.
const CHUNK_LINE_MAX: usize = 4 << 10;

/// How long a connection may be idle between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long a head may take from its first byte on.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a body may take in any case; a transfer may take longer, if it keeps up [`RATE_MIN`].
const BODY_TIME: Duration = Duration::from_secs(30);

/// Slowest transfer that is not cut off, in bytes per second.
const RATE_MIN: u64 = 16 << 10;

/// After a response that ends the connection: how long, and for how many bytes, the client is still heard
/// out, so that it reads the response before it learns of the end.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 1 << 20);

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
    /// Where in `buffer` the unread bytes begin.
    start: usize,
}

/// A request's head, and how its body is framed.
#[derive(Debug)]
pub struct Head {
    /// Method, path and headers, as the client sent them.
    pub request: Request<()>,
    framing: Framing,
    expects_continue: bool,
    /// Whether the client wants to send another request after this one.
    pub keep_alive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// Why there is no request.
#[derive(Debug)]
pub enum Error {
    /// The client is to be told, and the connection ended.
    Refused(StatusCode, &'static str),
    /// The client was too slow.
    TimedOut,
    /// The connection failed or ended in the middle of something.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(status, what) => write!(f, "{status}: {what}"),
            Error::TimedOut => f.write_str("the client was too slow"),
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::TimedOut { Error::TimedOut } else { Error::Io(error) }
    }
}

const fn bad(what: &'static str) -> Error {
    Error::Refused(StatusCode::BAD_REQUEST, what)
}

impl Connection {
    /// Serves this socket.
    pub fn new(socket: Socket) -> Self {
        Connection { socket, buffer: Vec::new(), start: 0 }
    }

    /// The socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Gives the socket back, and what was read from it beyond the last request.
    pub fn into_parts(mut self) -> (Socket, Vec<u8>) {
        self.buffer.drain(..self.start);
        (self.socket, self.buffer)
    }

    /// Waits for the next request's head. `None` when the client has no more.
    pub fn read_head(&mut self) -> Result<Option<Head>, Error> {
        if self.unread().is_empty() {
            self.socket.set_deadline(Some(Instant::now() + KEEP_ALIVE))?;
            match self.fill() {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // An idle client that leaves, or does not come back, is no error.
                Err(_) => return Ok(None),
            }
        }
        self.socket.set_deadline(Some(Instant::now() + HEAD_TIME))?;
        loop {
            if let Some((length, head)) = parse_head(self.unread())? {
                self.start += length;
                return Ok(Some(head));
            }
            if self.unread().len() > HEAD_MAX {
                return Err(Error::Refused(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "the head is too large",
                ));
            }
            self.fill_some()?;
        }
    }

    /// Reads a request's body, up to `max` bytes of it. Lets a client that waits for it know that it may
    /// send.
    pub fn read_body(&mut self, head: &Head, max: usize) -> Result<Vec<u8>, Error> {
        const TOO_LARGE: Error = Error::Refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
        let start = Instant::now();
        match head.framing {
            Framing::Length(length) if length > max as u64 => return Err(TOO_LARGE),
            Framing::Length(0) => return Ok(Vec::new()),
            _ => {}
        }
        self.socket.set_deadline(Some(start + BODY_TIME))?;
        if head.expects_continue && self.unread().is_empty() {
            self.socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        match head.framing {
            Framing::Length(length) => self.read_exactly(length, &mut body, start)?,
            Framing::Chunked => loop {
                self.socket.set_deadline(Some(start + time_for(body.len())))?;
                let size = self.read_chunk_size()?;
                if size > (max - body.len()) as u64 {
                    return Err(TOO_LARGE);
                }
                if size == 0 {
                    self.read_trailers()?;
                    break;
                }
                self.read_exactly(size, &mut body, start)?;
                self.read_line_end()?;
            },
        }
        Ok(body)
    }

    fn read_exactly(&mut self, length: u64, into: &mut Vec<u8>, start: Instant) -> Result<(), Error> {
        let mut left = length;
        while left > 0 {
            if self.unread().is_empty() {
                self.socket.set_deadline(Some(start + time_for(into.len())))?;
                self.fill_some()?;
            }
            let unread = &self.buffer[self.start..];
            let take = unread.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            into.extend_from_slice(&unread[..take]);
            self.start += take;
            left -= take as u64;
        }
        Ok(())
    }

    fn read_chunk_size(&mut self) -> Result<u64, Error> {
        loop {
            match httparse::parse_chunk_size(self.unread()) {
                Ok(Status::Complete((length, size))) => {
                    self.start += length;
                    return Ok(size);
                }
                Ok(Status::Partial) if self.unread().len() < CHUNK_LINE_MAX => self.fill_some()?,
                Ok(Status::Partial) | Err(_) => return Err(bad("a chunk size cannot be read")),
            }
        }
    }

    fn read_line_end(&mut self) -> Result<(), Error> {
        while self.unread().len() < 2 {
            self.fill_some()?;
        }
        if !self.unread().starts_with(b"\r\n") {
            return Err(bad("a chunk is longer than its size"));
        }
        self.start += 2;
        Ok(())
    }

    /// Trailers are not passed on.
    fn read_trailers(&mut self) -> Result<(), Error> {
        loop {
            let mut trailers = [httparse::EMPTY_HEADER; 32];
            match httparse::parse_headers(self.unread(), &mut trailers) {
                Ok(Status::Complete((length, _))) => {
                    self.start += length;
                    return Ok(());
                }
                Ok(Status::Partial) if self.unread().len() < CHUNK_LINE_MAX => self.fill_some()?,
                Ok(Status::Partial) | Err(_) => return Err(bad("the trailers cannot be read")),
            }
        }
    }

    /// Sends a whole response. Returns whether the connection can take another request.
    pub fn respond(&mut self, to: Option<&Head>, response: Response<Vec<u8>>) -> io::Result<bool> {
        let keep_alive = to.is_some_and(|head| head.keep_alive);
        let head_only = to.is_some_and(|head| head.request.method() == Method::HEAD);
        let is_http_10 = to.is_some_and(|head| head.request.version() == Version::HTTP_10);
        let (mut parts, body) = response.into_parts();
        frame_response(&mut parts, body.len(), head_only);
        let connection = match (keep_alive, is_http_10) {
            (false, _) => Some("close"),
            (true, true) => Some("keep-alive"),
            (true, false) => None,
        };
        if let Some(value) = connection {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static(value));
        }
        let mut bytes = write_head(&parts);
        if !head_only && !is_bodiless(parts.status) {
            bytes.extend_from_slice(&body);
        }
        self.socket.set_deadline(Some(Instant::now() + time_for(bytes.len())))?;
        self.socket.write_all(&bytes)?;
        self.socket.flush()?;
        Ok(keep_alive)
    }

    /// Ends the connection so that the client reads the last response before it learns of the end.
    pub fn linger(mut self) {
        let (time, bytes) = LINGER;
        if self.socket.finish().is_ok() && self.socket.set_deadline(Some(Instant::now() + time)).is_ok() {
            self.socket.discard(bytes);
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads more, or fails when the client has ended.
    fn fill_some(&mut self) -> Result<(), Error> {
        match self.fill()? {
            0 => Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        const STEP: usize = 16 << 10;
        self.buffer.drain(..self.start);
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + STEP, 0);
        let read = self.socket.read(&mut self.buffer[filled..]);
        self.buffer.truncate(filled + read.as_ref().copied().unwrap_or(0));
        read
    }
}

/// How long a transfer of so many bytes may take.
fn time_for(bytes: usize) -> Duration {
    BODY_TIME + Duration::from_secs(bytes as u64 / RATE_MIN)
}

/// Statuses whose responses never have a body (RFC 9112 §6.3).
fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Leaves only the headers that describe the response, and the one true length of it.
fn frame_response(parts: &mut http::response::Parts, length: usize, head_only: bool) {
    remove_hop_by_hop(&mut parts.headers);
    if parts.status.is_informational() || parts.status == StatusCode::NO_CONTENT {
        parts.headers.remove(header::CONTENT_LENGTH);
    } else if !head_only && parts.status != StatusCode::NOT_MODIFIED {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    } else if parts.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
}

fn write_head(parts: &http::response::Parts) -> Vec<u8> {
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_str()).into_bytes();
    for (name, value) in &parts.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Reads a head and its length. `None` when it is not complete yet.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Head)>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Error::Refused(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "too many or too long headers",
            ));
        }
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::Version) => {
            return Err(Error::Refused(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.0 and HTTP/1.1"));
        }
        Err(_) => return Err(bad("not an HTTP/1.1 request")),
    };
    let mut request = Request::new(());
    *request.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.method_mut() = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes())
        .map_err(|_| bad("the method is not a token"))?;
    *request.headers_mut() = header_map(parsed.headers)?;
    set_target(&mut request, parsed.path.unwrap_or_default())?;
    let framing = framing(request.version(), request.headers())?;
    let expects_continue = has_token(request.headers(), &header::EXPECT, "100-continue");
    let keep_alive = wants_keep_alive(&request);
    Ok(Some((length, Head { request, framing, expects_continue, keep_alive })))
}

fn header_map(parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| bad("a header name is not a token"))?;
        let value = HeaderValue::from_bytes(header.value)
            .map_err(|_| bad("a header value holds a control character"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Takes the origin form, and the absolute form, whose authority stands for the `Host` header (RFC 9112
/// §3.2.2).
fn set_target(request: &mut Request<()>, target: &str) -> Result<(), Error> {
    const WHAT: Error = bad("the request target is neither a path nor a URL");
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(bad("not exactly one Host header"));
    }
    if request.method() == Method::CONNECT {
        return Err(Error::Refused(StatusCode::NOT_IMPLEMENTED, "CONNECT cannot be forwarded"));
    }
    let path = if target.starts_with('/') {
        target.parse().map_err(|_| WHAT)?
    } else {
        let url: Uri = target.parse().map_err(|_| WHAT)?;
        let (Some(_), Some(authority)) = (url.scheme(), url.authority()) else { return Err(WHAT) };
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| WHAT)?;
        request.headers_mut().insert(header::HOST, host);
        url.path_and_query().cloned().ok_or(WHAT)?
    };
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

/// RFC 9112 §6.3, with everything ambiguous refused.
fn framing(version: Version, headers: &HeaderMap) -> Result<Framing, Error> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(bad("more than one Content-Length"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(_), _) if length.is_some() => return Err(bad("both Content-Length and Transfer-Encoding")),
        (Some(_), _) if version == Version::HTTP_10 => return Err(bad("Transfer-Encoding in HTTP/1.0")),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            return Ok(Framing::Chunked);
        }
        _ => return Err(Error::Refused(StatusCode::NOT_IMPLEMENTED, "a transfer coding other than chunked")),
    }
    let Some(length) = length else { return Ok(Framing::Length(0)) };
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok());
    length.map(Framing::Length).ok_or(bad("Content-Length is not a number"))
}

fn wants_keep_alive(request: &Request<()>) -> bool {
    let says = |token| has_token(request.headers(), &header::CONNECTION, token);
    if request.version() == Version::HTTP_10 { says("keep-alive") && !says("close") } else { !says("close") }
}

/// Whether a header that is a list of tokens holds this one.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(usize, Head)>, Error> {
        parse_head(text.as_bytes())
    }

    #[track_caller]
    fn refused(text: &str, status: u16) {
        match parse(text) {
            Err(Error::Refused(got, _)) => assert_eq!(got, status, "{text:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[track_caller]
    fn head(text: &str) -> Head {
        let (length, head) = parse(text).unwrap().unwrap();
        assert_eq!(length, text.len());
        head
    }

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        let text = "POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-A: 2\r\nX-A: 1\r\n\r\n";
        for end in 0..text.len() {
            assert!(parse(&text[..end]).unwrap().is_none(), "{end}");
        }
        let head = head(text);
        assert_eq!(head.request.uri(), "/a?b=c");
        assert_eq!(head.framing, Framing::Length(5));
        assert_eq!(head.request.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["2", "1"]);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for headers in [
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 5 5",
            "Content-Length: -1",
            "Content-Length: 0x5",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Host: y",
            "X y: z",
            "X : y",
            "X: a\r\n folded",
            "X: \0",
        ] {
            refused(&format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n"), 400);
        }
        for coding in [
            "gzip, chunked",
            "identity",
            "chunked, chunked",
            "xchunked",
            "chunked\r\nTransfer-Encoding: chunked",
        ] {
            refused(&format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n"), 501);
        }
        refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
        refused("GET / HTTP/1.1\r\n\r\n", 400);
        refused("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505);
        refused("GET nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 400);
        refused("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400);
        refused("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 501);
        refused(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(129)), 431);
    }

    #[test]
    fn without_framing_headers_there_is_no_body() {
        assert_eq!(head("POST / HTTP/1.1\r\nHost: x\r\n\r\n").framing, Framing::Length(0));
        assert_eq!(head("GET / HTTP/1.0\r\n\r\n").framing, Framing::Length(0));
        let chunked = head("DELETE / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n");
        assert_eq!(chunked.framing, Framing::Chunked);
    }

    #[test]
    fn the_absolute_form_names_the_host() {
        let head = head("GET http://example.org:81/a?b HTTP/1.1\r\nHost: other\r\n\r\n");
        assert_eq!(
            (head.request.uri().to_string().as_str(), &head.request.headers()["host"]),
            ("/a?b", &HeaderValue::from_static("example.org:81"))
        );
    }

    #[test]
    fn keep_alive_depends_on_the_version() {
        assert!(head("GET / HTTP/1.1\r\nHost: x\r\n\r\n").keep_alive);
        assert!(!head("GET / HTTP/1.1\r\nHost: x\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert!(!head("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
    }

    #[test]
    fn a_response_has_one_true_length() {
        let frame = |status: u16, length: Option<&'static str>, head_only| {
            let mut parts = Response::new(()).into_parts().0;
            parts.status = StatusCode::from_u16(status).unwrap();
            if let Some(length) = length {
                parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            frame_response(&mut parts, 3, head_only);
            parts.headers.get(header::CONTENT_LENGTH).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(frame(200, Some("99"), false).as_deref(), Some("3"));
        assert_eq!(frame(200, None, false).as_deref(), Some("3"));
        assert_eq!(frame(200, Some("99"), true).as_deref(), Some("99"));
        assert_eq!(frame(204, Some("99"), false), None);
        assert_eq!(frame(304, Some("99"), false).as_deref(), Some("99"));
    }
}
