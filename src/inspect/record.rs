//! The record of one exchange, as readers get it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;

/// The record of one exchange: a request, and what became of it so far. Values of secret header fields are not in it.
#[derive(Clone)]
#[non_exhaustive]
pub struct InspectedExchange {
    /// Its number: 1 for the first.
    pub id: u64,
    /// The name of its tunnel, in an agent that serves several.
    pub tunnel: Option<String>,
    /// The exchange that it repeats, if it is a replay.
    pub replay_of: Option<u64>,
    /// The time when the request was admitted.
    pub started: SystemTime,
    /// The request's name, as in the log: a connection number and a request number.
    pub name: String,
    /// The method.
    pub method: Method,
    /// The path with the query, as the visitor sent it.
    pub url: String,
    /// The visitor's header fields.
    pub request_headers: InspectedHeaders,
    /// The request's body.
    pub request_body: InspectedBody,
    /// The status of the response, once there is one.
    pub status: Option<u16>,
    /// The header fields of the response.
    pub response_headers: InspectedHeaders,
    /// The response's body.
    pub response_body: InspectedBody,
    /// Messages of a WebSocket, or events of a stream (`text/event-stream`): the newest ones.
    pub messages: Vec<InspectedMessage>,
    /// The number of messages that are not kept any more.
    pub messages_dropped: u64,
    /// The URL of the local server that answered.
    pub upstream: Option<Arc<str>>,
    /// The rule that let the request pass, or the guard that did not.
    pub verdict: Cow<'static, str>,
    /// How long each part took.
    pub timings: ExchangeTimings,
    /// The outcome.
    pub outcome: InspectedOutcome,
}

impl InspectedExchange {
    /// A record of nothing.
    pub(super) fn empty() -> Self {
        InspectedExchange {
            id: 0,
            tunnel: None,
            replay_of: None,
            started: SystemTime::UNIX_EPOCH,
            name: String::new(),
            method: Method::GET,
            url: String::new(),
            request_headers: InspectedHeaders::default(),
            request_body: InspectedBody::default(),
            status: None,
            response_headers: InspectedHeaders::default(),
            response_body: InspectedBody::default(),
            messages: Vec::new(),
            messages_dropped: 0,
            upstream: None,
            verdict: Cow::Borrowed(""),
            timings: ExchangeTimings::default(),
            outcome: InspectedOutcome::Pending,
        }
    }
}

impl fmt::Debug for InspectedExchange {
    /// The number, method and status alone: all else may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InspectedExchange { id, method, status, .. } = self;
        write!(f, "InspectedExchange({id}, {method}, {status:?})")
    }
}

/// Header fields, in their order. They share one piece of memory, since there are many.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct InspectedHeaders {
    /// The names and values behind each other.
    text: String,
    fields: Vec<FieldEnds>,
}

/// The places in the text behind the name and behind the value of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FieldEnds {
    name: usize,
    value: usize,
    is_masked: bool,
}

impl InspectedHeaders {
    /// Takes room for so many fields, with so many bytes in all.
    pub(super) fn reserve(&mut self, fields: usize, bytes: usize) {
        self.text.reserve(bytes);
        self.fields.reserve(fields);
    }

    /// Forgets all fields, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.fields.clear();
    }

    /// Adds a field; a masked one has no value.
    pub(super) fn push(&mut self, name: &str, value: Option<&str>) {
        self.text.push_str(name);
        let name = self.text.len();
        self.text.push_str(value.unwrap_or_default());
        self.fields.push(FieldEnds { name, value: self.text.len(), is_masked: value.is_none() });
    }

    /// The names, in lower case, and the values: what is not UTF-8 in them is replaced, and a masked one is `None`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let starts = std::iter::once(0).chain(self.fields.iter().map(|ends| ends.value));
        starts.zip(&self.fields).map(|(start, ends)| {
            let value = (!ends.is_masked).then(|| &self.text[ends.name..ends.value]);
            (&self.text[start..ends.name], value)
        })
    }

    /// The value of the first field with this name, in lower case, unless it is masked.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(other, _)| *other == name).and_then(|(_, value)| value)
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The bytes that they take up.
    pub(super) fn bytes(&self) -> usize {
        self.text.capacity() + self.fields.capacity() * size_of::<FieldEnds>()
    }
}

impl fmt::Debug for InspectedHeaders {
    /// The names alone: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// The beginning of a body.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectedBody {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// All bytes that have passed so far.
    pub length: u64,
    /// Whether the end of the body has passed.
    pub is_complete: bool,
}

impl InspectedBody {
    /// Whether bytes have passed that are not kept.
    pub fn is_cut(&self) -> bool {
        self.length > self.bytes.len() as u64
    }
}

impl fmt::Debug for InspectedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InspectedBody({} bytes)", self.length)
    }
}

/// A message of a WebSocket, or an event of a stream.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectedMessage {
    /// The time of its end since the request was admitted.
    pub after: Duration,
    /// Which side sent it.
    pub direction: MessageDirection,
    /// Its kind.
    pub kind: MessageKind,
    /// The name of an event, if it has one.
    pub event: Option<String>,
    /// Its first bytes.
    pub data: Vec<u8>,
    /// All of its bytes.
    pub length: u64,
}

impl fmt::Debug for InspectedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InspectedMessage({:?}, {:?}, {} bytes)", self.direction, self.kind, self.length)
    }
}

/// The side that sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageDirection {
    /// The visitor.
    FromVisitor,
    /// The local server, or the service.
    FromServer,
}

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageKind {
    /// Text of a WebSocket.
    Text,
    /// Bytes of a WebSocket.
    Binary,
    /// A message of a WebSocket that an extension has changed, compressed in most cases (RFC 7692).
    Compressed,
    /// A ping.
    Ping,
    /// A pong.
    Pong,
    /// A close frame.
    Close,
    /// A server-sent event.
    Event,
    /// Bytes that are no WebSocket frame; nothing behind them is read.
    Invalid,
}

/// How long the parts of an exchange took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExchangeTimings {
    /// From the admission to the start of a worker, once there is one.
    pub queue: Option<Duration>,
    /// Connecting to the local server; `None` where a connection was used again.
    pub connect: Option<Duration>,
    /// From the start of the worker to the head of the response.
    pub first_byte: Option<Duration>,
    /// From the admission to the end.
    pub whole: Option<Duration>,
}

/// The outcome of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InspectedOutcome {
    /// It goes on.
    Pending,
    /// It was answered by the local server or the service.
    Answered,
    /// The agent refused it: the code, and the reason.
    Refused(String, String),
    /// It could not be forwarded: the code of the [`FailureKind`](crate::FailureKind), and the reason.
    Failed(String, String),
    /// The answer was not awaited any more: the reason.
    Cancelled(String),
}
