//! A request as a mux stream: its body goes to the agent as it comes, and its response leaves as it comes.

mod upgrade;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, request, response};
use tungstenite::Bytes;

use super::agent_session::AgentSession;
use super::responses::{self, NoAnswer, Problem};
use super::upload_path::is_given_back;
use super::uploader::{Again, ProtocolChange, STALL, UploadEnd, Uploader};
use super::visitor_connections::Stage;
use super::visitor_request::{VisitorRequest, set_length};
use crate::http1::fields::{HTTP2_SETTINGS, Upgrade, is_event_stream, stated_length};
use crate::http1::{
    KEEP_ALIVE, MUX_HEAD_MAX, Output, Persistence, RequestError, ServerConnection, has_no_body,
};
use crate::mux::{
    Closing, Fin, Reset, ResetCode, Stream, StreamEnd, StreamError, decode_response_head, encode_request_head,
};
use crate::net::Closer;
use crate::protocol::RequestName;

/// A request that takes longer gets a thread that notices when its visitor disconnects.
const WATCH_AFTER: Duration = Duration::from_millis(100);

/// Agents that a request is offered to, when one after the other refuses it.
const OFFERS_MAX: usize = 3;

/// How long a visitor may take to hear the end of a response that ends its connection.
const LINGER: Duration = Duration::from_secs(1);

/// A response is read in pieces of this size at first, and of at most [`PIECE_MAX`] when more comes.
const PIECE_MIN: usize = 4 << 10;
const PIECE_MAX: usize = 64 << 10;

/// One request on its way.
struct StreamedExchange<'a> {
    request: VisitorRequest<'a>,
    output: Output,
    closer: Closer,
    upload: Uploader,
    /// The request's name, for people.
    name: RequestName,
    /// The change of protocol that the visitor asks for.
    upgrade: Option<Upgrade>,
}

/// Forwards a request, and its response. Gives the connection back when it can take another request.
pub(super) fn forward(
    mut connection: ServerConnection,
    request: VisitorRequest<'_>,
    mut parts: request::Parts,
    first: Arc<AgentSession>,
) -> io::Result<Option<ServerConnection>> {
    let VisitorRequest { head, gateway, .. } = request;
    let upgrade = request.upgrade();
    parts.headers.remove(HTTP2_SETTINGS);
    if let Some(upgrade) = &upgrade {
        upgrade.set(&mut parts.headers);
    }
    connection.send_continue(head)?;
    let ServerConnection { input, output } = connection;
    output.set_timeout(STALL)?;
    let closer = input.socket().closer();
    let upload = Uploader::new(input, head.framing, gateway.bodies.share());
    let name = gateway.name_request();
    let mut exchange = StreamedExchange { request, output, closer, upload, name, upgrade };
    let length = match exchange.upload.read_early() {
        Ok(length) => length,
        Err(error) => return exchange.end_unread(error),
    };
    set_length(&mut parts.headers, head.framing, length);
    let bytes = Bytes::from(encode_request_head(&parts));
    if bytes.len() > MUX_HEAD_MAX {
        return exchange.end_with(Problem::head_too_large());
    }
    exchange.run(&bytes, first)
}

/// Why a request has no answer.
enum NotAnswered {
    /// It was not sent.
    Unsent(NoAnswer),
    /// The end of its stream.
    By(Stream, StreamError),
}

