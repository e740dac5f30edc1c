//! One connection to the local server, and the exchange of one request and response on it, which ureq conducts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, request};
use ureq::{BodyReader, SendBody};

use super::Timeouts;
use super::channel::{Channel, OwnParts, RequestPhase, start_upload};
use super::exchange_error::ExchangeError;
use super::handoff::Handoff;
use super::transport;
use super::upload::Upload;
use crate::http1::fields::Upgrade;
use crate::http1::{self, BadResponse, Framing, Persistence, ResponseHead, write_request_head};
use crate::net::{Closer, Socket};
use crate::service::{Body, Failure, FailureKind};

/// A body up to this many bytes is written together with its head, before the response is looked for: the
/// kernel takes as much from a server that does not read.
const INLINE_MAX: usize = 32 << 10;

/// How much sooner than a server says that it closes an idle connection it is not used any more.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// A connection to the local server, on which nothing or one request is under way.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its number among those that are busy.
    pub(super) id: u64,
    agent: ureq::Agent,
    handoff: Arc<Handoff>,
    pub(super) closer: Closer,
    /// How long the server keeps it open between two requests, as far as it has said.
    pub(super) keeps_for: Option<Duration>,
}

/// A request, ready to be sent.
pub(super) struct OutgoingRequest<'a> {
    /// The head, with the whole URL; where it was `sent` before, the method and the URL alone.
    pub(super) head: request::Parts,
    /// The target, where the URL does not show it as it came.
    pub(super) target: Option<&'a str>,
    pub(super) body: Body,
    /// The change of protocol that the server is asked for: the body is for the other one.
    pub(super) upgrade: Option<&'a Upgrade>,
    /// The head as it was sent before, with a small body.
    pub(super) sent: Option<Vec<u8>>,
}

/// An exchange without a response, and what was sent.
pub(super) struct FailedExchange {
    pub(super) error: ExchangeError,
    /// The head, and a small body with it.
    pub(super) sent: Vec<u8>,
}

/// A response of which the head has come.
pub(super) struct Begun {
    pub(super) head: ResponseHead,
    /// The body, unless there is none.
    pub(super) body: Option<BodyReader<'static>>,
    pub(super) connection: Connection,
    /// The request's body, as far as it is still being sent.
    pub(super) upload: Option<Upload>,
}

/// How a request's body is sent.
enum Sending<'a> {
    /// There is none, or it comes behind a change of protocol.
    Nothing,
    /// Together with the head.
    Inline(&'a [u8]),
    /// By a thread of its own.
    Upload(Framing),
}

impl Connection {
    /// Takes over a socket that was just opened.
    pub(super) fn new(id: u64, socket: Socket, timeouts: &Timeouts) -> io::Result<Self> {
        let closer = socket.closer();
        let handoff = Handoff::new(Channel::new(socket, *timeouts)?);
        Ok(Connection { id, agent: transport::agent(handoff.clone()), handoff, closer, keeps_for: None })
    }

    /// Whether another request may be sent on it.
    pub(super) fn check_quiet(&mut self) -> bool {
        self.handoff.with_channel(Channel::check_quiet).unwrap_or(false)
    }

    /// Sends a request and waits for the head of its response.
    pub(super) fn exchange(self, request: OutgoingRequest<'_>) -> Result<Begun, FailedExchange> {
        let handoff = self.handoff.clone();
        self.conduct(request).map_err(|error| {
            let is_needed = error.may_be_stale();
            let sent =
                handoff.with_channel(|channel| if is_needed { channel.take_sent() } else { Vec::new() });
            FailedExchange { error, sent: sent.unwrap_or_default() }
        })
    }

    fn conduct(self, request: OutgoingRequest<'_>) -> Result<Begun, ExchangeError> {
        let OutgoingRequest { mut head, target, body, upgrade, sent } = request;
        let method = head.method.clone();
        let sending = match body.as_bytes() {
            _ if upgrade.is_some() => Sending::Nothing,
            Some([]) => Sending::Nothing,
            Some(bytes) if bytes.len() <= INLINE_MAX => Sending::Inline(bytes),
            _ => Sending::Upload(body.length().map_or(Framing::Chunked, Framing::Length)),
        };
        let inline = if let Sending::Inline(bytes) = sending { bytes } else { &[] };
        let mut own = OwnParts::default();
        if sent.is_some() {
            own.head = sent;
        } else if target.is_some() || matches!(sending, Sending::Upload(_)) {
            let target = target.unwrap_or_else(|| http1::target(&head.uri, &head.extensions));
            let mut bytes = Vec::with_capacity(512);
            write_request_head(&mut bytes, &head.method, target, &head.headers);
            bytes.extend_from_slice(inline);
            own.head = Some(bytes);
        }
        let (result, unsent) = match sending {
            Sending::Nothing => {
                self.lend(own, &head, 0);
                (self.agent.run(http::Request::from_parts(head, ())), body)
            }
            Sending::Inline(bytes) => {
                self.lend(own, &head, bytes.len());
                (self.agent.run(http::Request::from_parts(head, bytes)), Body::empty())
            }
            Sending::Upload(framing) => {
                own.body = Some((body, framing));
                // To ureq the body is an empty one in chunks: its head is not the one that is sent.
                head.headers.remove(http::header::CONTENT_LENGTH);
                let chunked = http::HeaderValue::from_static("chunked");
                head.headers.insert(http::header::TRANSFER_ENCODING, chunked);
                self.lend(own, &head, 0);
                let body = SendBody::from_owned_reader(io::empty());
                (self.agent.run(http::Request::from_parts(head, body)), Body::empty())
            }
        };
        self.begun(result, &method, unsent, upgrade)
    }

