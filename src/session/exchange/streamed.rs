//! The reply on a stream: the request's body is read as it comes, and the response leaves as it comes.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, StatusCode, header, request, response};
use tungstenite::Bytes;

use super::limited_body::{LimitedBody, exceeds, too_large};
use super::{
    Abandonment, Context, Outcome, PANICKED, Reply, Served, Unserved, is_bodiless, keep_length_of_get,
    refuse_interim, strip_hop_by_hop, strip_request,
};
use crate::guard::{Recipient, Refusal, failure_response};
use crate::http1::MUX_HEAD_MAX;
use crate::http1::fields::{InvalidLength, Upgrade, set_upgrade, stated_length};
use crate::metrics::Metrics;
use crate::mux::{Fin, Reset, ResetCode, Stream, StreamEnd, StreamError, encode_response_head};
use crate::service::{Body, FORWARD_FAILED, Failure, FailureKind, Request, Response};
use crate::session::{FailureReply, SessionEnd};

/// The text of a RESET that gives a stream back.
const FULL: &str = "the agent has as many requests under way and waiting as it takes";

/// A response is read in pieces of this size at first, so that idle event streams take up little. Pieces grow with what
/// comes, up to a frame.
const PIECE_MIN: usize = 4 << 10;

/// A request that came as a stream.
#[derive(Debug)]
pub(crate) struct Streamed {
    recipient: Recipient,
    head: request::Parts,
    stream: Stream,
    /// Whether the request has no body.
    fin: Fin,
    /// The change of protocol that the request asks for.
    upgrade: Option<Upgrade>,
    /// The request's body was longer than it may be, whatever the service makes of that.
    has_exceeded: Arc<AtomicBool>,
    progress: Progress,
    /// The body of a response that could not be passed on. Dropping it may wait for the thread that sends the request's
    /// body, which waits for the stream: so it is dropped behind the answer.
    unsent: Option<Body>,
}

/// How far a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing is sent.
    Open,
    /// The head is sent.
    Begun,
    /// The response is complete, or broken off: nothing more is sent.
    Done,
}

impl From<StreamError> for Unserved {
    fn from(error: StreamError) -> Self {
        Unserved::Failed(Failure::new(FailureKind::Timeout, error.to_string()))
    }
}

impl Streamed {
    pub(crate) fn new(recipient: Recipient, head: request::Parts, stream: Stream, fin: Fin) -> Self {
        let (has_exceeded, progress) = (Arc::default(), Progress::Open);
        Streamed { recipient, head, stream, fin, upgrade: None, has_exceeded, progress, unsent: None }
    }

    /// The request's body, which is limited and counted as it comes.
    fn body(&self, stated: Option<u64>, context: &Context<'_>) -> Body {
        let limited = |reader, remaining| LimitedBody {
            reader,
            remaining,
            metrics: context.metrics.clone(),
            has_exceeded: self.has_exceeded.clone(),
        };
        if self.fin == Fin::Last {
            Body::empty()
        } else if self.upgrade.is_some() {
            // Another protocol may be silent for as long as it likes.
            Body::from_reader(limited(self.stream.reader(None), u64::MAX), None)
        } else if let Some(bytes) = self.stream.whole() {
            context.metrics.received(bytes.len());
            Body::from(bytes)
        } else {
            let reader = self.stream.reader(Some(context.config.idle_timeout));
            let remaining = context.config.max_streamed_body.unwrap_or(u64::MAX);
            Body::from_reader(limited(reader, remaining), stated)
        }
    }

    fn send(
        &mut self,
        mut parts: response::Parts,
        body: &mut Body,
        context: &Context<'_>,
    ) -> Result<usize, Unserved> {
        let status = parts.status;
        let upgrade = self.upgrade.as_ref().filter(|_| status == StatusCode::SWITCHING_PROTOCOLS);
        let framing = match upgrade {
            Some(upgrade) => {
                let failed = |what| Failure::new(FailureKind::Protocol, what);
                upgrade.check(&parts.headers).map_err(failed)?;
                BodyKind::Switched
            }
            None => {
                refuse_interim(status)?;
                if is_bodiless(context.method, status) { BodyKind::None } else { BodyKind::Ordinary }
            }
        };
        state_framing(&mut parts, body, framing);
        let head = encode_response_head(&parts);
        if head.len() > MUX_HEAD_MAX {
            let text = "the head of the response is too large";
            return Err(Failure::new(FailureKind::TooLarge, text).into());
        }
        let max = context.config.max_streamed_body;
        match framing {
            BodyKind::None => {
                self.begin().send_head(head.into(), Fin::Last)?;
                Ok(0)
            }
            BodyKind::Switched => {
                self.begin().send_head(head.into(), Fin::More)?;
                let sent = self.copy(body, None, context.metrics)?;
                if !self.stream.ends_within(context.config.idle_timeout) {
                    let text = "nothing came after the local server's last word";
                    self.break_off(Reset::new(ResetCode::Timeout, text));
                }
                Ok(sent)
            }
            BodyKind::Ordinary if body.length().is_some_and(|length| exceeds(length, max)) => {
                Err(too_large("response").into())
            }
            BodyKind::Ordinary => match body.as_bytes() {
                Some(bytes) => {
                    let sent = self.begin().send_head_with(head.into(), bytes)?;
                    self.stream.send_all(&bytes[sent..], Fin::Last)?;
                    context.metrics.sent(bytes.len());
                    Ok(bytes.len())
                }
                None => {
                    self.begin().send_head(head.into(), Fin::More)?;
                    self.copy(body, max, context.metrics)
                }
            },
        }
    }

