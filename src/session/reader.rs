//! The thread that reads: takes requests on and hands them out, and never writes.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, Uri};
use log::{debug, info, warn};
use tungstenite::Bytes;

use super::job::{InFlight, Job, Work};
use super::outbox::{CONTROL_MAX, Event, Outbox, Ticket};
use super::streamed::{self, Streamed};
use super::{Config, End, ping};
use crate::admission::{Refusal, admit, admit_head};
use crate::link::frames::MESSAGE_MIN;
use crate::link::{Closer, FrameReader, Incoming, ReadError};
use crate::mux::Mux;
use crate::pool::{Intake, Reason, Terms};
use crate::protocol::mux::{self, RequestHead, Reset, ResetCode, Violation, Welcome};
use crate::protocol::{Envelope, answer, connection_number, request};
use crate::service::Request;
use crate::status::Counters;

/// Most refused requests without an ID that may wait for their turn behind those that were taken on.
const REFUSED_MAX: u64 = 4096;

/// The most that is read and thrown away after a violation.
const DISCARD_MAX: usize = 32 << 20;

/// Most characters that are kept of what a gateway says as it gives up.
const ERROR_TEXT_MAX: usize = 500;

/// Close code "protocol error" (RFC 6455 §7.4.1).
const PROTOCOL_ERROR: u16 = 1002;

/// Close code "try again later" (IANA registry of RFC 6455 close codes).
const TRY_AGAIN_LATER: u16 = 1013;

pub(super) struct Reader {
    pub(super) frames: FrameReader,
    pub(super) outbox: Outbox,
    pub(super) intake: Intake<Job>,
    pub(super) config: Config,
    pub(super) counters: Arc<Counters>,
    pub(super) closer: Closer,
    /// When the session began.
    pub(super) began: Instant,
    /// The gateway has given up; what it still says changes nothing.
    pub(super) given_up: bool,
    /// It was said that requests without an ID overlap.
    pub(super) has_warned_of_overlap: bool,
}

/// Says why the reader ended, whatever made it end.
struct LastWord {
    outbox: Outbox,
    end: End,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let end = std::mem::replace(&mut self.end, End::Eof);
        self.outbox.tell(Event::ReaderEnded(end));
    }
}

impl Reader {
    /// Reads until the connection ends.
    pub(super) fn run(mut self) {
        let mut last =
            LastWord { outbox: self.outbox.clone(), end: End::Lost("the reader panicked".to_owned()) };
        last.end = loop {
            match self.frames.read() {
                Ok(Incoming::Close(frame)) => {
                    let frame = frame.map(|(code, reason)| (code, self.masked(&reason)));
                    self.outbox.tell(Event::Close(frame));
                    self.frames.discard(DISCARD_MAX);
                    break End::Eof;
                }
                Ok(incoming) => {
                    if let Err(end) = self.take(incoming) {
                        break self.give_up(end);
                    }
                }
                Err(ReadError::Violation(code, what)) => break self.give_up(End::Violation(code, what)),
                Err(ReadError::Eof) => break End::Eof,
                Err(ReadError::Io(error)) => break End::Lost(error.to_string()),
            }
        };
    }

    /// Ends the session because of what was received: the close frame needs the other side to be heard out,
    /// while a gateway that does not read will not get one.
    fn give_up(self, end: End) -> End {
        if let End::Violation(code, what) = &end {
            self.outbox.tell(Event::Violation(*code, what.clone()));
            self.frames.discard(DISCARD_MAX);
        } else {
            // Before the writer finds the connection closed, and takes that for the reason.
            self.outbox.tell(Event::ReaderEnded(end.clone()));
            self.closer.close();
        }
        end
    }

