//! One connection to the local server, and the exchange of one request and response on it.

use std::io;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode};

use super::Timeouts;
use super::upload::{Upload, UploadState};
use crate::advice::Advice;
use crate::http1::fields::Upgrade;
use crate::http1::{BadResponse, Framing, Input, Persistence, ResponseHead};
use crate::net::{Closer, Socket, WriteHalf};
use crate::service::{Body, Failure, FailureKind};

/// A body up to this many bytes is written together with its head, before the response is looked for: the
/// kernel takes as much from a server that does not read.
const INLINE_MAX: usize = 32 << 10;

/// How much sooner than a server says that it closes an idle connection it is not used any more.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// Most interim responses (RFC 9110 §15.2) before the final one.
const INTERIM_MAX: usize = 32;

/// A connection to the local server, on which nothing or one request is under way.
#[derive(Debug)]
pub(super) struct Connection {
    /// What it is known by among those that are busy.
    pub(super) id: u64,
    pub(super) input: Input,
    /// Missing while an upload has it.
    half: Option<WriteHalf>,
    pub(super) closer: Closer,
    /// What the socket's read time-out is set to; setting it costs a system call.
    read_timeout: Option<Duration>,
    /// How long the server keeps it open between two requests, as far as it has said.
    pub(super) keeps_for: Option<Duration>,
}

/// A request, ready to be sent.
pub(super) struct OutgoingRequest<'a> {
    pub(super) method: &'a Method,
    /// Its head, with the empty line.
    pub(super) head: &'a [u8],
    pub(super) body: Body,
    /// The change of protocol that the server is asked for: the body is what the client says in the other one.
    pub(super) upgrade: Option<&'a Upgrade>,
}

/// A response of which the head has come.
pub(super) struct Begun {
    pub(super) head: ResponseHead,
    pub(super) connection: Connection,
    /// The request's body, as far as it is still being sent.
    pub(super) upload: Option<Upload>,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// The server closed the connection, or it failed.
    Closed { received: bool, error: io::Error },
    /// The server was too slow.
    Stalled(Stalled),
    /// What came is no response.
    BadResponse(BadResponse),
    /// There is something wrong with the request's body.
    Request(Failure),
}

/// What the server was too slow with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stalled {
    /// With reading the request.
    Reading,
    /// With the first byte of its answer.
    Answering,
    /// With the rest of its answer's head.
    Going,
}

impl ExchangeError {
    /// Whether it failed as a request does on an idle connection that the server has closed. One that the
    /// server is slow to answer is not: it may well be at work on it.
    pub(super) fn may_be_stale(&self) -> bool {
        matches!(self, ExchangeError::Closed { received: false, .. })
    }

    pub(super) fn explain(self, timeouts: &Timeouts) -> Failure {
        let stalled = if let ExchangeError::Stalled(stalled) = &self { Some(*stalled) } else { None };
        let (kind, text) = match self {
            ExchangeError::Stalled(Stalled::Reading) => return Failure::stalled(),
            ExchangeError::Stalled(Stalled::Answering) => {
                (FailureKind::Timeout, format!("it did not answer within {:?}", timeouts.response))
            }
            ExchangeError::Stalled(Stalled::Going) => {
                (FailureKind::Timeout, format!("its answer stalled for {:?}", timeouts.idle))
            }
            ExchangeError::Closed { received, error } => {
                let when = if received { "in the middle of its answer" } else { "before it answered" };
                (FailureKind::Truncated, format!("it closed the connection {when}: {error}"))
            }
            ExchangeError::BadResponse(BadResponse::TooLarge) => {
                (FailureKind::TooLarge, format!("its answer cannot be passed on: {}", BadResponse::TooLarge))
            }
            ExchangeError::BadResponse(error) => {
                (FailureKind::Protocol, format!("its answer is no valid HTTP/1.1 ({error})"))
            }
            ExchangeError::Request(failure) => return failure,
        };
        let failure = Failure::new(kind, text);
        match stalled {
            Some(Stalled::Answering) => failure.with_advice(Advice::ResponseTimeout),
            Some(_) => failure.with_advice(Advice::IdleTimeout),
            None => failure,
        }
    }
}

