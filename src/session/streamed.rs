//! A request that is a stream: its body is read as it comes, and its response leaves as it comes.

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{self, HeaderMap};
use http::{Method, StatusCode, request, response};

use super::job::{FAILED, InFlight, LogLine, PANICKED, refuse_interim, survive, timed};
use super::whole::state_no_length;
use super::{Config, FailureAnswer};
use crate::admission::{Refusal, failed};
use crate::headers::{HTTP2_SETTINGS, remove_hop_by_hop, set_upgrade, wanted_protocol};
use crate::http1::{has_no_body, number};
use crate::mux::{Stream, StreamError};
use crate::protocol::mux::{DataBuffer, HEAD_MAX, Reset, ResetCode, encode_response_head};
use crate::service::{Body, Failure, FailureKind, Request, Response, Service};
use crate::status::Counters;

/// A response is read in pieces of this size at first: idle event streams should take up little. Pieces grow
/// with what comes, up to a frame.
const PIECE_MIN: usize = 4 << 10;

/// Why a stream is given back. Another agent may have room.
const FULL: &str = "the agent has as many requests under way and waiting as it takes (see --queue, --max-streams \
                    and --max-in-flight)";

/// A request that was taken on, and the stream on which it came.
#[derive(Debug)]
pub(crate) struct Streamed {
    head: request::Parts,
    stream: Stream,
    /// The request has no body.
    end: bool,
}

/// Why there is no complete response.
#[derive(Debug)]
enum Broken {
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

impl Streamed {
    pub(super) fn new(head: request::Parts, stream: Stream, end: bool) -> Self {
        Streamed { head, stream, end }
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.stream.given_up().is_some()
    }

    /// Leaves it to somebody else, since there is no room: nothing was done about it.
    pub(super) fn give_back(&self) {
        Refusal::QueueFull.log(Some((&self.head.method, self.head.uri.path())));
        self.stream.reset(Reset::new(ResetCode::Refused, FULL));
    }

    /// Answers with the agent's own response.
    pub(super) fn refuse(&self, refusal: &Refusal, counters: &Counters) {
        refusal.log(Some((&self.head.method, self.head.uri.path())));
        refuse(&self.stream, &self.head.method, refusal, counters);
    }