    /// What the gateway says, for the log.
    fn masked(&self, text: &str) -> String {
        self.config.tunnel_id.mask_in(text)
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), End> {
        match incoming {
            _ if self.given_up => Ok(()),
            Incoming::Text(text) => self.take_text(&text),
            Incoming::Ping(payload) => self.outbox.tell_ping(&payload).then_some(()).ok_or(End::NotReading),
            Incoming::Binary(message) => self.take_frame(&message),
            Incoming::Pong(payload) => {
                let now = self.began.elapsed();
                if let Some(sent) = ping::sent(&payload, now) {
                    self.counters.pong_took(now - sent);
                    self.outbox.tell_pong(sent);
                }
                Ok(())
            }
            Incoming::Close(_) => Ok(()),
        }
    }

    fn take_text(&mut self, text: &str) -> Result<(), End> {
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
                self.given_up = true;
                let text: String =
                    envelope.payload().unwrap_or_default().chars().take(ERROR_TEXT_MAX).collect();
                self.outbox.tell(Event::GatewayError(self.masked(&text)));
                Ok(())
            }
            mux::WELCOME if text.len() > mux::WELCOME_MAX => {
                let what = format!("its `welcome` is longer than {} KiB", mux::WELCOME_MAX >> 10);
                Err(End::Violation(PROTOCOL_ERROR, what))
            }
            mux::WELCOME => self.take_welcome(&envelope.payload().unwrap_or_default()),
            _ => {
                debug!("ignored an envelope of a type that this agent does not know");
                Ok(())
            }
        }
    }

    fn take_welcome(&mut self, payload: &str) -> Result<(), End> {
        match Welcome::decode(payload) {
            Welcome::Mux(limits) if self.outbox.start_mux(limits) => {
                debug!("the gateway speaks mux/2");
                self.frames.limit(MESSAGE_MIN);
                self.outbox.tell(Event::Opened);
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
            Welcome::OutOfRange(what) => {
                Err(End::Violation(PROTOCOL_ERROR, format!("`{what}` of its `welcome` is out of range")))
            }
        }
    }

    fn take_frame(&mut self, message: &Bytes) -> Result<(), End> {
        let Some(mux) = self.outbox.mux() else {
            debug!("ignored a binary message: the gateway has not switched mux/2 on");
            return Ok(());
        };
        let violation = |Violation(what)| End::Violation(PROTOCOL_ERROR, what.to_owned());
        match mux.receive(message).map_err(violation)? {
            mux::Event::Opened { stream, head, end } => {
                self.take_stream(mux, stream, &head, end);
                if mux.control_bytes() > CONTROL_MAX { Err(End::NotReading) } else { Ok(()) }
            }
            mux::Event::GoAway { text, .. } => {
                self.outbox.tell(Event::GoesAway(self.masked(&text)));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes a stream on, or says at once why not.
    fn take_stream(&self, mux: &Arc<Mux>, number: u32, head: &[u8], end: bool) {
        let refuse = |code, text: &str| mux.refuse(number, Reset::new(code, text));
        if self.outbox.is_draining() {
            Refusal::Draining.log(self.outbox.name(number.into()), None);
            self.counters.request_refused(&Refusal::Draining);
            return refuse(ResetCode::Refused, "the agent is stopping");
        }
        let parsed = match RequestHead::parse(head) {
            Ok(parsed) => parsed,
            Err(what) => return refuse(ResetCode::Protocol, what),
        };
        let head = match admit_head(&parsed) {
            Ok(head) => head,
            Err(refusal) => {
                let method = Method::from_bytes(parsed.method.as_bytes()).unwrap_or_default();
                return self.refuse_stream(mux, (number, end), &refusal, &method, None);
            }
        };
        let not_before = match self.pass(&head.method, &head.uri) {
            Ok(not_before) => not_before,
            Err(refusal) => {
                let path = Some(head.uri.path());
                return self.refuse_stream(mux, (number, end), &refusal, &head.method, path);
            }
        };
        let Some(stream) = mux.accept(number, end) else { return };
        let in_flight = InFlight::new(&self.counters);
        let job = Job {
            work: Work::Streamed(Streamed::new(self.outbox.name(number.into()), head, stream, end)),
            in_flight,
        };
        let terms = Terms { may_last: true, not_before, weight: 0 };
        if let Err(job) = self.intake.submit(job, terms) {
            self.config.entrance.was_refused();
            job.refuse(Reason::Full);
        }
    }

    /// Answers a stream with the agent's own response. What comes of its body is not looked at.
    fn refuse_stream(
        &self,
        mux: &Arc<Mux>,
        (number, end): (u32, bool),
        refusal: &Refusal,
        method: &Method,
        path: Option<&str>,
    ) {
        let Some(stream) = mux.accept(number, end) else { return };
        let name = self.outbox.name(number.into());
        refusal.log(name, path.map(|path| (method, path)));
        self.counters.request_refused(refusal);
        streamed::refuse(&stream, name, method, refusal, &self.counters);
    }

    /// Every request, however broken, gets a ticket and thereby one answer.
    fn take_request(&mut self, envelope: &Envelope<'_>) -> Result<(), End> {
        let payload = envelope.payload();
        let (id, request) = match request::decode(envelope, payload.as_deref()) {
            Ok(mut message) => {
                if message.id.is_some() || message.names_encoding {
                    self.outbox.set_knows_base64();
                }
                (message.id.take(), admit(message, self.config.max_body))
            }
            Err(malformed) => (malformed.id, Err(Refusal::BadRequest(malformed.reason.into()))),
        };
        let crowd = if id.is_none() { self.outbox.unnumbered() } else { 0 };
        if crowd > 0 && !std::mem::replace(&mut self.has_warned_of_overlap, true) {
            warn!(
                "the gateway sends requests without IDs before those before them are answered; one of the oldest gives \
                 answers to the wrong visitors then: let it send one at a time, or use --failure response and \
                 --correlation latest"
            );
        }
        if crowd >= self.config.unnumbered_max + REFUSED_MAX {
            let what = "too many requests without an ID wait for their turn";
            return Err(End::Violation(TRY_AGAIN_LATER, what.to_owned()));
        }
        let ticket = self.outbox.issue(id);
        match request {
            Err(refusal) => self.refuse(ticket, &refusal, None),
            Ok(request) if self.outbox.is_draining() => {
                self.refuse(ticket, &Refusal::Draining, Some(&request))
            }
            Ok(request) if crowd >= self.config.unnumbered_max => {
                self.refuse(ticket, &Refusal::QueueFull, Some(&request))
            }
            Ok(request) => match self.pass(request.method(), request.uri()) {
                Ok(not_before) => self.submit(request, ticket, not_before),
                Err(refusal) => self.refuse(ticket, &refusal, Some(&request)),
            },
        }
    }

    /// When a request may start, if not at once; or why it may not.
    fn pass(&self, method: &Method, uri: &Uri) -> Result<Option<Instant>, Refusal> {
        self.config.entrance.pass(method, uri.path(), Instant::now)
    }

    fn submit(&self, request: Request, ticket: Ticket, not_before: Option<Instant>) -> Result<(), End> {
        let weight = request.body().length().unwrap_or(0) as usize;
        let job = Job { work: Work::Whole(request, ticket), in_flight: InFlight::new(&self.counters) };
        match self.intake.submit(job, Terms { weight, not_before, may_last: false }) {
            Err(Job { work: Work::Whole(request, ticket), in_flight }) => {
                in_flight.is_told();
                self.config.entrance.was_refused();
                self.refuse(ticket, &Refusal::QueueFull, Some(&request))
            }
            _ => Ok(()),
        }
    }

    fn refuse(&self, ticket: Ticket, refusal: &Refusal, request: Option<&Request>) -> Result<(), End> {
        refusal.log(ticket.name(), request.map(|request| (request.method(), request.uri().path())));
        self.counters.request_refused(refusal);
        if ticket.refuse(refusal, request.map_or(&Method::GET, Request::method)) {
            Ok(())
        } else {
            Err(End::NotReading)
        }
    }
}
