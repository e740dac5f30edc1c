//! One request on its way through a worker.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode, Uri};
use log::{Level, debug, info, log};
use time::OffsetDateTime;

use super::outbox::Ticket;
use super::streamed::Streamed;
use super::whole::{self, Whole};
use super::{Config, FailureAnswer};
use crate::TunnelId;
use crate::admission::{Refusal, failed};
use crate::http1::shown_path;
use crate::logging::ACCESS;
use crate::pool::Reason;
use crate::protocol::mux::{Over, Reset, ResetCode};
use crate::protocol::{RequestName, TooLarge, answer, make_utf8};
use crate::service::{Failure, FailureKind, Request, Response, Service};
use crate::status::Counters;

/// A request that was taken on, and the means of its answer.
#[derive(Debug)]
pub(crate) struct Job {
    pub(super) work: Work,
    pub(super) in_flight: InFlight,
}

/// How the request came, and how its answer goes.
#[derive(Debug)]
pub(super) enum Work {
    /// In envelopes.
    Whole(Request, Ticket),
    /// As a stream.
    Streamed(Streamed),
}

/// Counts a request as in flight for as long as it lives.
#[derive(Debug)]
pub(super) struct InFlight {
    counters: Arc<Counters>,
    since: Instant,
    /// What came of it has been counted.
    told: Cell<bool>,
}

impl InFlight {
    pub(super) fn new(counters: &Arc<Counters>) -> Self {
        counters.request_started();
        InFlight { counters: counters.clone(), since: Instant::now(), told: Cell::new(false) }
    }

    /// What came of it is counted elsewhere.
    pub(super) fn is_told(&self) {
        self.told.set(true);
    }

