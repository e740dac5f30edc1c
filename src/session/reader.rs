//! The thread that reads: admits requests, and never writes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use log::{debug, info, warn};
use tungstenite::Bytes;

use super::credit::CONTROL_MAX;
use super::exchange::{Exchange, RefusedHead, encode_own, record_refusal};
use super::handle::{SessionHandle, WireEvent};
use super::ticket::Ticket;
use super::{ExchangeConfig, SessionConfig, SessionEnd, ping};
use crate::advice::Advice;
use crate::guard::{Candidate, Recipient, Refusal, validate, validate_head};
use crate::link::message::MESSAGE_MIN;
use crate::link::{MessageReader, ReadError, Received, close};
use crate::metrics::Metrics;
use crate::mux::{self, Fin, Mux, MuxEvent, ProtocolError, RequestHead, Reset, ResetCode, Welcome};
use crate::net::Closer;
use crate::pool::{JobSpec, RefusalReason, Submitter};
use crate::protocol::name::TUNNEL_URL;
use crate::protocol::{Envelope, RequestName, TunnelUrl, answer, connection_number, request};
use crate::service::Request;
use crate::sync::Replaceable;

/// Most refused requests without an ID that may wait for their turn behind those that were admitted.
const REFUSED_MAX: u64 = 4096;

/// Bytes that are read and thrown away after a violation, at most.
const DISCARD_MAX: usize = 32 << 20;

/// Characters of a gateway's `error` that are kept, at most.
const ERROR_TEXT_MAX: usize = 500;

/// The state of the thread that reads.
pub(super) struct SessionReader {
    pub(super) messages: MessageReader,
    pub(super) session: SessionHandle,
    pub(super) submitter: Submitter<Exchange>,
    pub(super) config: SessionConfig,
    /// Which requests pass now, and how they are answered.
    pub(super) exchanges: Arc<Replaceable<ExchangeConfig>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) closer: Closer,
    /// When the session began.
    pub(super) began: Instant,
    /// The gateway sent an `error`: what it sends behind it changes nothing.
    pub(super) gateway_has_failed: bool,
    /// The log was told that requests without an ID overlap.
    pub(super) has_warned_of_overlap: bool,
}

fn violation(what: impl Into<String>) -> SessionEnd {
    SessionEnd::Violation(close::PROTOCOL_ERROR, what.into())
}

impl SessionReader {
    /// Reads until the connection ends, and tells why it did, whatever happens.
    pub(super) fn run(self) {
        let session = self.session.clone();
        let panicked = |_| SessionEnd::Lost("the reader panicked".to_owned());
        let end = catch_unwind(AssertUnwindSafe(|| self.read_to_end())).unwrap_or_else(panicked);
        session.tell(WireEvent::End(end));
    }

    fn read_to_end(mut self) -> SessionEnd {
        let end = loop {
            if let Err(end) = self.read_one() {
                break end;
            }
        };
        // Before the writer finds the connection closed, and takes that for the reason.
        self.session.tell(WireEvent::End(end.clone()));
        match end {
            // So that the gateway gets the close frame.
            SessionEnd::ClosedByGateway(_) | SessionEnd::Violation(..) => {
                self.messages.discard(DISCARD_MAX);
                SessionEnd::Eof
            }
            // One that does not read would not get any.
            SessionEnd::NotReading => {
                self.closer.close();
                end
            }
            _ => end,
        }
    }

    fn read_one(&mut self) -> Result<(), SessionEnd> {
        match self.messages.read() {
            Ok(received) => self.take(received),
            Err(ReadError::Violation(code, what)) => Err(SessionEnd::Violation(code, what)),
            Err(ReadError::Eof) => Err(SessionEnd::Eof),
            Err(ReadError::Io(error)) => Err(SessionEnd::Lost(error.to_string())),
        }
    }

    /// A text of the gateway's, for the log.
    fn masked(&self, text: &str) -> String {
        self.config.tunnel_id.mask_in(text)
    }

    fn take(&mut self, received: Received) -> Result<(), SessionEnd> {
        match received {
            Received::Close(frame) => {
                let frame = frame.map(|(code, reason)| (code, self.masked(&reason)));
                Err(SessionEnd::ClosedByGateway(frame))
            }
            _ if self.gateway_has_failed => Ok(()),
            Received::Text(text) => self.take_text(&text),
            Received::Ping(payload) => self.session.tell_ping(&payload),
            Received::Binary(message) => self.take_frame(&message),
            Received::Pong(payload) => {
                let now = self.began.elapsed();
                if let Some(sent) = ping::sent(&payload, now) {
                    self.metrics.pong_took(now - sent);
                    return self.session.tell_pong(sent);
                }
                Ok(())
            }
        }
    }