impl StreamedExchange<'_> {
    /// Offers the request to one agent after the other, until one does not give it back.
    fn run(mut self, bytes: &Bytes, first: Arc<AgentSession>) -> io::Result<Option<ServerConnection>> {
        let mut tried = vec![first];
        loop {
            let Some(again) = self.upload.again() else { return self.end_left() };
            let agent = tried[tried.len() - 1].clone();
            let error = match self.offer(&agent, bytes, &again)? {
                Ok((stream, head)) => {
                    agent.record_success();
                    return self.answer(&stream, head);
                }
                Err(NotAnswered::Unsent(no_answer)) => no_answer.problem(),
                Err(NotAnswered::By(stream, error)) if is_given_back(&error) => {
                    agent.record_failure();
                    drop(stream);
                    responses::no_response(&error)
                }
                Err(NotAnswered::By(stream, error)) => return self.fail(&stream, &error),
            };
            // Nothing of it was processed. What is here still may go to another agent.
            if !self.upload.can_turn() {
                let problem = match error.status {
                    _ if self.request.visitor.is_evicted() => Problem::too_slow(),
                    StatusCode::SERVICE_UNAVAILABLE => error.with_status(StatusCode::BAD_GATEWAY),
                    _ => error,
                };
                return self.end_with(problem);
            }
            let may = tried.len() < OFFERS_MAX && self.has_time();
            let choose = || self.request.gateway.agents.choose(&tried[0].handshake.tunnel_id, &tried);
            match may.then(choose).flatten() {
                Some(next) => tried.push(next),
                None => return self.end_with(error),
            }
        }
    }

    /// Sends the request to an agent, with what is there of its body, and waits for the response's head.
    fn offer(
        &mut self,
        agent: &AgentSession,
        head: &Bytes,
        again: &Again,
    ) -> io::Result<Result<(Stream, Bytes), NotAnswered>> {
        let is_upgrade = self.upgrade.is_some();
        // An upgrade has no end before the other protocol's.
        let fin = Fin::from(again.complete && !is_upgrade);
        let closing = if is_upgrade { Closing::WithBoth } else { Closing::WithResponse };
        let opened = agent.open(head.clone(), &again.body, fin, closing);
        self.request.visitor.enter(Stage::Served);
        let (stream, sent) = match opened {
            Ok(opened) => opened,
            Err(no_answer) => return Ok(Err(NotAnswered::Unsent(no_answer))),
        };
        self.name = agent.request_name(stream.number().into());
        self.request.record.named(self.name);
        let sent = stream.send_all(&again.body[sent..], fin);
        self.upload.turn_to(&stream);
        let result = match sent {
            Ok(()) => self.wait(&stream)?,
            // A response may have come before all of the request was sent.
            Err(error) => stream.head(Duration::ZERO).map_err(|_| error),
        };
        Ok(match result {
            Ok(head) => Ok((stream, head)),
            Err(error) => Err(NotAnswered::By(stream, error)),
        })
    }

    /// Waits for the response's head.
    fn wait(&mut self, stream: &Stream) -> io::Result<Result<Bytes, StreamError>> {
        let timeout = self.request.gateway.settings.timeout;
        if self.upload.sent().is_none() {
            self.watch()?;
        }
        loop {
            let left = self.upload.sent().map(|at| timeout.saturating_sub(at.elapsed()));
            let wait = left.unwrap_or(timeout);
            let unwatched = self.upload.is_unwatched();
            match stream.head(if unwatched { wait.min(WATCH_AFTER) } else { wait }) {
                Err(StreamError::TimedOut) if left.is_some_and(|left| left.is_zero()) => {
                    return Ok(Err(StreamError::TimedOut));
                }
                Err(StreamError::TimedOut) if unwatched => self.watch()?,
                Err(StreamError::TimedOut) => {}
                other => return Ok(other),
            }
        }
    }

    /// Whether the request may still be answered in time.
    fn has_time(&self) -> bool {
        self.upload.sent().is_none_or(|at| at.elapsed() < self.request.gateway.settings.timeout)
    }

    fn watch(&mut self) -> io::Result<()> {
        let protocol = if self.upgrade.is_some() { ProtocolChange::MayChange } else { ProtocolChange::Stays };
        self.upload.watch(protocol)
    }

    /// Ends a request that has no answer, and was perhaps processed.
    fn fail(mut self, stream: &Stream, error: &StreamError) -> io::Result<Option<ServerConnection>> {
        if self.request.visitor.is_evicted() {
            return self.end_with(Problem::too_slow());
        }
        // A stream that the second thread reset because of its visitor needs no answer but a reason.
        let by_visitor = matches!(error, StreamError::Closed(StreamEnd::ByUs(Reset { code, .. })) if *code != ResetCode::Protocol);
        if by_visitor {
            if let Some(end) = self.upload.take_back(LINGER) {
                return self.end_after(end);
            }
        }
        if *error == StreamError::TimedOut {
            stream.reset(Reset::new(ResetCode::Timeout, "no answer in time"));
        }
        self.end_with(responses::no_response(error))
    }

    /// Passes the response on.
    fn answer(mut self, stream: &Stream, head: Bytes) -> io::Result<Option<ServerConnection>> {
        self.upload.forget();
        let parsed = decode_response_head(&head);
        // The rest of it would keep the memory that it was read into for as long as the response lasts.
        drop(head);
        let Ok(mut parts) = parsed else { return self.refuse_answer(stream) };
        self.request.finish_head(&mut parts.headers);
        let switched = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        if let Some(upgrade) = self.upgrade.as_ref().filter(|_| switched) {
            return match upgrade.check(&parts.headers) {
                Ok(()) => self.answer_upgrade(stream, parts).map(|()| None),
                Err(_) => self.refuse_answer(stream),
            };
        }
        let stated = stated_length(&parts.headers);
        let Some(stated) = stated.ok().filter(|_| !parts.status.is_informational()) else {
            return self.refuse_answer(stream);
        };
        let no_body = has_no_body(parts.status) || self.request.head.request.method() == Method::HEAD;
        let whole = if no_body { None } else { stream.whole() };
        let received = whole.as_ref().map(|whole| whole.len() as u64);
        if received.zip(stated).is_some_and(|(received, stated)| received != stated) {
            return self.refuse_answer(stream);
        }
        if is_event_stream(&parts.headers) {
            self.begin_lasting();
        }
        let persistence = self.begin_response(parts.status);
        let length = received.or(stated);
        let result = if no_body {
            self.output.start(Some(self.request.head), parts, None, persistence).finish()
        } else {
            self.pass_on(stream, parts, (length, persistence), whole)
        };
        match result {
            Ok(persistence) => self.end(persistence),
            Err(error) => {
                self.request.log_cut(self.name, &error);
                stream.reset(Reset::new(ResetCode::Cancelled, "the visitor disconnected"));
                self.closer.abort();
                Ok(None)
            }
        }
    }

    fn pass_on(
        &mut self,
        stream: &Stream,
        parts: response::Parts,
        (length, persistence): (Option<u64>, Persistence),
        whole: Option<Vec<u8>>,
    ) -> io::Result<Persistence> {
        let StreamedExchange { request, output, upload, upgrade, .. } = self;
        let protocol = if upgrade.is_some() { ProtocolChange::MayChange } else { ProtocolChange::Stays };
        let mut writer = output.start(Some(request.head), parts, length, persistence);
        if let Some(whole) = whole {
            writer.send(&whole)?;
            return writer.finish();
        }
        writer.flush()?;
        let mut buffer = vec![0; PIECE_MIN];
        loop {
            let wait = upload.is_unwatched().then_some(WATCH_AFTER);
            match stream.read(&mut buffer, wait) {
                Ok(0) => return writer.finish(),
                Ok(read) => {
                    writer.send(&buffer[..read])?;
                    grow(&mut buffer, read);
                }
                Err(StreamError::TimedOut) => upload.watch(protocol)?,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    fn refuse_answer(self, stream: &Stream) -> io::Result<Option<ServerConnection>> {
        let reset = Reset::new(ResetCode::Protocol, "not the head of a response, or not its length");
        stream.reset(reset.clone());
        self.end_with(responses::no_response(&StreamError::Closed(StreamEnd::ByUs(reset))))
    }

    /// Answers with a response of the gateway's own.
    fn end_with(mut self, problem: Problem) -> io::Result<Option<ServerConnection>> {
        let persistence = self.begin_response(problem.status);
        let response = self.request.named_problem(problem, self.name);
        let (parts, body) = response.into_parts();
        let mut writer =
            self.output.start(Some(self.request.head), parts, Some(body.len() as u64), persistence);
        writer.send(&body)?;
        let persistence = writer.finish()?;
        self.end(persistence)
    }

    /// Answers a request of which the rest cannot be read.
    fn end_unread(self, error: RequestError) -> io::Result<Option<ServerConnection>> {
        let is_evicted = self.request.visitor.is_evicted();
        let problem = if is_evicted { Problem::too_slow() } else { responses::unreadable(error)? };
        self.end_with(problem)
    }

    /// Ends a request whose visitor disconnected before it was sent.
    fn end_left(mut self) -> io::Result<Option<ServerConnection>> {
        let end = self.upload.take_back(LINGER).unwrap_or(UploadEnd::VisitorGone);
        self.end_after(end)
    }

    fn begin_lasting(&self) {
        self.request.visitor.enter(Stage::Lasting);
        self.request.record.lasts();
    }

    /// Records that the response begins. Returns whether the connection may carry another request behind it.
    fn begin_response(&self, status: StatusCode) -> Persistence {
        self.request.record.answered(status);
        let is_sent = Persistence::from(self.upload.sent().is_some());
        self.request.visitor.begin_response().and(self.request.head.persistence).and(is_sent)
    }

    /// Ends with what the second thread came to, which has ended the stream.
    fn end_after(self, end: UploadEnd) -> io::Result<Option<ServerConnection>> {
        match end {
            UploadEnd::Unreadable(error) => self.end_unread(error),
            UploadEnd::VisitorGone | UploadEnd::Returned(_) => Ok(None),
        }
    }

    /// Waits for the next request on the connection, or ends it.
    fn end(mut self, persistence: Persistence) -> io::Result<Option<ServerConnection>> {
        self.request.record.finish();
        if persistence == Persistence::KeepAlive {
            self.request.visitor.enter(Stage::Idle);
            return Ok(match self.upload.take_back(KEEP_ALIVE) {
                Some(UploadEnd::Returned(input)) => Some(ServerConnection { input, output: self.output }),
                _ => {
                    self.closer.close();
                    None
                }
            });
        }
        // So that the visitor reads the response before it learns of the end.
        self.output.finish()?;
        match self.upload.take_back(LINGER) {
            Some(UploadEnd::Returned(input)) => ServerConnection { input, output: self.output }.linger(),
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
