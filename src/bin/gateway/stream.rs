//! A request as a stream: its body goes to the agent as it comes, and its response leaves as it comes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, Version, request, response};
use log::debug;
use tungstenite::Bytes;
use tunnel_agent::headers::{HTTP2_SETTINGS, remove_hop_by_hop, set_upgrade, wanted_protocol};
use tunnel_agent::http1::{Connection, Error, Framing, Head, Output, has_no_body, number};
use tunnel_agent::http1::{KEEP_ALIVE, write_response_head};
use tunnel_agent::link::Closer;
use tunnel_agent::mux::{Stream, StreamError};
use tunnel_agent::protocol::mux::{
    HEAD_MAX, Over, Reset, ResetCode, decode_response_head, encode_request_head,
};

use super::Gateway;
use super::agent::Agent;
use super::clients::{Client, Stage};
use super::problems::{self, problem};
use super::visitor::{End, STALL, Visitor};

/// A request that takes longer gets somebody who notices when its visitor leaves.
const WATCH_AFTER: Duration = Duration::from_millis(100);

/// Agents that a request is offered to, when one after the other refuses it.
const OFFERS_MAX: usize = 3;

/// How long a visitor may take to hear the end of a response that ends its connection.
const LINGER: Duration = Duration::from_secs(1);

/// A response is read in pieces of this size at first, and of at most [`PIECE_MAX`] when more comes.
const PIECE_MIN: usize = 4 << 10;
const PIECE_MAX: usize = 64 << 10;

/// One request on its way.
struct Exchange<'a> {
    head: &'a Head,
    output: Output,
    closer: Closer,
    visitor: Visitor,
    client: &'a Client,
    timeout: Duration,
    /// The visitor asks to change to another protocol.
    upgrade: bool,
}

/// Forwards a request, and its response. Gives the connection back when it can take another request.
pub fn forward(
    mut connection: Connection,
    head: &Head,
    mut parts: request::Parts,
    first: Arc<Agent>,
    choose: impl Fn(&[Arc<Agent>]) -> Option<Arc<Agent>>,
    client: &Client,
    gateway: &Gateway,
) -> io::Result<Option<Connection>> {
    let protocol = protocol(head);
    parts.headers.remove(HTTP2_SETTINGS);
    if let Some(protocol) = &protocol {
        set_upgrade(&mut parts.headers, protocol.clone());
    }
    connection.send_continue(head)?;
    let Connection { input, output } = connection;
    output.set_timeout(STALL)?;
    let closer = input.socket().closer();
    let visitor = Visitor::new(input, head.framing);
    let timeout = gateway.settings.timeout;
    let mut exchange =
        Exchange { head, output, closer, visitor, client, timeout, upgrade: protocol.is_some() };
    let early = match exchange.visitor.read_early() {
        Ok(early) => early,
        Err(error) => return exchange.end_unread(error),
    };
    if early.complete {
        exchange.visitor.is_sent_now();
    }
    set_length(&mut parts.headers, head.framing, early.complete.then_some(early.body.len()));
    let bytes = Bytes::from(encode_request_head(&parts));
    if bytes.len() > HEAD_MAX {
        let text = "the head is too large";
        return exchange.end_with(problem(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            text,
        ));
    }
    exchange.run(&bytes, &early.body, early.complete, first, choose)
}

/// The protocol that a visitor asks to change to.
fn protocol(head: &Head) -> Option<HeaderValue> {
    let request = &head.request;
    let may = request.version() == Version::HTTP_11;
    wanted_protocol(request.method(), request.headers()).filter(|_| may)
}

/// States the length of the body when it is known.
fn set_length(headers: &mut HeaderMap, framing: Framing, complete: Option<usize>) {
    let stated = headers.remove(header::CONTENT_LENGTH).is_some();
    let length = match (framing, complete) {
        (Framing::Length(0), _) if !stated => None,
        (Framing::Length(length), _) => Some(length),
        (_, complete) => complete.map(|length| length as u64),
    };
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// The `Content-Length`, if there is one; `None` when it is not one number.
fn stated_length(headers: &HeaderMap) -> Option<Option<u64>> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Some(None),
        (Some(length), None) => number(length).map(Some),
        (Some(_), Some(_)) => None,
    }
}