    fn take_text(&mut self, text: &str) -> Result<(), SessionEnd> {
        let Some(envelope) = Envelope::parse(text) else {
            match connection_number(text) {
                Some(number) => self.session.set_connection(number),
                None => debug!("ignored a text message that is neither an envelope nor a connection ID"),
            }
            return Ok(());
        };
        match envelope.message_type.as_ref() {
            request::TYPE => self.take_request(&envelope),
            answer::ERROR => {
                self.gateway_has_failed = true;
                let text: String =
                    envelope.payload().unwrap_or_default().chars().take(ERROR_TEXT_MAX).collect();
                self.session.tell(WireEvent::End(SessionEnd::GatewayError(self.masked(&text))));
                Ok(())
            }
            mux::WELCOME if text.len() > mux::WELCOME_MAX => {
                Err(violation(format!("its `welcome` is longer than {} KiB", mux::WELCOME_MAX >> 10)))
            }
            mux::WELCOME => self.take_welcome(&envelope.payload().unwrap_or_default()),
            TUNNEL_URL => self.take_url(&envelope.payload().unwrap_or_default()),
            _ => {
                debug!("ignored an envelope of a type that this agent does not know");
                Ok(())
            }
        }
    }

    fn take_welcome(&mut self, payload: &str) -> Result<(), SessionEnd> {
        match Welcome::decode(payload) {
            Welcome::Mux(limits) if self.session.start_mux(limits) => {
                debug!("the gateway speaks mux/2");
                self.messages.limit(MESSAGE_MIN);
                if let Some(mux) = self.session.mux().cloned() {
                    self.messages.before_waiting(move || mux.announce());
                }
                if mux::names_visitors(payload) {
                    self.session.set_names_visitors();
                }
                self.take_url(payload)?;
                self.session.tell(WireEvent::Opened);
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

    /// Takes what a gateway tells of the tunnel's URL, if it does.
    fn take_url(&self, payload: &str) -> Result<(), SessionEnd> {
        match TunnelUrl::decode(payload) {
            Some(told) => self.session.tell_control(payload.len(), |room| WireEvent::Named(told, room)),
            None => Ok(()),
        }
    }

    fn take_frame(&mut self, message: &Bytes) -> Result<(), SessionEnd> {
        let Some(mux) = self.session.mux() else {
            debug!("ignored a binary message: the gateway has not switched mux/2 on");
            return Ok(());
        };
        match mux.receive(message).map_err(|ProtocolError(what)| violation(what))? {
            MuxEvent::Opened { stream, head, fin } => self.take_stream(mux, stream, &head, fin),
            MuxEvent::GoAway { text, .. } => {
                let text = self.masked(&text);
                self.session.tell_control(text.len(), |room| WireEvent::GoesAway(text, room))?;
            }
            // The frames that come most often have nothing sent.
            MuxEvent::Nothing | MuxEvent::Changed(_) => return Ok(()),
            MuxEvent::Reset(_) => {}
        }
        if mux.control_bytes() > CONTROL_MAX { Err(SessionEnd::NotReading) } else { Ok(()) }
    }

    /// Admits a stream, or says at once why not.
    fn take_stream(&self, mux: &Arc<Mux>, number: u32, head: &[u8], fin: Fin) {
        let name = self.session.name(number.into());
        if self.session.is_draining() {
            self.record_refusal((name, None), &Refusal::Draining);
            return mux.refuse(number, Reset::new(ResetCode::Refused, "the agent is stopping"));
        }
        // A copy, so that a request that waits does not keep all of what was read together with it.
        let head = Bytes::copy_from_slice(head);
        let parsed = match RequestHead::parse(&head) {
            Ok(parsed) => parsed,
            Err(what) => {
                self.record_refusal((name, None), &Refusal::BadRequest(what.into()));
                return mux.refuse(number, Reset::new(ResetCode::Protocol, what));
            }
        };
        let config = self.exchanges.get();
        let mut head = match validate_head(&parsed) {
            Ok(head) => head,
            Err(refusal) => {
                let method = Method::from_bytes(parsed.method.as_bytes()).unwrap_or_default();
                let recipient = Recipient::unknown(name);
                return self.refuse_stream((mux, number, fin), &refusal, (&method, None), &recipient);
            }
        };
        let not_before = match self.admit(&config, &head.method, &head.uri, &mut head.headers) {
            Ok(not_before) => not_before,
            Err(refusal) => {
                let recipient = config.gate.recipient(name, &head.method, &head.headers);
                let Parts { method, uri, headers, .. } = &head;
                let asked = (method, Some(RefusedHead { method, uri, headers }));
                return self.refuse_stream((mux, number, fin), &refusal, asked, &recipient);
            }
        };
        // None when the session has just ended.
        let Some(stream) = mux.accept(number, fin) else { return config.gate.refund() };
        let exchange = Exchange::streamed((name, head), (stream, fin), &config, &self.metrics);
        // A stream that is refused for lack of room takes up no control that is not counted.
        let _ = self.submit(exchange, JobSpec { weight: 0, not_before, ..JobSpec::LASTING });
    }

    fn record_refusal(&self, request: (RequestName, Option<RefusedHead<'_>>), refusal: &Refusal) {
        record_refusal(&self.exchanges.get(), &self.metrics, request, refusal);
    }

    /// Answers a stream with the agent's own response, and discards the request's body.
    fn refuse_stream(
        &self,
        (mux, number, fin): (&Mux, u32, Fin),
        refusal: &Refusal,
        (method, head): (&Method, Option<RefusedHead<'_>>),
        recipient: &Recipient,
    ) {
        self.record_refusal((recipient.name, head), refusal);
        let (head, body) = encode_own(method, refusal.response(recipient), &self.metrics);
        mux.answer(number, fin, head, &body);
    }

    /// Admits a request in an envelope. Every one, however broken, gets a ticket and thereby one answer, unless so many wait for
    /// their turn that the session ends.
    fn take_request(&mut self, envelope: &Envelope<'_>) -> Result<(), SessionEnd> {
        let config = self.exchanges.get();
        let payload = envelope.payload();
        let (id, request) = match request::decode(envelope, payload.as_deref()) {
            Ok(mut message) => {
                if message.id.is_some() || message.names_encoding {
                    self.session.set_reads_base64();
                }
                (message.id.take(), validate(message, config.max_enveloped_body))
            }
            Err(malformed) => (malformed.id, Err(Refusal::BadRequest(malformed.reason.into()))),
        };
        let waiting = if id.is_none() { self.session.waiting_without_id() } else { 0 };
        if waiting > 0 {
            self.warn_of_overlap();
        }
        if waiting >= self.config.max_without_id + REFUSED_MAX {
            let what = "too many requests without an ID wait for their turn";
            return Err(SessionEnd::Violation(close::TRY_AGAIN_LATER, what.to_owned()));
        }
        let ticket = Ticket::issue(&self.session, id);
        let mut request = match request {
            Ok(request) => request,
            Err(refusal) => return self.refuse(ticket, &refusal, None),
        };
        match self.admit_enveloped(&config, &mut request, waiting) {
            Ok(not_before) => {
                let weight = usize::try_from(request.body().length().unwrap_or(0)).unwrap_or(usize::MAX);
                let exchange = Exchange::enveloped(request, ticket, &config, &self.metrics);
                self.submit(exchange, JobSpec { weight, not_before, ..JobSpec::STEADY })
            }
            Err(refusal) => self.refuse(ticket, &refusal, Some(&request)),
        }
    }

    /// Warns once that answers may go to the wrong visitors.
    fn warn_of_overlap(&mut self) {
        if !std::mem::replace(&mut self.has_warned_of_overlap, true) {
            warn!(advice = Advice::OverlappingRequests.name();
                "the gateway sends requests without IDs before those before them are answered; one of the oldest \
                 gives answers to the wrong visitors then");
        }
    }

    fn admit_enveloped(
        &self,
        config: &ExchangeConfig,
        request: &mut Request,
        waiting: u64,
    ) -> Result<Option<Instant>, Refusal> {
        if self.session.is_draining() {
            return Err(Refusal::Draining);
        }
        if waiting >= self.config.max_without_id {
            return Err(Refusal::QueueFull);
        }
        let (method, uri) = (request.method().clone(), request.uri().clone());
        self.admit(config, &method, &uri, request.headers_mut())
    }

    fn admit(
        &self,
        config: &ExchangeConfig,
        method: &Method,
        uri: &Uri,
        headers: &mut HeaderMap,
    ) -> Result<Option<Instant>, Refusal> {
        let visitor = self.session.visitor_in(headers);
        let mut candidate = Candidate { method, path: uri.path(), headers, visitor };
        config.gate.admit(&mut candidate, Instant::now)
    }

    fn submit(&self, exchange: Exchange, spec: JobSpec) -> Result<(), SessionEnd> {
        match self.submitter.submit(exchange, spec) {
            Ok(()) => Ok(()),
            Err(exchange) => {
                exchange.refund();
                exchange.refuse(RefusalReason::Full)
            }
        }
    }

    fn refuse(&self, ticket: Ticket, refusal: &Refusal, request: Option<&Request>) -> Result<(), SessionEnd> {
        let head = request.map(|request| RefusedHead {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
        });
        self.record_refusal((ticket.name(), head), refusal);
        let recipient = match request {
            Some(request) => {
                self.exchanges.get().gate.recipient(ticket.name(), request.method(), request.headers())
            }
            None => Recipient::unknown(ticket.name()),
        };
        ticket.refuse(refusal, request.map_or(&Method::GET, Request::method), &recipient)
    }
}
