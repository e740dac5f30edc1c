//! One request and its response: prepare → call → reply → record, for both ways in which a request comes.
//!
//! ```text
//! Exchange ──▶ Reply::prepare ──▶ service ──▶ Reply::pass_on ──▶ Reply::judge ──▶ Record ──▶ Reply::finish
//!              the request                    sends the response  what the gateway   counts,  what is still
//!                                             or collects it      gave up meanwhile  logs     to be sent
//! ```
//!
//! Of the steps, the two implementations of [`Reply`] alone know envelopes or streams. The outcome is recorded
//! once, since recording consumes the [`Record`]: of an envelope before it is sent, of a stream as soon as its end
//! is.

mod enveloped;
mod limited_body;
mod record;
#[cfg(feature = "inspect")]
mod replayed;
mod streamed;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderMap};
use http::{Method, StatusCode, request, response};

use self::enveloped::Enveloped;
pub use self::record::ACCESS_LOG;
use self::record::{Admitted, Record};
pub(super) use self::record::{RefusedHead, record_refusal};
#[cfg(feature = "inspect")]
pub(crate) use self::replayed::replay;
use self::streamed::Streamed;
pub(crate) use self::streamed::encode_own;
use super::ticket::Ticket;
use super::{ExchangeConfig, ServerTiming, SessionEnd};
use crate::guard::{CorsAnswer, Refusal};
use crate::http1::fields::{HTTP2_SETTINGS, keep_one_length, remove_hop_by_hop, remove_overridden_length};
use crate::http1::{append_server_timing, has_no_body};
use crate::inspect::Recording;
use crate::metrics::Metrics;
use crate::mux::{Fin, Stream};
use crate::pool::RefusalReason;
use crate::protocol::RequestName;
use crate::service::{AnswerTrace, Body, Failure, FailureKind, Request, Response};

/// The text of a failure whose service panicked.
const PANICKED: &str = "the service panicked";

/// A request that was admitted, and the means of its answer: boxed, since an exchange moves through the queue to its
/// worker.
#[derive(Debug)]
pub(crate) struct Exchange {
    reply: Box<dyn Reply>,
    record: Record,
    /// The CORS fields of the response, where they are for the agent to set.
    cors: Option<Box<CorsAnswer>>,
}

/// The size and status of a response that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Served {
    status: StatusCode,
    bytes: usize,
}

/// Why there is no complete response.
#[derive(Debug)]
enum Unserved {
    /// The service failed, or the tunnel stalled.
    Failed(Failure),
    /// The request itself is at fault.
    Refused(Refusal),
    /// The answer is not awaited any more.
    Abandoned(Abandonment),
}

/// Why an answer is not awaited any more.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Abandonment {
    /// The visitor disconnected.
    VisitorGone,
    /// The gateway's time limit expired; its words.
    GatewayTimeout(String),
    /// The gateway gave the request up for another reason; its words.
    GivenUp(String),
    /// The session has ended.
    SessionLost,
}

impl From<Failure> for Unserved {
    fn from(failure: Failure) -> Self {
        match failure.kind() {
            FailureKind::BadRequest => Unserved::Refused(Refusal::BadRequest(failure.to_string().into())),
            _ => Unserved::Failed(failure),
        }
    }
}

type Outcome = Result<Served, Unserved>;

/// The transport of one answer.
trait Reply: fmt::Debug + Send {
    /// Why the answer is not awaited any more, if it is not.
    fn abandoned(&self) -> Option<Abandonment>;

    /// Answers a request that does not run, without waiting. Fails when the gateway has stopped reading what the agent
    /// sends.
    fn refuse(self: Box<Self>, refusal: &Refusal, metrics: &Metrics) -> Result<(), SessionEnd>;

