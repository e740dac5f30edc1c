//! The record of an exchange: its metrics and its line in the log, once.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri};
use log::{Level, info, log};

use super::{Abandonment, Outcome, Unserved};
use crate::guard::Refusal;
use crate::http1::{InTrace, TraceId, shown_path};
use crate::inspect::{InspectedOutcome, RecordedRequest, Recording};
use crate::metrics::Metrics;
use crate::protocol::RequestName;
use crate::service::{FORWARD_FAILED, Failure, FailureKind};
use crate::session::ExchangeConfig;

/// The `log` target of the line for each request that was answered with a response. Refusals and failures have their
/// module's target.
pub const ACCESS_LOG: &str = "tunnel_agent::access";

/// Counts a request as in flight for as long as it lives, and records what came of it when it is consumed. Dropping it
/// records that the request was cancelled.
#[derive(Debug)]
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    config: Arc<ExchangeConfig>,
    name: RequestName,
    method: Method,
    /// The path without the query, which may hold secrets; empty where nothing is logged.
    path: String,
    trace: Option<TraceId>,
    admitted: Instant,
    /// When the request had a worker.
    started: Instant,
    is_recorded: bool,
    recording: Option<Recording>,
    /// The exchange that it repeats.
    replay_of: Option<u64>,
}

/// A request as its record begins.
pub(super) struct Admitted<'a> {
    pub(super) name: RequestName,
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    /// The exchange that it repeats.
    pub(super) replay_of: Option<u64>,
}

impl Record {
    /// Counts a request that was admitted.
    pub(super) fn new(config: &Arc<ExchangeConfig>, metrics: &Arc<Metrics>, request: &Admitted<'_>) -> Self {
        metrics.request_started();
        let admitted = Instant::now();
        let Admitted { name, method, uri, headers, replay_of } = *request;
        // An empty string does not allocate: with logging off, a line costs next to nothing.
        let is_logged = log::log_enabled!(Level::Warn);
        let path = if is_logged { shown_path(uri.path()).into_owned() } else { String::new() };
        let trace = TraceId::of(headers).filter(|_| is_logged);
        let recording = config.inspector.as_ref().map(|inspector| {
            inspector.record(&RecordedRequest {
                name,
                tunnel: config.label.as_deref(),
                method,
                url: url(uri),
                headers: Some(headers),
                verdict: config.gate.decide(method, uri.path()).describe(),
                replay_of,
            })
        });
        Record {
            metrics: metrics.clone(),
            config: config.clone(),
            name,
            method: method.clone(),
            path,
            trace,
            admitted,
            started: admitted,
            is_recorded: false,
            recording,
            replay_of,
        }
    }

    /// The recording of the exchange for the inspector, if there is one.
    pub(super) fn recording(&self) -> Option<&Recording> {
        self.recording.as_ref()
    }

