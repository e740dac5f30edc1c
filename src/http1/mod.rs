//! The server side of HTTP/1.1, for one public connection of the gateway: requests in, responses out.
//!
//! httparse reads heads and chunk sizes. What a head means for the framing of its body is decided here, by
//! RFC 9112 §6 and on the strict side: whatever two parties could read in two ways is refused, since a
//! gateway that guesses lets one client's bytes be read as another's request.

mod head;

use std::fmt;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use httparse::Status;

use self::head::Framing;
pub use self::head::{HEAD_MAX, HEADERS_MAX, Head, has_token};
use crate::headers::remove_hop_by_hop;
use crate::link::Socket;

/// Most bytes of a chunk's size line with its extensions, and of all trailers together.
const CHUNK_LINE_MAX: usize = 4 << 10;

/// How long a connection may be idle between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long a head may take from its first byte on.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a body may take in any case; a transfer may take longer, if it keeps up [`RATE_MIN`].
const BODY_TIME: Duration = Duration::from_secs(30);

/// How long a transfer may stand still.
const IDLE_TIME: Duration = Duration::from_secs(15);

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
            if let Some((length, head)) = head::parse(self.unread())? {
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
                self.socket.set_deadline(Some(body_deadline(start, body.len())))?;
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
                self.wait_for_body(start, into.len())?;
            }
            let unread = &self.buffer[self.start..];
            let take = unread.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            into.extend_from_slice(&unread[..take]);
            self.start += take;
            left -= take as u64;
        }
        Ok(())
    }

    fn wait_for_body(&mut self, start: Instant, read: usize) -> Result<(), Error> {
        self.socket.set_deadline(Some(body_deadline(start, read)))?;
        self.fill_some()
    }

    fn read_chunk_size(&mut self) -> Result<u64, Error> {
        loop {
            match httparse::parse_chunk_size(self.unread()) {
                Ok(Status::Complete((length, size))) => {
                    // Extensions are not looked at; a line end in one would be seen by some and not by others.
                    let line = &self.unread()[..length - 2];
                    if line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
                        return Err(bad("a chunk size cannot be read"));
                    }
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

/// Until when the next bytes of a body must have come.
fn body_deadline(start: Instant, read: usize) -> Instant {
    (start + time_for(read)).min(Instant::now() + IDLE_TIME)
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
    } else {
        // It tells what a GET would have brought, if it tells one number.
        let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
        let length = lengths.next().filter(|length| head::is_number(length)).cloned();
        let single = lengths.next().is_none();
        parts.headers.remove(header::CONTENT_LENGTH);
        if let Some(length) = length.filter(|_| single) {
            parts.headers.insert(header::CONTENT_LENGTH, length);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(frame(304, Some("abc"), false), None);
    }
}
