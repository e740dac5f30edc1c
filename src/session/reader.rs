//! The thread that reads: takes requests on and hands them out, and never writes.

use std::sync::Arc;

use log::{debug, info};

use super::job::{InFlight, Job};
use super::outbox::{Event, Outbox, Ticket};
use super::{Config, End};
use crate::admission::{Refusal, admit};
use crate::link::{Closer, FrameReader, Incoming, ReadError};
use crate::pool::Intake;
use crate::protocol::{Envelope, answer, request};
use crate::service::Request;
use crate::status::Counters;

/// Most refused requests without an ID that may wait for their turn behind those that were taken on.
const REFUSED_MAX: u64 = 4096;

/// The most that is read and thrown away after a violation.
const DISCARD_MAX: usize = 32 << 20;

/// Most characters that are kept of what a gateway says as it gives up.
const ERROR_TEXT_MAX: usize = 500;

/// Close code "try again later" (IANA registry of RFC 6455 close codes).
const TRY_AGAIN_LATER: u16 = 1013;

pub(super) struct Reader {
    pub(super) frames: FrameReader,
    pub(super) outbox: Outbox,
    pub(super) intake: Intake<Job>,
    pub(super) config: Config,
    pub(super) counters: Arc<Counters>,
    pub(super) closer: Closer,
    /// The gateway has given up; what it still says changes nothing.
    pub(super) given_up: bool,
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
            self.closer.close();
        }
        end
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), End> {
        match incoming {
            _ if self.given_up => Ok(()),
            Incoming::Text(text) => self.take_text(&text),
            Incoming::Ping(payload) => self.outbox.tell_ping(&payload).then_some(()).ok_or(End::NotReading),
            Incoming::Binary(_) => {
                debug!("ignored a binary message: the gateway was not told that this agent takes them");
                Ok(())
            }
            Incoming::Pong | Incoming::Close(_) => Ok(()),
        }
    }

    fn take_text(&mut self, text: &str) -> Result<(), End> {
        let Some(envelope) = Envelope::parse(text) else {
            // The connection ID is one; so is whatever a gateway says that this agent does not know.
            debug!("ignored a text message that is no envelope, as a gateway's connection ID is none");
            return Ok(());
        };
        match envelope.message_type.as_ref() {
            request::TYPE => self.take_request(&envelope),
            answer::ERROR => {
                self.given_up = true;
                let text = envelope.payload().unwrap_or_default().chars().take(ERROR_TEXT_MAX).collect();
                self.outbox.tell(Event::GatewayError(text));
                Ok(())
            }
            "welcome" => {
                info!("the gateway offers a protocol that this agent does not know; it goes on as before");
                Ok(())
            }
            _ => {
                debug!("ignored an envelope of a type that this agent does not know");
                Ok(())
            }
        }
    }

    /// Every request, however broken, gets a ticket and thereby one answer.
    fn take_request(&mut self, envelope: &Envelope<'_>) -> Result<(), End> {
        let payload = envelope.payload();
        let (id, request) = match request::decode(envelope, payload.as_deref()) {
            Ok(mut message) => (message.id.take(), admit(message, self.config.max_body)),
            Err(malformed) => (malformed.id, Err(Refusal::BadRequest(malformed.reason.into()))),
        };
        let crowd = if id.is_none() { self.outbox.unnumbered() } else { 0 };
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
            Ok(request) => self.submit(request, ticket),
        }
    }

    fn submit(&self, request: Request, ticket: Ticket) -> Result<(), End> {
        let weight = request.body().length().unwrap_or(0) as usize;
        let job = Job { request, ticket, in_flight: InFlight::new(&self.counters) };
        match self.intake.try_submit(job, weight) {
            Ok(()) => Ok(()),
            Err(Job { request, ticket, .. }) => self.refuse(ticket, &Refusal::QueueFull, Some(&request)),
        }
    }

    fn refuse(&self, ticket: Ticket, refusal: &Refusal, request: Option<&Request>) -> Result<(), End> {
        refusal.log(request.map(|request| (request.method(), request.uri().path())));
        self.counters.request_refused();
        if ticket.refuse(refusal) { Ok(()) } else { Err(End::NotReading) }
    }
}