impl Exchange<'_> {
    fn run(
        mut self,
        bytes: &Bytes,
        early: &[u8],
        complete: bool,
        first: Arc<Agent>,
        choose: impl Fn(&[Arc<Agent>]) -> Option<Arc<Agent>>,
    ) -> io::Result<Option<Connection>> {
        let no_body = complete && early.is_empty();
        let mut tried = vec![first];
        loop {
            let agent = &tried[tried.len() - 1];
            let opened = agent.open(bytes.clone(), no_body && !self.upgrade, self.upgrade);
            self.client.is_now(Stage::Served);
            let stream = match opened {
                Ok(stream) => stream,
                Err(no_answer) => return self.end_with(no_answer.response()),
            };
            let error = match self.ask(&stream, early, complete)? {
                Ok(head) => return self.answer(&stream, &head),
                Err(error) => error,
            };
            let refused =
                matches!(&error, StreamError::Over(Over::ByPeer(Reset { code: ResetCode::Refused, .. })));
            // Nothing of it was processed, and all of it is here still.
            if refused
                && complete
                && self.visitor.is_unwatched()
                && tried.len() < OFFERS_MAX
                && let Some(next) = choose(&tried)
            {
                tried.push(next);
                continue;
            }
            if matches!(error, StreamError::Over(Over::ByUs(_)))
                && let Some(end) = self.visitor.take_back(LINGER)
            {
                return self.end_after(end);
            }
            if error == StreamError::TimedOut {
                stream.reset(Reset::new(ResetCode::Timeout, "no answer in time"));
            }
            return self.end_with(problems::no_response(&error));
        }
    }

    /// Sends what is there of the request's body, and waits for the response's head.
    fn ask(
        &mut self,
        stream: &Stream,
        early: &[u8],
        complete: bool,
    ) -> io::Result<Result<Bytes, StreamError>> {
        if let Err(error) = stream.send_all(early, complete) {
            return Ok(self.head_after(stream, error));
        }
        if !complete {
            self.watch(stream)?;
        }
        loop {
            let left = self.visitor.sent().map(|at| self.timeout.saturating_sub(at.elapsed()));
            let wait = left.unwrap_or(self.timeout);
            let unwatched = self.visitor.is_unwatched();
            match stream.head(if unwatched { wait.min(WATCH_AFTER) } else { wait }) {
                Err(StreamError::TimedOut) if left.is_some_and(|left| left.is_zero()) => {
                    return Ok(Err(StreamError::TimedOut));
                }
                Err(StreamError::TimedOut) if unwatched => self.watch(stream)?,
                Err(StreamError::TimedOut) => {}
                other => return Ok(other),
            }
        }
    }

    /// The head of a response that came before all of the request was sent, or why nothing could be sent.
    fn head_after(&self, stream: &Stream, error: StreamError) -> Result<Bytes, StreamError> {
        stream.head(Duration::ZERO).map_err(|_| error)
    }

    fn watch(&mut self, stream: &Stream) -> io::Result<()> {
        self.visitor.watch(stream, self.upgrade)
    }

    /// Passes the response on.
    fn answer(mut self, stream: &Stream, head: &[u8]) -> io::Result<Option<Connection>> {
        let Ok(parts) = decode_response_head(head) else { return self.refuse_answer(stream) };
        let switched = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        if switched && self.upgrade {
            return self.answer_upgrade(stream, parts).map(|()| None);
        }
        let Some(stated) = stated_length(&parts.headers).filter(|_| !parts.status.is_informational()) else {
            return self.refuse_answer(stream);
        };
        let no_body = has_no_body(parts.status) || self.head.request.method() == Method::HEAD;
        let whole = if no_body { None } else { stream.whole() };
        if let (Some(whole), Some(stated)) = (&whole, stated)
            && whole.len() as u64 != stated
        {
            return self.refuse_answer(stream);
        }
        let keep_alive = self.head.keep_alive && self.visitor.sent().is_some();
        let length = whole.as_ref().map(|whole| whole.len() as u64).or(stated);
        let result = if no_body {
            self.output.start(Some(self.head), parts, None, keep_alive).finish()
        } else {
            self.pass_on(stream, parts, length, keep_alive, whole)
        };
        match result {
            Ok(keep_alive) => self.end(keep_alive),
            Err(error) => {
                debug!("a response broke off: {error}");
                stream.reset(Reset::new(ResetCode::Cancelled, "the client left"));
                self.closer.abort();
                Ok(None)
            }
        }
    }

    fn pass_on(
        &mut self,
        stream: &Stream,
        parts: response::Parts,
        length: Option<u64>,
        keep_alive: bool,
        whole: Option<Vec<u8>>,
    ) -> io::Result<bool> {
        let Exchange { head, output, visitor, upgrade, .. } = self;
        let mut writer = output.start(Some(head), parts, length, keep_alive);
        if let Some(whole) = whole {
            writer.send(&whole)?;
            return writer.finish();
        }
        writer.flush()?;
        let mut buffer = vec![0; PIECE_MIN];
        loop {
            let wait = visitor.is_unwatched().then_some(WATCH_AFTER);
            match stream.read(&mut buffer, wait) {
                Ok(0) => return writer.finish(),
                Ok(read) => {
                    writer.send(&buffer[..read])?;
                    grow(&mut buffer, read);
                }
                Err(StreamError::TimedOut) => visitor.watch(stream, *upgrade)?,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    fn refuse_answer(self, stream: &Stream) -> io::Result<Option<Connection>> {
        let reset = Reset::new(ResetCode::Protocol, "not the head of a response, or not its length");
        stream.reset(reset.clone());
        self.end_with(problems::no_response(&StreamError::Over(Over::ByUs(reset))))
    }

    /// Passes bytes both ways until both sides have ended, or one has failed.
    fn answer_upgrade(mut self, stream: &Stream, mut parts: response::Parts) -> io::Result<()> {
        let protocol = parts.headers.get(header::UPGRADE).cloned();
        remove_hop_by_hop(&mut parts.headers);
        if let Some(protocol) = protocol {
            set_upgrade(&mut parts.headers, protocol);
        }
        let mut bytes = Vec::new();
        write_response_head(&mut bytes, &parts);
        self.output.send(&bytes)?;
        if self.visitor.is_unwatched() {
            self.watch(stream)?;
        }
        self.visitor.switch();
        let mut buffer = vec![0; PIECE_MIN];
        let result = loop {
            match stream.read(&mut buffer, None) {
                Ok(0) => break self.output.finish(),
                Ok(read) => {
                    if let Err(error) = self.output.send(&buffer[..read]) {
                        break Err(error);
                    }
                    grow(&mut buffer, read);
                }
                Err(error) => break Err(io::Error::other(error)),
            }
        };
        if result.is_err() || stream.over() != StreamError::Over(Over::Ended) {
            stream.reset(Reset::new(ResetCode::Cancelled, "the client left"));
            self.closer.abort();
        }
        Ok(())
    }

    /// Answers with a response of the gateway's own.
    fn end_with(mut self, response: Response<Vec<u8>>) -> io::Result<Option<Connection>> {
        let keep_alive = self.head.keep_alive && self.visitor.sent().is_some();
        let (parts, body) = response.into_parts();
        let mut writer = self.output.start(Some(self.head), parts, Some(body.len() as u64), keep_alive);
        writer.send(&body)?;
        let keep_alive = writer.finish()?;
        self.end(keep_alive)
    }

    /// Answers a request of which the rest cannot be read.
    fn end_unread(self, error: Error) -> io::Result<Option<Connection>> {
        let response = problems::unreadable(error)?;
        self.end_with(response)
    }

    /// Ends with what the second thread came to, which has ended the stream.
    fn end_after(self, end: End) -> io::Result<Option<Connection>> {
        match end {
            End::Unreadable(error) => self.end_unread(error),
            End::Left | End::Returned(_) => Ok(None),
        }
    }

    /// Waits for the next request on the connection, or ends it.
    fn end(mut self, keep_alive: bool) -> io::Result<Option<Connection>> {
        if keep_alive && self.client.is_now(Stage::Idle) {
            return Ok(match self.visitor.take_back(KEEP_ALIVE) {
                Some(End::Returned(input)) => Some(Connection { input, output: self.output }),
                _ => {
                    self.closer.close();
                    None
                }
            });
        }
        // So that the visitor reads the response before it learns of the end.
        self.output.finish()?;
        match self.visitor.take_back(LINGER) {
            Some(End::Returned(input)) => Connection { input, output: self.output }.linger(),
            _ => self.closer.close(),
        }
        Ok(None)
    }
}

/// Makes room for more at once after a read that filled the buffer.
fn grow(buffer: &mut Vec<u8>, read: usize) {
    if read == buffer.len() && read < PIECE_MAX {
        buffer.resize(read * 4, 0);
    }
}