    /// Puts the channel where ureq takes it.
    fn lend(&self, own: OwnParts, head: &request::Parts, body: usize) {
        self.handoff.reset();
        self.handoff.with_channel(|channel| channel.begin(own, head_size(head) + body));
    }

    /// Judges what came of a request.
    fn begun(
        mut self,
        result: Result<http::Response<ureq::Body>, ureq::Error>,
        method: &Method,
        body: Body,
        upgrade: Option<&Upgrade>,
    ) -> Result<Begun, ExchangeError> {
        let mut upload = self.handoff.take_upload();
        let (mut parts, reader) = match result {
            Ok(response) => response.into_parts(),
            Err(error) => return Err(self.explain(error)),
        };
        // They are ureq's.
        parts.extensions.clear();
        let status = parts.status;
        self.handoff.keep_reason(&mut parts);
        let head = ResponseHead::judge(http::Response::from_parts(parts, ()), method);
        let mut head = head.map_err(ExchangeError::BadResponse)?;
        // The server would take the rest that it still waits for out of the next request. One that was asked for another protocol
        // has a connection of its own, or each such request would leave one more behind.
        let may_persist = Persistence::from(self.handoff.is_all_sent() && upgrade.is_none());
        head.persistence = head.persistence.and(may_persist);
        if let Some(time) = keep_alive_time(head.response.headers()) {
            // Its clock began earlier than ours.
            let time = time.saturating_sub(KEEP_ALIVE_MARGIN);
            head.persistence = head.persistence.and(Persistence::from(!time.is_zero()));
            self.keeps_for = Some(time);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let checked = upgrade.map_or(Err("it changes the protocol unasked"), |upgrade| {
                upgrade.check(head.response.headers())
            });
            checked.map_err(|what| ExchangeError::BadResponse(BadResponse::Invalid(what)))?;
            let half = self.handoff.with_channel(|channel| channel.half.take()).flatten();
            upload = start_upload(half, &self.closer, body, Framing::UntilEnd)?;
        }
        self.handoff.begin_body(head.framing);
        let body = (!self.handoff.has_channel()).then(|| reader.into_reader());
        Ok(Begun { head, body, connection: self, upload })
    }

    /// The error of an exchange without a response.
    fn explain(&self, error: ureq::Error) -> ExchangeError {
        let exchange = |channel: &mut Channel| (channel.exchange.phase, channel.exchange.error.take());
        match (self.handoff.with_channel(exchange), error) {
            (Some((_, Some(known))), _) => known,
            (Some((RequestPhase::Sent, None)), ureq::Error::LargeResponseHeader(..)) => {
                ExchangeError::BadResponse(BadResponse::TooLarge)
            }
            (Some((RequestPhase::Sent, None)), _) => {
                ExchangeError::BadResponse(BadResponse::Invalid("its head cannot be read"))
            }
            // ureq has refused the request before anything was sent.
            (_, error) => {
                let text = format!("the request cannot be sent: {error}");
                ExchangeError::Request(Failure::new(FailureKind::BadRequest, text))
            }
        }
    }

    /// The channel, unless ureq has it.
    pub(super) fn take_channel(&self) -> Option<Box<Channel>> {
        self.handoff.take()
    }

    /// Begins another read of the response's body.
    pub(super) fn begin_read(&self) {
        self.handoff.begin_read();
    }

    /// Gives back the memory of large buffers, for as long as the connection is idle.
    pub(super) fn shrink(&self) {
        self.handoff.with_channel(Channel::shrink);
    }

    /// Bytes that were received and not used.
    pub(super) fn unread(&self) -> usize {
        self.handoff.unread()
    }

    /// Takes back what an upload had that has sent everything. False when the connection cannot be used again.
    pub(super) fn take_back(&mut self, upload: Option<Upload>) -> bool {
        let half = upload.map(Upload::join);
        let is_whole = self.handoff.with_channel(|channel| {
            if let Some(half) = half {
                channel.half = half;
            }
            channel.half.is_some()
        });
        self.handoff.is_reusable() && is_whole.unwrap_or(false)
    }
}

/// The bytes of a head, and more than those of a `Host` and a length that ureq may add.
fn head_size(head: &request::Parts) -> usize {
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let authority = head.uri.authority().map_or(0, |authority| authority.as_str().len());
    let target = http1::target(&head.uri, &head.extensions);
    head.method.as_str().len() + target.len() + fields + authority + 256
}

/// How long a server says that it keeps an idle connection: `Keep-Alive: timeout=5, max=100`.
fn keep_alive_time(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let mut parameters = value.split([',', ';']).filter_map(|parameter| parameter.split_once('='));
    let (_, time) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    time.trim().parse().ok().map(Duration::from_secs)
}
