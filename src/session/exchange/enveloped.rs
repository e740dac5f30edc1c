//! The reply in an envelope: the response is collected whole, within limits of size and of time.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use http::{Method, header, response};
use time::OffsetDateTime;

use super::{
    Abandonment, Context, Outcome, Reply, Served, Unserved, is_bodiless, keep_length_of_get, refuse_interim,
    strip_hop_by_hop, strip_request,
};
use crate::advice::Advice;
use crate::guard::{Recipient, Refusal, failure_response};
use crate::http1::fields::is_event_stream;
use crate::metrics::Metrics;
use crate::protocol::{EnvelopeTooLarge, ResponseMessage, answer, make_utf8};
use crate::service::{Body, FORWARD_FAILED, Failure, FailureKind, Request, Response};
use crate::session::handle::{EncodedReply, SessionHandle};
use crate::session::ticket::Ticket;
use crate::session::{FailureReply, SessionEnd};

/// How long a response's body may take in any case. The visitor sees nothing of it before all of it has come, and it
/// holds a worker meanwhile.
const BODY_TIME: Duration = Duration::from_secs(60);

/// For each of these many bytes that have come it may take a second longer.
const BODY_RATE: u64 = 64 << 10;

/// The text of a failure whose response the gateway would corrupt.
const TEXT_ONLY: &str = "the gateway takes responses of UTF-8 text alone, and this is none";

/// A request that came in an envelope, and the ticket of its answer.
#[derive(Debug)]
pub(crate) struct Enveloped {
    request: Request,
    method: Method,
    recipient: Recipient,
    ticket: Ticket,
    /// The response, encoded, with the room that it takes up in the queue.
    reply: Option<EncodedReply>,
}

impl Enveloped {
    pub(crate) fn new(request: Request, ticket: Ticket, recipient: Recipient) -> Self {
        let method = request.method().clone();
        Enveloped { request, method, recipient, ticket, reply: None }
    }

    /// Collects the response, and encodes it.
    fn encode(&self, response: Response, context: &Context<'_>) -> Result<(Vec<u8>, Served), Failure> {
        let (mut parts, mut body) = self.collect(response, context)?;
        if !self.ticket.session().reads_base64()
            && std::str::from_utf8(&body).is_err()
            && !make_utf8(&mut parts.headers, &mut body)
        {
            return Err(Failure::new(FailureKind::TextOnly, TEXT_ONLY));
        }
        let served = Served { status: parts.status, bytes: body.len() };
        let envelope = self.envelope(&parts, &body).map_err(|EnvelopeTooLarge { max }| {
            let text =
                format!("the response of {} bytes does not fit into an envelope of {max} bytes", body.len());
            Failure::new(FailureKind::TooLarge, text).with_advice(Advice::MessageSize)
        })?;
        Ok((envelope, served))
    }

    fn envelope(&self, parts: &response::Parts, body: &[u8]) -> Result<Vec<u8>, EnvelopeTooLarge> {
        let now = OffsetDateTime::now_utc();
        let message = ResponseMessage { id: self.ticket.id(), head: parts, body, message: None };
        message.encode(now, self.ticket.session().max_message())
    }

