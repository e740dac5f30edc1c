//! The one answer to a stream's request: a response that leaves as it comes, or the failure to give one.

use std::cell::Cell;
use std::io::{self, Read};
use std::time::Duration;

use http::{Method, StatusCode, header, response};

use super::FailureAnswer;
use super::job::{FAILED, PANICKED, refuse_interim};
use super::whole::state_no_length;
use crate::admission::{Refusal, failed};
use crate::headers::{Upgrade, remove_hop_by_hop, remove_overridden_length, set_upgrade};
use crate::http1::has_no_body;
use crate::mux::{Stream, StreamError};
use crate::protocol::RequestName;
use crate::protocol::mux::{HEAD_MAX, Reset, ResetCode, encode_response_head};
use crate::service::{Body, Failure, FailureKind, Response};
use crate::status::Counters;

/// A response is read in pieces of this size at first: idle event streams should take up little. Pieces grow
/// with what comes, up to a frame.
const PIECE_MIN: usize = 4 << 10;

/// Why there is no complete response.
#[derive(Debug)]
pub(super) enum Broken {
    /// The service failed, or the stream is over or does not move.
    Failed(Failure),
    /// The request itself is at fault.
    Refused(Refusal),
}

impl From<StreamError> for Broken {
    fn from(error: StreamError) -> Self {
        Broken::Failed(Failure::new(FailureKind::Timeout, error.to_string()))
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        if failure.kind() == FailureKind::BadRequest {
            Broken::Refused(Refusal::BadRequest(failure.to_string().into()))
        } else {
            Broken::Failed(failure)
        }
    }
}

/// How much of a response's body passes, and for how long.
#[derive(Debug, Default)]
pub(super) struct Passing {
    /// Bytes that it may have.
    pub(super) max: Option<u64>,
    /// The change of protocol that the request asked for. When the service has said its last in the other protocol, the
    /// client may go on, but not be silent for so long.
    pub(super) upgrade: Option<(Upgrade, Duration)>,
}

/// How far a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing has left.
    Open,
    /// Its head has.
    Begun,
    /// It is complete, or broken off: nothing more is to be sent.
    Done,
}

/// The one answer to a stream's request: a response, or the failure to give one.
pub(super) struct Answer<'a> {
    stream: &'a Stream,
    name: RequestName,
    method: &'a Method,
    counters: &'a Counters,
    failure: FailureAnswer,
    progress: Cell<Progress>,
}

impl<'a> Answer<'a> {
    pub(super) fn new(
        stream: &'a Stream,
        name: RequestName,
        method: &'a Method,
        counters: &'a Counters,
        failure: FailureAnswer,
    ) -> Self {
        Answer { stream, name, method, counters, failure, progress: Cell::new(Progress::Open) }
    }

    /// Whether nothing of it has left.
    pub(super) fn is_open(&self) -> bool {
        self.progress.get() == Progress::Open
    }

    /// Answers with a response of the agent's own.
    pub(super) fn give(&self, response: Response) {
        // Whoever asked may have left.
        let _ = self.pass_on(response, Passing::default());
    }

    /// Answers with a failure, unless there was an answer. After the head it breaks the response off.
    pub(super) fn fail(&self, failure: &Failure) {
        match (self.progress.get(), self.failure) {
            (Progress::Done, _) => {}
            (Progress::Open, FailureAnswer::Response) => {
                self.give(failed(failure, &format!("{FAILED}: {failure}"), self.name));
            }
            (Progress::Open | Progress::Begun, _) => self.break_off(reset(failure)),
        }
    }

    fn break_off(&self, reset: Reset) {
        self.progress.set(Progress::Done);
        self.stream.reset(reset);
    }

    /// Passes a response on as it comes. Returns its status, and how many bytes its body had.
    pub(super) fn pass_on(
        &self,
        response: Response,
        passing: Passing,
    ) -> Result<(StatusCode, usize), Broken> {
        let (parts, mut body) = response.into_parts();
        // Before the body is dropped: that may wait for whoever reads the request's body, who waits for the stream.
        let mut unfinished = Unfinished(Some(self));
        let result = self.send(parts, &mut body, passing);
        match &result {
            Ok(_) => self.progress.set(Progress::Done),
            Err(Broken::Failed(failure)) => self.fail(failure),
            Err(Broken::Refused(_)) => {}
        }
        unfinished.0 = None;
        result
    }

