//! One connection of a server: requests in, responses out.

use std::io;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use super::decode::{Decoder, Framing};
use super::error::RequestError;
use super::head::{self, Head, Persistence};
use super::input::Input;
use super::limits::{HEAD_MAX, transfer_time};
use super::output::Output;
use crate::net::Socket;

/// How long a connection may be idle between two requests.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long a head may take from its first byte on.
pub const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a transfer may stand still.
const IDLE_TIME: Duration = Duration::from_secs(15);

/// After a response that ends the connection: how long, and for how many bytes, the client is still heard
/// out, so that it reads the response before it learns of the end.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 1 << 20);

/// A body is read in pieces of this size.
const PIECE: usize = 16 << 10;

/// A client's connection.
#[derive(Debug)]
pub struct ServerConnection {
    /// Its requests.
    pub input: Input,
    /// Its responses.
    pub output: Output,
}

impl ServerConnection {
    /// Serves this socket.
    pub fn new(mut socket: Socket) -> io::Result<Self> {
        let half = socket.split().ok_or(io::ErrorKind::NotConnected)?;
        half.set_timeout(IDLE_TIME)?;
        Ok(ServerConnection { input: Input::new(socket), output: Output::new(half) })
    }

    /// Waits for the first bytes of the next request, no longer than this. False when the client has no more, or takes too
    /// long.
    pub fn wait(&mut self, limit: Duration) -> bool {
        if !self.input.unread().is_empty() {
            return true;
        }
        let until = Instant::now() + limit;
        // An idle client that leaves, or does not come back, is no error.
        self.input.socket_mut().set_deadline(Some(until)).is_ok()
            && matches!(self.input.fill_after_pause(), Ok(1..))
    }

    /// Reads the head of the request that has [begun](Self::wait), within this time.
    pub fn read_head(&mut self, limit: Duration) -> Result<Head, RequestError> {
        self.input.socket_mut().set_deadline(Some(Instant::now() + limit))?;
        loop {
            if let Some((length, head)) = head::parse(self.input.unread())? {
                self.input.consume(length);
                return Ok(head);
            }
            if self.input.unread().len() > HEAD_MAX {
                // Where the first line has no end, it is that which is too long (RFC 9112 §3).
                let has_line = self.input.unread().contains(&b'\n');
                return Err(if has_line {
                    RequestError::Refused(
                        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                        "the head is too large",
                    )
                } else {
                    RequestError::Refused(StatusCode::URI_TOO_LONG, "the request target is too long")
                });
            }
            self.input.fill_some()?;
        }
    }

    /// Whether a client waits to be told that it may send its body.
    pub fn awaits_continue(&self, head: &Head) -> bool {
        head.expects_continue && head.framing != Framing::Length(0) && self.input.unread().is_empty()
    }

    /// Whether what has come of a request that cannot be read begins as a `HEAD` does, whose response has no body.
    pub fn is_head(&self) -> bool {
        self.input.unread().starts_with(b"HEAD ")
    }

    /// Lets a client that waits for it know that it may send its body.
    pub fn send_continue(&mut self, head: &Head) -> io::Result<()> {
        if self.awaits_continue(head) {
            self.output.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    /// Reads a request's body, up to `max` bytes of it. `room` says whether so many bytes more may be held; where they may
    /// not, the request is refused with 503.
    pub fn read_body(
        &mut self,
        head: &Head,
        max: usize,
        mut room: impl FnMut(usize) -> bool,
    ) -> Result<Vec<u8>, RequestError> {
        let mut body = Vec::new();
        if let Framing::Length(length) = head.framing {
            // A buffer that grows by doubling takes up twice its content; memory that nothing is written to costs nothing.
            body.reserve_exact(usize::try_from(length).unwrap_or(max).min(max));
        }
        self.read_pieces(head, max, |piece| {
            if !room(piece.len()) {
                let what = "there is no memory for the body";
                return Err(RequestError::Refused(StatusCode::SERVICE_UNAVAILABLE, what));
            }
            body.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(body)
    }

    /// Discards up to `max` bytes of a request's body.
    pub fn skip_body(&mut self, head: &Head, max: usize) -> Result<(), RequestError> {
        self.read_pieces(head, max, |_| Ok(()))
    }

    fn read_pieces(
        &mut self,
        head: &Head,
        max: usize,
        mut take: impl FnMut(&[u8]) -> Result<(), RequestError>,
    ) -> Result<(), RequestError> {
        let start = Instant::now();
        let mut decoder = Decoder::limited(head.framing, max as u64).map_err(io::Error::from)?;
        if decoder.is_done() {
            return Ok(());
        }
        self.send_continue(head)?;
        let (mut buffer, mut total) = (vec![0; PIECE], 0);
        while !decoder.is_done() {
            self.input.socket_mut().set_deadline(Some(body_deadline(start, total)))?;
            let read = self.input.read_body(&mut decoder, &mut buffer)?;
            take(&buffer[..read])?;
            total += read;
        }
        Ok(())
    }

    /// Sends a whole response. Returns whether the connection can take another request.
    pub fn respond(&mut self, to: Option<&Head>, response: Response<Vec<u8>>) -> io::Result<Persistence> {
        self.respond_within(to, response, Persistence::KeepAlive)
    }

    /// Sends a whole response, and closes the connection behind it unless both sides keep it.
    pub fn respond_within(
        &mut self,
        to: Option<&Head>,
        response: Response<Vec<u8>>,
        ours: Persistence,
    ) -> io::Result<Persistence> {
        let theirs = to.map_or(Persistence::Close, |head| head.persistence);
        let (parts, body) = response.into_parts();
        let mut writer = self.output.start(to, parts, Some(body.len() as u64), ours.and(theirs));
        writer.send(&body)?;
        writer.finish()
    }

    /// Ends the connection so that the client reads the last response before it learns of the end.
    pub fn linger(mut self) {
        let (time, bytes) = LINGER;
        let socket = self.input.socket_mut();
        if self.output.finish().is_ok() && socket.set_deadline(Some(Instant::now() + time)).is_ok() {
            socket.discard(bytes);
        }
    }
}

/// A response with this type of content.
pub fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<String>,
) -> Response<Vec<u8>> {
    let mut response = Response::new(body.into().into_bytes());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A response that is this JSON, on a line of its own.
pub fn json_response(status: StatusCode, json: &serde_json::Value) -> Response<Vec<u8>> {
    response(status, "application/json", format!("{json}\n"))
}

/// Until when the next bytes of a body must have come.
fn body_deadline(start: Instant, read: usize) -> Instant {
    (start + transfer_time(read)).min(Instant::now() + IDLE_TIME)
}
