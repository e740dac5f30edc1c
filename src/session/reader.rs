//! The thread that reads: admits requests, and never writes.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, Uri};
use log::{debug, info, warn};
use tungstenite::Bytes;

use super::exchange::{Enveloped, Exchange, Record, Streamed, encode_own, log_refusal};
use super::ticket::Ticket;
use super::wire::{CONTROL_MAX, NotReading, Outbox, WireEvent};
use super::{SessionConfig, SessionEnd, ping};
use crate::advice::Advice;
use crate::guard::{Refusal, validate, validate_head};
use crate::link::message::MESSAGE_MIN;
use crate::link::{MessageReader, ReadError, Received, close};
use crate::metrics::Metrics;
use crate::mux::{self, Fin, Mux, MuxEvent, ProtocolError, RequestHead, Reset, ResetCode, Welcome};
use crate::net::Closer;
use crate::pool::{JobSpec, RefusalReason, Submitter};
use crate::protocol::{Envelope, answer, connection_number, request};
use crate::service::Request;

/// Most refused requests without an ID that may wait for their turn behind those that were admitted.
const REFUSED_MAX: u64 = 4096;

/// Bytes that are read and thrown away after a violation, at most.
const DISCARD_MAX: usize = 32 << 20;

/// Characters of a gateway's `error` that are kept, at most.
const ERROR_TEXT_MAX: usize = 500;

/// The state of the thread that reads.
pub(super) struct SessionReader {
    pub(super) messages: MessageReader,
    pub(super) outbox: Outbox,
    pub(super) submitter: Submitter<Exchange>,
    pub(super) config: SessionConfig,
    pub(super) metrics: Arc<Metrics>,
    pub(super) closer: Closer,
    /// When the session began.
    pub(super) began: Instant,
    pub(super) gateway: GatewayMood,
    pub(super) overlap: OverlapWarning,
}

/// Whether the gateway still serves the session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum GatewayMood {
    #[default]
    Serving,
    /// It sent an `error`: what it sends behind it changes nothing.
    GivenUp,
}

/// Whether the log was told that requests without an ID overlap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum OverlapWarning {
    #[default]
    Due,
    Given,
}

/// A stream that the gateway has opened, and that is not accepted yet.
struct OpenedStream<'a> {
    mux: &'a Mux,
    number: u32,
    fin: Fin,
}

/// Reports why the reader ended, however it ended.
struct ExitReport {
    outbox: Outbox,
    end: SessionEnd,
}

impl Drop for ExitReport {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut self.end, SessionEnd::Eof);
        self.outbox.tell(WireEvent::ReaderEnded(end));
    }
}

impl From<NotReading> for SessionEnd {
    fn from(_: NotReading) -> Self {
        SessionEnd::NotReading
    }
}

fn violation(what: impl Into<String>) -> SessionEnd {
    SessionEnd::Violation(close::PROTOCOL_ERROR, what.into())
}

impl SessionReader {
    /// Reads until the connection ends.
    pub(super) fn run(mut self) {
        let end = SessionEnd::Lost("the reader panicked".to_owned());
        let mut report = ExitReport { outbox: self.outbox.clone(), end };
        report.end = loop {
            match self.messages.read() {
                Ok(Received::Close(frame)) => {
                    let frame = frame.map(|(code, reason)| (code, self.masked(&reason)));
                    self.outbox.tell(WireEvent::Close(frame));
                    self.messages.discard(DISCARD_MAX);
                    break SessionEnd::Eof;
                }
                Ok(received) => {
                    if let Err(end) = self.take(received) {
                        break self.give_up(end);
                    }
                }
                Err(ReadError::Violation(code, what)) => {
                    break self.give_up(SessionEnd::Violation(code, what));
                }
                Err(ReadError::Eof) => break SessionEnd::Eof,
                Err(ReadError::Io(error)) => break SessionEnd::Lost(error.to_string()),
            }
        };
    }

    /// Ends the session because of what was received. After a violation the gateway is read on, so that it gets the close
    /// frame; one that does not read would not get it.
    fn give_up(self, end: SessionEnd) -> SessionEnd {
        if let SessionEnd::Violation(code, what) = &end {
            self.outbox.tell(WireEvent::Violation(*code, what.clone()));
            self.messages.discard(DISCARD_MAX);
        } else {
            // Before the writer finds the connection closed, and takes that for the reason.
            self.outbox.tell(WireEvent::ReaderEnded(end.clone()));
            self.closer.close();
        }
        end
    }

    /// A text of the gateway's, for the log.
    fn masked(&self, text: &str) -> String {
        self.config.tunnel_id.mask_in(text)
    }