    /// The stream, for the head of the response.
    fn begin(&mut self) -> &Stream {
        self.progress = Progress::Begun;
        &self.stream
    }

    fn copy(&self, body: &mut Body, max: Option<u64>, metrics: &Metrics) -> Result<usize, Unserved> {
        let (mut sent, mut piece) = (0, PIECE_MIN);
        loop {
            let room = self.stream.capacity()?.min(piece);
            let mut buffer = self.stream.buffer(room);
            let read = match body.read(buffer.space()) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Unserved::Failed(Failure::broken_off(sent, None, error))),
            };
            sent += read;
            metrics.sent(read);
            if exceeds(sent as u64, max) {
                return Err(too_large("response").into());
            }
            // The end goes with the last bytes where they are known to be the last: it costs no frame of its own.
            let fin = Fin::from(read == 0 || body.length() == Some(0));
            self.stream.send(buffer, read, fin)?;
            if fin == Fin::Last {
                return Ok(sent);
            }
            // A full piece promises more.
            piece = if read == piece { piece * 4 } else { read.next_power_of_two() }.max(PIECE_MIN);
        }
    }

    fn break_off(&mut self, reset: Reset) {
        self.progress = Progress::Done;
        self.stream.reset(reset);
    }

    /// Answers with a failure, unless there was an answer. After the head it breaks the response off.
    fn fail(mut self, failure: &Failure, context: &Context<'_>) {
        match (self.progress, context.config.failure_reply) {
            (Progress::Done, _) => {}
            (Progress::Open, FailureReply::Response) => {
                let text = format!("{FORWARD_FAILED}: {failure}");
                let response = failure_response(failure, &text, &self.recipient);
                send_own(&self.stream, context.method, response, context.metrics);
            }
            (Progress::Open | Progress::Begun, _) => self.break_off(reset_of(failure)),
        }
    }
}

impl Reply for Streamed {
    fn abandoned(&self) -> Option<Abandonment> {
        self.stream.abandoned().map(abandonment)
    }

    fn refuse(self: Box<Self>, refusal: &Refusal, metrics: &Metrics) -> Result<(), SessionEnd> {
        match refusal {
            // Nothing was done about it: another agent may have room. The reader does this, which does not write.
            Refusal::QueueFull => self.stream.reset_by_writer(Reset::new(ResetCode::Refused, FULL)),
            _ => send_own(&self.stream, &self.head.method, refusal.response(&self.recipient), metrics),
        }
        Ok(())
    }

    fn prepare(&mut self, context: &Context<'_>) -> Result<Request, Unserved> {
        if self.fin == Fin::More {
            self.upgrade = Upgrade::asked_for(&self.head.method, &self.head.headers);
        }
        let headers = &mut self.head.headers;
        strip_request(headers);
        if let Some(upgrade) = &self.upgrade {
            upgrade.set(headers);
        }
        let stated = stated_length(headers).map_err(|InvalidLength| {
            Unserved::Refused(Refusal::BadRequest("Content-Length is not one number".into()))
        })?;
        let body = self.body(stated, context);
        let known = stated.or(body.length()).unwrap_or(0);
        if let Some(max) = context.config.max_streamed_body.filter(|max| known > *max) {
            return Err(Unserved::Refused(Refusal::BodyTooLarge(max)));
        }
        let lengths = stated.zip(body.length()).filter(|_| self.upgrade.is_none());
        if let Some((stated, length)) = lengths.filter(|(stated, length)| stated != length) {
            let text = format!("the request's body has {length} bytes instead of {stated}");
            return Err(Unserved::Failed(Failure::new(FailureKind::Truncated, text)));
        }
        let (empty, ()) = http::Request::new(()).into_parts();
        let mut head = std::mem::replace(&mut self.head, empty);
        head.extensions.insert(self.stream.cancellation().clone());
        Ok(Request::from_parts(head, body))
    }

