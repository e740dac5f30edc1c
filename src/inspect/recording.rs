//! The recording of one exchange: its steps, and taps on its bodies.

use std::io::{self, Read};
use std::time::{Instant, SystemTime};

use http::header::{CONTENT_ENCODING, HeaderMap, UPGRADE};
use http::{Method, StatusCode, response};

use super::entry::{BodySide, ResponseContent};
use super::history::EndedExchange;
use super::record::{ExchangeTimings, InspectedBody, InspectedExchange, InspectedOutcome};
use super::{Inspector, InspectorState};
use crate::http1::fields::is_event_stream;
use crate::protocol::RequestName;
use crate::service::{AnswerTrace, Answered, Body, Request, Response};

/// The recording of one exchange. Clones record the same one.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    inspector: Inspector,
    id: u64,
    /// When the request was admitted.
    began: Instant,
}

/// A request as its recording begins.
pub(crate) struct RecordedRequest<'a> {
    pub(crate) name: RequestName,
    pub(crate) tunnel: Option<&'a str>,
    pub(crate) method: &'a Method,
    /// The path, with the query where it is known.
    pub(crate) url: &'a str,
    pub(crate) headers: Option<&'a HeaderMap>,
    pub(crate) verdict: String,
    /// The exchange that it repeats.
    pub(crate) replay_of: Option<u64>,
}

impl Inspector {
    /// Begins a recording.
    pub(crate) fn record(&self, visit: &RecordedRequest<'_>) -> Recording {
        let exchange = InspectedExchange {
            id: 0,
            tunnel: visit.tunnel.map(str::to_owned),
            replay_of: visit.replay_of,
            started: SystemTime::now(),
            name: visit.name.to_string(),
            method: visit.method.to_string(),
            url: visit.url.to_owned(),
            request_headers: visit.headers.map(|headers| self.0.mask.record(headers)).unwrap_or_default(),
            request_body: InspectedBody::default(),
            status: None,
            response_headers: Vec::new(),
            response_body: InspectedBody::default(),
            messages: Vec::new(),
            messages_dropped: 0,
            upstream: None,
            verdict: visit.verdict.clone(),
            timings: ExchangeTimings::default(),
            outcome: InspectedOutcome::Pending,
        };
        let id = self.change(|state| {
            state.replays += u64::from(exchange.replay_of.is_some());
            state.ring.push(exchange)
        });
        Recording { inspector: self.clone(), id, began: Instant::now() }
    }
}

impl Recording {
    /// The number of the exchange.
    #[cfg(feature = "inspect")]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn change(&self, change: impl FnOnce(&mut InspectorState)) {
        self.inspector.change(change);
    }

    fn edit(&self, edit: impl FnOnce(&mut InspectedExchange)) {
        self.change(|state| state.ring.change(self.id, |entry| entry.edit(edit)));
    }

    /// Records that a worker has begun.
    pub(crate) fn begun(&self) {
        let queue = Some(self.began.elapsed());
        self.edit(|exchange| exchange.timings.queue = queue);
    }

    /// Taps the request's body, and has the service tell which server answers.
    pub(crate) fn request(&self, request: Request) -> (Request, AnswerTrace) {
        let (mut parts, body) = request.into_parts();
        let trace = AnswerTrace::default();
        parts.extensions.insert(trace.clone());
        (Request::from_parts(parts, self.tap(body, BodySide::Request)), trace)
    }

    /// Records which server was asked.
    pub(crate) fn asked(&self, trace: &AnswerTrace) {
        let Answered { server, connect } = trace.get();
        self.edit(|exchange| {
            exchange.upstream = server;
            exchange.timings.connect = connect;
        });
    }

    /// Records the head of the response, and taps its body.
    pub(crate) fn response(&self, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        let (max, elapsed) = (self.inspector.0.config.body, self.began.elapsed());
        let headers = self.inspector.0.mask.record(&parts.headers);
        let content = content(&parts);
        self.change(|state| {
            state.ring.change(self.id, |entry| {
                entry.expect(content, max);
                entry.edit(|exchange| {
                    exchange.status = Some(parts.status.as_u16());
                    exchange.response_headers = headers;
                    let queue = exchange.timings.queue.unwrap_or_default();
                    exchange.timings.first_byte = Some(elapsed.saturating_sub(queue));
                });
            });
        });
        Response::from_parts(parts, self.tap(body, BodySide::Response))
    }

    fn tap(&self, body: Body, side: BodySide) -> Body {
        match (body.as_bytes(), body.length()) {
            (Some(bytes), _) => {
                self.passed(side, bytes);
                self.completed(side);
                body
            }
            (None, length) => {
                let recording = self.clone();
                Body::from_reader(TappedReader { body, recording, side, is_complete: false }, length)
            }
        }
    }

    fn passed(&self, side: BodySide, bytes: &[u8]) {
        let (max, after) = (self.inspector.0.config.body, self.began.elapsed());
        if !bytes.is_empty() {
            self.change(|state| state.ring.change(self.id, |entry| entry.append(side, bytes, max, after)));
        }
    }

    fn completed(&self, side: BodySide) {
        self.change(|state| state.ring.change(self.id, |entry| entry.complete(side)));
    }

    /// Records the status of a response of the agent's own.
    pub(crate) fn own_response(&self, status: StatusCode) {
        self.edit(|exchange| exchange.status = Some(status.as_u16()));
    }

    /// Records what became of the exchange.
    pub(crate) fn finished(&self, outcome: InspectedOutcome) {
        let (now, took) = (Instant::now(), self.began.elapsed());
        self.change(|state| {
            let InspectorState { ring, history, .. } = state;
            let is_failure = matches!(outcome, InspectedOutcome::Failed(..) | InspectedOutcome::Refused(..));
            let mut ended = EndedExchange { has_failed: is_failure, received: 0, sent: 0, took };
            ring.change(self.id, |entry| {
                entry.edit(|exchange| {
                    exchange.outcome = outcome;
                    exchange.timings.whole = Some(took);
                    ended.received = exchange.request_body.length;
                    ended.sent = exchange.response_body.length;
                    ended.has_failed |= exchange.status.is_some_and(|status| status >= 500);
                });
            });
            history.add(ended, now);
        });
        self.inspector.finished(|| self.inspector.exchange(self.id));
    }
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