    fn take(&mut self, received: Received) -> Result<(), SessionEnd> {
        match received {
            _ if self.gateway == GatewayMood::GivenUp => Ok(()),
            Received::Text(text) => self.take_text(&text),
            Received::Ping(payload) => Ok(self.outbox.tell_ping(&payload)?),
            Received::Binary(message) => self.take_frame(&message),
            Received::Pong(payload) => {
                let now = self.began.elapsed();
                if let Some(sent) = ping::sent(&payload, now) {
                    self.metrics.pong_took(now - sent);
                    self.outbox.tell_pong(sent);
                }
                Ok(())
            }
            Received::Close(_) => Ok(()),
        }
    }

    fn take_text(&mut self, text: &str) -> Result<(), SessionEnd> {
        let Some(envelope) = Envelope::parse(text) else {
            match connection_number(text) {
                Some(number) => self.outbox.set_connection(number),
                None => debug!("ignored a text message that is neither an envelope nor a connection ID"),
            }
            return Ok(());
        };
        match envelope.message_type.as_ref() {
            request::TYPE => self.take_request(&envelope),
            answer::ERROR => {
                self.gateway = GatewayMood::GivenUp;
                let text: String =
                    envelope.payload().unwrap_or_default().chars().take(ERROR_TEXT_MAX).collect();
                self.outbox.tell(WireEvent::GatewayError(self.masked(&text)));
                Ok(())
            }
            mux::WELCOME if text.len() > mux::WELCOME_MAX => {
                Err(violation(format!("its `welcome` is longer than {} KiB", mux::WELCOME_MAX >> 10)))
            }
            mux::WELCOME => self.take_welcome(&envelope.payload().unwrap_or_default()),
            _ => {
                debug!("ignored an envelope of a type that this agent does not know");
                Ok(())
            }
        }
    }

    fn take_welcome(&mut self, payload: &str) -> Result<(), SessionEnd> {
        match Welcome::decode(payload) {
            Welcome::Mux(limits) if self.outbox.start_mux(limits) => {
                debug!("the gateway speaks mux/2");
                self.messages.limit(MESSAGE_MIN);
                if let Some(mux) = self.outbox.mux().cloned() {
                    self.messages.before_waiting(move || mux.announce());
                }
                self.outbox.tell(WireEvent::Opened);
                Ok(())
            }
            Welcome::Mux(_) => {
                debug!("ignored a second or late `welcome`");
                Ok(())
            }
            Welcome::Other => {
                info!("the gateway offers a protocol that this agent does not know; it goes on as before");
                Ok(())
            }
            Welcome::OutOfRange(what) => Err(violation(format!("`{what}` of its `welcome` is out of range"))),
        }
    }

    fn take_frame(&mut self, message: &Bytes) -> Result<(), SessionEnd> {
        let Some(mux) = self.outbox.mux() else {
            debug!("ignored a binary message: the gateway has not switched mux/2 on");
            return Ok(());
        };
        match mux.receive(message).map_err(|ProtocolError(what)| violation(what))? {
            MuxEvent::Opened { stream, head, fin } => {
                self.take_stream(mux, stream, &head, fin);
                if mux.control_bytes() > CONTROL_MAX { Err(SessionEnd::NotReading) } else { Ok(()) }
            }
            MuxEvent::GoAway { text, .. } => {
                self.outbox.tell(WireEvent::GoesAway(self.masked(&text)));
                Ok(())
            }
            MuxEvent::Nothing | MuxEvent::Changed(_) | MuxEvent::Reset(_) => Ok(()),
        }
    }

    /// Admits a stream, or says at once why not.
    fn take_stream(&self, mux: &Arc<Mux>, number: u32, head: &[u8], fin: Fin) {
        let refuse = |code, text: &str| mux.refuse(number, Reset::new(code, text));
        if self.outbox.is_draining() {
            log_refusal(self.outbox.name(number.into()), None, &Refusal::Draining);
            self.metrics.request_refused(Refusal::Draining.code());
            return refuse(ResetCode::Refused, "the agent is stopping");
        }
        let opened = OpenedStream { mux, number, fin };
        // A copy, so that a request that waits does not keep all of what was read together with it.
        let head = Bytes::copy_from_slice(head);
        let parsed = match RequestHead::parse(&head) {
            Ok(parsed) => parsed,
            Err(what) => return refuse(ResetCode::Protocol, what),
        };
        let head = match validate_head(&parsed) {
            Ok(head) => head,
            Err(refusal) => {
                let method = Method::from_bytes(parsed.method.as_bytes()).unwrap_or_default();
                return self.refuse_stream(&opened, &refusal, &method, None);
            }
        };
        let not_before = match self.admit(&head.method, &head.uri) {
            Ok(not_before) => not_before,
            Err(refusal) => {
                return self.refuse_stream(&opened, &refusal, &head.method, Some(head.uri.path()));
            }
        };
        let Some(stream) = mux.accept(number, fin) else { return self.config.gate.refund() };
        let reply = Streamed::new(self.outbox.name(number.into()), head, stream, fin);
        let exchange = Exchange::streamed(reply, Record::new(&self.metrics));
        // A stream that is refused for lack of room takes up no control that is not counted.
        let _ = self.submit(exchange, JobSpec { weight: 0, not_before, ..JobSpec::LASTING });
    }