    fn pass_on(&mut self, response: Response, context: &Context<'_>) -> Outcome {
        let (parts, mut body) = response.into_parts();
        let status = parts.status;
        let unfinished = BreakOff(Some(self.stream.clone()));
        let result = self.send(parts, &mut body, context);
        unfinished.disarm();
        match result {
            Ok(bytes) => {
                self.progress = Progress::Done;
                Ok(Served { status, bytes })
            }
            Err(unserved) => {
                self.unsent = Some(body);
                Err(unserved)
            }
        }
    }

    fn judge(&self, outcome: Outcome, context: &Context<'_>) -> Outcome {
        let unserved = match outcome {
            Ok(served) => return Ok(served),
            Err(unserved) => unserved,
        };
        Err(match (unserved, self.stream.abandoned(), context.config.max_streamed_body) {
            (_, Some(end), _) => Unserved::Abandoned(abandonment(end)),
            (Unserved::Failed(_), None, Some(max))
                if self.has_exceeded.load(Ordering::Acquire) && self.progress == Progress::Open =>
            {
                Unserved::Refused(Refusal::BodyTooLarge(max))
            }
            (unserved, ..) => unserved,
        })
    }

    fn finish(self: Box<Self>, outcome: Outcome, context: &Context<'_>) {
        match outcome {
            Err(Unserved::Refused(refusal)) if self.progress == Progress::Open => {
                send_own(&self.stream, context.method, refusal.response(&self.recipient), context.metrics);
            }
            Err(Unserved::Failed(failure)) => self.fail(&failure, context),
            Ok(_) | Err(Unserved::Refused(_) | Unserved::Abandoned(_)) => {}
        }
    }
}

/// Sends a response of the agent's own.
fn send_own(stream: &Stream, method: &Method, response: Response, metrics: &Metrics) {
    let (head, body) = encode_own(method, response, metrics);
    let sent = stream.send_head_with(head, &body);
    // The visitor may have disconnected.
    let _ = sent.and_then(|sent| stream.send_all(&body[sent..], Fin::Last));
}

/// The head and the body of a response of the agent's own, as they go to a stream.
pub(crate) fn encode_own(method: &Method, response: Response, metrics: &Metrics) -> (Bytes, Vec<u8>) {
    let (mut parts, body) = response.into_parts();
    let mut bytes = Vec::new();
    if !is_bodiless(method, parts.status) {
        bytes.extend_from_slice(body.as_bytes().unwrap_or_default());
        parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    }
    metrics.sent(bytes.len());
    (encode_response_head(&parts).into(), bytes)
}

/// The data that follows the head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    None,
    Ordinary,
    /// Another protocol.
    Switched,
}

/// Makes the service's head say what the stream carries.
fn state_framing(parts: &mut response::Parts, body: &Body, kind: BodyKind) {
    // A 426 names the protocol that is required (RFC 9110 §15.5.22).
    let names_protocol = kind == BodyKind::Switched || parts.status == StatusCode::UPGRADE_REQUIRED;
    let protocol = parts.headers.get(header::UPGRADE).cloned().filter(|_| names_protocol);
    strip_hop_by_hop(parts);
    if let Some(protocol) = protocol {
        set_upgrade(&mut parts.headers, protocol);
    }
    if kind == BodyKind::None {
        keep_length_of_get(parts);
        return;
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    if let Some(length) = body.length().filter(|_| kind == BodyKind::Ordinary) {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// Why the answer of a stream that ended like this is not awaited any more.
fn abandonment(end: StreamEnd) -> Abandonment {
    match end {
        StreamEnd::ByPeer(Reset { code: ResetCode::Cancelled, .. }) => Abandonment::VisitorGone,
        StreamEnd::ByPeer(reset) if reset.code == ResetCode::Timeout => {
            Abandonment::GatewayTimeout(reset.to_string())
        }
        StreamEnd::ByPeer(reset) => Abandonment::GivenUp(reset.to_string()),
        StreamEnd::Ended | StreamEnd::ByUs(_) | StreamEnd::Lost => Abandonment::SessionLost,
    }
}

/// Breaks a response off whose body panics, before that is dropped.
struct BreakOff(Option<Stream>);

impl BreakOff {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for BreakOff {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            stream.reset(Reset::new(ResetCode::Internal, PANICKED));
        }
    }
}

/// The RESET that says why there is no response.
fn reset_of(failure: &Failure) -> Reset {
    let code = match failure.kind() {
        FailureKind::Unreachable | FailureKind::Unavailable => ResetCode::Unreachable,
        FailureKind::Exhausted => ResetCode::Refused,
        FailureKind::Timeout => ResetCode::Timeout,
        FailureKind::Truncated => ResetCode::Truncated,
        FailureKind::TooLarge => ResetCode::TooLarge,
        FailureKind::Protocol | FailureKind::TextOnly => ResetCode::Protocol,
        FailureKind::BadRequest | FailureKind::Internal => ResetCode::Internal,
    };
    Reset::new(code, failure.to_string())
}