impl Connection {
    /// Takes over a socket that was just opened.
    pub(super) fn new(id: u64, mut socket: Socket, timeouts: &Timeouts) -> io::Result<Self> {
        let half = socket.split().ok_or(io::ErrorKind::NotConnected)?;
        half.set_timeout(timeouts.idle)?;
        let closer = socket.closer();
        Ok(Connection {
            id,
            input: Input::new(socket),
            half: Some(half),
            closer,
            read_timeout: None,
            keeps_for: None,
        })
    }

    /// Whether another request may be sent on it: the server has not closed it, and has sent nothing that
    /// was not asked for, which would be taken for the next answer.
    pub(super) fn check_quiet(&mut self) -> bool {
        self.half.is_some() && self.input.unread().is_empty() && self.input.socket_mut().check_quiet()
    }

    /// Sends a request and waits for the head of its response.
    pub(super) fn exchange(
        mut self,
        request: OutgoingRequest<'_>,
        timeouts: &Timeouts,
    ) -> Result<Begun, ExchangeError> {
        let OutgoingRequest { method, head, body, upgrade } = request;
        let inline = body.as_bytes().filter(|body| upgrade.is_none() && body.len() <= INLINE_MAX);
        let bytes = [head, inline.unwrap_or_default()].concat();
        let separate = inline.is_none() && upgrade.is_none();
        // A server may answer and close before it has read everything, so the answer is looked for in any case.
        let sent = self.half.as_mut().map_or(Ok(()), |half| half.send_all(&bytes));
        let mut body = Some(body);
        let mut upload = None;
        if separate && sent.is_ok() {
            upload = self.start_upload(&mut body, None)?;
        }
        let all_sent = sent.is_ok();
        let mut head =
            self.wait_for_head(method, upload.as_ref(), timeouts).map_err(|broken| match (broken, sent) {
                (ExchangeError::Closed { received: false, .. }, Err(error)) => {
                    ExchangeError::Closed { received: false, error }
                }
                (broken, _) => broken,
            })?;
        // What the server still waits for would be taken out of the next request. One that was asked for another protocol
        // has a connection of its own, or each such request would leave one more behind.
        head.persistence = head.persistence.and(Persistence::from(all_sent && upgrade.is_none()));
        if let Some(time) = keep_alive_time(head.response.headers()) {
            // Its clock began earlier than ours.
            let time = time.saturating_sub(KEEP_ALIVE_MARGIN);
            head.persistence = head.persistence.and(Persistence::from(!time.is_zero()));
            self.keeps_for = Some(time);
        }
        if head.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let checked = upgrade.map_or(Err("it changes the protocol unasked"), |upgrade| {
                upgrade.check(head.response.headers())
            });
            checked.map_err(|what| ExchangeError::BadResponse(BadResponse::Invalid(what)))?;
            upload = self.start_upload(&mut body, Some(Framing::UntilEnd))?;
        }
        Ok(Begun { head, connection: self, upload })
    }

    fn start_upload(
        &mut self,
        body: &mut Option<Body>,
        framing: Option<Framing>,
    ) -> Result<Option<Upload>, ExchangeError> {
        let (Some(half), Some(body)) = (self.half.take(), body.take()) else { return Ok(None) };
        let framing = framing.unwrap_or_else(|| body.length().map_or(Framing::Chunked, Framing::Length));
        let started = Upload::start(half, self.closer.clone(), body, framing);
        started.map(Some).map_err(|error| {
            ExchangeError::Request(Failure::new(
                FailureKind::Internal,
                format!("no thread to send its body: {error}"),
            ))
        })
    }

    /// Waits for the final response's head, or a 101.
    fn wait_for_head(
        &mut self,
        method: &Method,
        upload: Option<&Upload>,
        timeouts: &Timeouts,
    ) -> Result<ResponseHead, ExchangeError> {
        let (mut received, mut interim) = (false, 0);
        // When the first bytes came of a head that is not complete.
        let mut begun: Option<Instant> = None;
        loop {
            if let Some((length, head)) =
                ResponseHead::parse(self.input.unread(), method).map_err(ExchangeError::BadResponse)?
            {
                self.input.consume(length);
                begun = (!self.input.unread().is_empty()).then(Instant::now);
                let status = head.response.status();
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    return Ok(head);
                }
                interim += 1;
                if interim > INTERIM_MAX {
                    return Err(ExchangeError::BadResponse(BadResponse::Invalid(
                        "interim responses without end",
                    )));
                }
                continue;
            }
            // All of a head has the time that other bytes have each.
            let wait = begun.map_or(timeouts.response, |since| timeouts.idle.saturating_sub(since.elapsed()));
            if wait.is_zero() {
                return Err(ExchangeError::Stalled(Stalled::Going));
            }
            match self.read_with_timeout(wait, upload, Input::fill) {
                Ok(1..) => {
                    received = true;
                    begun = begun.or_else(|| Some(Instant::now()));
                }
                Ok(0) => {
                    let error = io::ErrorKind::UnexpectedEof.into();
                    return Err(cause(ExchangeError::Closed { received, error }, upload));
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let what = if begun.is_some() { Stalled::Going } else { Stalled::Answering };
                    return Err(ExchangeError::Stalled(what));
                }
                Err(error) => return Err(cause(ExchangeError::Closed { received, error }, upload)),
            }
        }
    }

    /// Reads with a time limit that does not run while the request is still being sent.
    pub(super) fn read_with_timeout(
        &mut self,
        wait: Duration,
        upload: Option<&Upload>,
        mut read: impl FnMut(&mut Input) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut left = wait;
        loop {
            self.limit_reads(Some(left))?;
            let result = read(&mut self.input);
            match (&result, upload.map(Upload::state)) {
                (Err(error), Some(_)) if error.kind() != io::ErrorKind::TimedOut => return result,
                // It has limits of its own.
                (Err(_), Some(UploadState::Sending)) => left = wait,
                (Err(_), Some(UploadState::Sent(at))) => {
                    left = wait.saturating_sub(at.elapsed());
                    if left.is_zero() {
                        return result;
                    }
                }
                _ => return result,
            }
        }
    }

    /// Lets a read wait this long, or for ever.
    pub(super) fn limit_reads(&mut self, wait: Option<Duration>) -> io::Result<()> {
        if self.read_timeout != wait {
            let wait = wait.map(|wait| wait.max(Duration::from_millis(1)));
            self.input.socket().set_read_timeout(wait)?;
            self.read_timeout = wait;
        }
        Ok(())
    }

    /// Takes back what an upload had that has sent everything. False when the connection cannot be used again.
    pub(super) fn take_back(&mut self, upload: Option<Upload>) -> bool {
        if let Some(upload) = upload {
            self.half = upload.join();
        }
        self.half.is_some()
    }
}

/// How long a server says that it keeps an idle connection: `Keep-Alive: timeout=5, max=100`.
fn keep_alive_time(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let mut parameters = value.split([',', ';']).filter_map(|parameter| parameter.split_once('='));
    let (_, time) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    time.trim().parse().ok().map(Duration::from_secs)
}

/// The cause of a connection that broke: a failure of the upload explains it better.
fn cause(broken: ExchangeError, upload: Option<&Upload>) -> ExchangeError {
    match upload.map(Upload::state) {
        Some(UploadState::Failed(failure)) => ExchangeError::Request(failure),
        Some(UploadState::Stalled) => ExchangeError::Stalled(Stalled::Reading),
        _ => broken,
    }
}
