//! One public connection of the gateway: requests in, responses out.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode, Version};

use super::body::{Decoder, Framing, Invalid};
use super::head::{self, Head, is_number};
use super::input::Input;
use super::{HEAD_MAX, has_no_body, write_response_head};
use crate::headers::remove_hop_by_hop;
use crate::link::{Socket, WriteHalf};

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

/// A body is read in pieces of this size.
const PIECE: usize = 16 << 10;

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// Its requests.
    pub input: Input,
    /// Its responses.
    pub output: Output,
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
        let invalid = error.get_ref().and_then(|inner| inner.downcast_ref::<Invalid>());
        match invalid {
            Some(Invalid::Framing(what)) => bad(what),
            Some(Invalid::TooLarge) => TOO_LARGE,
            None if error.kind() == io::ErrorKind::TimedOut => Error::TimedOut,
            None => Error::Io(error),
        }
    }
}

const TOO_LARGE: Error = Error::Refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");

pub(super) const fn bad(what: &'static str) -> Error {
    Error::Refused(StatusCode::BAD_REQUEST, what)
}

impl Connection {
    /// Serves this socket.
    pub fn new(mut socket: Socket) -> io::Result<Self> {
        let half = socket.split().ok_or(io::ErrorKind::NotConnected)?;
        half.set_timeout(IDLE_TIME)?;
        Ok(Connection { input: Input::new(socket), output: Output(half) })
    }

    /// Waits for the next request's head. `None` when the client has no more.
    pub fn read_head(&mut self) -> Result<Option<Head>, Error> {
        if self.input.unread().is_empty() {
            self.input.shrink();
            self.input.socket_mut().set_deadline(Some(Instant::now() + KEEP_ALIVE))?;
            match self.input.fill() {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // An idle client that leaves, or does not come back, is no error.
                Err(_) => return Ok(None),
            }
        }
        self.input.socket_mut().set_deadline(Some(Instant::now() + HEAD_TIME))?;
        loop {
            if let Some((length, head)) = head::parse(self.input.unread())? {
                self.input.consume(length);
                return Ok(Some(head));
            }
            if self.input.unread().len() > HEAD_MAX {
                return Err(Error::Refused(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "the head is too large",
                ));
            }
            self.input.fill_some()?;
        }
    }

    /// Lets a client that waits for it know that it may send its body.
    pub fn send_continue(&mut self, head: &Head) -> io::Result<()> {
        if head.expects_continue && head.framing != Framing::Length(0) && self.input.unread().is_empty() {
            self.output.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    /// Reads a request's body, up to `max` bytes of it.
    pub fn read_body(&mut self, head: &Head, max: usize) -> Result<Vec<u8>, Error> {
        let start = Instant::now();
        let mut decoder = Decoder::limited(head.framing, max as u64).map_err(io::Error::from)?;
        self.send_continue(head)?;
        let mut body = Vec::new();
        while !decoder.is_done() {
            self.input.socket_mut().set_deadline(Some(body_deadline(start, body.len())))?;
            let filled = body.len();
            let expected = decoder.left().unwrap_or(PIECE as u64).clamp(1, PIECE as u64);
            body.resize(filled + expected as usize, 0);
            let read = self.input.read_body(&mut decoder, &mut body[filled..])?;
            body.truncate(filled + read);
        }
        Ok(body)
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
        let mut bytes = Vec::new();
        write_response_head(&mut bytes, &parts);
        if !head_only && !has_no_body(parts.status) {
            bytes.extend_from_slice(&body);
        }
        self.output.send(&bytes)?;
        Ok(keep_alive)
    }

    /// Ends the connection so that the client reads the last response before it learns of the end.
    pub fn linger(mut self) {
        let (time, bytes) = LINGER;
        let socket = self.input.socket_mut();
        if self.output.0.finish().is_ok() && socket.set_deadline(Some(Instant::now() + time)).is_ok() {
            socket.discard(bytes);
        }
    }
}

/// The side of a connection on which responses go out.
#[derive(Debug)]
pub struct Output(WriteHalf);

impl Output {
    /// Sends bytes as they are, no slower than a transfer may be.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.send_all_until(bytes, Some(Instant::now() + time_for(bytes.len())))
    }

    /// The writing half of the socket.
    pub fn into_half(self) -> WriteHalf {
        self.0
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
        let length = lengths.next().filter(|length| is_number(length)).cloned();
        let single = lengths.next().is_none();
        parts.headers.remove(header::CONTENT_LENGTH);
        if let Some(length) = length.filter(|_| single) {
            parts.headers.insert(header::CONTENT_LENGTH, length);
        }
    }
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
