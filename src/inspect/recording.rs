//! The recording of one exchange: its steps, and taps on its bodies.

use std::borrow::Cow;
use std::fmt::Write;
use std::io::{self, Read};
use std::time::{Instant, SystemTime};

use http::header::{CONTENT_ENCODING, HeaderMap, UPGRADE};
use http::{Method, StatusCode, response};

use super::entry::{BodySide, RecordEntry, ResponseContent};
use super::history::EndedExchange;
use super::record::InspectedOutcome;
use super::{Inspector, InspectorState};
use crate::http1::fields::is_event_stream;
use crate::protocol::RequestName;
use crate::service::{AnswerTrace, Answered, Body, Request, Response};

/// Bytes of a method that are recorded.
const METHOD_MAX: usize = 32;

/// The recording of one exchange. Clones record the same one.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    inspector: Inspector,
    id: u64,
    /// When the request was admitted.
    began: Instant,
    is_replay: bool,
}

/// A request as its recording begins.
pub(crate) struct RecordedRequest<'a> {
    pub(crate) name: RequestName,
    pub(crate) tunnel: Option<&'a str>,
    pub(crate) method: &'a Method,
    /// The path, with the query where it is known.
    pub(crate) url: &'a str,
    pub(crate) headers: Option<&'a HeaderMap>,
    pub(crate) verdict: Cow<'static, str>,
    /// The exchange that it repeats.
    pub(crate) replay_of: Option<u64>,
}

impl Inspector {
    /// Begins a recording.
    pub(crate) fn record(&self, visit: &RecordedRequest<'_>) -> Recording {
        let spare = self.change(|state| state.ring.take_spare());
        let mut entry = spare.unwrap_or_else(|| Box::new(RecordEntry::empty()));
        entry.begin(|exchange| {
            exchange.tunnel = visit.tunnel.map(str::to_owned);
            exchange.replay_of = visit.replay_of;
            exchange.started = SystemTime::now();
            // Writing to a string does not fail.
            let _ = write!(exchange.name, "{}", visit.name);
            exchange.method = shown_method(visit.method);
            exchange.url.push_str(visit.url);
            exchange.verdict = visit.verdict.clone();
            if let Some(headers) = visit.headers {
                self.0.mask.record(headers, &mut exchange.request_headers);
            }
        });
        let (id, _gone) = self.change(|state| state.ring.push(entry));
        Recording { inspector: self.clone(), id, began: Instant::now(), is_replay: visit.replay_of.is_some() }
    }
}

impl Recording {
    /// The number of the exchange.
    #[cfg(feature = "inspect")]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Changes the record, if it is still kept.
    fn change(&self, change: impl FnOnce(&mut RecordEntry)) {
        // They are dropped without the lock.
        let _gone = self.inspector.change(|state| state.ring.change(self.id, change));
    }

    /// Records the request as a worker takes it, taps its body, and has the service tell which server answers.
    pub(crate) fn request(&self, request: Request) -> (Request, AnswerTrace) {
        let (mut parts, body) = request.into_parts();
        let trace = AnswerTrace::default();
        parts.extensions.insert(trace.clone());
        let queue = self.began.elapsed();
        if self.is_replay {
            self.inspector.change(|state| state.replays += 1);
        }
        self.change(|entry| {
            entry.edit().timings.queue = Some(queue);
            self.take_whole(entry, BodySide::Request, &body);
        });
        (Request::from_parts(parts, self.tap(body, BodySide::Request)), trace)
    }

    /// Records which server was asked, though it gave no answer.
    pub(crate) fn asked(&self, trace: &AnswerTrace) {
        self.change(|entry| set_answered(entry, trace));
    }

    /// Records the head of the response, and taps its body.
    pub(crate) fn response(&self, response: Response, trace: &AnswerTrace) -> Response {
        let (parts, body) = response.into_parts();
        let (max, elapsed) = (self.inspector.0.config.body, self.began.elapsed());
        let content = content(&parts);
        self.change(|entry| {
            set_answered(entry, trace);
            entry.expect(content, max);
            entry.set_response_headers(|headers| self.inspector.0.mask.record(&parts.headers, headers));
            let exchange = entry.edit();
            exchange.status = Some(parts.status.as_u16());
            let queue = exchange.timings.queue.unwrap_or_default();
            exchange.timings.first_byte = Some(elapsed.saturating_sub(queue));
            self.take_whole(entry, BodySide::Response, &body);
        });
        Response::from_parts(parts, self.tap(body, BodySide::Response))
    }