    /// Answers a stream with the agent's own response, and discards the request's body.
    fn refuse_stream(
        &self,
        opened: &OpenedStream<'_>,
        refusal: &Refusal,
        method: &Method,
        path: Option<&str>,
    ) {
        let name = self.outbox.name(opened.number.into());
        log_refusal(name, path.map(|path| (method, path)), refusal);
        self.metrics.request_refused(refusal.code());
        let (head, body) = encode_own(method, refusal.response(name), &self.metrics);
        opened.mux.answer(opened.number, opened.fin, head, &body);
    }

    /// Admits a request in an envelope. Every one, however broken, gets a ticket and thereby one answer.
    fn take_request(&mut self, envelope: &Envelope<'_>) -> Result<(), SessionEnd> {
        let payload = envelope.payload();
        let (id, request) = match request::decode(envelope, payload.as_deref()) {
            Ok(mut message) => {
                if message.id.is_some() || message.names_encoding {
                    self.outbox.set_reads_base64();
                }
                (message.id.take(), validate(message, self.config.max_enveloped_body))
            }
            Err(malformed) => (malformed.id, Err(Refusal::BadRequest(malformed.reason.into()))),
        };
        let waiting = if id.is_none() { self.outbox.waiting_without_id() } else { 0 };
        if waiting > 0 {
            self.warn_of_overlap();
        }
        if waiting >= self.config.max_without_id + REFUSED_MAX {
            let what = "too many requests without an ID wait for their turn";
            return Err(SessionEnd::Violation(close::TRY_AGAIN_LATER, what.to_owned()));
        }
        let ticket = Ticket::issue(&self.outbox, id);
        let request = match request {
            Ok(request) => request,
            Err(refusal) => return Ok(self.refuse(ticket, &refusal, None)?),
        };
        match self.admit_enveloped(&request, waiting) {
            Ok(not_before) => {
                let weight = usize::try_from(request.body().length().unwrap_or(0)).unwrap_or(usize::MAX);
                let exchange =
                    Exchange::enveloped(Enveloped::new(request, ticket), Record::new(&self.metrics));
                Ok(self.submit(exchange, JobSpec { weight, not_before, ..JobSpec::STEADY })?)
            }
            Err(refusal) => Ok(self.refuse(ticket, &refusal, Some(&request))?),
        }
    }

    /// Warns once that answers may go to the wrong visitors.
    fn warn_of_overlap(&mut self) {
        if std::mem::replace(&mut self.overlap, OverlapWarning::Given) == OverlapWarning::Due {
            warn!(advice = Advice::OverlappingRequests.name();
                "the gateway sends requests without IDs before those before them are answered; one of the oldest \
                 gives answers to the wrong visitors then");
        }
    }

    fn admit_enveloped(&self, request: &Request, waiting: u64) -> Result<Option<Instant>, Refusal> {
        if self.outbox.is_draining() {
            return Err(Refusal::Draining);
        }
        if waiting >= self.config.max_without_id {
            return Err(Refusal::QueueFull);
        }
        self.admit(request.method(), request.uri())
    }

    fn admit(&self, method: &Method, uri: &Uri) -> Result<Option<Instant>, Refusal> {
        self.config.gate.admit(method, uri.path(), Instant::now)
    }

    fn submit(&self, exchange: Exchange, spec: JobSpec) -> Result<(), NotReading> {
        match self.submitter.submit(exchange, spec) {
            Ok(()) => Ok(()),
            Err(exchange) => {
                self.config.gate.refund();
                exchange.refuse(RefusalReason::Full)
            }
        }
    }

    fn refuse(&self, ticket: Ticket, refusal: &Refusal, request: Option<&Request>) -> Result<(), NotReading> {
        let head = request.map(|request| (request.method(), request.uri().path()));
        log_refusal(ticket.name(), head, refusal);
        self.metrics.request_refused(refusal.code());
        ticket.refuse(refusal, request.map_or(&Method::GET, Request::method))
    }
}