    /// Which requests pass, and how they are answered, since the request was admitted.
    pub(super) fn config(&self) -> &Arc<ExchangeConfig> {
        &self.config
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// When the request was admitted.
    pub(super) fn admitted(&self) -> Instant {
        self.admitted
    }

    /// Records that the request has a worker.
    pub(super) fn begin(&mut self) {
        self.started = Instant::now();
    }

    /// Records that the agent refused the request.
    pub(super) fn refused(mut self, refusal: &Refusal) {
        self.is_recorded = true;
        self.note_refusal(refusal);
        self.recording.iter().for_each(|recording| recording.finished(outcome_of(refusal)));
    }

    fn note_refusal(&self, refusal: &Refusal) {
        let head = Some((&self.method, &*self.path));
        log_refusal(&self.config, &self.metrics, (self.name, head), refusal);
        self.recording.iter().for_each(|recording| recording.own_response(refusal.status()));
    }

    /// Records what came of the exchange.
    pub(super) fn record(mut self, outcome: &Outcome) {
        self.is_recorded = true;
        let took = self.admitted.elapsed();
        self.log(outcome, took);
        if let Some(recording) = &self.recording {
            recording.finished(inspected(outcome, &self.config));
        }
    }

    fn log(&self, outcome: &Outcome, took: Duration) {
        match outcome {
            Ok(served) => {
                self.log_answer(served.status.as_u16(), served.bytes);
                self.metrics.request_answered(Ok(served.status), took);
            }
            Err(Unserved::Failed(failure)) => {
                self.log_failure(failure);
                self.metrics.request_answered(Err(failure.kind().code()), took);
            }
            Err(Unserved::Refused(refusal)) => self.note_refusal(refusal),
            Err(Unserved::Abandoned(why)) => {
                self.log_abandoned(why);
                match why {
                    Abandonment::GatewayTimeout(_) => {
                        self.metrics.request_answered(Err(FailureKind::Timeout.code()), took);
                    }
                    Abandonment::SessionLost => self.metrics.answer_dropped(),
                    Abandonment::VisitorGone | Abandonment::GivenUp(_) => {
                        self.metrics.request_cancelled();
                    }
                }
            }
        }
    }

    /// The time since the request has a worker, in milliseconds with one decimal.
    fn milliseconds(&self) -> f64 {
        (self.started.elapsed().as_secs_f64() * 1e4).round() / 10.0
    }

    /// The trace of the request for a log record, and for its text; both are empty where it is in none.
    fn trace(&self) -> (String, InTrace) {
        (self.trace.map(|trace| trace.to_string()).unwrap_or_default(), InTrace(self.trace))
    }

    // A path is valid in HTTP, and may still hold what a terminal takes for a command: it is escaped.

    fn log_answer(&self, status: u16, bytes: usize) {
        let Record { method, path, config, .. } = self;
        let (method, shown, took) = (method.as_str(), path.escape_debug(), self.milliseconds());
        let (tunnel, of) = config.label();
        let ((trace, in_trace), replay) = (self.trace(), AsReplay(self.replay_of));
        info!(target: ACCESS_LOG, tunnel, method, path, status, bytes = bytes as u64, duration_ms = took, trace;
            "{of}{method} {shown} {status} {bytes} B {took:.1} ms{in_trace}{replay}");
    }

    fn log_failure(&self, failure: &Failure) {
        let Record { name, method, path, config, .. } = self;
        let (method, shown, took) = (method.as_str(), path.escape_debug(), self.milliseconds());
        let code = failure.kind().code();
        let detail = failure.detail().map(|detail| format!(" {detail}")).unwrap_or_default();
        let advice = failure.advice().map_or("", |advice| advice.name());
        // That the circuit opened was a warning of its own.
        let is_known = failure.kind() == FailureKind::Unavailable;
        let level = if is_known { Level::Info } else { Level::Warn };
        let (tunnel, of) = config.label();
        let ((trace, in_trace), replay) = (self.trace(), AsReplay(self.replay_of));
        log!(level, tunnel, method, path, code, duration_ms = took, request:% = name, trace, advice;
            "{of}{method} {shown} {FORWARD_FAILED}: {failure}{detail} ({took:.1} ms) [{name}]{in_trace}{replay}");
    }

    fn log_abandoned(&self, why: &Abandonment) {
        let Record { name, method, path, config, .. } = self;
        let (method, shown, took) = (method.as_str(), path.escape_debug(), self.milliseconds());
        let (level, code) = match why {
            // A visitor that disconnects is no error.
            Abandonment::VisitorGone => (Level::Debug, "cancelled"),
            Abandonment::GatewayTimeout(_) | Abandonment::GivenUp(_) => (Level::Warn, "given_up"),
            Abandonment::SessionLost => (Level::Info, "session_lost"),
        };
        let what = reason(why, &self.config);
        let (tunnel, of) = config.label();
        let (trace, in_trace) = self.trace();
        log!(level, tunnel, method, path, code, duration_ms = took, request:% = name, trace;
            "{of}{method} {shown} {what} ({took:.1} ms) [{name}]{in_trace}");
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_recorded {
            self.metrics.request_cancelled();
            if let Some(recording) = &self.recording {
                recording.finished(InspectedOutcome::Cancelled("it was not awaited any more".to_owned()));
            }
        }
        self.metrics.request_ended();
    }
}

/// Says of a replay which exchange it repeats.
struct AsReplay(Option<u64>);

impl fmt::Display for AsReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |of| write!(f, " (a replay of {of})"))
    }
}