    /// It was refused.
    pub(super) fn refused(&self, refusal: &Refusal) {
        self.is_told();
        self.counters.request_refused(refusal);
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// It was answered, or could not be.
    pub(super) fn answered(&self, outcome: &Outcome) {
        self.is_told();
        let outcome = outcome.as_ref().map(|(status, _)| *status).map_err(Failure::kind);
        self.counters.request_answered(outcome, self.since.elapsed());
    }

    /// Nobody waits for the answer any more.
    pub(super) fn given_up(&self, over: &Over) {
        self.is_told();
        match over {
            Over::ByPeer(Reset { code: ResetCode::Timeout, .. }) => {
                self.counters.request_answered(Err(FailureKind::Timeout), self.since.elapsed());
            }
            Over::Lost => self.counters.answer_dropped(),
            _ => self.counters.request_cancelled(),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.told.get() {
            // It waited, and nobody waits for it any more.
            self.counters.request_cancelled();
        }
        self.counters.request_ended();
    }
}

impl Job {
    /// Whether whoever asked is gone with the session.
    pub(crate) fn is_stale(&self) -> bool {
        match &self.work {
            Work::Whole(_, ticket) => ticket.is_dead(),
            Work::Streamed(streamed) => streamed.is_cancelled(),
        }
    }

    /// Refuses a request that has waited, and for which there is no worker after all.
    pub(crate) fn refuse(self, reason: Reason) {
        if self.is_stale() {
            return;
        }
        let refusal = match reason {
            Reason::Full => Refusal::QueueFull,
            Reason::Waited => Refusal::QueueTimeout,
        };
        self.in_flight.refused(&refusal);
        match (self.work, reason) {
            (Work::Whole(request, ticket), _) => {
                refusal.log(ticket.name(), Some((request.method(), request.uri().path())));
                // A gateway that has stopped reading is the reader's to notice.
                let _ = ticket.refuse(&refusal, request.method());
            }
            (Work::Streamed(streamed), Reason::Full) => streamed.give_back(),
            (Work::Streamed(streamed), Reason::Waited) => {
                streamed.refuse(&refusal, self.in_flight.counters());
            }
        }
    }

    /// Has the request answered, and sends the answer to its session.
    pub(crate) fn run(self, service: &dyn Service, config: &Config) {
        if self.is_stale() {
            // The local server need not hear of it.
            return;
        }
        let in_flight = self.in_flight;
        match self.work {
            Work::Whole(request, ticket) => answer_whole(request, ticket, in_flight, service, config),
            Work::Streamed(streamed) => streamed.run(service, config, in_flight),
        }
    }
}

fn answer_whole(
    request: Request,
    ticket: Ticket,
    in_flight: InFlight,
    service: &dyn Service,
    config: &Config,
) {
    let line = LogLine::start(ticket.name(), request.method(), request.uri());
    let counters = in_flight.counters();
    counters.received(usize::try_from(request.body().length().unwrap_or(0)).unwrap_or(usize::MAX));
    let result = survive(|| whole::call(service, request, config.max_body, &ticket, counters));
    if let Err(failure) = &result
        && failure.kind() == FailureKind::BadRequest
    {
        let refusal = Refusal::BadRequest(failure.to_string().into());
        refusal.log(line.name, Some((&line.method, &line.path)));
        in_flight.refused(&refusal);
        ticket.answer_refusal(&refusal, &line.method);
        return;
    }
    let (envelope, outcome) = encode(&ticket, &line.method, result, config);
    line.finish(&outcome);
    in_flight.answered(&outcome);
    if let Ok((_, bytes)) = &outcome {
        counters.sent(*bytes);
    }
    let counters = counters.clone();
    drop(in_flight);
    if !ticket.answer(envelope) {
        counters.answer_dropped();
        debug!("dropped an answer: its session was over");
    }
}

/// Calls a service, and takes note of the time.
pub(super) fn timed(
    service: &dyn Service,
    request: Request,
    counters: &Counters,
) -> Result<Response, Failure> {
    let start = Instant::now();
    let response = service.call(request)?;
    counters.origin_took(start.elapsed());
    Ok(response)
}

/// What a panic in a service is called.
pub(super) const PANICKED: &str = "the service panicked";

/// Calls a service: its panic is one failed answer.
pub(super) fn survive<R, E: From<Failure>>(call: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(Failure::new(FailureKind::Internal, PANICKED).into()))
}

/// Refuses an interim response where a final one should be.
pub(super) fn refuse_interim(status: StatusCode) -> Result<(), Failure> {
    if status.is_informational() {
        let text = format!("it answered with the interim status {} alone", status.as_u16());
        return Err(Failure::new(FailureKind::Protocol, text));
    }
    Ok(())
}

/// What a visitor is told of a response that the gateway would show as something else.
const TEXT_ONLY: &str = "the gateway takes responses of UTF-8 text alone, and this is none";

/// What an `error` envelope begins with.
pub(super) const FAILED: &str = "Failed to forward request to local server";

/// Status and size of a response, or why there is none.
pub(super) type Outcome = Result<(StatusCode, usize), Failure>;

fn encode(
    ticket: &Ticket,
    method: &Method,
    result: Result<Whole, Failure>,
    config: &Config,
) -> (Vec<u8>, Outcome) {
    let id = ticket.id();
    let respond = |head: &http::response::Parts, body: &[u8]| {
        answer::encode_response(id, head, body, None, OffsetDateTime::now_utc(), config.max_message)
    };
    let result = result.and_then(|(mut head, mut body)| {
        if !ticket.takes_base64()
            && str::from_utf8(&body).is_err()
            && !make_utf8(&mut head.headers, &mut body)
        {
            return Err(Failure::new(FailureKind::TextOnly, TEXT_ONLY));
        }
        let envelope = respond(&head, &body);
        let envelope = envelope.map_err(|TooLarge { max }| {
            let text =
                format!("the response of {} bytes does not fit into an envelope of {max} bytes", body.len());
            Failure::new(FailureKind::TooLarge, text).with_hint("(see --max-message)".to_owned())
        });
        Ok((envelope?, (head.status, body.len())))
    });
    match result {
        Ok((envelope, outcome)) => (envelope, Ok(outcome)),
        Err(failure) => {
            let text = format!("{FAILED}: {failure}");
            let response = match config.failure {
                FailureAnswer::Error if failure.kind() != FailureKind::TextOnly => None,
                FailureAnswer::Error | FailureAnswer::Response => {
                    let (head, body) = failed(&failure, &text, ticket.name()).into_parts();
                    let body = body.as_bytes().filter(|_| *method != Method::HEAD);
                    respond(&head, body.unwrap_or_default()).ok()
                }
            };
            (response.unwrap_or_else(|| answer::encode_error(id, &text)), Err(failure))
        }
    }
}

/// The line that each request leaves in the log: what was asked without its query, which may hold secrets,
/// and what came of it.
pub(super) struct LogLine {
    name: RequestName,
    method: Method,
    path: String,
    started: Instant,
}

impl LogLine {
    pub(super) fn start(name: RequestName, method: &Method, uri: &Uri) -> Self {
        // An empty string does not allocate: with logging off, a line costs next to nothing.
        let logged = log::log_enabled!(log::Level::Warn);
        let path = if logged { shown_path(uri.path()).into_owned() } else { String::new() };
        LogLine { name, method: method.clone(), path, started: Instant::now() }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn finish(self, outcome: &Outcome) {
        let LogLine { name, method, path: raw, started } = self;
        // It is valid in HTTP, and may still hold what a terminal takes for a command.
        let (method, path) = (method.as_str(), raw.escape_debug());
        let took = milliseconds(started);
        match outcome {
            Ok((status, bytes)) => {
                let status = status.as_u16();
                info!(target: ACCESS, method, path = raw, status, bytes = *bytes as u64, duration_ms = took; "{method} {path} {status} {bytes} B {took:.1} ms");
            }
            Err(failure) => {
                let code = failure.kind().code();
                let hint = failure.hint().map(|hint| format!(" {hint}")).unwrap_or_default();
                // That a circuit opened was said once, and louder.
                let is_told = failure.kind() == FailureKind::Unavailable;
                let level = if is_told { Level::Info } else { Level::Warn };
                log!(level, method, path = raw, code, duration_ms = took, request:% = name; "{method} {path} {FAILED}: {failure}{hint} ({took:.1} ms) [{name}]");
            }
        }
    }
}

impl LogLine {
    /// Nobody waits for the answer any more. Visitors who leave are no errors.
    pub(super) fn given_up(self, over: &Over, tunnel_id: &TunnelId) {
        let LogLine { name, method, path: raw, started } = self;
        let (method, path, took) = (method.as_str(), raw.escape_debug(), milliseconds(started));
        let (level, code, what) = match over {
            Over::ByPeer(Reset { code: ResetCode::Cancelled, .. }) => {
                (Level::Debug, "cancelled", "the visitor left".to_owned())
            }
            Over::ByPeer(reset) => {
                (Level::Warn, "given_up", tunnel_id.mask_in(&format!("the gateway gave it up: {reset}")))
            }
            _ => (Level::Info, "session_lost", "lost with its session".to_owned()),
        };
        log!(level, method, path = raw, code, duration_ms = took, request:% = name; "{method} {path} {what} ({took:.1} ms) [{name}]");
    }
}

/// How long it has been, to a tenth of a millisecond.
fn milliseconds(started: Instant) -> f64 {
    (started.elapsed().as_secs_f64() * 1e4).round() / 10.0
}