    fn send(
        &self,
        mut parts: response::Parts,
        body: &mut Body,
        passing: Passing,
    ) -> Result<(StatusCode, usize), Broken> {
        let status = parts.status;
        let Passing { max, upgrade } = passing;
        let switched = match upgrade.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS) {
            Some((upgrade, idle)) => {
                let failed = |what| Failure::new(FailureKind::Protocol, what);
                upgrade.check(&parts.headers).map_err(failed)?;
                Some(idle)
            }
            None => refuse_interim(status).map(|()| None)?,
        };
        let empty = *self.method == Method::HEAD || (has_no_body(status) && switched.is_none());
        prepare(&mut parts, body, switched.is_some(), empty);
        let head = encode_response_head(&parts);
        if head.len() > HEAD_MAX {
            let text = "the head of the response is too large";
            return Err(Failure::new(FailureKind::TooLarge, text).into());
        }
        if empty {
            self.begin().send_head(head.into(), true)?;
            return Ok((status, 0));
        }
        if let Some(idle) = switched {
            self.begin().send_head(head.into(), false)?;
            let sent = self.copy(body, None)?;
            if !self.stream.ends_within(idle) {
                let text = "nothing came after the local server's last word";
                self.break_off(Reset::new(ResetCode::Timeout, text));
            }
            return Ok((status, sent));
        }
        if body.length().is_some_and(|length| is_above(length, max)) {
            return Err(too_large("response").into());
        }
        if let Some(bytes) = body.as_bytes() {
            let sent = self.begin().send_head_with(head.into(), bytes)?;
            self.stream.send_all(&bytes[sent..], true)?;
            self.counters.sent(bytes.len());
            return Ok((status, bytes.len()));
        }
        self.begin().send_head(head.into(), false)?;
        Ok((status, self.copy(body, max)?))
    }

    /// The stream, for its head.
    fn begin(&self) -> &Stream {
        self.progress.set(Progress::Begun);
        self.stream
    }

    fn copy(&self, body: &mut Body, max: Option<u64>) -> Result<usize, Broken> {
        let (mut sent, mut piece) = (0, PIECE_MIN);
        loop {
            let room = self.stream.capacity()?.min(piece);
            let mut buffer = self.stream.buffer(room);
            let read = match body.read(buffer.space()) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Broken::Failed(Failure::broken_off(sent, None, error))),
            };
            sent += read;
            self.counters.sent(read);
            if is_above(sent as u64, max) {
                return Err(too_large("response").into());
            }
            // With the last bytes, when they are known to be: whoever has them all may leave at once.
            let end = read == 0 || body.length() == Some(0);
            self.stream.send(buffer, read, end)?;
            if end {
                return Ok(sent);
            }
            // A full piece lets expect more of it.
            piece = if read == piece { piece * 4 } else { read.next_power_of_two() }.max(PIECE_MIN);
        }
    }
}

fn is_above(length: u64, max: Option<u64>) -> bool {
    max.is_some_and(|max| length > max)
}

/// Makes of the service's head what the tunnel is to see.
fn prepare(parts: &mut response::Parts, body: &Body, switched: bool, empty: bool) {
    // Which protocol is required is said to whoever asked (RFC 9110 §15.5.22).
    let names_protocol = switched || parts.status == StatusCode::UPGRADE_REQUIRED;
    let protocol = parts.headers.get(header::UPGRADE).cloned().filter(|_| names_protocol);
    remove_overridden_length(&mut parts.headers);
    remove_hop_by_hop(&mut parts.headers);
    if let Some(protocol) = protocol {
        set_upgrade(&mut parts.headers, protocol);
    }
    if empty {
        state_no_length(parts);
        return;
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    if let Some(length) = body.length().filter(|_| !switched) {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// Breaks a response off whose body panics, before that is dropped.
struct Unfinished<'a, 'b>(Option<&'b Answer<'a>>);

impl Drop for Unfinished<'_, '_> {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer.break_off(Reset::new(ResetCode::Internal, PANICKED));
        }
    }
}

pub(super) fn too_large(what: &str) -> Failure {
    let text = format!("the body of the {what} is larger than the tunnel lets pass");
    Failure::new(FailureKind::TooLarge, text).with_hint("(see --max-stream-body)".to_owned())
}

fn reset(failure: &Failure) -> Reset {
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