    /// The request that the service is to answer.
    fn prepare(&mut self, context: &Context<'_>) -> Result<Request, Unserved>;

    /// Takes the service's response: sends it as it comes, or collects it.
    fn pass_on(&mut self, response: Response, context: &Context<'_>) -> Outcome;

    /// The outcome, corrected where the stream or its session has ended meanwhile.
    fn judge(&self, outcome: Outcome, context: &Context<'_>) -> Outcome;

    /// Sends what is still to be sent: a collected response, a refusal, or word of a failure.
    fn finish(self: Box<Self>, outcome: Outcome, context: &Context<'_>);
}

/// The data that all steps of an exchange need.
struct Context<'a> {
    config: &'a ExchangeConfig,
    metrics: &'a Arc<Metrics>,
    method: &'a Method,
    /// When the request was admitted.
    admitted: Instant,
}

impl Exchange {
    /// A request that came in an envelope.
    pub(super) fn enveloped(
        request: Request,
        ticket: Ticket,
        config: &Arc<ExchangeConfig>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let admitted = Admitted { name: ticket.name(), method, uri, headers, replay_of: None };
        let record = Record::new(config, metrics, &admitted);
        let recipient = config.gate.recipient(ticket.name(), request.method(), request.headers());
        let cors = config.gate.cors_answer(request.method(), request.headers()).map(Box::new);
        Exchange { reply: Box::new(Enveloped::new(request, ticket, recipient)), record, cors }
    }

    /// A request that came as a stream.
    pub(super) fn streamed(
        (name, head): (RequestName, request::Parts),
        (stream, fin): (Stream, Fin),
        config: &Arc<ExchangeConfig>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (method, uri, headers) = (&head.method, &head.uri, &head.headers);
        let record = Record::new(config, metrics, &Admitted { name, method, uri, headers, replay_of: None });
        let recipient = config.gate.recipient(name, &head.method, &head.headers);
        let cors = config.gate.cors_answer(&head.method, &head.headers).map(Box::new);
        Exchange { reply: Box::new(Streamed::new(recipient, head, stream, fin)), record, cors }
    }

    /// Whether the answer is not awaited any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.abandoned().is_some()
    }

    /// Gives back what the request took of the rate: it does not run.
    pub(crate) fn refund(&self) {
        self.record.config().gate.refund();
    }

    /// Answers a request that the pool did not run. Fails when the gateway has stopped reading what the agent sends.
    pub(crate) fn refuse(self, reason: RefusalReason) -> Result<(), SessionEnd> {
        if let Some(why) = self.reply.abandoned() {
            self.record.record(&Err(Unserved::Abandoned(why)));
            return Ok(());
        }
        let refusal = match reason {
            RefusalReason::Full => Refusal::QueueFull,
            RefusalReason::Expired => Refusal::QueueTimeout,
        };
        let metrics = self.record.metrics().clone();
        self.record.refused(&refusal);
        self.reply.refuse(&refusal, &metrics)
    }

    /// Has the service answer the request, and sends the answer to the session that the request came from.
    pub(crate) fn run(self) {
        let Exchange { mut reply, mut record, cors } = self;
        if let Some(why) = reply.abandoned() {
            // The service need not hear of it.
            return record.record(&Err(Unserved::Abandoned(why)));
        }
        record.begin();
        let (config, metrics) = (record.config().clone(), record.metrics().clone());
        let method = record.method().clone();
        let admitted = record.admitted();
        let context = Context { config: &config, metrics: &metrics, method: &method, admitted };
        let outcome = reply.prepare(&context).and_then(|request| {
            catch_panic(|| {
                let response = inspected((record.recording(), &context), request, |request| {
                    answer(request, cors, &context)
                })?;
                reply.pass_on(response, &context)
            })
        });
        let outcome = reply.judge(outcome, &context);
        record.record(&outcome);
        reply.finish(outcome, &context);
    }
}

/// Calls the service, with what passes recorded where there is an inspector.
fn inspected(
    (recording, context): (Option<&Recording>, &Context<'_>),
    request: Request,
    answer: impl FnOnce(Request) -> Result<Response, Failure>,
) -> Result<Response, Failure> {
    let Some(recording) = recording else { return answer(request) };
    let (request, trace) = recording.request(request);
    answer(request).inspect_err(|_| recording.asked(&trace)).map(|response| {
        // The bytes of a body that does not pass are none of the response.
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if is_bodiless(context.method, response.status()) && !is_switch {
            without_body(recording, response, &trace)
        } else {
            recording.response(response, &trace)
        }
    })
}

/// Records a response whose body does not pass.
fn without_body(recording: &Recording, response: Response, trace: &AnswerTrace) -> Response {
    let (parts, body) = response.into_parts();
    let (parts, _) = recording.response(Response::from_parts(parts, Body::empty()), trace).into_parts();
    Response::from_parts(parts, body)
}

/// Answers a request: a preflight by itself, and every other by the service. Whether it is a preflight was decided when it was
/// admitted, by the fields that it had then: a preflight is admitted without a password and without the rules, and never
/// reaches the service.
fn answer(
    request: Request,
    cors: Option<Box<CorsAnswer>>,
    context: &Context<'_>,
) -> Result<Response, Failure> {
    let Some(cors) = cors else { return call(request, context) };
    let CorsAnswer { grant, preflight } = *cors;
    let mut response = preflight.map_or_else(|| call(request, context), Ok)?;
    grant.apply(response.headers_mut());
    Ok(response)
}

/// Calls the service, and measures the time to the head of its response.
fn call(request: Request, context: &Context<'_>) -> Result<Response, Failure> {
    let start = Instant::now();
    let mut response = context.config.service.call(request)?;
    let upstream = start.elapsed();
    context.metrics.upstream_took(upstream);
    if context.config.server_timing == ServerTiming::On {
        let times = [("tunnel", context.admitted.elapsed()), ("upstream", upstream)];
        append_server_timing(response.headers_mut(), &times);
    }
    Ok(response)
}

/// Makes a failure of a panic: it costs one answer, and no worker.
fn catch_panic(call: impl FnOnce() -> Outcome) -> Outcome {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(Failure::new(FailureKind::Internal, PANICKED).into()))
}

/// Refuses an interim response in the place of a final one.
fn refuse_interim(status: StatusCode) -> Result<(), Failure> {
    if status.is_informational() {
        let text = format!("it answered with the interim status {} alone", status.as_u16());
        return Err(Failure::new(FailureKind::Protocol, text));
    }
    Ok(())
}

/// Whether a response to a request with this method has no body, whatever its head says.
fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || has_no_body(status)
}

/// Removes the fields of a request that concern the connection to the gateway alone (RFC 9110 §7.6.1), and those that the
/// agent itself answers: `Expect`, and an upgrade to HTTP/2.
fn strip_request(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    headers.remove(HTTP2_SETTINGS);
}

/// Removes the fields that concerned the connection to the service alone (RFC 9110 §7.6.1).
fn strip_hop_by_hop(parts: &mut response::Parts) {
    remove_overridden_length(&mut parts.headers);
    remove_hop_by_hop(&mut parts.headers);
}

/// Leaves at most one `Content-Length` in a response without a body: it states what a GET would have brought, and a
/// 204 has none (RFC 9110 §8.6).
fn keep_length_of_get(parts: &mut response::Parts) {
    keep_one_length(&mut parts.headers);
    if parts.status == StatusCode::NO_CONTENT {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
}