    /// The head and the whole body of a response.
    fn collect(
        &self,
        response: Response,
        context: &Context<'_>,
    ) -> Result<(response::Parts, Vec<u8>), Failure> {
        let (mut parts, body) = response.into_parts();
        refuse_interim(parts.status)?;
        if is_event_stream(&parts.headers) {
            let text =
                "it answered with server-sent events, which have no end and do not fit into one message";
            return Err(Failure::new(FailureKind::Protocol, text));
        }
        strip_hop_by_hop(&mut parts);
        if is_bodiless(&self.method, parts.status) {
            keep_length_of_get(&mut parts);
            return Ok((parts, Vec::new()));
        }
        let length = body.length();
        let body = match body.as_bytes() {
            Some(_) => body,
            None => Body::from_reader(BodyDeadline::new(body, self.ticket.session().clone()), length),
        };
        let body = body.into_bytes(context.config.max_enveloped_body)?;
        if parts.headers.remove(header::CONTENT_LENGTH).is_some() {
            // The one true length, whatever was stated beside a transfer coding, or twice.
            parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        Ok((parts, body))
    }

    /// The envelope that says why there is no response.
    fn encode_failure(&self, failure: &Failure, context: &Context<'_>) -> Vec<u8> {
        let text = format!("{FORWARD_FAILED}: {failure}");
        let response = match context.config.failure_reply {
            FailureReply::Error if failure.kind() != FailureKind::TextOnly => None,
            FailureReply::Error | FailureReply::Response => {
                let (parts, body) = failure_response(failure, &text, &self.recipient).into_parts();
                let body = body.as_bytes().filter(|_| !is_bodiless(&self.method, parts.status));
                let body = body.unwrap_or_default();
                self.envelope(&parts, body).ok()
            }
        };
        response.unwrap_or_else(|| answer::encode_error(self.ticket.id(), &text))
    }
}

impl Reply for Enveloped {
    fn abandoned(&self) -> Option<Abandonment> {
        self.ticket.is_dead().then_some(Abandonment::SessionLost)
    }

    fn refuse(self: Box<Self>, refusal: &Refusal, _: &Metrics) -> Result<(), SessionEnd> {
        self.ticket.refuse(refusal, &self.method, &self.recipient)
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<Request, Unserved> {
        let mut request = std::mem::replace(&mut self.request, Request::new(Body::empty()));
        let length = request.body().length();
        context.metrics.received(usize::try_from(length.unwrap_or(0)).unwrap_or(usize::MAX));
        let headers = request.headers_mut();
        strip_request(headers);
        let was_stated = headers.remove(header::CONTENT_LENGTH).is_some();
        if let Some(length) = length.filter(|_| was_stated) {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        Ok(request)
    }

    fn pass_on(&mut self, response: Response, context: &Context<'_>) -> Outcome {
        let (envelope, served) = self.encode(response, context)?;
        let reply = self.ticket.reserve(envelope).ok_or(Unserved::Abandoned(Abandonment::SessionLost))?;
        self.reply = Some(reply);
        context.metrics.sent(served.bytes);
        Ok(served)
    }

    fn judge(&self, outcome: Outcome, _: &Context<'_>) -> Outcome {
        // No side is there any more that could be told of a failure.
        if self.ticket.is_dead() { Err(Unserved::Abandoned(Abandonment::SessionLost)) } else { outcome }
    }

    fn finish(self: Box<Self>, outcome: Outcome, context: &Context<'_>) {
        match outcome {
            Ok(_) => {
                if let Some(reply) = self.reply {
                    self.ticket.send(reply);
                }
            }
            // Whether the session has ended meanwhile changes nothing.
            Err(Unserved::Refused(refusal)) => {
                self.ticket.answer_refusal(&refusal, &self.method, &self.recipient);
            }
            Err(Unserved::Failed(failure)) => {
                let envelope = self.encode_failure(&failure, context);
                self.ticket.answer(envelope);
            }
            // The session has ended.
            Err(Unserved::Abandoned(_)) => {}
        }
    }
}

/// A body that fails when it takes too long, or when its session has ended.
struct BodyDeadline {
    body: Body,
    start: Instant,
    read: u64,
    session: SessionHandle,
}

impl BodyDeadline {
    fn new(body: Body, session: SessionHandle) -> Self {
        BodyDeadline { body, start: Instant::now(), read: 0, session }
    }
}

impl Read for BodyDeadline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.session.is_alive() {
            return Err(timed_out("its session has ended"));
        }
        if self.start.elapsed() > BODY_TIME + Duration::from_secs(self.read / BODY_RATE) {
            return Err(timed_out("the response has no end in sight, and has to fit into one message"));
        }
        let read = self.body.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

fn timed_out(text: &str) -> io::Error {
    io::Error::other(Failure::new(FailureKind::Timeout, text))
}