    /// Has the request answered, and passes the answer on as it comes.
    pub(super) fn run(self, service: &dyn Service, config: &Config, in_flight: InFlight) {
        let Streamed { head, stream, end } = self;
        let line = LogLine::start(&head.method, &head.uri);
        let method = head.method.clone();
        let counters = in_flight.counters();
        let answer = Answer::new(&stream, &method, counters, config.failure);
        let overrun = Overrun::default();
        let request = request(head, &stream, end, config, counters, &overrun);
        let result = request.and_then(|(request, upgrade)| {
            let upgrade = upgrade.then_some(config.idle_timeout);
            let passing = Passing { max: config.max_stream_body, upgrade };
            survive(|| answer.pass_on(timed(service, request, counters)?, passing))
        });
        let result = match (result, config.max_stream_body) {
            (Err(Broken::Failed(_)), Some(max)) if overrun.is_told() && answer.is_open() => {
                Err(Broken::Refused(Refusal::BodyTooLarge(max)))
            }
            (result, _) => result,
        };
        match result {
            Ok(done) => {
                in_flight.answered(&Ok(done));
                line.finish(&Ok(done));
            }
            Err(broken) => match (stream.given_up(), broken) {
                (Some(given_up), _) => {
                    line.given_up(&given_up, &config.tunnel_id);
                    in_flight.given_up(&given_up);
                }
                (None, Broken::Refused(refusal)) => {
                    refusal.log(Some((line.method(), line.path())));
                    in_flight.refused(&refusal);
                    answer.give(refusal.response());
                }
                (None, Broken::Failed(failure)) => {
                    answer.fail(&failure);
                    let outcome = Err(failure);
                    in_flight.answered(&outcome);
                    line.finish(&outcome);
                }
            },
        }
    }
}

/// Answers with the agent's own response.
pub(super) fn refuse(stream: &Stream, method: &Method, refusal: &Refusal, counters: &Counters) {
    Answer::new(stream, method, counters, FailureAnswer::Error).give(refusal.response());
}

fn reset(failure: &Failure) -> Reset {
    let code = match failure.kind() {
        FailureKind::Unreachable | FailureKind::Unavailable => ResetCode::Unreachable,
        FailureKind::Timeout => ResetCode::Timeout,
        FailureKind::Truncated => ResetCode::Truncated,
        FailureKind::TooLarge => ResetCode::TooLarge,
        FailureKind::Protocol => ResetCode::Protocol,
        FailureKind::BadRequest | FailureKind::Internal => ResetCode::Internal,
    };
    Reset::new(code, failure.to_string())
}

/// Makes the service's request of what came. The second value tells whether it asks for another protocol.
fn request(
    mut head: request::Parts,
    stream: &Stream,
    end: bool,
    config: &Config,
    counters: &Arc<Counters>,
    overrun: &Overrun,
) -> Result<(Request, bool), Broken> {
    let protocol = if end { None } else { wanted_protocol(&head.method, &head.headers) };
    let upgrade = protocol.is_some();
    let headers = &mut head.headers;
    remove_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    headers.remove(HTTP2_SETTINGS);
    if let Some(protocol) = protocol {
        set_upgrade(headers, protocol);
    }
    let stated = stated_length(headers).map_err(Broken::Refused)?;
    let body = if end {
        Body::empty()
    } else if upgrade {
        // It may be silent for as long as it likes.
        let reader = stream.reader(None);
        Body::from_reader(
            Limited { reader, left: u64::MAX, counters: counters.clone(), overrun: overrun.clone() },
            None,
        )
    } else if let Some(bytes) = stream.whole() {
        counters.received(bytes.len());
        Body::from(bytes)
    } else {
        let reader = stream.reader(Some(config.idle_timeout));
        let left = config.max_stream_body.unwrap_or(u64::MAX);
        Body::from_reader(
            Limited { reader, left, counters: counters.clone(), overrun: overrun.clone() },
            stated,
        )
    };
    let known = stated.or(body.length()).unwrap_or(0);
    if let Some(max) = config.max_stream_body.filter(|max| known > *max) {
        return Err(Broken::Refused(Refusal::BodyTooLarge(max)));
    }
    if let (Some(stated), Some(length)) = (stated, body.length())
        && stated != length
    {
        let text = format!("the request's body has {length} bytes instead of {stated}");
        return Err(Broken::Failed(Failure::new(FailureKind::Truncated, text)));
    }
    head.extensions.insert(stream.cancellation().clone());
    Ok((Request::from_parts(head, body), upgrade))
}

/// A body that may have so many bytes, and is counted.
struct Limited<R> {
    reader: R,
    left: u64,
    counters: Arc<Counters>,
    overrun: Overrun,
}

/// Whether a request's body has turned out to be larger than it may be, whatever the service makes of that.
#[derive(Clone, Default)]
struct Overrun(Arc<AtomicBool>);

impl Overrun {
    fn tell(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_told(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.counters.received(read);
        let Some(left) = self.left.checked_sub(read as u64) else {
            self.overrun.tell();
            return Err(io::Error::other(too_large("request")));
        };
        self.left = left;
        Ok(read)
    }
}

fn too_large(what: &str) -> Failure {
    let text = format!("the body of the {what} is larger than the tunnel lets pass (see --max-stream-body)");
    Failure::new(FailureKind::TooLarge, text)
}

fn stated_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    match number(length).filter(|_| lengths.next().is_none()) {
        Some(length) => Ok(Some(length)),
        None => Err(Refusal::BadRequest("Content-Length is not one number".into())),
    }
}

/// How much of a response's body passes, and for how long.
#[derive(Debug, Clone, Copy, Default)]
struct Passing {
    /// Bytes that it may have.
    max: Option<u64>,
    /// The request asked for another protocol. When the service has said its last in it, the client may go on, but
    /// not be silent for so long.
    upgrade: Option<Duration>,
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
struct Answer<'a> {
    stream: &'a Stream,
    method: &'a Method,
    counters: &'a Counters,
    failure: FailureAnswer,
    progress: Cell<Progress>,
}

impl<'a> Answer<'a> {
    fn new(stream: &'a Stream, method: &'a Method, counters: &'a Counters, failure: FailureAnswer) -> Self {
        Answer { stream, method, counters, failure, progress: Cell::new(Progress::Open) }
    }

    /// Whether nothing of it has left.
    fn is_open(&self) -> bool {
        self.progress.get() == Progress::Open
    }

    /// Answers with a response of the agent's own.
    fn give(&self, response: Response) {
        // Whoever asked may have left.
        let _ = self.pass_on(response, Passing::default());
    }

    /// Answers with a failure, unless there was an answer. After the head it breaks the response off.
    fn fail(&self, failure: &Failure) {
        match (self.progress.get(), self.failure) {
            (Progress::Done, _) => {}
            (Progress::Open, FailureAnswer::Response) => {
                self.give(failed(failure, &format!("{FAILED}: {failure}")));
            }
            (Progress::Open | Progress::Begun, _) => self.break_off(reset(failure)),
        }
    }

    fn break_off(&self, reset: Reset) {
        self.progress.set(Progress::Done);
        self.stream.reset(reset);
    }

    /// Passes a response on as it comes. Returns its status, and how many bytes its body had.
    fn pass_on(&self, response: Response, passing: Passing) -> Result<(StatusCode, usize), Broken> {
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
        let switched = upgrade.filter(|_| status == StatusCode::SWITCHING_PROTOCOLS);
        if switched.is_none() {
            refuse_interim(status)?;
        }
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
            let mut buffer = DataBuffer::new(room);
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
    let protocol = parts.headers.get(header::UPGRADE).cloned().filter(|_| switched);
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
