//! A request that is a stream: its body is read as it comes, and its response leaves as it comes.

use std::io::{self, Read};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, request, response};
use log::info;

use super::Config;
use super::job::{InFlight, LogLine, PANICKED, refuse_interim, survive};
use super::whole::state_no_length;
use crate::admission::Refusal;
use crate::headers::remove_hop_by_hop;
use crate::http1::{has_no_body, has_token, number};
use crate::mux::{Stream, StreamError};
use crate::protocol::mux::{DataBuffer, Reset, ResetCode, encode_response_head};
use crate::service::{Body, Failure, FailureKind, Request, Response, Service};

/// A response is read in pieces of this size at first: idle event streams should take up little. Pieces grow
/// with what comes, up to a frame.
const PIECE_MIN: usize = 4 << 10;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

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

    /// Leaves it to somebody else: nothing was done about it.
    pub(super) fn give_back(&self, text: &str) {
        info!("{} {} refused: {text}", self.head.method, self.head.uri.path().escape_debug());
        self.stream.reset(Reset::new(ResetCode::Refused, text));
    }

    /// Has the request answered, and passes the answer on as it comes.
    pub(super) fn run(self, service: &dyn Service, config: &Config, in_flight: InFlight) {
        let Streamed { head, stream, end } = self;
        let line = LogLine::start(&head.method, &head.uri);
        let method = head.method.clone();
        let result = request(head, &stream, end, config).and_then(|(request, upgrade)| {
            let max = if upgrade { None } else { config.max_stream_body };
            survive(|| respond(&stream, &method, service.call(request)?, upgrade, max))
        });
        let counters = in_flight.counters();
        match result {
            Ok(done) => {
                line.finish(&Ok(done));
                counters.request_answered(true);
            }
            Err(broken) => match (stream.given_up(), broken) {
                (Some(given_up), _) => {
                    line.given_up(&given_up);
                    counters.request_cancelled();
                }
                (None, Broken::Refused(refusal)) => {
                    refusal.log(Some((line.method(), line.path())));
                    counters.request_refused();
                    refuse(&stream, &refusal);
                }
                (None, Broken::Failed(failure)) => {
                    stream.reset(reset(&failure));
                    line.finish(&Err(failure));
                    counters.request_answered(false);
                }
            },
        }
    }
}

/// Answers with the agent's own response.
pub(super) fn refuse(stream: &Stream, refusal: &Refusal) {
    // Whoever asked may have left.
    let _ = respond(stream, &Method::GET, refusal.response(), false, None);
}

fn reset(failure: &Failure) -> Reset {
    let code = match failure.kind() {
        FailureKind::Unreachable => ResetCode::Unreachable,
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
) -> Result<(Request, bool), Broken> {
    let protocol = if end { None } else { wanted_protocol(&head) };
    let upgrade = protocol.is_some();
    let headers = &mut head.headers;
    remove_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    headers.remove(HTTP2_SETTINGS);
    if upgrade {
        set_upgrade(headers, protocol);
    }
    let stated = stated_length(headers).map_err(Broken::Refused)?;
    let body = if end {
        Body::empty()
    } else if upgrade {
        // It may be silent for as long as it likes.
        Body::from_reader(stream.reader(None), None)
    } else if let Some(bytes) = stream.whole() {
        Body::from(bytes)
    } else {
        let reader = stream.reader(Some(config.idle_timeout));
        Body::from_reader(Limited { reader, left: config.max_stream_body.unwrap_or(u64::MAX) }, stated)
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

/// A body that may have so many bytes.
struct Limited<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| io::Error::other(too_large("request")))?;
        Ok(read)
    }
}

fn too_large(what: &str) -> Failure {
    let text = format!("the body of the {what} is larger than the tunnel lets pass (see --max-stream-body)");
    Failure::new(FailureKind::TooLarge, text)
}

/// The protocol that a request asks to change to. Not HTTP/2, which would tunnel past every rule.
fn wanted_protocol(head: &request::Parts) -> Option<HeaderValue> {
    let headers = &head.headers;
    let protocol = headers.get(header::UPGRADE)?;
    let asks = head.method == Method::GET && has_token(headers, &header::CONNECTION, "upgrade");
    let http2 = headers.contains_key(HTTP2_SETTINGS) || has_token(headers, &header::UPGRADE, "h2c");
    (asks && !http2 && !headers.contains_key(header::CONTENT_LENGTH)).then(|| protocol.clone())
}