/// An outcome for the inspector.
fn inspected(outcome: &Outcome, config: &ExchangeConfig) -> InspectedOutcome {
    match outcome {
        Ok(_) => InspectedOutcome::Answered,
        Err(Unserved::Failed(failure)) => {
            let detail = failure.detail().map(|detail| format!(" {detail}")).unwrap_or_default();
            InspectedOutcome::Failed(failure.kind().code().to_owned(), format!("{failure}{detail}"))
        }
        Err(Unserved::Refused(refusal)) => outcome_of(refusal),
        Err(Unserved::Abandoned(why)) => InspectedOutcome::Cancelled(reason(why, config)),
    }
}

/// The reason why an answer is not awaited any more, for people. The gateway's words may hold the tunnel ID: it is masked.
fn reason(why: &Abandonment, config: &ExchangeConfig) -> String {
    match why {
        Abandonment::VisitorGone => "the visitor disconnected".to_owned(),
        Abandonment::GatewayTimeout(words) | Abandonment::GivenUp(words) => {
            config.tunnel_id.mask_in(&format!("the gateway gave it up: {words}"))
        }
        Abandonment::SessionLost => "lost with its session".to_owned(),
    }
}

/// The path with the query.
fn url(uri: &Uri) -> &str {
    uri.path_and_query().map_or("", PathAndQuery::as_str)
}

fn outcome_of(refusal: &Refusal) -> InspectedOutcome {
    InspectedOutcome::Refused(refusal.code().to_owned(), refusal.message())
}

/// The head of a request that was refused.
#[derive(Debug, Clone, Copy)]
pub(in crate::session) struct RefusedHead<'a> {
    pub(in crate::session) method: &'a Method,
    pub(in crate::session) uri: &'a Uri,
    pub(in crate::session) headers: &'a HeaderMap,
}

/// Records the refusal of a request that was not admitted, with its head where it could be read.
pub(in crate::session) fn record_refusal(
    config: &ExchangeConfig,
    metrics: &Metrics,
    (name, head): (RequestName, Option<RefusedHead<'_>>),
    refusal: &Refusal,
) {
    let shown = head.map(|head| (head.method, head.uri.path()));
    log_refusal(config, metrics, (name, shown), refusal);
    let Some(inspector) = &config.inspector else { return };
    // That of a request that cannot be read is not known.
    let unread = Method::from_bytes(b"UNREAD").unwrap_or_default();
    let recording = inspector.record(&RecordedRequest {
        name,
        tunnel: config.label.as_deref(),
        method: head.map_or(&unread, |head| head.method),
        url: head.map_or("", |head| url(head.uri)),
        headers: head.map(|head| head.headers),
        verdict: refusal.code().into(),
        replay_of: None,
    });
    recording.own_response(refusal.status());
    recording.finished(outcome_of(refusal));
}

/// Counts and logs a refusal.
fn log_refusal(
    config: &ExchangeConfig,
    metrics: &Metrics,
    (name, head): (RequestName, Option<(&Method, &str)>),
    refusal: &Refusal,
) {
    metrics.request_refused(refusal.code());
    let (tunnel, of) = config.label();
    let (status, code) = (refusal.status().as_u16(), refusal.code());
    let advice = refusal.advice().map_or("", |advice| advice.name());
    match head {
        Some((method, path)) => {
            let path = &*shown_path(path);
            let (method, shown) = (method.as_str(), path.escape_debug());
            info!(tunnel, method, path, status, code, request:% = name, advice;
                "{of}{method} {shown} refused: {status} {code} [{name}]");
        }
        None => {
            let text = refusal.message();
            info!(tunnel, status, code, request:% = name, advice;
                "{of}refused a request: {status} {code}: {text} [{name}]");
        }
    }
}