    /// Records a body that is in memory.
    fn take_whole(&self, entry: &mut RecordEntry, side: BodySide, body: &Body) {
        if let Some(bytes) = body.as_bytes() {
            entry.append(side, bytes, self.inspector.0.config.body, self.began.elapsed());
            entry.complete(side);
        }
    }

    /// A body whose bytes are recorded as they pass, unless they are in memory and recorded by now.
    fn tap(&self, body: Body, side: BodySide) -> Body {
        if body.as_bytes().is_some() {
            return body;
        }
        let (recording, length) = (self.clone(), body.length());
        Body::from_reader(TappedReader { body, recording, side, is_complete: false }, length)
    }

    fn passed(&self, side: BodySide, bytes: &[u8]) {
        let (max, after) = (self.inspector.0.config.body, self.began.elapsed());
        if !bytes.is_empty() {
            self.change(|entry| entry.append(side, bytes, max, after));
        }
    }

    fn completed(&self, side: BodySide) {
        self.change(|entry| entry.complete(side));
    }

    /// Records the status of a response of the agent's own.
    pub(crate) fn own_response(&self, status: StatusCode) {
        self.change(|entry| entry.edit().status = Some(status.as_u16()));
    }

    /// Records what became of the exchange.
    pub(crate) fn finished(&self, outcome: InspectedOutcome) {
        let (now, took) = (Instant::now(), self.began.elapsed());
        self.inspector.change(|state| {
            let InspectorState { ring, history, .. } = state;
            let is_failure = matches!(outcome, InspectedOutcome::Failed(..) | InspectedOutcome::Refused(..));
            let mut ended = EndedExchange { has_failed: is_failure, received: 0, sent: 0, took: Some(took) };
            ring.change(self.id, |entry| {
                ended.took = if entry.is_stream() { None } else { ended.took };
                entry.finish(outcome);
                let exchange = entry.edit();
                exchange.timings.whole = Some(took);
                ended.received = exchange.request_body.length;
                ended.sent = exchange.response_body.length;
                ended.has_failed |= exchange.status.is_some_and(|status| status >= 500);
            });
            history.add(ended, now);
        });
        self.inspector.finished(|| self.inspector.exchange(self.id));
    }
}

fn set_answered(entry: &mut RecordEntry, trace: &AnswerTrace) {
    let Answered { server, connect } = trace.get();
    entry.set_upstream(server);
    entry.edit().timings.connect = connect;
}

/// A method as it is recorded: strangers choose how long it is.
fn shown_method(method: &Method) -> Method {
    let cut = method.as_str().get(..METHOD_MAX).and_then(|start| Method::from_bytes(start.as_bytes()).ok());
    cut.unwrap_or_else(|| method.clone())
}

/// The content of a body behind this head.
fn content(parts: &response::Parts) -> ResponseContent {
    let is_upgrade = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = parts.headers.get(UPGRADE).map(|value| value.as_bytes().to_ascii_lowercase());
    match protocol.as_deref() {
        Some(b"websocket") if is_upgrade => ResponseContent::WebSocket,
        _ if is_event_stream(&parts.headers) && !parts.headers.contains_key(CONTENT_ENCODING) => {
            ResponseContent::Events
        }
        _ => ResponseContent::Ordinary,
    }
}

/// A body whose bytes are recorded as they pass.
struct TappedReader {
    body: Body,
    recording: Recording,
    side: BodySide,
    is_complete: bool,
}

impl Read for TappedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer)?;
        self.recording.passed(self.side, &buffer[..read]);
        let is_end = (read == 0 && !buffer.is_empty()) || self.body.length() == Some(0);
        if is_end && !std::mem::replace(&mut self.is_complete, true) {
            self.recording.completed(self.side);
        }
        Ok(read)
    }
}