/// Puts back what removing hop-by-hop headers takes from an upgrade.
fn set_upgrade(headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    protocol.map(|protocol| headers.insert(header::UPGRADE, protocol));
}

fn stated_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    match number(length).filter(|_| lengths.next().is_none()) {
        Some(length) => Ok(Some(length)),
        None => Err(Refusal::BadRequest("Content-Length is not one number".into())),
    }
}

/// Passes a response on as it comes. Returns its status, and how many bytes its body had.
fn respond(
    stream: &Stream,
    method: &Method,
    response: Response,
    upgrade: bool,
    max: Option<u64>,
) -> Result<(StatusCode, usize), Broken> {
    let (parts, mut body) = response.into_parts();
    // Goes before the body does.
    let mut unfinished = Unfinished(stream, Some(Reset::new(ResetCode::Internal, PANICKED)));
    let result = pass_on(stream, method, parts, &mut body, upgrade, max);
    unfinished.1 = match &result {
        Err(Broken::Failed(failure)) => Some(reset(failure)),
        Ok(_) | Err(Broken::Refused(_)) => None,
    };
    result
}

/// Resets the stream of a response that has failed, before its body is dropped: that may wait for whoever
/// reads the request's body, who waits for the stream.
struct Unfinished<'a>(&'a Stream, Option<Reset>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(reset) = self.1.take() {
            self.0.reset(reset);
        }
    }
}

fn pass_on(
    stream: &Stream,
    method: &Method,
    mut parts: response::Parts,
    body: &mut Body,
    upgrade: bool,
    max: Option<u64>,
) -> Result<(StatusCode, usize), Broken> {
    let status = parts.status;
    let switched = upgrade && status == StatusCode::SWITCHING_PROTOCOLS;
    if !switched {
        refuse_interim(status)?;
    }
    let protocol = parts.headers.get(header::UPGRADE).cloned().filter(|_| switched);
    remove_hop_by_hop(&mut parts.headers);
    if switched {
        set_upgrade(&mut parts.headers, protocol);
    }
    let empty = *method == Method::HEAD || (has_no_body(status) && !switched);
    if empty {
        state_no_length(&mut parts);
    } else {
        parts.headers.remove(header::CONTENT_LENGTH);
        if let Some(length) = body.length().filter(|_| !switched) {
            parts.headers.insert(header::CONTENT_LENGTH, length.into());
        }
    }
    let head = encode_response_head(&parts);
    if head.len() > crate::protocol::mux::HEAD_MAX {
        return Err(Broken::Failed(Failure::new(
            FailureKind::TooLarge,
            "the head of the response is too large",
        )));
    }
    if empty {
        stream.send_head(head.into(), true)?;
        return Ok((status, 0));
    }
    if max.is_some_and(|max| body.length().is_some_and(|length| length > max)) {
        return Err(too_large("response").into());
    }
    if let Some(bytes) = body.as_bytes() {
        let sent = stream.send_head_with(head.into(), bytes)?;
        stream.send_all(&bytes[sent..], true)?;
        return Ok((status, bytes.len()));
    }
    stream.send_head(head.into(), false)?;
    Ok((status, copy(stream, body, max)?))
}

fn copy(stream: &Stream, body: &mut Body, max: Option<u64>) -> Result<usize, Broken> {
    let (mut sent, mut piece) = (0, PIECE_MIN);
    loop {
        let room = stream.capacity()?.min(piece);
        let mut buffer = DataBuffer::new(room);
        let read = match body.read(buffer.space()) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Broken::Failed(Failure::broken_off(sent, None, error))),
        };
        sent += read;
        if max.is_some_and(|max| sent as u64 > max) {
            return Err(too_large("response").into());
        }
        // With the last bytes, when they are known to be: whoever has them all may leave at once.
        let end = read == 0 || body.length() == Some(0);
        stream.send(buffer, read, end)?;
        if end {
            return Ok(sent);
        }
        // A full piece lets expect more of it.
        piece = if read == piece { piece * 4 } else { read.next_power_of_two() }.max(PIECE_MIN);
    }
}
